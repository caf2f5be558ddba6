"""The experiments: their form, their own arithmetic, and some of them run at small sizes."""

import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from archives import cifar_files, write_tar
from flax import nnx
from PIL import Image
from random_weights import write_random_weights

from case_jax.data import DigitScenes, prepare_cifar100
from case_jax.metrics import MetricInputs
from case_jax.models import Classifier, tap_classifier
from experiments import all as everything
from experiments import (
    architectures,
    contrasts,
    crossover,
    fidelity,
    lmac,
    masking,
    masking_findings,
    page,
    sanity,
    seeds,
    sensitivity,
    sound_maskers,
    ties,
)
from experiments.before import BEFORE
from experiments.cifar100 import fine_tuned, shaken
from experiments.claim import Estimate, Finding, percent
from experiments.families import FAMILIES, SHIPPED
from experiments.kept import FINDINGS, SESSION, Answer, Numbers, Table, compact, joined, keep, read, store
from experiments.networks import Where, subjects
from experiments.page import TEMPLATES, header, write_pages
from experiments.pictures import heat
from experiments.sound_networks import Sounds


@dataclasses.dataclass(frozen=True)
class Nothing:
    size: int = 3


FEW_METHODS = ("Grad-CAM", fidelity.CASE, "random map", "Sobel edges")
FINDING = Finding(
    "<b>Bold</b> claim.", "here", [Estimate("a", 0.2, 0.1, 0.3, 5), Estimate("b", 0.0, -0.1, 0.1, 5)], "universal", measure="gain"
)  # fmt: skip


def answered(folder):
    numbers = pd.DataFrame({"method": ["a", "b"], "F": [0.25, np.nan]})
    shown = numbers.assign(F=numbers["F"].map(percent))
    picture = heat(numbers.set_index("method"), "F", marks=numbers.set_index("method") > 0)
    store(Numbers({}, {}), Nothing(), folder)
    keep(Answer([FINDING], {"all": Table("Title", numbers, shown)}, {"heat": picture}), folder)


@pytest.mark.parametrize("name", everything.EXPERIMENTS)
def test_every_experiment_says_what_it_asks(name):
    facts = header(name)
    assert list(facts) == ["title", "question", "command", "cost", "expected"]
    assert f"experiments.{name}" in facts["command"]
    assert facts["question"].endswith("?")


def test_an_answer_is_kept_and_shown(tmp_path, capsys):
    answered(tmp_path / "ties")
    assert "in part, here: Holds in 1 of 2 (a 0.20 [0.10, 0.30]); open in 1 of 2" in capsys.readouterr().out
    assert json.loads((tmp_path / "ties" / FINDINGS).read_text())["findings"] == [FINDING.record()]
    assert pd.read_csv(tmp_path / "ties" / "all.csv")["F"].tolist() == pytest.approx([0.25, np.nan], nan_ok=True)
    assert (tmp_path / "ties" / "heat.png").stat().st_size > 1000
    assert {"date", "commit", "versions", "config"} <= set(json.loads((tmp_path / "ties" / SESSION).read_text()))
    (tmp_path / "ties" / "claim-7.svg").write_text("of a former answer")
    page = write_pages(tmp_path, everything.EXPERIMENTS, {"peers": "not run: torch not installed"}).read_text()
    assert "&lt;b&gt;Bold&lt;/b&gt; claim." in page
    assert "<td>25%</td>" in page
    assert "<td>–</td>" in page
    assert 'src="ties/heat.png"' in page
    assert 'src="ties/claim-1.svg"' in page
    assert "not run: torch not installed" in page
    assert page.count("not run yet") == len(everything.EXPERIMENTS) - 2
    assert [file.name for file in (tmp_path / "ties").glob("*.svg")] == ["claim-1.svg"]
    picture = (tmp_path / "ties" / "claim-1.svg").read_text()
    assert all(f">{words}</text>" in picture for words in ("a", "b", "gain"))
    assert "| **in part** | here | Holds in 1 of 2 (a 0.20 [0.10, 0.30]); open" in (tmp_path / "README.md").read_text()


def test_rows_are_kept_small_and_come_back(tmp_path):
    rows = pd.DataFrame(
        {"image_id": [7, 300], "method": ["CASE", "CASE"], "F": [0.25, 1 / 3], "own": [1.0, 2.0], "ok": [True, False], "cluster_1": [4, -1]}
    )  # fmt: skip
    small = joined([compact(rows, ("image_id", "method", "F", "ok"))] * 2)
    assert small.dtypes.astype(str).to_dict() == {
        "image_id": "int16", "method": "category", "F": "float32", "ok": "bool", "cluster_1": "int8"
    }  # fmt: skip
    store(Numbers({"rows": small}, {}), Nothing(), tmp_path)
    keep(Answer([FINDING], {"all": Table("Title", rows)}, {}), tmp_path)
    found = read(tmp_path)
    assert set(found.tables) == {"all"}
    pd.testing.assert_frame_equal(found.rows["rows"].astype({"method": str}), small.astype({"method": str}))
    with pytest.raises(ValueError, match="a folder with the tables or rows of a former run"):
        read(tmp_path / "nowhere")


KEPT = everything.HERE / "results"


def test_the_pages_are_those_of_the_answers_beside_them(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "draw", lambda folder, sections: None)
    shutil.copytree(KEPT, tmp_path / "results")
    write_pages(tmp_path / "results", everything.EXPERIMENTS, {})
    for file in TEMPLATES:
        assert (tmp_path / "results" / file).read_text() == (KEPT / file).read_text(), (
            f"{file}: python -m experiments.all --index"
        )


def test_every_experiment_has_an_answer():
    assert {name for name in everything.EXPERIMENTS if not (KEPT / name / FINDINGS).exists()} == set()


@pytest.mark.parametrize("name", everything.EXPERIMENTS)
def test_findings_follow_from_what_is_kept(name):
    module = importlib.import_module(f"experiments.{name}")
    found = module.concluded(read(KEPT / name), module.Config())
    kept = json.loads((KEPT / name / FINDINGS).read_text())["findings"]
    assert [finding.record() for finding in found.findings] == kept, f"python -m experiments.{name} --again"


def test_every_claim_of_the_first_round_has_an_answer():
    for one in BEFORE:
        found = json.loads((KEPT / one.experiment / FINDINGS).read_text())["findings"]
        assert one.now in [finding["claim"] for finding in found]


def test_what_is_kept_is_small():
    assert sum(file.stat().st_size for file in KEPT.rglob("*")) < 20e6


def test_what_fails_is_named_and_the_rest_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(everything, "EXPERIMENTS", ("claim", "nowhere", "ties"))
    monkeypatch.setattr(
        page, "header", lambda name: dict.fromkeys(("title", "question", "command", "cost", "expected"), name)
    )
    monkeypatch.setattr(
        everything.subprocess, "run", lambda words, check: type("Done", (), {"returncode": "nowhere" in words[2]})
    )
    with pytest.raises(SystemExit, match="nowhere failed with status"):
        everything.main(everything.Config(out=tmp_path))
    assert "=== ties" in capsys.readouterr().out
    assert "failed with status" in (tmp_path / "index.html").read_text()
    with pytest.raises(ValueError, match="tiez"):
        everything.main(everything.Config(only=("tiez",), out=tmp_path))


@pytest.mark.parametrize("name", FAMILIES)
def test_small_networks_are_tapped_like_the_large_ones(name):
    entry = FAMILIES[name].entry
    net = entry.build(25, rngs=nnx.Rngs(0))
    net.eval()
    network = Classifier(name, entry, net, "", {}, entry.default_preprocessing, "", entry.class_names)
    image = jax.random.normal(jax.random.key(0), (48, 48, 3))
    for layer, words in entry.taps.layers.items():
        model = tap_classifier(network, image, layer=layer)  # compares a declared closed form with the gradients
        assert (model.head_kernel is not None) == ("closed form" in words)
        assert model.activation_shape[:2] == ((12, 12) if name == SHIPPED else (6, 6))
        assert model.num_classes == 25


@pytest.mark.parametrize(("name", "extra"), [("ViT", 11), ("Swin", 4), ("ResNet", 0)])
def test_methods_of_an_architecture(name, extra):
    """Attention is asked for where it is over all tokens alone, and every method has its contrast."""
    entry = FAMILIES[name].entry
    subject = type("S", (), {"classifier": Classifier(name, entry, None, "", {}, None, "", entry.class_names)})
    found = set(architectures.methods(subject))
    assert {"Grad-CAM", "Finer-CAM, k = 5", "softmax-contrast", "random map", "contrast of noise"} <= found
    assert len(found) == 8 + extra
    assert {plain for contrast, plain in architectures.REPAIRED.items() if contrast in found} <= found
    assert (architectures.BLIND in found) == (name == "ViT")
    many = subject.classifier._replace(class_names=("class",) * 1000)
    asked = set(architectures.methods(type("S", (), {"classifier": many})))
    assert found - asked == (set(architectures.DIFFERENCES) if name == "ViT" else set())


def test_architectures_refuse_networks_that_are_none():
    with pytest.raises(ValueError, match="ViT"):
        next(architectures.networks_of(architectures.Config(Where(networks=("Vit",)))))


def test_gains_of_contrast_are_over_trainings():
    scores = {"LeGrad": (1.0, 2.0, 6.0), "LeGrad, contrast": (2.0, 3.5, 7.5), "Grad-CAM": (0.0, 0.0, 0.0)}
    table = pd.DataFrame(
        {"network": "ViT", "seed": seed, "method": name, "specificity": value}
        for name, values in scores.items() for seed, value in reversed(list(enumerate(values)))
    )  # fmt: skip
    (gain,) = architectures.gains(table, {"LeGrad, contrast": "LeGrad", "absent": "LeGrad"}, "specificity", ["ViT"])
    assert (gain.label, gain.n, gain.unit) == ("LeGrad, contrast: ViT", 3, "trainings")
    assert gain.value == pytest.approx(4 / 3)
    assert gain.high - gain.value == pytest.approx(4.3027 * 0.288675 / np.sqrt(3), rel=1e-4)
    (over,) = architectures.gains(table, {"LeGrad": "Grad-CAM"}, "specificity", ["ViT", "Swin"])
    assert (over.label, over.value) == ("LeGrad over Grad-CAM: ViT", 3.0)
    means = architectures.over_trainings(table, ("Grad-CAM", "LeGrad"), "specificity", ["ViT"], margin=0.5)
    assert [(one.label, one.value, one.margin) for one in means] == [
        ("Grad-CAM: ViT", 0.0, 0.5),
        ("LeGrad: ViT", 3.0, 0.5),
    ]


def scored(first, second, key=0):
    maps = jnp.stack([jnp.asarray(m, jnp.float32) for m in (first, second)])
    return MetricInputs(maps, jnp.zeros(2, bool), None, jnp.arange(2), None, None, None, None, jax.random.key(key))


def ties_of(*arguments, **options):
    return {name: float(value) for name, value in ties.tie_columns(*arguments, **options).items()}


def test_tie_rules_by_hand():
    """Of 20 pixels the top 20% are 4; each map has one positive pixel, the first and the last."""
    first, second = np.zeros((4, 5)), np.zeros((4, 5))
    first[0, 0] = second[3, 4] = 1
    found = ties_of(scored(first, second), percents=(20,))
    assert found["first_20"] == 0.75  # 0, 1, 2, 3 and 19, 0, 1, 2
    assert found["last_20"] == 0.75  # 0, 19, 18, 17 and 19, 18, 17, 16
    assert found["positive_20"] == 0
    assert found["zeros_20"] == 1
    one = jax.jit(lambda key: ties.tie_columns(scored(first, second)._replace(key=key), percents=(20,))["random_20"])
    several = [float(one(key)) for key in jax.random.split(jax.random.key(0), 300)]
    assert np.mean(several) == pytest.approx(0.2, abs=0.03)  # four of twenty, and four others
    clear = np.arange(1.0, 21).reshape(4, 5)
    assert ties_of(scored(clear, clear), percents=(20,)) == {
        "first_20": 1, "last_20": 1, "random_20": 1, "positive_20": 1, "zeros_20": 0
    }  # fmt: skip
    broken = scored(first, second)._replace(degenerate=jnp.array([False, True]))
    assert all(np.isnan(value) for value in ties_of(broken).values())


class Looked:
    """What the channel and place columns ask of a view."""

    def __init__(self, weights, activation):
        self.logits = jnp.zeros(2)
        self.weights, self.activation = jnp.asarray(weights, jnp.float32), jnp.asarray(activation, jnp.float32)

    def class_weights(self, classes):
        return self.weights[classes]


def test_channels_and_places_by_hand():
    activation = np.zeros((3, 3, 20))
    activation[2, 1, :] = 9.0  # mean 1 in every channel
    weights = np.zeros((2, 20))
    weights[0, :3], weights[1, 1:4] = (6, 3, 1), (1, 5, 6)
    view = scored(np.zeros((3, 3)), np.zeros((3, 3)))._replace(view=Looked(weights, activation))
    found = seeds.channel_columns(view)
    assert found["jaccard"] == 0  # {0, 1} and {2, 3}
    assert found["active"] == pytest.approx(2 / 20)  # 6 + 3 of 10
    assert seeds.rank(weights) == 2
    assert seeds.rank(np.stack([weights[0], weights[0] * (1 + 1e-4)])) == 1


def test_channels_and_places_of_classes_by_hand():
    pooled = np.zeros((4, 20))
    pooled[[0, 0, 1, 1], [3, 4, 4, 5]] = 1.0  # class 0 uses channels 3, 4 and 5
    pooled[[2, 2, 3, 3], [5, 6, 5, 6]] = 1.0  # class 1 uses 5 and 6: one of four in common
    assert seeds.channel_overlap(pooled, np.array([0, 0, 1, 1])) == 0.25
    maps = np.zeros((3, 2, 2, 1))
    maps[0, 0, 0], maps[1, 1, 1], maps[2, 0, 1] = (
        1,
        1,
        5,
    )  # two places of one class, 45° from their mean; one of another
    labels = np.array([0, 0, 1])
    assert seeds.spatial_consistency(maps, labels) == pytest.approx((2 * np.sqrt(0.5) + 1) / 3)


def test_the_paper_s_views_of_cifar100():
    image = np.full((32, 32, 3), 200, np.uint8)
    image[:, :16] = 100
    views = np.stack([shaken(image, np.random.default_rng(i)) for i in range(64)])
    assert views.shape == (64, 32, 32, 3)
    centres = views[:, 16, [8, 23], 0]
    assert {(100, 200), (200, 100)} <= set(map(tuple, centres.tolist()))
    assert (views[:, 0, 0] == 0).all(-1).mean() > 0.3  # black comes in at the corners
    np.testing.assert_array_equal(views[5], shaken(image, np.random.default_rng(5)))


@pytest.mark.slow
def test_seeds_on_cifar100(tmp_path, monkeypatch):
    """A miniature of it through the real archive, ImageNet's weights made up: two steps of fine-tuning, then every number."""
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path / "data"))
    archive = write_tar(tmp_path / "c.tar.gz", cifar_files(), mode="w:gz")
    prepare_cifar100(archive, data_dir=tmp_path / "data", any_archive=True)
    sizes = {"pretrained_cfg": {"input_size": [3, 224, 224], "interpolation": "bilinear", "crop_pct": 0.875}}
    file = write_random_weights(tmp_path, "resnet18", 1000, sizes)
    where = Where("tfds:cifar100:test", ("resnet18",), (str(file),), quick=True, runs=tmp_path / "runs")
    seeds.main(seeds.Config(where, out=tmp_path / "out"))
    facts = pd.read_csv(tmp_path / "out" / "networks.csv").iloc[0]
    assert facts["network"] == "resnet18"
    assert 0 <= facts["overlap"] <= 1
    network = fine_tuned("resnet18", str(file), 0, tmp_path / "runs" / "quick" / "networks" / "resnet18-0", quick=True)
    assert len(network.class_names) == 100  # read again, not trained again
    with pytest.raises(ValueError, match="data: got folder:x"):
        next(seeds.networks_of(seeds.Config(dataclasses.replace(where, data="folder:x")), 0))


def test_verdicts_against_case_need_the_right_pairs():
    rng = np.random.default_rng(0)
    n, hard = 200, np.random.default_rng(1).uniform(0, 1, 200)
    rows = pd.concat(
        pd.DataFrame(
            {
                "image_id": range(n), "method": name, "label": 0, "top1": 0, "degenerate_1": False, "p1": 1.0,
                "p_removed_50": np.clip(hard + shift + rng.normal(0, 0.005, n), 0, 1),
            }
        )
        for name, shift in ((fidelity.CASE, 0.0), ("worse", 0.01))
    )  # fmt: skip
    right, wrong = (fidelity.against_case(rows, mispaired=m).iloc[0] for m in (False, True))
    assert right["p_holm"] < 1e-6
    assert right["case_minus_method"] == pytest.approx(0.01, abs=0.002)
    assert wrong["p_holm"] > 0.05
    twin = pd.concat([rows, rows[rows["method"] == fidelity.CASE].assign(method="twin")])
    assert fidelity.against_case(twin).set_index("method").loc["twin", ["low", "high"]].eq(0).all()


def masker_runs(**pxap):
    rows = [
        {"name": name, "seed": seed, "shots": np.nan, "accuracy": 0.9, "mass_own": 0.2}
        | {f"{c}{t.suffix}": 1 - value if c == "le" else value for c in ("pxap", "le", "f1") for t in masking_findings.TRUTH.values()}
        for name, values in pxap.items() for seed, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_maskers_are_compared_seed_by_seed():
    """Seeds differ by more than the maskers do; every seed has the same order, but where masks are filled."""
    seeds_ = np.array([0.2, 0.5, 0.8])
    rows = {"fixed, in": seeds_ - 0.02, "fixed, out": seeds_ - 0.1, "fixed, both": seeds_}
    runs = masker_runs(
        **rows,
        **{"fixed, both, blur": seeds_ - (0.001, -0.001, 0), "fixed, both, gumbel": seeds_ - (-0.1, -0.102, -0.1)},
    )
    runs["pxap"] += np.tile([0.001, 0, -0.001], 5) * runs["name"].eq("fixed, in")
    everything = masking_findings.findings(masking_findings.summary(runs), runs)
    found = {f.claim.partition(" (")[0]: f for f in everything if f.claim.endswith("(masking paper).")}
    needed = found["A masker needs both objectives"]
    assert needed.verdict == "reproduced"
    first = needed.comparisons[0]
    assert (first.label, first.n) == ("PxAP: fixed, both − fixed, in", 3)
    assert first[1:4] == pytest.approx((0.02, 0.0175, 0.0225), abs=1e-4)
    assert found["Infilling adds nothing"].verdict == "reproduced"
    assert found["Making masks binary"].verdict == "contradicted"
    one = runs[runs["seed"] == 0]
    alone = masking_findings.findings(masking_findings.summary(one), one)
    assert {f.verdict for f in alone if f.rule != "descriptive"} == {"undecided"}
    by_body = next(
        f for f in everything if f.claim == "A masker needs both objectives (masking paper). By the body alone."
    )
    assert by_body.verdict == "reproduced"  # PxAP of the marker and of both together was moved, its own was not


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Few images of the shipped classifier; quick to compile, also in the processes that experiments start."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    return Where(networks=(SHIPPED,), quick=True, processes=1, runs=tmp_path / "runs")


@pytest.mark.slow
def test_architectures(small, tmp_path):
    where = dataclasses.replace(small, networks=("ViT",), limit=4)
    architectures.main(architectures.Config(where, out=tmp_path / "out"))
    table = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("method")
    assert set(table.index) >= {*architectures.OWN, *architectures.REPAIRED, *architectures.DIFFERENCES}
    assert table.loc[architectures.BLIND, ["F", "specificity"]].tolist() == [1, 0]


@pytest.mark.slow
def test_sensitivity(small, tmp_path):
    sensitivity.main(sensitivity.Config(small, out=tmp_path / "out"))
    table = pd.read_csv(tmp_path / "out" / "summary.csv").set_index(["kind", "method"])
    assert table.loc[("last map", "Eigen-CAM"), "F_median"] == 1
    assert bool(table.loc[("last map", "CASE, k = 1"), "sensitive_0.5"])


@pytest.mark.slow
def test_ties(small, tmp_path, monkeypatch):
    chosen = {name: maps for name, maps in sensitivity.methods().items() if name in FEW_METHODS}
    monkeypatch.setattr(ties, "methods", lambda: chosen)
    ties.main(ties.Config(small, out=tmp_path / "out"))
    rules = pd.read_csv(tmp_path / "out" / "rules.csv").set_index(["percent", "method", "rule"])["mean"]
    assert rules[5, "CASE, k = 1", "first"] == pytest.approx(rules[5, "CASE, k = 1", "random"], abs=0.02)
    assert set(rules.index.get_level_values("rule")) == set(ties.RULES)


def test_contrasts_of_a_network_that_is_never_right():
    """Its maps point nowhere that counts: these numbers are missing, the others are there."""
    F = {"F": [0.2, 0.4], "F_plus": [0.2, 0.4], "zeros_in_top": False, "positive_1": 1.0, "positive_2": 1.0}
    two = {
        "image_id": [0, 1],
        "method": "CASE|3",
        "label": 1,
        "top1": 0,
        "degenerate_1": False,
        "degenerate_2": False,
        "p1": 0.5,
        "p_removed_50": 0.1,
    }
    found = contrasts.statistics(pd.DataFrame(two | F), "random")
    assert found.loc[0, ["operator", "k", "set"]].tolist() == ["CASE", "3", "random"]
    assert found.loc[0, "F_mean"] == pytest.approx(0.3)
    assert found.loc[0, ["sweep_mean", "own_mean", "pointing_mean"]].isna().all()


@pytest.mark.slow
def test_contrasts(small, tmp_path, monkeypatch):
    monkeypatch.setattr(contrasts, "SIZES", (1, 5))
    contrasts.main(contrasts.Config(small, out=tmp_path / "out"))
    table = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert len(table) == 2 + 3 * (3 * 2 + 1)  # none and softmax; three operators, three sets of two sizes, and all
    own = table.set_index(["operator", "set", "k"])["own_mean"]
    assert own["difference (Finer-CAM)"].mean() > own["none (Grad-CAM)"].mean()


@pytest.mark.slow
def test_contrasts_without_labels(small, tmp_path, monkeypatch, capsys):
    """With nothing to count confusions on there is no set of that name; an image that cannot be read is named."""
    (tmp_path / "photos").mkdir()
    for number in range(6):
        Image.fromarray(DigitScenes("test", 6)[number].image).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "torn.png").write_bytes(b"PNG")
    monkeypatch.setattr(contrasts, "SIZES", (1, 2))
    where = dataclasses.replace(small, data=f"folder:{tmp_path / 'photos'}")
    contrasts.main(contrasts.Config(where, out=tmp_path / "out"))
    table = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert set(table["set"].dropna()) == {"topk_logits", "random", "all"}
    assert set(table.loc[table["set"].isna(), "operator"]) == set(contrasts.FREE.values())
    said = json.loads((tmp_path / "out" / FINDINGS).read_text())["findings"]
    assert said[2]["measure"] == "own evidence with topk_logits, less that with k = 2"
    assert all(one["value"] is None for one in said[2]["comparisons"])
    assert (
        "digit_resnet: 1 of 7 images could not be read and enter no number, the first torn.png"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_seeds(small, tmp_path):
    seeds.main(seeds.Config(small, out=tmp_path / "out"))
    facts = pd.read_csv(tmp_path / "out" / "networks.csv").iloc[0]
    assert facts["accuracy"] > 0.9
    assert 1 < facts["rank"] <= 25
    assert 0 < facts["jaccard"] < 1
    assert (tmp_path / "out" / "mean_agreement.png").stat().st_size > 5000


class NeverRight:
    """A network with the maps of another, but always wrong."""

    name = "never right"

    def __init__(self, subject):
        self.subject = subject

    def rows(self, *args, **options):
        rows = self.subject.rows(*args, **options)
        return rows.assign(label=(rows["top1"] + 1) % 25, network=self.name)


@pytest.mark.slow
def test_fidelity(small, tmp_path, monkeypatch):
    chosen = {name: maps for name, maps in fidelity.tested().items() if name in FEW_METHODS}
    monkeypatch.setattr(fidelity, "tested", lambda: chosen)
    fidelity.main(fidelity.Config(small, out=tmp_path / "out"))
    drops = pd.read_csv(tmp_path / "out" / "summary.csv").set_index(["protocol", "removed", "method"])["drop"]
    assert drops["mean", 5, fidelity.CASE] > drops["mean", 5, "random map"] + 0.3
    assert drops["mean", 20, fidelity.CASE] > drops["transposed", 20, fidelity.CASE]
    against = pd.read_csv(tmp_path / "out" / "tests.csv").set_index(["paired", "method"]).loc["same images"]
    assert (against["low"] < against["case_minus_method"]).all()
    found = json.loads((tmp_path / "out" / FINDINGS).read_text())["findings"][0]
    assert [one["label"] for one in found["comparisons"]] == [f"{SHIPPED}, Grad-CAM"]
    right = next(subjects(small))
    monkeypatch.setattr(fidelity, "subjects", lambda where: iter([right, NeverRight(right)]))
    numbers = fidelity.measured(fidelity.Config(small))
    assert set(numbers.rows["rows"]["network"]) == {SHIPPED, "never right"}
    assert set(fidelity.concluded(numbers, fidelity.Config(small)).tables["summary"].numbers["network"]) == {SHIPPED}
    monkeypatch.setattr(fidelity, "subjects", lambda where: iter([NeverRight(right)]))
    with pytest.raises(ValueError, match="networks: got never right, right on no image"):
        fidelity.measured(fidelity.Config(small))


@pytest.mark.slow
def test_sanity(small, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.networks.QUICK_IMAGES", 8)
    sanity.main(sanity.Config(small, out=tmp_path / "out"))
    table = pd.read_csv(tmp_path / "out" / "sanity.csv").set_index("method")
    assert set(table.index) == set(sanity.TESTED[:4])
    assert (table["cascading_spearman_abs_low"] <= table["cascading_spearman_abs"]).all()
    found = json.loads((tmp_path / "out" / FINDINGS).read_text())["findings"]
    assert [f["verdict"] for f in found] == ["answered", "undecided"]  # no guided backprop among the four
    assert "of its 500 shuffled labels" in found[1]["words"]


@pytest.mark.slow
def test_the_masking_table(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    config = masking.Config(quick=True, runs=tmp_path / "runs", out=tmp_path / "out")
    masking.main(config)
    said = (tmp_path / "out" / FINDINGS).read_bytes()
    masking.main(dataclasses.replace(config, again=True))
    assert (tmp_path / "out" / FINDINGS).read_bytes() == said
    table = pd.read_csv(tmp_path / "out" / "summary.csv")
    trained = ["fixed, in", "contrastive", "fixed, both", "Grad-CAM", "alongside, in"]
    assert table["name"].tolist() == [*trained[:-1], *masking.PLACES.values(), trained[-1]]
    assert table[["le", "le_body", "pxap_marker"]].notna().all(axis=None)
    assert table.set_index("name").loc[trained, ["F_median", "drop", "mass_own"]].notna().all(axis=None)


@pytest.mark.slow
def test_the_tutorial():
    """As a script of its own, without the strict settings of the tests."""
    command, root = [sys.executable, "-m", "experiments.tutorial"], Path(__file__).parents[1]
    quick = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    said = subprocess.run(command, cwd=root, env=quick, capture_output=True, text=True, timeout=300, check=True).stdout
    assert "maps of 8 images: (8, 10, 8, 8)" in said
    assert said.rstrip().endswith("report.html")


def test_networks_and_weights_must_be_known_and_match(tmp_path):
    with pytest.raises(ValueError, match=r"networks.*Resnet.*ResNet"):
        next(subjects(Where(networks=("Resnet",), runs=tmp_path)))
    with pytest.raises(ValueError, match=r"weights.*1 for 4 networks"):
        next(subjects(Where(data="folder:somewhere", weights=("one.safetensors",), runs=tmp_path)))
    with pytest.raises(ValueError, match="limit: got 0"):
        next(subjects(Where(limit=0, runs=tmp_path)))
    with pytest.raises(ValueError, match="slow_images: got -1"):
        crossover.measured(crossover.Config(slow_images=-1))
    with pytest.raises(ValueError, match="seeds: got 0"):
        seeds.measured(seeds.Config(seeds=0))
    with pytest.raises(ValueError, match="seeds: got 0"):
        masking.main(masking.Config(seeds=0))
    with pytest.raises(ValueError, match=r"out: got .* a folder with the tables or rows of a former run"):
        masking.main(masking.Config(again=True, out=tmp_path))


def test_every_method_is_in_the_crossover():
    """But for those that need a pair of classes or attention, three that are named, and nothing twice."""
    from case_jax import METHODS

    asked = (*crossover.FAST, *crossover.SLOW)
    assert len(set(asked)) == len(asked)
    left = [name for name in METHODS if name not in asked]
    assert sorted(left) == sorted([n for n, m in METHODS.items() if m.pair or m.attention] + list(crossover.OMITTED))


def test_sounds_that_order_methods_the_other_way_round_disagree_with_pictures():
    names = ["grad_cam", "case", "finer_cam", "hires_cam", "layer_cam", "saliency", "random"]
    rng = np.random.default_rng(0)
    numbers = {c: rng.permutation(len(names)) / len(names) for c in ("F", "specificity", "own", "drop", "cost")}
    pictures = pd.DataFrame({"method": names, "images": 9, "degenerate": 0, "data": crossover.DIGITS} | numbers)
    sounds = pictures.assign(data=crossover.SOUND, own=-pictures["own"])
    both = crossover.concluded(Numbers({}, {"methods": pd.concat([pictures, sounds])}), crossover.Config())
    (between,) = [f for f in both.findings if "as pictures do" in f.claim]
    values = {one.label: one.value for one in between.comparisons}
    assert values.pop(crossover.TESTS["own"][0]) == -1
    assert list(values.values()) == [1, 1, 1]
    assert "random map" in set(both.tables["sound_scenes"].shown["method"])
    alone = crossover.concluded(Numbers({}, {"methods": pictures}), crossover.Config())
    assert not any("as pictures do" in f.claim for f in alone.findings)


def test_what_lmac_is_ahead_in():
    """A mask that is better in everything, of average drop the smaller, by one unit in each of three trainings."""
    columns = [c for c in lmac.MEASURES if c not in lmac.OF_BOTH]
    rows = [
        {"seed": seed, "method": method, "degenerate_1": False, "degenerate_2": image == 0, "F": 0.1 * image, **dict.fromkeys(lmac.OF_BOTH[1:], seed)}
        | {c: 0.01 * seed + (1 if method == lmac.PLAIN else 0) * (-1 if c in lmac.LOW else 1) for c in columns}
        for seed in range(3) for method in (lmac.PLAIN, "Grad-CAM") for image in range(4)
    ]  # fmt: skip
    means = lmac.means_of(pd.DataFrame(rows))
    assert means["F"].unique().tolist() == pytest.approx([0.2])
    by = lmac.Compared(means)
    for column in columns:
        one = by.ahead("", lmac.PLAIN, "Grad-CAM", column)
        assert (one.value, one.n) == (pytest.approx(1), 3)
    assert by.ahead("", lmac.PLAIN, "Grad-CAM", "specificity").value == 0


@pytest.mark.slow
def test_lmac(tmp_path):
    sounds = Sounds(quick=True, runs=tmp_path)
    lmac.main(lmac.Config(sounds=sounds, out=tmp_path / "out"))
    rows = read(tmp_path / "out").rows["rows"]
    assert set(sound_maskers.MADE_OF) <= set(rows["method"])
    assert rows["faithfulness"].notna().any()

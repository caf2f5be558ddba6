"""From kept rows to findings, on made-up rows whose answer is known: no network is asked."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest

from case_jax.stats import estimates_of
from case_jax.stats.sharing import sharing_of
from experiments import contrasts, fidelity, sanity, seeds, sensitivity, specificity, stream
from experiments.claim import weighed
from experiments.estimates import BY_CLUSTER, of_images
from experiments.kept import Numbers, compact, keep, read, store

IMAGES, STROKES = 60, 15


def made_up(methods, levels, **columns):
    """Rows of several methods, whose F scatters by a tenth about its level; four images share a stroke."""
    rng = np.random.default_rng(0)
    frames = []
    for name, level in zip(methods, levels, strict=True):
        F = np.clip(level + rng.uniform(-0.1, 0.1, IMAGES), 0, 1)
        facts = {
            "method": name,
            "label": 0,
            "top1": 0,
            "degenerate_1": False,
            "degenerate_2": False,
            "p1": 1.0,
            "zeros_in_top": False,
        }
        of_images = {"image_id": np.arange(IMAGES), "cluster_1": np.arange(IMAGES) % STROKES, "F": F, "F_plus": F}
        frames.append(pd.DataFrame({**of_images, **facts, **columns}))
    return pd.concat(frames, ignore_index=True)


def kept_and_read(module, rows, tables, tmp_path, config):
    """What an experiment concludes of these rows, and again of those that it has kept."""
    numbers = Numbers({"rows": compact(rows, module.COLUMNS)}, tables)
    answer = module.concluded(numbers, config)
    store(numbers, config, tmp_path)
    keep(answer, tmp_path)
    again = module.concluded(read(tmp_path), config)
    assert [finding.record() for finding in again.findings] == [finding.record() for finding in answer.findings]
    return {finding.claim.partition(" (")[0]: finding for finding in answer.findings}


def of_all(methods, level, networks, **columns):
    """The same rows on several networks."""
    return pd.concat([made_up(methods, [level(m) for m in methods], network=n, **columns) for n in networks])


def test_an_estimate_over_images_is_by_cluster():
    rows = made_up(["CASE"], [0.4])
    F = rows.set_index("image_id")["F"]
    one = of_images("CASE", F, estimates_of(rows), margin=0.5)
    assert (one.n, one.unit, one.df) == (IMAGES, BY_CLUSTER, STROKES - 1)
    assert sharing_of(rows[["cluster_1"]].to_numpy()).number() == STROKES
    doubled = pd.concat([rows, rows.assign(image_id=rows["image_id"] + IMAGES)])
    twice = of_images("CASE", doubled.set_index("image_id")["F"], estimates_of(doubled))
    assert twice.high - twice.low == pytest.approx(one.high - one.low)  # the same strokes again tell nothing new
    alone = of_images("CASE", F, estimates_of(rows.drop(columns="cluster_1")))
    assert (alone.unit, alone.df) == ("images", None)


def test_sensitivity_of_rows(tmp_path):
    methods = [*sensitivity.methods()]
    level = {"CASE, k = 1": 0.2, "random map": 0.15}
    rows = pd.concat(
        of_all(methods, lambda m: level.get(m, 0.85), ("A", "B"), layer=layer, kind=kind)
        for layer, kind in (("conv", "raw convolution"), ("out", "last map"))
    )
    found = kept_and_read(sensitivity, rows, {}, tmp_path, sensitivity.Config())
    case = found["CASE is class-sensitive at 0.5 on every network"]
    assert case.verdict == "reproduced"
    assert {one.unit for one in case.comparisons} == {BY_CLUSTER}
    assert "2.5 times" not in case.note
    assert found["Most class activation maps are not class-sensitive, at 0.5 and at 0.7"].verdict == "reproduced"
    passed = "Pass, of 4 pairs of network and layer: random map 4, Eigen-Grad-CAM 0, Sobel edges 0"
    assert passed in found["Does passing the test at 0.5 say enough?"].words


def test_seeds_of_rows(tmp_path):
    facts, frames = [], []
    for (network, level), seed in itertools.product({"ResNet": 0.7, "DenseNet": 0.3, "VGG": 0.7}.items(), range(3)):
        rows = of_all(
            seeds.NAMES, lambda m, v=level + seed / 100: 0.1 if m.startswith("CASE") else v, (network,), seed=seed
        )
        frames.append(rows)
        shared = {"ResNet": 0.1, "DenseNet": 0.2, "VGG": 0.1}[network] + seed / 100
        facts.append(
            {
                "network": network,
                "seed": seed,
                "accuracy": 0.9,
                "overlap": shared,
                "consistency": 0.5,
                "jaccard": 0.2,
                "active": 0.4,
                "rank": 25.0,
            }
        )
    tables = {"networks": pd.DataFrame(facts)}
    found = kept_and_read(seeds, pd.concat(frames), tables, tmp_path, seeds.Config())
    assert found["DenseNet separates the maps of classes more than other architectures"].verdict == "reproduced"
    assert found["Its classes share fewest channels"].verdict == "contradicted"
    assert found["CASE is class-sensitive at 0.5 on every architecture"].verdict == "reproduced"


def test_fidelity_of_rows(tmp_path):
    """CASE takes the class its probability; the others as much at 50%, much less at 5 and 20%, but for one."""
    rows = of_all([*fidelity.tested()], lambda m: 0.5, ("A", "B"))
    rng, less = np.random.default_rng(1), rows["method"].isin(["Grad-CAM", "LayerCAM", "random map"]).to_numpy()
    for percent, prefix in [(p, "") for p in fidelity.PERCENTS] + [
        (p, f"{protocol}:") for protocol in list(fidelity.PROTOCOLS)[1:] for p in fidelity.FEW
    ]:
        lost = np.where(less & (percent < 50), 0.3, 0.9) + rng.uniform(-0.005, 0.005, len(rows))
        rows[f"{prefix}p_removed_{percent:g}"] = 1 - lost
    numbers = Numbers({"rows": compact(rows, [*fidelity.COLUMNS, *(c for c in rows if "p_removed_" in c)])}, {})
    found = fidelity.concluded(numbers, fidelity.Config()).findings
    assert [one.verdict for one in found[:2]] == ["reproduced", "reproduced"]
    early = weighed(found[1].comparisons, "universal")
    assert {t.estimate.unit for t in early} == {BY_CLUSTER}
    assert any(t.estimate.label == "5%: A, Grad-CAM" and t.estimate.value > 0.5 for t in early)
    swapped = rows.assign(method=rows["method"].replace({fidelity.CASE: "Grad-CAM", "Grad-CAM": fidelity.CASE}))
    numbers = Numbers({"rows": compact(swapped, [*fidelity.COLUMNS, *(c for c in rows if "p_removed_" in c)])}, {})
    found = fidelity.concluded(numbers, fidelity.Config()).findings
    assert found[1].verdict == "not reproduced"  # as good as LayerCAM, behind all others


def test_contrasts_of_rows(tmp_path):
    frames = []
    for kind in (*contrasts.SETS, "all"):
        names = [*contrasts.tested((24,) if kind == "all" else contrasts.SIZES, free=kind == "confusion")]
        rows = of_all(names, lambda m: 0.1 if "Finer" in m else 0.6, ("A", "B", "C"), set=kind)
        rows = rows.assign(
            **{c: 0.2 for c in contrasts.COLUMNS if c.startswith(("p_removed", "mass", "top_", "points"))}
        )
        rows["mass_own"] = np.where(rows["method"].str.contains("Finer"), 0.4, 0.2) + (rows["network"] == "A") * 0.01
        frames.append(rows)
    found = kept_and_read(contrasts, pd.concat(frames), {}, tmp_path, contrasts.Config())
    best = found["Which contrast should a user take?"]
    assert "first difference (Finer-CAM) with" in best.note
    assert best.comparisons[0].value == pytest.approx(0.2, abs=1e-6)
    assert {one.value for one in found["Does its size matter?"].comparisons} == {0.0}


def test_sanity_of_rows(tmp_path):
    rho = {"guided_backprop": 0.9, "saliency": 0.5, "input_x_gradient": 0.4, "grad_cam": 0.3}
    rng, frames = np.random.default_rng(0), []
    for (name, level), (kind, step) in itertools.product(
        rho.items(), [("nothing", 0), ("cascading", 1), ("cascading", 2), ("labels", 0)]
    ):
        scores = {c: level + rng.uniform(-0.05, 0.05, IMAGES) for c in ("spearman", "spearman_abs", "ssim", "hog")}
        facts = {
            "method": name,
            "kind": kind,
            "step": step,
            "layer": f"layer{step}",
            "degenerate": False,
            "degenerate_changed": False,
            "top1": 0,
            "target": 0,
        }
        images = {"image_id": np.arange(IMAGES), "cluster_1": np.arange(IMAGES) % STROKES}
        frames.append(pd.DataFrame({**images, **scores, **facts}))
    training = pd.DataFrame([{"labels": "shuffled", "scenes": 500, "accuracy": 1.0}])
    config = dataclasses.replace(sanity.Config(), out=tmp_path)
    found = kept_and_read(sanity, pd.concat(frames), {"training": training}, tmp_path, config)
    guided = found["Guided backprop depends less on what was learnt than gradients and Grad-CAM do"]
    assert guided.verdict == "reproduced"
    assert [one.value for one in guided.comparisons] == pytest.approx([0.4, 0.5, 0.6], abs=0.02)
    assert {one.unit for one in guided.comparisons} == {BY_CLUSTER}
    assert found["Maps of a classifier of shuffled labels are others"].verdict == "undecided"


def test_class_specific_deletion_of_rows(tmp_path):
    """Contrast has 2 logits more specificity than Grad-CAM and 1 less necessity, on two networks of three trainings, and controls of contrast none."""
    grey = [*specificity.titles(specificity.CONTROLS), specificity.UNTRAINED]
    names = [*specificity.titles(specificity.PLAIN), *specificity.contrasts(), *grey]
    rng, frames = np.random.default_rng(0), []
    for network, seed in itertools.product(("ResNet", "VGG"), range(3)):
        rows = made_up(names, [0.1 if n in {*specificity.contrasts(), *grey} else 0.6 for n in names], network=network)
        contrasted, other = rows["method"].isin([*specificity.contrasts()]), rows["method"].isin(grey)
        noise = rng.normal(0, 0.05, (2, len(rows)))
        specific = np.where(contrasted, 3.0, np.where(other, -1.0, 1.0)) + noise[0]
        necessary = np.where(contrasted, 1.0, np.where(other, 0.0, 2.0)) + noise[1]
        by_share = {f"specificity_{k}": specific for k in specificity.PERCENTS}
        by_share |= {f"necessity_{k}": necessary for k in specificity.PERCENTS}
        scores = {
            "specificity": specific,
            "necessity": necessary,
            "necessity_random": 0.0,
            "hurts_own": 1.0,
            "mass_own": 0.3,
        }
        scores |= {
            "specificity_oracle": 4.0,
            "necessity_oracle": 2.0,
            **{f"p_removed_{p:g}": 0.5 for p in specificity.REMOVED},
        }
        frames.append(rows.assign(seed=seed, **by_share, **scores))
    facts = pd.DataFrame(itertools.product(("ResNet", "VGG"), range(3), [0.9]), columns=["network", "seed", "accuracy"])
    found = kept_and_read(specificity, pd.concat(frames), {"networks": facts}, tmp_path, specificity.Config())
    verdicts = [finding.verdict for finding in found.values()]
    assert verdicts[:4] == ["reproduced"] * 4
    assert set(verdicts[4:]) == {"answered"}
    gains = found["Maps of contrastive methods hold their own class more than Grad-CAM's do."].comparisons
    assert [one.value for one in gains] == pytest.approx([2.0] * len(specificity.contrasts()), abs=0.05)
    assert (tmp_path / "pair.png").stat().st_size > 1000
    table = pd.read_csv(tmp_path / "summary.csv").set_index("method")
    assert table.loc["Grad-CAM", "sensitive_0.5"].tolist() == [False] * 6
    assert table.loc["CASE, k = 1", "sensitive_0.5"].all()
    assert "75%" in (tmp_path / "summary.md").read_text()  # of the oracle's 4 logits


def of_pooling(pooling, seed, better):
    """Rows of one network, whose class activation maps are so much better in every measure; edges have half of it."""
    rng, frames = np.random.default_rng(seed), []
    for method in (*stream.FAST, *stream.SLOW, "attention", "attention, first stage"):
        blind = method in ("image_signature", "sobel")
        level = 0.5 + better + 0.01 * rng.standard_normal() - (0.2 if blind else 0)
        columns = dict.fromkeys(
            ("average_gain", "average_increase", "mask_mean", "drop", "mass_own", "mass_shared"), level
        )
        columns |= {"average_drop": 1 - level, "pooling": pooling, "seed": seed, "network": "ResNet"}
        frames.append(made_up([method], [level], **columns))
    return pd.concat(frames, ignore_index=True)


def test_attention_pooling_of_rows(tmp_path):
    better = {"average": 0.0, "stream": 0.2, "last map alone": 0.1}
    rows = pd.concat(of_pooling(p, seed, gain) for p, gain in better.items() for seed in range(4))
    facts = [
        {"seed": s, "pooling": p, "accuracy": 0.9 + 0.001 * s, "positions": 30 - s} for s in range(4) for p in better
    ]
    config = stream.Config()
    found = kept_and_read(stream, rows, {"networks": pd.DataFrame(facts)}, tmp_path, config)
    kept = found["Attention pooling keeps the accuracy of a frozen network"]
    assert kept.verdict == "reproduced"
    assert [one.label for one in kept.comparisons] == ["stream", "last map alone"]
    spread = found["Over how many of the last map's 36 positions does the attention spread?"]
    assert [one.value for one in spread.comparisons] == [28.5, 28.5]
    for title, side, gain in (("AD", "falls", -0.2), ("AG", "rises", 0.2), ("AI", "rises", 0.2)):
        one = found[f"With attention pooling {title} of class activation maps {side}"]
        assert one.verdict == "reproduced"
        assert [c.label for c in one.comparisons] == ["Grad-CAM", "Grad-CAM++", "Score-CAM"]
        np.testing.assert_allclose([c.value for c in one.comparisons], gain, atol=0.04)
        assert {(c.n, c.unit) for c in one.comparisons} == {(4, "networks")}
    alike = found["With attention pooling the maps of an image's two likeliest classes are more alike"]
    assert (alike.verdict, len(alike.comparisons)) == ("reproduced", 6)
    assert found["Signatures, which know no class, lie on own and shared evidence alike"].verdict == "reproduced"
    edges = found["Signature Activation is more than edges: ahead of Sobel's and of the image's own signature."]
    assert edges.verdict == "reproduced"
    np.testing.assert_allclose([c.value for c in edges.comparisons], 0.2, atol=0.04)
    turned = pd.concat(of_pooling(p, seed, -gain) for p, gain in better.items() for seed in range(4))
    worse = stream.concluded(Numbers({"rows": turned}, {"networks": pd.DataFrame(facts)}), config)
    assert [f.verdict for f in worse.findings[2:6]] == ["contradicted"] * 4

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from flax import nnx
from PIL import Image

from case_jax import explain, load
from case_jax.data.digit_scenes import CLASS_NAMES, DigitScenes
from case_jax.models import save_weights
from case_jax.results import RunFolder
from case_jax.tap.precision import at_precision


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """The two photographs that come with scikit-learn."""
    from pathlib import Path

    import sklearn.datasets

    folder = tmp_path_factory.mktemp("photos")
    for name in ("china.jpg", "flower.jpg"):
        shutil.copy(Path(sklearn.datasets.__file__).parent / "images" / name, folder / name)
    return folder


def test_evaluate_writes_rows_and_a_report(shell, tmp_path):
    status, out, _ = shell(
        "evaluate", "--limit", 20, "--methods", "grad_cam", "case", "--tile", 10, "--part", 10, "--out", "run",
        "--contrast-limit", 500,
    )  # fmt: skip
    assert status == 0
    assert "Grad-CAM" in out
    rows = RunFolder(tmp_path / "run").rows()
    assert len(rows) == 40
    for name in ("report.html", "summary.csv", "summary.md", "config.json", "contrast.json", "gallery.npz"):
        assert (tmp_path / "run" / name).stat().st_size > 100
    contrast = json.loads((tmp_path / "run" / "contrast.json").read_text())
    assert np.array(contrast["table"]).shape == (25, 5)
    # a scene's other candidate has the same body, so that is what most classes are confused with first
    assert sum(row[0] // 5 == i // 5 for i, row in enumerate(contrast["table"])) >= 20


def test_evaluate_runs_on_photographs_and_names_a_truncated_one(shell, photos, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "half.jpg").write_bytes((photos / "china.jpg").read_bytes()[:20_000])
    status, _out, err = shell(
        "evaluate",
        "--data",
        f"folder:{folder}",
        "--methods",
        "grad_cam",
        "case",
        "--tile",
        4,
        "--part",
        4,
        "--out",
        "run",
        "--crops",
        "crops",
        "--contrast-limit",
        50,
        "--metrics",
        "sensitivity",
    )
    assert status == 0
    assert len(list((tmp_path / "crops").glob("*/header.json"))) == 2  # what is evaluated, and the confusions' scenes
    assert "half.jpg" in err
    assert RunFolder(tmp_path / "run").rows()["name"].unique().tolist() == ["china.jpg", "flower.jpg"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "half.jpg" in page


def test_explain_says_where_logits_are_not_finite(shell, classifier, tmp_path):
    module = nnx.clone(classifier.module)
    module.head.kernel[...] = module.head.kernel[...] * 1e38
    save_weights(tmp_path / "huge.safetensors", module)
    words = ("--methods", "grad_cam", "--weights", tmp_path / "huge.safetensors", "--contrast", "topk_logits:2")
    status, out, err = shell("explain", "digit_scenes:3", *words)
    assert status == 0, err
    assert "scene-000003: the classifier's logits are not finite" in out + err


def test_layers_are_those_that_are_named(shell, tmp_path):
    words = ("--methods", "refine_cam", "--targets", "3", "--contrast", "all", "--layers", "blocks.1", "blocks.2")
    status, _, err = shell("explain", "digit_scenes:3", *words, "--save-maps", "maps.npz")
    assert status == 0, err
    model = load("digit_resnet", layers=["blocks.1", "blocks.2"])
    assert model.layers == ("case_jax.layer:blocks.1", "case_jax.layer:blocks.2")
    expected = explain(model, model.read(DigitScenes("test", 4)[3].image), "refine_cam", targets=[3])
    found = np.load(tmp_path / "maps.npz")["enlarged/refine_cam"]
    np.testing.assert_allclose(found / found.max(), expected, atol=1e-5)


def test_explain_draws_photographs_and_scenes(shell, photos, tmp_path):
    status, out, _ = shell(
        "explain",
        photos / "china.jpg",
        photos / "flower.jpg",
        "digit_scenes:3",
        "--contrast",
        "topk_logits:2",
        "--methods",
        "case",
        "--out",
        "grids",
    )
    assert status == 0
    for name in ("china", "flower", "scene-000003"):
        with Image.open(tmp_path / "grids" / f"explain-{name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 10
    assert out.count(".png") == 3


def test_sweep_finds_the_blind_control_and_tells_classes_apart(shell, tmp_path):
    status, _out, _ = shell(
        "pairs", "--limit", 16, "--methods", "case", "centre_gaussian", "--contrast", "topk_logits:4", "--out", "sweep"
    )
    assert status == 0
    found = np.load(tmp_path / "sweep" / "pairs.npz")
    case, blind = found["agreement"]
    np.testing.assert_allclose(blind, 1.0)
    np.testing.assert_allclose(case, case.T)
    assert np.nanmean(case[~np.eye(25, dtype=bool)]) < 0.4
    assert (found["images"][1] == 16).all()
    assert (tmp_path / "sweep" / "pairs.csv").exists()
    assert len(list((tmp_path / "sweep" / "figures").glob("agreement-*.png"))) == 2


def test_top_two_sweep_counts_one_pair_per_image(shell, tmp_path):
    assert (
        shell(
            "pairs", "--limit", 16, "--top", 2, "--methods", "random", "--contrast", "topk_logits:4", "--out", "sweep",
            "--crops", "crops",
        )[0]
        == 0
    )  # fmt: skip
    assert len(list((tmp_path / "crops").glob("*/header.json"))) == 1
    images = np.load(tmp_path / "sweep" / "pairs.npz")["images"][0]
    assert images[~np.eye(25, dtype=bool)].sum() == 2 * 16


def test_a_sweep_is_resumed_regrouped_and_not_mixed_with_another(shell, tmp_path):
    (tmp_path / "bodies.csv").write_text("class,superclass\n" + "".join(f"{c},body {c[0]}\n" for c in CLASS_NAMES))
    given = ("pairs", "--limit", 12, "--methods", "centre_gaussian", "--contrast", "all", "--out", "run")
    status, _, err = shell(*given)
    assert status == 0
    assert "12 images" in err
    sums = tmp_path / "run" / "parts" / "sums-000000.npz"
    before = sums.stat().st_mtime_ns
    status, _out, _ = shell(*given, "--hierarchy", "bodies.csv")  # nothing is counted again
    assert status == 0
    assert sums.stat().st_mtime_ns == before
    assert (tmp_path / "run" / "figures" / "superclasses-centre_gaussian.png").exists()
    table = pd.read_csv(tmp_path / "run" / "superclasses.csv")
    assert table["superclass"].tolist() == ["(all)", *(f"body {n}" for n in range(5))]
    assert (table[["within", "between"]] == 1).all(axis=None)  # one map for all classes
    assert table.loc[1, ["pairs_within", "pairs_between"]].tolist() == [12 * 10, 12 * 100]
    found = np.load(tmp_path / "run" / "pairs.npz")
    assert found["superclass_agreement"].shape == (1, 5, 5)
    counts = json.loads((tmp_path / "run" / "summary.json").read_text())["counts"]
    assert counts == {"images": 12, "images that could not be read": 0}
    status, _, err = shell(*given, "--top", 3)
    assert status == 2
    assert "pairs.top: the folder has 25, this run 3" in err


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("methods", "case_span"),
        ("models", "digit_resnet"),
        ("datasets", "folder"),
        ("metrics", "fidelity"),
        ("contrasts", "topk_logits"),
    ],
)
def test_list(shell, what, expected):
    status, out, _ = shell("list", what)
    assert status == 0
    assert expected in out


@pytest.mark.parametrize("command", ["evaluate", "explain", "pairs", "report", "list", "prepare"])
def test_help_shows_an_example(shell, command):
    status, out, _ = shell(command, "--help")
    assert status == 0
    assert f"case-jax {command} " in out.split("options")[0].replace("usage: case-jax", "")


BAD = [
    # arguments, words that the message must hold
    ("evaluate --methods gradcam", ["method", "'gradcam'", "grad_cam"]),
    ("evaluate --methods case case", ["methods", "twice"]),
    ("evaluate --metrics fidelty", ["metric", "'fidelty'", "fidelity"]),
    ("evaluate --model digit-resnet", ["model", "digit_resnet"]),
    ("evaluate --layer block.2", ["layer", "'block.2'", "blocks.2"]),
    ("evaluate --layers blocks.9 blocks.2", ["layers", "'blocks.9'", "blocks.2"]),
    ("evaluate --layer head", ["layer", "'head'", "height, width, channels"]),
    ("evaluate --data digits", ["data", "'digits'", "digit_scenes"]),
    ("evaluate --data digit_scenes:tests", ["digit_scenes:test"]),
    ("evaluate --data digit_scenes:test,backgrund=texture", ["option of digit_scenes", "'backgrund'", "'background'"]),
    ("evaluate --data digit_scenes:test,background=2", ["background", "got 2", "plain or texture"]),
    ("evaluate --data digit_scenes:test,side=96", ["96×96", "48×48"]),
    ("evaluate --data folder:nowhere", ["no folder", "nowhere"]),
    ("evaluate --data folder:", ["folder:PATH"]),
    ("evaluate --data folder:empty", ["no images", "empty", ".png"]),
    ("evaluate --data folder:broken", ["none of the 2 images", "a.png"]),
    ("evaluate --data folder:labels", ["2 sub-folders", "25 classes", "cat"]),
    ("evaluate --data folder:mixed", ["both in sub-folders", "beside"]),
    ("evaluate --agreement-percent 0", ["agreement_percent", "got 0", "(0, 100]"]),
    ("evaluate --agreement-percent 101", ["agreement_percent", "got 101"]),
    ("evaluate --fidelity-percents 10 20", ["fidelity_percents", "50"]),
    ("evaluate --fidelity-percents 50 -5", ["fidelity_percents", "-5"]),
    ("evaluate --fill black", ["fill", "'black'", "zero-pixel"]),
    ("evaluate --limit 0", ["limit", "got 0"]),
    ("evaluate --tile 0 --limit 8", ["tile", "got 0"]),
    ("evaluate --tile 16 --part 24 --limit 8", ["part", "got 24", "multiple"]),
    ("evaluate --contrast confusion", ["contrast", "confusion:5"]),
    ("evaluate --contrast confusion:25", ["k", "got 25", "1 to 24"]),
    ("evaluate --contrast confussion:5", ["contrast", "confusion"]),
    ("evaluate --contrast topk_logits:0", ["k", "got 0"]),
    ("evaluate --contrast explicit:own.json", ["contrast", "class 0", "itself"]),
    ("evaluate --contrast explicit:far.json", ["contrast", "class 25", "0 to 24"]),
    ("evaluate --contrast explicit:short.json", ["contrast", "(25, k)"]),
    ("evaluate --contrast explicit:ragged.json", ["contrast", "same number"]),
    ("evaluate --contrast explicit:none.json", ["contrast", "none.json"]),
    ("evaluate --contrast explicit:floats.json", ["contrast", "integers"]),
    ("evaluate --data digit_scenes:confusion --limit 8", ["contrast_data", "evaluation data"]),
    ("evaluate --contrast-data digit_scenes:test --limit 8", ["contrast_data", "evaluation data"]),
    ("evaluate --contrast-data folder:plain --limit 8", ["has a label"]),
    ("evaluate --agreement-percent 0.01 --limit 8", ["percent", "0.01% of 48×48", "at least one pixel"]),
    ("evaluate --data folder:plain --out plain/run", ["out", "inside the data folder"]),
    ("evaluate --data folder:plain --out plain/run --crops crops", ["out", "inside the data folder"]),
    ("evaluate --crops file.txt/crops --limit 8", ["crops", "cannot write", "--crops"]),
    ("evaluate --data folder:typo", ["'cat' is no class name"]),
    ("evaluate --contrast all:7", ["contrast", "'all:7'"]),
    ("evaluate --seed -1", ["seed", "got -1"]),
    ("pairs --seed 99999999999 --limit 8 --contrast all", ["seed", "got 99999999999"]),
    ("pairs --tile 0 --limit 8 --contrast all", ["tile", "got 0"]),
    ("explain digit_scenes:99999999999999", ["digit_scenes:INDEX"]),
    ("evaluate --data tfds:nothing_such:test", ["knows no 'nothing_such'"]),
    ("evaluate --weights nowhere.safetensors", ["weights", "no file"]),
    ("evaluate --weights text.safetensors", ["weights", "safetensors"]),
    ("evaluate --out file.txt/run --limit 8", ["out", "cannot write"]),
    ("evaluate --out plain --limit 8", ["out", "no run folder", "a.png"]),
    ("explain", ["images"]),
    ("explain empty", ["images", "folder without images", ".jpg"]),
    ("evaluate --contrast 5", ["contrast", "topk_logits:5"]),
    ("explain nowhere.jpg", ["nowhere.jpg", "cannot be read"]),
    ("explain broken/a.png", ["broken/a.png", "cannot be read"]),
    ("explain photos:chelsie", ["'photos:chelsie' is unknown", "Did you mean 'photos:chelsea'"]),
    ("explain digit_scenes:x", ["digit_scenes:INDEX"]),
    ("explain digit_scenes:3,texture", ["'texture'", "OPTION=VALUE"]),
    ("explain digit_scenes:3,side=96", ["96×96", "48×48"]),
    ("explain plain/a.png --model digit_resnet --top 26", ["top", "got 26", "1 to 25"]),
    ("explain plain/a.png --model digit_resnet --targets 25", ["targets", "got 25", "index from 0 to 24"]),
    ("explain plain/a.png --model digit_resnet --targets 3-7", ["targets", "'3-7' is unknown", "Did you mean '3·7'"]),
    ("explain plain/a.png --model digit_resnet --targets 0·9 4", ["targets", "every class once"]),
    ("explain plain/a.png --model digit_resnet --targets 3 --top 2", ["top", "got 2", "--targets"]),
    ("explain plain/a.png --model digit_resnet --against 26", ["against", "got 26", "index from 0 to 24"]),
    ("explain plain/a.png --model digit_resnet --against 3 --targets 3", ["against", "also a target"]),
    (
        "explain plain/a.png --model digit_resnet --against 3 --contrast all",
        ["against", "--contrast all", "one of the two"],
    ),
    ("explain plain/a.png --model digit_resnet --against 3 --methods grad_cam", ["against", "grad_cam", "finer_cam"]),
    ("explain plain/a.png --model digit_resnet --against 3 4 --top 24 --methods case", ["top", "got 24", "1 to 23"]),
    (
        "explain plain/a.png --model digit_resnet --signed --methods saliency --contrast topk_logits:2",
        ["signed", "saliency", "layer_cam"],
    ),
    ("explain plain/a.png --model digit_resnet --save-maps maps.png", ["save_maps", "maps.png", ".npz, .npy, .tif"]),
    ("explain plain/a.png --model digit_resnet --save-maps file.txt/maps.npz", ["cannot write"]),
    ("explain plain/a.png mixed/a.png --model digit_resnet --explore", ["images", "got 2", "one with --explore"]),
    ("explain mixed plain --model digit_resnet --explore", ["images", "got 2", "one with --explore"]),
    ("explain plain/a.png --model digit_resnet --explore --out file.txt/pages", ["out", "cannot write"]),
    (
        "explain plain/a.png --model digit_resnet --explore --top 0 --signed --set case.eps=0.1",
        ["explore", "--top, --signed, --set", "on the page"],
    ),
    (
        "explain plain/a.png --model digit_resnet --explore --contrast all --format pdf",
        ["explore", "--format, --contrast"],
    ),
    ("explain nowhere.jpg --explore", ["nowhere.jpg", "cannot be read"]),
    ("evaluate --data folder:plain --exif turn", ["exif"]),
    ("pairs --top 1 --limit 8", ["top", "got 1", "2 to 25"]),
    ("pairs --limit 8 --memory 0", ["memory", "at least", "48×48"]),
    ("pairs --limit 8 --class-shards 2", ["class_shards", "got 2", "local devices"]),
    ("pairs --limit 8 --hierarchy none.csv", ["hierarchy", "none.csv"]),
    ("pairs --limit 8 --hierarchy half.csv", ["hierarchy", "24 in all", "'0·6'", "…"]),
    ("pairs --data folder:plain --out plain/run", ["out", "inside the data folder"]),
    ("report plain", ["no run folder", "config.json"]),
]


@pytest.fixture(scope="session")
def bad_inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    picture = Image.fromarray(np.full((60, 60, 3), 90, np.uint8))
    for name in ("empty", "broken", "plain", "mixed/dog", "labels/cat", "labels/dog"):
        (folder / name).mkdir(parents=True)
    for name in ("plain/a.png", "mixed/a.png", "mixed/dog/a.png", "labels/cat/a.png", "labels/dog/a.png"):
        picture.save(folder / name)
    for name in (*CLASS_NAMES[1:], "cat"):
        (folder / "typo" / name).mkdir(parents=True)
        picture.save(folder / "typo" / name / "a.png")
    for name in ("a.png", "b.png"):
        (folder / "broken" / name).write_bytes(b"\x89PNG nothing")
    for name in ("file.txt", "text.safetensors"):
        (folder / name).write_text("not what you think")
    others = [[(c + 1) % 25, (c + 2) % 25] for c in range(25)]
    (folder / "half.csv").write_text(f"class,superclass\n{CLASS_NAMES[0]},zero\n")
    tables = {
        "own": [[0, 1], *others[1:]],
        "far": [[1, 25], *others[1:]],
        "short": others[:24],
        "ragged": [[1], *others[1:]],
        "floats": [[float(c) + 0.5 for c in row] for row in others],
    }
    for name, table in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(table))
    return folder


@pytest.mark.parametrize(("command", "words"), BAD, ids=[b[0] for b in BAD])
def test_bad_input_is_refused_with_a_message_that_helps(shell, bad_inputs, tmp_path, command, words):
    shutil.copytree(bad_inputs, tmp_path, dirs_exist_ok=True)
    status, _, err = shell(*command.split())
    assert status == 2
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_labels_by_class_name_are_used(shell, tmp_path):
    from case_jax.data import DigitScenes

    scenes = DigitScenes("test", 12)
    for i in range(12):
        folder = tmp_path / "data" / scenes.class_names[scenes[i].label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scenes[i].image).save(folder / f"{i:02}.png")
    status, _, _ = shell(
        "evaluate",
        "--data",
        "folder:data",
        "--methods",
        "grad_cam",
        "--contrast",
        "topk_logits:1",
        "--tile",
        4,
        "--part",
        4,
        "--metrics",
        "sensitivity",
        "--out",
        "run",
    )
    assert status == 0
    rows = RunFolder(tmp_path / "run").rows()
    assert (rows["label"] == rows["top1"]).mean() > 0.8


SMALL = ("--limit", 4, "--methods", "grad_cam", "--contrast", "topk_logits:2", "--out", "run")


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", *SMALL, "--tile", 4, "--part", 4, "--metrics", "sensitivity"),
        ("localise", *SMALL, "--tile", 4),
        ("sanity", *SMALL, "--tile", 4, "--kinds", "cascading", "--depth", 1),
        ("pairs", *SMALL, "--tile", 4, "--top", 2),
    ],
    ids=lambda words: words[0],
)
def test_a_run_knows_the_classifiers_precision_and_is_not_resumed_at_another(shell, tmp_path, words):
    status, _, err = shell(*words, "--precision", "bf16")
    assert status == 0, err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["model"]["precision"] == "bf16"
    status, _, err = shell(*words, "--precision", "tf32")
    assert status == 2
    assert "model.precision: the folder has 'bf16', this run 'tf32'" in err


def test_precision_reaches_mosaics_and_drawings(shell, tmp_path, monkeypatch):
    asked = []

    def spied(model, precision):
        asked.append(precision)
        return at_precision(model, precision)

    monkeypatch.setattr("case_jax.cli.setup.at_precision", spied)
    words = ("--methods", "grad_cam", "--contrast", "topk_logits:2", "--precision", "bf16", "--out", "run")
    status, _, err = shell("grid-pointing", *words, "--mosaics", 1, "--limit", 60, "--no-difull")
    assert status == 0, err
    settings = json.loads((tmp_path / "run" / "summary.json").read_text())["settings"]
    assert settings["confidence"] == 0.6
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["precision"] == "bf16"
    assert asked == ["bf16"] * 2  # as loaded, at the size of a mosaic
    status, _, err = shell("explain", "digit_scenes:3", *words)
    assert status == 0, err
    assert asked == ["bf16"] * 3


def test_an_unknown_precision_lists_those_that_exist(shell):
    status, out, err = shell("pairs", "--precision", "int4")
    assert status == 2
    assert all(name in out + err for name in ("float32", "tf32", "bf16"))

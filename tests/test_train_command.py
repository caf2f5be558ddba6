"""`case-jax train`, and what is trained in the other commands."""

import dataclasses
import json
import shutil
import signal
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from processes import cpu_environment, end, on_devices, start, succeed
from safetensors.numpy import load_file, save_file

from case_jax import CaseJaxError
from case_jax.cli.train.data import Data
from case_jax.data import ImageFolder
from case_jax.masking import load_masker
from case_jax.models import load_classifier
from case_jax.models.trained_file import digest
from case_jax.models.weights import flat_state
from case_jax.parallel import MAPPERS
from case_jax.results import RunFolder
from case_jax.training import few_shot
from case_jax.training.loop import read_curves

SHORT = ("--limit", 40, "--epochs", 2, "--share", 0.5, "--batch", 10)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Where the masker lies, and what its training said when it was done."""
    return {"folder": tmp_path_factory.mktemp("masker") / "run"}


@pytest.fixture
def masker(shell, trained):
    """Four steps of a class-conditional masker, trained once; a test that spoils it copies it."""
    if "out" not in trained:
        words = ("train", "masker", "--class-conditional", "--width", 8, *SHORT, "--out", trained["folder"])
        status, trained["out"], err = shell(*words)
        assert status == 0, err
    return trained["folder"], trained["out"]


def test_a_masker_runs_through_the_other_commands(shell, masker, tmp_path):
    run, out = masker
    assert f"Next: case-jax evaluate --methods masker:{run} grad_cam case" in out
    assert (run / "figures" / "curves.png").stat().st_size > 5000
    assert [r["step"] for r in read_curves(run / "log.csv")] == [4]
    again = shell("train", "masker", "--class-conditional", "--width", 8, *SHORT, "--out", run)
    assert again[0] == 0  # nothing is trained again
    name = f"masker:{run}"
    words = ("--methods", name, "grad_cam", "--limit", 12)
    status, _, err = shell(
        "evaluate", *words, "--metrics", "sensitivity", "--contrast", "topk_logits:3", "--out", "tests"
    )
    assert status == 0, err
    rows = RunFolder(tmp_path / "tests").rows()
    assert rows.groupby("method").size().to_dict() == {name: 12, "grad_cam": 12}
    config = json.loads((tmp_path / "tests" / "config.json").read_text())["methods"][name]
    assert config["title"] == "masker, fixed, class-conditional"
    assert not config["class_blind"]
    status, _, err = shell("localise", *words, "--contrast", "topk_logits:3", "--out", "where")
    assert status == 0, err
    found = pd.read_csv(tmp_path / "where" / "summary.csv", index_col="method")
    assert 0 < found.loc[name, "mean"] < 1
    status, out, err = shell("explain", "digit_scenes:3", "--methods", name, "--contrast", "topk_logits:3")
    assert status == 0, err


def test_masks_are_the_masker_s_own(masker, tapped, images):
    import jax
    import jax.numpy as jnp

    from case_jax import ask, topk_logits
    from case_jax.masking import to_image

    trained = load_masker(masker[0])
    view = tapped.view(tapped.params, images[0])
    query = ask(view, jnp.array([3, 11]), topk_logits(3, 25))
    maps = trained(view, query)
    stages = tuple(jnp.stack([m, m]) for m in view.activations())
    expected = jax.nn.sigmoid(to_image(trained.masker(stages, labels=jnp.array([3, 11])), (48, 48)))
    np.testing.assert_allclose(maps, expected, atol=1e-6)
    assert np.abs(maps[0] - maps[1]).max() > 1e-4
    hard = dataclasses.replace(trained, gumbel=True)(view, query)
    np.testing.assert_array_equal(hard, (maps > 0.5).astype(np.float32))
    with pytest.raises(CaseJaxError, match="model: a masker reads several layers"):
        trained(dataclasses.replace(view, layers=()), query)
    with pytest.raises(CaseJaxError, match="layers: got maps of"):
        trained(dataclasses.replace(view, layers=view.layers[:-1]), query)


def photographs(folder, *names):
    rng = np.random.default_rng(0)
    for name in names:
        for i in range(4):
            file = folder / name / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(file)
    return f"folder:{folder}"


def test_a_classifier_learns_the_classes_of_other_data(shell, tmp_path):
    data = photographs(tmp_path / "photos", "cat", "dog", "owl")
    words = ("train", "classifier", "--data", data, "--epochs", 2, "--share", 1, "--batch", 4, "--augment")
    status, _, err = shell(*words, "--out", tmp_path / "run")
    assert status == 2
    assert "3 sub-folders for a classifier of 25 classes" in err
    status, _, err = shell(*words, "--new-head", "--out", tmp_path / "run")
    assert status == 0, err
    found = load_classifier(weights=tmp_path / "run" / "classifier.safetensors")
    assert found.class_names == ("cat", "dog", "owl")
    before, after = (flat_state(c.module) for c in (load_classifier(), found))
    assert after["head.kernel"].shape == (before["head.kernel"].shape[0], 3)
    assert {name for name in before if before[name].shape != after[name].shape} == {"head.kernel", "head.bias"}
    assert RunFolder(tmp_path / "run").config()["augment"]
    flat = photographs(tmp_path / "flat", ".")
    status, _, err = shell("train", "classifier", "--new-head", "--data", flat, "--out", tmp_path / "other")
    assert status == 2
    assert "data: got folder" in err
    assert "a sub-folder for each class" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("masker", "--save-every", 0), "save_every: got 0; accepted: a number of steps of at least 1"),
        (("masker", "--masker-rate", "inf"), "masker_rate: got inf; accepted: a finite number above 0"),
        (("masker", "--lambda-in", "nan"), "lambda_in: got nan; accepted: a finite number of at least 0"),
        (("masker", "--weight-out", -1), "weight_out: got -1.0; accepted: a finite number of at least 0"),
        (("masker", "--tv-weight", -1), "tv_weight: got -1.0"),
        (("classifier", "--weight-decay", -1), "weight_decay: got -1.0"),
        (("infiller", "--rate", "nan"), "rate: got nan"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(shell, tmp_path, words, message):
    status, _, err = shell("train", *words, "--limit", 10, "--out", tmp_path / "run")
    assert status == 2
    assert message in err
    assert not (tmp_path / "run").exists()


def test_a_run_among_the_images_and_an_unfinished_infiller_are_refused(shell, tmp_path):
    data = photographs(tmp_path / "photos", "cat", "dog")
    words = ("train", "classifier", "--new-head", "--data", data)
    status, _, err = shell(*words, "--out", tmp_path / "photos" / "run")
    assert status == 2
    assert "inside the data folder" in err
    (tmp_path / "begun").mkdir()
    status, _, err = shell("train", "masker", "--infill", tmp_path / "begun", "--out", tmp_path / "run")
    assert status == 2
    assert "which has no infiller.safetensors; accepted: a folder of `case-jax train infiller`" in err


def test_damaged_runs_are_named(shell, masker, tmp_path):
    run = shutil.copytree(masker[0], tmp_path / "run")
    words = ("train", "masker", "--class-conditional", "--width", 8, *SHORT, "--out", run)
    log = (run / "log.csv").read_text()
    (run / "log.csv").write_text(log + "five,6\n")
    status, _, err = shell(*words)
    assert status == 2
    assert "log.csv is damaged" in err
    (run / "log.csv").write_text(log)
    file = run / "masker.safetensors"
    arrays = load_file(file)
    save_file(arrays, file, metadata={"masker": '"text"', "gumbel": "false", "classifier": '""', "words": '""'})
    status, _, err = shell("evaluate", "--methods", f"masker:{run}", "--limit", 5, "--out", tmp_path / "tests")
    assert status == 2
    assert "masker: the facts in" in err
    for state in (run / "checkpoints" / "4").rglob("*"):
        if state.is_file():
            state.write_bytes(b"")
    status, _, err = shell(*words)
    assert status == 2
    assert "checkpoints: that of step 4" in err
    assert "delete the folder 4" in err


def test_augmenting_scenes_is_refused(shell, tmp_path):
    status, _, err = shell("train", "classifier", "--augment", *SHORT, "--out", tmp_path / "run")
    assert status == 2
    assert "augment: got True for digit_scenes/train; accepted: photographs" in err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_limit_draws_images_by_the_seed(tmp_path):
    """Not the first ones, which of a folder are the first classes'; few of each class are taken of them."""
    source = ImageFolder(
        photographs(tmp_path, *"abcdefgh").removeprefix("folder:"), tuple("abcdefgh"), resize=8, crop=8
    )
    drawn = Data(limit=30).chosen(source)
    assert len(drawn) == 30
    assert drawn.max() > 29  # of 32
    few = few_shot(source, 1, seed=0, indices=drawn)
    assert set(few) <= set(drawn)


def test_a_classifier_trained_alongside_goes_with_its_masker(shell, tmp_path):
    words = ("--classifier", "alongside", "--width", 8, "--per-class", 1, "--limit", 400)
    status, out, err = shell("train", "masker", *words, "--epochs", 2, "--share", 0.05, "--batch", 10, "--out", "run")
    assert status == 0, err
    assert "--weights run/classifier.safetensors" in out
    judge = load_classifier(weights=tmp_path / "run" / "classifier.safetensors")
    assert load_masker(tmp_path / "run").classifier == digest(judge.module) != digest(load_classifier().module)
    test = ("evaluate", "--methods", "masker:run", "--limit", 6, "--metrics", "sensitivity", "--contrast", "all")
    status, _, err = shell(*test)
    assert status == 2
    assert "a masker trained with another classifier" in err
    assert "--weights run/classifier.safetensors" in err
    assert shell(*test, "--weights", "run/classifier.safetensors")[0] == 0


def test_an_infiller_and_a_classifier_of_shuffled_labels(shell, tmp_path):
    status, out, err = shell("train", "infiller", *SHORT, "--out", "fill")
    assert status == 0, err
    assert "case-jax train masker --infill fill" in out
    status, _, err = shell("train", "masker", "--infill", "fill", "--gumbel", "--width", 8, *SHORT, "--out", "m")
    assert status == 0, err
    assert load_masker(tmp_path / "m").words == "fixed, infill fill, gumbel"
    status, _, err = shell("train", "classifier", "--fresh", "--shuffled-labels", *SHORT, "--out", "c")
    assert status == 0, err
    words = ("sanity", "--methods", "grad_cam", "--limit", 4, "--kinds", "labels", "--contrast", "all", "--out", "s")
    status, _, err = shell(*words, "--shuffled-weights", "c/classifier.safetensors")
    assert status == 0, err


@pytest.mark.slow
def test_a_killed_training_ends_with_the_parameters_of_an_unbroken_one(tmp_path):
    environment = cpu_environment(tmp_path / "xla")
    words = ["train", "masker", "--width", 8, "--limit", 60]
    words += ["--epochs", 24, "--share", 0.5, "--batch", 10, "--save-every", 2]

    def newest():
        steps = (tmp_path / "killed" / "checkpoints").glob("[0-9]*")
        return max((int(step.name) for step in steps if step.name.isdigit()), default=0)

    for kill in (signal.SIGKILL, signal.SIGTERM):
        before, started = newest(), start([*words, "--out", tmp_path / "killed"], environment)
        deadline = time.monotonic() + 200
        while newest() <= before and started[0].poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        started[0].send_signal(kill)
        status, errors = end(started, 60)
        assert status in (-kill, 128 + kill), errors
        assert not (tmp_path / "killed" / "masker.safetensors").exists()
    assert "of 72 is kept, and the same command goes on there" in errors
    succeed([start([*words, "--out", tmp_path / name], environment) for name in ("killed", "unbroken")])
    resumed, unbroken = (load_file(tmp_path / name / "masker.safetensors") for name in ("killed", "unbroken"))
    assert resumed.keys() == unbroken.keys()
    for key, array in unbroken.items():
        np.testing.assert_allclose(resumed[key], array, rtol=0, atol=1e-6)
    assert len((tmp_path / "killed" / "sessions.jsonl").read_text().splitlines()) == 3


@pytest.mark.slow
def test_both_mappers_train_the_same_parameters(tmp_path):
    environment = on_devices(cpu_environment(tmp_path / "xla"), 8)
    words = ["train", "classifier", "--limit", 64, "--epochs", 3, "--share", 0.5, "--batch", 16]
    for mapper in MAPPERS:
        succeed([start([*words, "--mapper", mapper, "--out", tmp_path / mapper], environment)])
    one, other = (load_file(tmp_path / mapper / "classifier.safetensors") for mapper in MAPPERS)
    assert one.keys() == other.keys()
    for key, array in one.items():
        np.testing.assert_array_equal(other[key], array)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("masker --masked-in none --masked-out none", ["masked_in, masked_out", "at least one"]),
        ("masker --masked-in maximise-contrast", ["class_conditional", "--class-conditional"]),
        ("masker --infill blurr", ["infill", "blur"]),
        ("masker --epochs 0", ["epochs", "at least 1"]),
        ("masker --share 1.5", ["share", "at most 1"]),
        ("masker --batch 0 --limit 8", ["batch", "a multiple of"]),
        ("masker --stages 7 --limit 8", ["stages", "[0, 1, 2, 3]"]),
        ("masker --per-class 0 --limit 8", ["per_class", "at least 1"]),
        ("masker --per-class 9 --limit 8", ["per_class", "fewer images"]),
        ("masker --model vit_small_patch16_224 --weights no.safetensors", ["no.safetensors"]),
        ("masker --data folder:nowhere", ["nowhere"]),
        ("masker --guidance 4", ["guidance", "--start"]),
        ("masker --start nowhere --limit 8", ["no masker.safetensors in nowhere"]),
        ("infiller --data sound_scenes --limit 8", ["sound_scenes/train", "three channels"]),
        ("classifier --rate 0", ["rate", "above 0"]),
    ],
)
def test_bad_trainings_are_refused(shell, words, expected):
    status, _, err = shell("train", *words.split())
    assert status == 2
    assert all(word in err for word in expected), err


@pytest.mark.parametrize(
    ("name", "expected"),
    [("masker:nowhere", "no masker.safetensors in nowhere"), ("masker:other.safetensors", "holds another network")],
)
def test_what_is_no_masker_is_refused(shell, tmp_path, name, expected):
    from case_jax.models import save_weights

    save_weights(tmp_path / "other.safetensors", load_classifier().module)
    status, _, err = shell("evaluate", "--methods", name, "--limit", 4)
    assert status == 2
    assert expected in err


@pytest.mark.slow
def test_a_masker_of_sounds_is_trained_fine_tuned_and_evaluated(shell, tmp_path):
    """L-MAC's losses go with the classifier of sounds; guidance goes on from a trained masker, on data that know the clean sound."""
    few = ("--limit", 16, "--epochs", 1, "--share", 1, "--batch", 8)
    status, said, err = shell("train", "masker", "--data", "sound_scenes", *few, "--out", tmp_path / "first")
    assert status == 0, err
    assert f"case-jax evaluate --methods masker:{tmp_path / 'first'} grad_cam case --data sound_scenes" in said
    made = json.loads((tmp_path / "first" / "config.json").read_text())["masker"]
    assert (made["targets"], made["size_penalty"], made["masked_out"]["most"]) == ("predicted", 6.4, 20.0)
    on = ("train", "masker", "--start", tmp_path / "first", "--guidance", 4)
    status, said, err = shell(*on, "--data", "sound_scenes", *few, "--out", tmp_path / "second")
    assert status == 0, err
    assert "| guided |" in said
    status, _, err = shell(*on, *few, "--out", tmp_path / "third")
    assert status == 2
    assert "start" in err  # a masker of another classifier
    evaluate = ("evaluate", "--data", "sound_scenes", "--methods", f"masker:{tmp_path / 'second'}", "--limit", 8)
    status, said, err = shell(*evaluate, "--metrics", "faithfulness", "mask_complexity", "--out", tmp_path / "rows")
    assert status == 0, err
    assert "guided" in said

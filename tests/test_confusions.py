"""Confusions: which images are drawn, what is counted, kept and not counted again, and what a plan does instead."""

import dataclasses
import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from archives import cifar_bytes, cifar_files, write_tar
from PIL import Image
from studies import count_pairs, evaluation

from case_jax import tag, tap_function
from case_jax._checks import CaseJaxError
from case_jax.contrast.choice import Uncounted, choose_contrast
from case_jax.data import CachedCrops, DigitScenes, ImageFolder, TfdsImages
from case_jax.data.cifar100 import prepare_cifar100
from case_jax.evaluation import class_draw, confusion, count_confusions, run
from case_jax.evaluation.class_draw import draw_by_class
from case_jax.evaluation.confusion_sums import ConfusionSums, fraction_bits, total
from case_jax.evaluation.maps import Pixels
from case_jax.methods import METHODS
from case_jax.results import RunFolder
from case_jax.source import Example, UnreadableImageError
from case_jax.tap.precision import at_precision

PIXELS = Pixels((0.5,) * 3, (0.25,) * 3)
CLASSES = 5


class Made:
    """Images of noise with these labels; remembers which were read."""

    name, class_names, fingerprint = "made", None, "v1"

    def __init__(self, labels, *, broken=(), burnt=()):
        self.labels, self.broken, self.burnt = np.asarray(labels), broken, burnt
        self.read, self.asked = [], 0

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        self.read.append(index)
        if index in self.broken:
            raise UnreadableImageError(f"image {index}", "cut short")
        image = np.random.default_rng(index).integers(0, 255, (12, 12, 3), np.uint8)
        image[0, 0] = 255 if index in self.burnt else 0
        return Example(index, f"image {index}", image, int(self.labels[index]))


class Known(Made):
    """The same, its labels known beforehand."""

    def labels_of(self, indices):
        self.asked += len(indices)
        return self.labels[indices]


def made(kind=Known, count=60, **changes):
    return kind(np.arange(count) % CLASSES, **changes)


def same(counted, other):
    np.testing.assert_array_equal(counted.counts, other.counts)
    np.testing.assert_array_equal(counted.mean_probabilities, other.mean_probabilities)
    assert counted.left_out == other.left_out


# --- which images are drawn -----------------------------------------------------------------------------------------------


def shares(labels, limit):
    """What each class gives when all give one image at a time for as long as they have any."""
    left, given = np.bincount(labels), np.zeros(CLASSES, int)
    while given.sum() < limit and left.any():
        for c in np.flatnonzero(left):
            if given.sum() < limit:
                given[c], left[c] = given[c] + 1, left[c] - 1
    return given


@pytest.mark.parametrize("limit", [5, 12, 37, 200, 1000])
@pytest.mark.parametrize("few", [1, 4, 40])
def test_every_class_gives_the_same_number_of_images_or_all_it_has(limit, few):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(CLASSES), [few, 40, 40, 90, 200]))
    drawn = draw_by_class(Known(labels), limit, 3, CLASSES)
    found = np.bincount(labels[drawn.indices], minlength=CLASSES)
    assert sorted(found) == sorted(shares(labels, limit))
    assert found.sum() == min(limit, len(labels))
    assert (np.diff(drawn.indices) > 0).all()
    again, other = (draw_by_class(Known(labels), limit, seed, CLASSES).indices for seed in (3, 4))
    np.testing.assert_array_equal(again, drawn.indices)
    assert limit >= len(labels) or not np.array_equal(other, drawn.indices)


def test_no_more_labels_are_asked_for_than_can_change_the_draw(monkeypatch):
    source, whole = (Known(np.arange(5000) % CLASSES) for _ in range(2))
    monkeypatch.setattr(class_draw, "AT_ONCE", 10)
    drawn = draw_by_class(source, 23, 0, CLASSES)
    monkeypatch.setattr(class_draw, "AT_ONCE", 5000)
    np.testing.assert_array_equal(draw_by_class(whole, 23, 0, CLASSES).indices, drawn.indices)
    assert 23 <= source.asked < 100
    assert whole.asked == 5000
    assert not source.read


def test_images_without_a_label_are_passed_over():
    source = Known(np.where(np.arange(60) % 2, -1, np.arange(60) % CLASSES))
    drawn = draw_by_class(source, 100, 0, CLASSES)
    assert drawn.indices.tolist() == [*range(0, 60, 2)]
    assert drawn.unlabelled == 30


def test_a_source_that_does_not_know_its_labels_gives_any_images():
    source = made(Made)
    drawn = draw_by_class(source, 20, 1, CLASSES)
    expected = np.sort(np.random.default_rng(1).permutation(60)[:20])
    np.testing.assert_array_equal(drawn.indices, expected)
    assert len(draw_by_class(source, 100, 1, CLASSES).indices) == 60
    assert not source.read


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([-1] * 20, "none of the 20 images of made has a label"),
        ([0, 1, 3, 4] * 5, r"1 of 5 classes \(the first: 2\) have no image in made"),
        ([0, 1, 2, 3, 4, 7], r"contrast_data: got made with label 7; accepted: labels from 0 to 4"),
    ],
)
def test_labels_that_cannot_do_are_refused_before_an_image_is_read(toy, labels, words):
    source = Known(labels)
    with pytest.raises(CaseJaxError, match=words):
        count_confusions(source, toy, PIXELS)
    assert not source.read


# --- sources that know their labels ---------------------------------------------------------------------------------------


def folder_of(path, count, classes=CLASSES):
    for i in range(count):
        file = path / f"class {i % classes}" / f"{i:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (12, 12, 3), np.uint8)).save(file)
    return ImageFolder(path, None, resize=12, crop=12)


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """A miniature CIFAR-100: 500 images, one of each class at least."""
    data = tmp_path_factory.mktemp("data")
    rows = cifar_bytes(500, 0)
    rows[:100, 1] = np.arange(100)
    archive = write_tar(data / "c.tar.gz", cifar_files(train__bin=rows.tobytes()), mode="w:gz")
    prepare_cifar100(archive, data_dir=data, any_archive=True)
    return TfdsImages("cifar100", "train", resize=32, crop=32, data_dir=data)


def labels_are_known(source, indices):
    expected = [source[int(i)].label for i in indices]
    np.testing.assert_array_equal(source.labels_of(np.asarray(indices)), expected)
    assert len(set(expected)) > 1


def test_labels_are_known_without_images(cifar, tmp_path):
    labels_are_known(DigitScenes("confusion", 40, seed=3), range(0, 40, 3))
    labels_are_known(DigitScenes("test", 10, second_body=True, dim_marker=False), [7, 2, 9])
    labels_are_known(cifar, [499, 0, *range(200, 330)])
    folder = folder_of(tmp_path / "images", 12)
    labels_are_known(folder, [11, 3, 4])
    labels_are_known(CachedCrops(folder, tmp_path / "crops"), [11, 3, 4])
    assert CachedCrops(made(Made), tmp_path / "crops").labels_of is None
    flat = ImageFolder(tmp_path / "images" / "class 0", None, resize=12, crop=12)
    assert flat.labels_of(np.arange(2)).tolist() == [-1, -1]


def classifier_of(classes, side):
    rng = np.random.default_rng(0)
    params = {
        "kernel": jnp.asarray(rng.normal(0, 0.5, (3, 3, 3, 8)), jnp.float32),
        "head": jnp.asarray(rng.normal(0, 1, (8, classes)), jnp.float32),
    }

    def function(params, x):
        a = jax.lax.conv_general_dilated(
            x[None], params["kernel"], (4, 4), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return tag(jax.nn.relu(a[0]), "features").mean((0, 1)) @ params["head"]

    return tap_function(function, params, "features", jnp.zeros((side, side, 3)))


def test_the_limit_holds_for_folders_data_sets_and_scenes(cifar, toy, tapped, classifier, tmp_path):
    folder = count_confusions(folder_of(tmp_path, 40), toy, PIXELS, limit=12)
    assert sorted(folder.counts.sum(1)) == [2, 2, 2, 3, 3]
    data_set = count_confusions(cifar, classifier_of(100, 32), PIXELS, limit=150)
    supply = np.bincount(cifar.labels_of(np.arange(500)), minlength=100)
    assert data_set.counts.sum() == 150
    assert data_set.counts.sum(1).min() == 1
    assert data_set.counts.sum(1).max() == 2 or (supply == 1).sum() > 50
    pixels = Pixels(classifier.preprocessing.mean, classifier.preprocessing.std)
    scenes = count_confusions(DigitScenes("confusion", 400), tapped, pixels, limit=75)
    assert scenes.counts.sum(1).tolist() == [3] * 25
    assert scenes.source == "digit_scenes/confusion (75 images, 3 to 3 of a class)"


# --- what is counted ------------------------------------------------------------------------------------------------------


def test_sums_are_exact_in_any_order():
    rng, classes = np.random.default_rng(0), 7
    logits = rng.normal(0, 4, (300, classes))
    found = np.float32(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    labels, bits = rng.integers(0, classes, 300), fraction_bits(300)

    def of(parts):
        sums = []
        for part in parts:
            sums.append(ConfusionSums.none(classes))
            sums[-1].add_images(labels[part], found[part].argmax(-1), found[part], bits)
        return total(sums, classes)

    one = of([np.arange(300)])
    for size in (1, 7, 100):
        other = of(np.split(rng.permutation(300), range(size, 300, size)))
        np.testing.assert_array_equal(other.confused, one.confused)
        np.testing.assert_array_equal(other.means(bits), one.means(bits))
    exact = np.stack([found[labels == c].astype(np.float64).mean(0) for c in range(classes)])
    np.testing.assert_allclose(one.means(bits), exact, rtol=0, atol=2.0**-bits)
    assert one.confused.sum() == 300


@pytest.mark.parametrize("images", [1, 5000, 2**20])
def test_sums_of_certain_images_do_not_overflow(images):
    bits = fraction_bits(images)
    one = int(np.rint(np.ldexp(np.float64(np.float32(1.000001)), bits)))
    assert images * one < 2**63
    assert images * one > 2**60


def test_counts_are_those_of_one_image_at_a_time(toy):
    counted = count_confusions(made(), toy, PIXELS, tile=7)
    expected, sums = np.zeros((CLASSES, CLASSES), int), np.zeros((CLASSES, CLASSES))
    source = made()
    for i in range(60):
        image = (jnp.asarray(source[i].image, jnp.float32) / 255 - 0.5) / 0.25
        p = np.asarray(jax.nn.softmax(toy.apply(toy.params, image)))
        expected[i % CLASSES, p.argmax()] += 1
        sums[i % CLASSES] += p
    np.testing.assert_array_equal(counted.counts, expected)
    np.testing.assert_allclose(counted.mean_probabilities, sums / 12, atol=1e-6)
    same(count_confusions(made(Made), toy, PIXELS, tile=7), counted)  # all images, whether labels are known or not


def test_what_cannot_be_counted_is_listed(toy):
    def burns(params, image):
        return toy.apply(params, image) * jnp.where(image[0, 0, 0] > 1.9, jnp.nan, 1).astype("float32")

    model = dataclasses.replace(toy, apply=burns, head_kernel=None)
    labels = np.where(np.arange(60) == 11, -1, np.arange(60) % CLASSES)
    counted = count_confusions(Made(labels, broken=(3, 30), burnt=(8,)), model, PIXELS)
    assert [(e["index"], e["kind"]) for e in counted.left_out] == [
        (3, "could not be read"),
        (8, "logits that are not finite"),
        (11, "no label"),
        (30, "could not be read"),
    ]
    assert counted.reasons() == {"could not be read": 2, "logits that are not finite": 1, "no label": 1}
    assert counted.left_out[0]["reason"] == "cut short"
    assert counted.counts.sum() == 56
    assert np.isfinite(counted.mean_probabilities).all()
    with pytest.raises(CaseJaxError, match="none of the 60 images of made has a label and finite logits"):
        count_confusions(Made(np.full(60, -1)), toy, PIXELS)


# --- kept, and not counted again ------------------------------------------------------------------------------------------


def test_what_is_kept_is_not_counted_again(toy, tmp_path):
    first, second, elsewhere = made(), made(), made()
    counted = count_confusions(first, toy, PIXELS, limit=20, folder=tmp_path)
    same(count_confusions(second, toy, PIXELS, limit=20, folder=tmp_path), counted)
    same(count_confusions(elsewhere, toy, PIXELS, limit=20), counted)
    assert {*first.read} == {*elsewhere.read}
    assert len({*first.read}) == 20
    assert not second.read
    assert not second.asked  # nor is it asked for labels


def test_another_layer_counts_nothing_again(tapped, classifier, images, monkeypatch, tmp_path):
    from case_jax.models import tap_classifier

    pixels = Pixels(classifier.preprocessing.mean, classifier.preprocessing.std)
    counted = count_confusions(DigitScenes("confusion", 300), tapped, pixels, folder=tmp_path)
    other = tap_classifier(classifier, images[0], layer="blocks.1")
    monkeypatch.setattr(DigitScenes, "__getitem__", lambda self, index: pytest.fail("an image was read"))
    same(count_confusions(DigitScenes("confusion", 300), other, pixels, folder=tmp_path), counted)


def other_weights(model):
    return dataclasses.replace(model, params=jax.tree.map(lambda a: a * 1.5, model.params))


CHANGES = {
    "weights": {"model": other_weights},
    "pixels": {"pixels": Pixels((0.4,) * 3, (0.25,) * 3)},
    "limit": {"limit": 25},
    "seed": {"seed": 1},
    "tile": {"tile": 10},
    "precision": {"model": lambda model: at_precision(model, "bf16")},
    "model's name": {"model_name": "another"},
}


@pytest.mark.parametrize("what", [*CHANGES, "data", "nothing"])
def test_anything_else_is_counted_anew(toy, tmp_path, what):
    changes = dict(CHANGES.get(what, {}))
    count_confusions(made(), toy, PIXELS, limit=20, folder=tmp_path)
    source = made()
    source.fingerprint = "v2" if what == "data" else "v1"
    model, pixels = changes.pop("model", lambda m: m)(toy), changes.pop("pixels", PIXELS)
    settings = {"limit": 20, **changes}
    counted = count_confusions(source, model, pixels, folder=tmp_path, **settings)
    assert bool(source.read) == (what != "nothing")
    same(count_confusions(made(), model, pixels, **settings), counted)
    count_confusions(made(), toy, PIXELS, limit=20, folder=tmp_path)
    assert len([*(tmp_path / "confusions").iterdir()]) == (1 if what == "nothing" else 2)


class Cut(Known):
    """Ends the run at this image, as a kill would."""

    end = 40

    def __getitem__(self, index):
        if index == self.end:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def test_a_killed_counting_goes_on_where_it_was(toy, tmp_path):
    settings = {"tile": 2, "folder": tmp_path, "save_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        count_confusions(made(Cut), toy, PIXELS, **settings)
    source = made()
    counted = count_confusions(source, toy, PIXELS, **settings)
    assert 0 < len({*source.read}) < 50
    same(counted, count_confusions(made(), toy, PIXELS, tile=2))


def kept_in(folder):
    (only,) = (folder / "confusions").iterdir()
    return only


def flip(file, position):
    data = bytearray(file.read_bytes())
    data[position] ^= 16
    file.write_bytes(data)


def flipped(file):
    flip(file, file.read_bytes().index(b"probabilities") + 60 if file.suffix == ".npz" else -40)


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-30])


def emptied(file):
    file.write_bytes(b"")


def repeated(file):
    shutil.copy(file, file.with_name("sums-000003.npz"))


SUMS, DRAWN = "sums-000000.npz", "drawn.json"
DAMAGES = [(damage, name) for damage in (flipped, cut_short, emptied) for name in (SUMS, DRAWN)]


@pytest.mark.parametrize(("damage", "name"), [*DAMAGES, (repeated, SUMS)])
def test_what_is_damaged_is_named_and_counted_again(toy, tmp_path, caplog, damage, name):
    counted = count_confusions(made(), toy, PIXELS, limit=20, folder=tmp_path)
    file = kept_in(tmp_path) / name
    damage(file)
    source = made()
    with caplog.at_level(logging.WARNING):
        same(count_confusions(source, toy, PIXELS, limit=20, folder=tmp_path), counted)
    named = file.with_name("sums-000003.npz") if damage is repeated else file
    assert str(named) in caplog.text
    assert bool(source.read) == (name == SUMS and damage is not repeated)
    caplog.clear()
    same(count_confusions(made(), toy, PIXELS, limit=20, folder=tmp_path), counted)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_no_flipped_bit_changes_a_number(toy, tmp_path, caplog):
    """A bit that nothing hangs on (a date, say) may pass."""
    settings = {"limit": 20, "folder": tmp_path}
    counted = count_confusions(made(), toy, PIXELS, **settings)
    for name in (SUMS, DRAWN):
        whole = (kept_in(tmp_path) / name).read_bytes()
        for position in range(0, len(whole), max(1, len(whole) // 20)):
            flip(kept_in(tmp_path) / name, position)
            same(count_confusions(made(), toy, PIXELS, **settings), counted)
    assert caplog.text.count("is damaged") > 20


@pytest.mark.parametrize("name", [SUMS, DRAWN])
def test_files_of_another_counting_are_refused_by_name(toy, tmp_path, name):
    for model, out in ((toy, "a"), (other_weights(toy), "b")):
        count_confusions(made(), model, PIXELS, folder=tmp_path / out)
    file = kept_in(tmp_path / "a") / name
    shutil.copy(kept_in(tmp_path / "b") / name, file)
    with pytest.raises(CaseJaxError, match=r"confusions: got .* of .*counting") as caught:
        count_confusions(made(), toy, PIXELS, folder=tmp_path / "a")
    assert str(file) in str(caught.value)
    assert "delete the folder" in str(caught.value)
    assert name != DRAWN or "model.weights" in str(caught.value)


def test_a_folder_that_cannot_be_written_is_named(toy, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CaseJaxError, match="confusions: cannot write to"):
        count_confusions(made(), toy, PIXELS, folder=tmp_path / "file")


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"limit": 4}, "limit: got 4; accepted: at least 5"), ({"seed": -1}, "seed"), ({"tile": 0}, "tile")],
)
def test_bad_numbers_are_refused(toy, changes, words):
    with pytest.raises(CaseJaxError, match=words):
        count_confusions(made(), toy, PIXELS, **changes)


# --- a plan counts nothing ------------------------------------------------------------------------------------------------


def test_stand_ins_have_the_shape_of_the_sets_and_no_run_takes_them(tapped, classifier, tmp_path):
    pixels = Pixels(classifier.preprocessing.mean, classifier.preprocessing.std)
    waiting = Uncounted(5000, "a split", "digest")
    choice = choose_contrast("confusion:3", 25, confusions=lambda: waiting)
    assert choice.table.shape == (25, 3)
    assert all(len({c, *row}) == 4 for c, row in enumerate(choice.table.tolist()))
    assert (choice.name, choice.uncounted, choice.filled) == ("stand-in for confusion:3", waiting, None)
    planned = evaluation(
        DigitScenes("test", 8), tapped, choice, pixels=pixels, methods=("case",), metrics=("sensitivity",)
    )
    with pytest.raises(CaseJaxError, match="contrast: got a stand-in for confusion:3"):
        run(planned, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(CaseJaxError, match="contrast: got a stand-in for confusion:3"):
        count_pairs(DigitScenes("test", 8), tapped, lambda: choice, {"case": METHODS["case"].maps}, pixels=pixels)


WORDS = ("--limit", 8, "--methods", "case", "--metrics", "sensitivity", "--tile", 4, "--part", 4)


def test_a_plan_counts_nothing_and_says_what_a_run_will(shell, monkeypatch, tmp_path):
    monkeypatch.setattr("case_jax.cli.setup.count_confusions", lambda *a, **k: pytest.fail("counted"))
    status, out, err = shell("evaluate", "--plan", *WORDS, "--crops", "crops")
    assert status == 0, err
    assert "not counted by a plan, which takes a stand-in for confusion:5 of the same shape" in out
    assert "confusions are counted on digit_scenes/confusion: 5,000 forward passes" in out
    assert "counting of confusions not" in out
    assert len(list((tmp_path / "crops").glob("*/header.json"))) == 1  # of the images that are evaluated
    assert not (tmp_path / "runs").exists()
    status, out, _ = shell("evaluate", "--plan", *WORDS, "--contrast", "topk_logits:5")
    assert status == 0
    assert "not counted" not in out


# --- from the shell -------------------------------------------------------------------------------------------------------


@pytest.fixture
def countings(monkeypatch):
    """How many images each counting had to count."""
    calls, count = [], confusion._count

    def noted(counting, drawn, numbers, *rest):
        calls.append(len(drawn.indices))
        count(counting, drawn, numbers, *rest)

    monkeypatch.setattr(confusion, "_count", noted)
    return calls


COMMANDS = {
    "evaluate": WORDS,
    "pairs": ("--limit", 8, "--methods", "case", "--top", 3, "--tile", 4),
    "localise": ("--limit", 8, "--methods", "case", "--tile", 4),
    "sanity": ("--limit", 4, "--methods", "case", "--tile", 4, "--kinds", "cascading", "--depth", 1),
    "grid-pointing": ("--limit", 100, "--mosaics", 4, "--methods", "case"),
}


@pytest.mark.parametrize(
    "command", [c if c == "evaluate" else pytest.param(c, marks=pytest.mark.slow) for c in COMMANDS]
)
def test_every_command_counts_once_in_its_folder(shell, countings, tmp_path, command):
    words = (command, *COMMANDS[command], "--contrast", "confusion:2", "--contrast-limit", 50, "--out", "run")
    for _ in range(2):
        status, _, err = shell(*words)
        assert status == 0, err
        assert "contrast: confusion:2, counted on digit_scenes/confusion (50 images, 2 to 2 of a class)" in err
    assert countings == [50]
    assert kept_in(tmp_path / "run").is_dir()


def test_explain_counts_once_for_a_user(shell, countings, monkeypatch, tmp_path):
    words = ("explain", "digit_scenes:3", "--methods", "case", "--contrast-limit", 50)
    for out in ("a", "b"):
        assert shell(*words, "--out", out)[0] == 0
    assert countings == [50]
    assert kept_in(tmp_path / "cache" / "case_jax").is_dir()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    status, _, err = shell(*words, "--out", "c")
    assert (status, countings) == (0, [50, 50])
    assert "nothing can be kept" in err


def test_other_weights_are_counted_anew_and_the_run_s_own_stay(shell, countings, classifier, tmp_path):
    from flax import nnx

    from case_jax.models import save_weights

    module = nnx.clone(classifier.module)
    module.head.kernel[...] = module.head.kernel[...] * 0.5
    save_weights(tmp_path / "other.safetensors", module)
    words = ("evaluate", *WORDS, "--contrast-limit", 50, "--out", "run")
    assert shell(*words)[0] == 0
    status, _, err = shell(*words, "--weights", "other.safetensors")
    assert status == 2
    assert "model.weights: the folder has" in err
    assert shell(*words)[0] == 0
    assert countings == [50, 50]


def test_the_facts_of_the_counting_are_in_the_run_and_on_its_page(shell, tmp_path):
    scenes = DigitScenes("confusion", 200)
    for i in range(200):
        file = tmp_path / "data" / scenes.class_names[scenes[i].label] / f"{i:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scenes[i].image).save(file)
    broken = sorted((tmp_path / "data" / "0·5").iterdir())[0]
    broken.write_bytes(b"\x89PNG nothing")
    words = ("--contrast-data", "folder:data", "--contrast", "confusion:2", "--contrast-limit", 190, "--out", "run")
    status, _, err = shell("evaluate", *WORDS, *words)
    assert status == 0, err
    facts = json.loads((tmp_path / "run" / "contrast.json").read_text())
    assert sum(facts["images"]) == 189
    assert min(facts["images"]) >= 3
    assert [entry["name"] for entry in facts["left_out"]] == [f"0·5/{broken.name}"]
    assert facts["unlabelled"] == 0
    assert len(facts["filled"]) == 25
    assert f"1 of the images drawn are not counted: could not be read; the first: 0·5/{broken.name}" in err
    page = (tmp_path / "run" / "report.html").read_text()
    assert "folder:data (189 images, " in page
    assert "1 of the images drawn there could not be counted" in page


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--contrast-limit 0", ["contrast_limit", "got 0"]),
        ("--contrast-limit 24", ["contrast_limit", "got 24", "at least 25"]),
        ("--contrast-limit 100 --contrast all", ["contrast_limit", "100 for the contrast 'all'", "leave it out"]),
        ("--contrast-limit 24 --plan", ["contrast_limit", "got 24"]),
    ],
)
def test_a_limit_that_cannot_be_is_refused(shell, words, expected):
    status, _, err = shell("evaluate", "--limit", 8, *words.split())
    assert status == 2
    for word in expected:
        assert word in err

"""Photographs of Python packages, and mosaics of them; in most tests pictures of known pixels stand in for the photographs."""

import subprocess
import sys
from importlib.machinery import ModuleSpec

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from studies import evaluation, localise

from case_jax import CaseJaxError, grad_cam, tag, tap_function, topk_logits
from case_jax.contrast.choice import ContrastChoice
from case_jax.data import PhotoMosaics, Photos, open_source, photographs
from case_jax.data.ilsvrc import imagenet_names, wordnet_ids
from case_jax.data.photographs import PACKAGES, PHOTOGRAPHS, photograph_files
from case_jax.data.photos import square_around
from case_jax.evaluation import Pixels, run
from case_jax.evaluation.studies.mosaics import confident_images
from case_jax.guide import guide
from case_jax.results import RunFolder

NAMES = imagenet_names()
LABELLED = [place for place, photo in enumerate(PHOTOGRAPHS) if photo.labels]
SIDE = 640
"""Of the stand-ins; every box fits."""


def blue(place):
    """The colour by which a stand-in is known."""
    return 20 * (place + 1)


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Packages of pictures whose red is the column, whose green the row, and whose blue says which photograph it is."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] * 255 // (SIDE - 1)
    for place, photo in enumerate(PHOTOGRAPHS):
        (tmp_path / photo.folder).mkdir(parents=True, exist_ok=True)
        pixels = np.stack([columns, rows, np.full_like(rows, blue(place))], -1).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / photo.folder / photo.file, quality=100, subsampling=0)

    def find_spec(package):
        spec = ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = [str(tmp_path / package)]
        return spec

    monkeypatch.setattr(photographs, "find_spec", find_spec)
    return tmp_path


# --- the photographs themselves -------------------------------------------------------------------------------------------


def test_every_photograph_is_there_is_credited_and_holds_its_box():
    for photo, file in zip(PHOTOGRAPHS, photograph_files(), strict=True):
        assert photo.package in PACKAGES
        assert photo.credit
        assert photo.licence
        assert bool(photo.labels) == (photo.box is not None)
        with Image.open(file) as image:
            width, height = image.size
        if photo.box is not None:
            top, bottom, left, right = photo.box
            assert 0 <= top < bottom <= height
            assert 0 <= left < right <= width
            assert max(bottom - top, right - left) <= min(width, height)


def test_the_guide_credits_every_photograph():
    rows = [line.strip("|").split("|") for line in guide("imagenet").splitlines() if line.startswith("| `")]
    written = {row[0].strip(" `"): [cell.strip() for cell in row[2:]] for row in rows}
    for photo in PHOTOGRAPHS:
        assert written[photo.name] == [", ".join(photo.labels) or "–", photo.credit, photo.licence]


def test_labels_are_classes_by_name():
    source = Photos(NAMES, resize=64, crop=56)
    labels = {e.name: (e.label, e.labels) for e in map(source.__getitem__, range(len(source)))}
    # torchvision's indices of military uniform, space shuttle, tabby, espresso, cup and tripod
    assert labels == {
        "china": (-1, ()),
        "flower": (-1, ()),
        "grace_hopper": (652, ()),
        "astronaut": (812, ()),
        "chelsea": (281, ()),
        "coffee": (967, (967, 968)),
        "rocket": (-1, ()),
        "motorcycle_left": (-1, ()),
        "camera": (872, ()),
        "coins": (-1, ()),
    }
    assert (source.class_names, source[0].image.shape) == (NAMES, (56, 56, 3))


def test_other_classes_have_no_labels_and_other_names_of_imagenet_have():
    own = Photos(("cat", "dog"), resize=16, crop=16)
    assert own.class_names is None
    assert {own[i].label for i in range(len(own))} == {-1}
    assert Photos(wordnet_ids(), resize=16, crop=16)[4].label == 281
    assert Photos(None, resize=16, crop=16).class_names == NAMES


def test_photographs_are_read_as_a_folder_reads_them(stand_ins):
    how = {"resize": 64, "crop": 48, "interpolation": "bicubic"}
    whole = open_source("photos", NAMES, **how)
    folder = open_source(f"folder:{stand_ins / 'skimage' / 'data'}", NAMES, **how)
    by_file = {folder[i].name: folder[i].image for i in range(len(folder))}
    for place, photo in enumerate(PHOTOGRAPHS):
        if photo.package == "skimage":
            np.testing.assert_array_equal(whole[place].image, by_file[photo.file])
    assert len({whole.fingerprint, open_source("photos", NAMES, resize=64, crop=48).fingerprint}) == 2


def test_no_package_is_imported():
    code = (
        "import sys; from case_jax.data import open_source; open_source('photos', None, resize=16, crop=16)[5]; "
        "open_source('photos:mosaics', None, resize=16, crop=16)[0]; "
        "print([m for m in ('skimage', 'sklearn', 'matplotlib', 'tensorflow_datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_package_and_a_missing_file_say_what_to_install(stand_ins, monkeypatch):
    (stand_ins / PHOTOGRAPHS[2].folder / PHOTOGRAPHS[2].file).unlink()
    with pytest.raises(
        CaseJaxError, match=r"matplotlib is installed without .*grace_hopper\.jpg; .*case-jax\[photos\]"
    ):
        open_source("photos", NAMES, resize=16, crop=16)
    found = photographs.find_spec
    monkeypatch.setattr(photographs, "find_spec", lambda name: None if name == "skimage" else found(name))
    for data in ("photos", "photos:mosaics"):
        with pytest.raises(CaseJaxError, match=r'from scikit-image, which .* pip install "case-jax\[photos\]"'):
            open_source(data, NAMES, resize=16, crop=16)


# --- mosaics --------------------------------------------------------------------------------------------------------------

CELLS = [(slice(0, 32), slice(0, 32)), (slice(0, 32), slice(32, 64)), (slice(32, 64), slice(0, 32)), (slice(32, 64), slice(32, 64))]  # fmt: skip


def test_each_cell_shows_the_photograph_that_it_claims(stand_ins):
    source = PhotoMosaics(NAMES, 40, crop=64)
    for index in range(40):
        example = source[index]
        regions, classes = example.evidence
        assert len(set(example.clusters)) == 4
        for cell, place in enumerate(example.clusters):
            rows, columns = CELLS[cell]
            shown = example.image[rows, columns].astype(int)
            assert np.abs(shown[..., 2] - blue(place)).max() <= 3  # a JPEG's
            assert classes[cell] == NAMES.index(PHOTOGRAPHS[place].labels[0])
            expected = np.zeros((64, 64), bool)
            expected[rows, columns] = True
            np.testing.assert_array_equal(regions[cell], expected)
        (top, bottom, left, right), at = source.truth(index, "cell").boxes[0], classes.tolist().index(example.label)
        assert (slice(top, bottom), slice(left, right)) == CELLS[at]


def test_all_true_classes_are_labels():
    source = PhotoMosaics(NAMES, 20, crop=16)
    assert (source.unit, source.truths, len(source)) == ("photographs", ("cell",), 20)
    for index in range(20):
        example = source[index]
        wanted = {NAMES.index(label) for place in example.clusters for label in PHOTOGRAPHS[place].labels}
        assert set(example.labels) == wanted
        assert len(example.labels) == len(wanted)
        assert example.label in wanted
    assert {place for i in range(20) for place in source[i].clusters} == set(LABELLED)


def test_a_view_is_a_square_around_what_the_label_names_mirrored_half_of_the_time(stand_ins):
    source, mirrored, sides = PhotoMosaics(NAMES, 60, crop=64), [], []
    for index in range(60):
        example = source[index]
        for (rows, columns), place in zip(CELLS, example.clusters, strict=True):
            top, bottom, left, right = PHOTOGRAPHS[place].box
            red, green = (example.image[rows, columns, d].astype(float) * (SIDE - 1) / 255 for d in (0, 1))
            mirrored.append(red[16, 0] > red[16, -1])
            width, height = np.ptp(red[16]) * 32 / 31, np.ptp(green[:, 16]) * 32 / 31
            assert width == pytest.approx(height, abs=12)
            sides.append(width)
            # half a cell's pixel lies outside the centres of the outermost ones
            half = width / 64 + 6
            assert green[0, 16] - half <= top
            assert bottom <= green[-1, 16] + half
            assert red[16].min() - half <= left
            assert right <= red[16].max() + half
    assert 90 < sum(mirrored) < 150
    assert max(sides) - min(sides) > 250


def test_squares_reach_every_place_that_shows_the_box():
    photo = PHOTOGRAPHS[5]._replace(box=(2, 4, 1, 4))  # in 6 × 5 pixels
    found = {square_around(photo, 6, 5, np.random.default_rng(i)) for i in range(400)}
    expected = {
        (x, y, x + side, y + side)
        for side in (3, 4, 5)
        for x in range(6 - side + 1)
        for y in range(5 - side + 1)
        if x <= 1 and x + side >= 4 and y <= 2 and y + side >= 4
    }
    assert found == expected


def test_mosaics_depend_on_seed_and_index_alone():
    first, again, longer = (PhotoMosaics(NAMES, size, crop=32) for size in (5, 5, 300))
    assert first.fingerprint == again.fingerprint == longer.fingerprint
    for index in (4, 0):
        np.testing.assert_array_equal(first[index].image, again[index].image)
        np.testing.assert_array_equal(first[index].image, longer[index].image)
    assert len({longer[i].image.tobytes() for i in range(100)}) == 100
    others = [PhotoMosaics(NAMES, 5, crop=32, seed=1), PhotoMosaics(NAMES, 5, crop=32, interpolation="bicubic")]
    assert len({source.fingerprint for source in (first, *others)}) == 3
    assert all((source[0].image != first[0].image).any() for source in others)


def test_an_odd_side_and_one_channel(stand_ins):
    example = PhotoMosaics(NAMES, 1, crop=33, channels=1)[0]
    assert example.image.shape == (33, 33, 1)
    assert example.evidence.regions.sum((1, 2)).tolist() == [16 * 16, 16 * 17, 17 * 16, 17 * 17]
    assert (example.evidence.regions.sum(0) == 1).all()


@pytest.mark.parametrize(
    ("data", "given", "words"),
    [
        ("photos:mosaic", {}, r"'photos:mosaic' is unknown\. Did you mean 'photos:mosaics'\?"),
        (
            "photos:mosaics",
            {"class_names": ("cat", "dog")},
            r"2 other classes \(cat, dog, …\); accepted: .*ImageNet's 1,000",
        ),
        ("photos:mosaics", {"size": 0}, "size: got 0"),
        ("photos:mosaics", {"interpolation": "cubic"}, "Did you mean 'bicubic'"),
        ("photos", {"exif": "turn"}, "exif"),
    ],
)
def test_bad_questions_are_named(data, given, words):
    with pytest.raises(CaseJaxError, match=words):
        open_source(data, **{"class_names": NAMES, "resize": 16, "crop": 16, **given})


# --- studies --------------------------------------------------------------------------------------------------------------


def class_of_blue(weights, x):
    """Logits of a network whose channel of each photograph is 1 where its blue is."""
    blues = jnp.array([blue(place) for place in LABELLED]) / 255
    found = tag(jnp.maximum(1 - jnp.abs(x[..., 2:] - blues) * 20, 0.0), "features")
    return found.mean((0, 1)) @ weights


@pytest.fixture(scope="module")
def right():
    """The network that knows which blue is which class: its Grad-CAM is the cell."""
    classes = [NAMES.index(PHOTOGRAPHS[place].labels[0]) for place in LABELLED]
    weights = jnp.zeros((len(LABELLED), 1000)).at[jnp.arange(len(LABELLED)), jnp.array(classes)].set(1.0)
    return tap_function(class_of_blue, weights, "features", jnp.zeros((16, 16, 3)))


def test_a_map_of_the_class_is_its_cell_in_localise_and_in_the_evidence(stand_ins, right, tmp_path):
    source, plain = PhotoMosaics(NAMES, 6, crop=16), Pixels((0.0,) * 3, (1.0,) * 3)
    contrast, methods = ContrastChoice("topk_logits:1", topk_logits(1, 1000)), {"grad_cam": grad_cam}
    found = localise(source, right, contrast, methods, tmp_path / "where", pixels=plain, target="label", tile=6)
    rows = found.rows[found.rows["method"] == "grad_cam"]
    assert rows["iou"].tolist() == [1.0] * 6
    job = evaluation(source, right, contrast, methods=methods, pixels=plain, metrics=["evidence"], tile=6, part=6)
    rows = run(job, RunFolder(tmp_path / "evidence"), progress=False).rows()
    assert rows["points_1"].tolist() == [1.0] * 6
    np.testing.assert_allclose(rows["mass_own"], 1, atol=0.02)  # JPEGs know no exact blue
    np.testing.assert_allclose(rows["mass_other"], 0, atol=0.02)
    assert (rows["mass_shared"] == 0).all()


def test_mosaics_of_mosaics_are_refused(stand_ins, right):
    source = PhotoMosaics(NAMES, 6, crop=16)
    with pytest.raises(
        CaseJaxError, match=r"no image of photos:mosaics can be a cell .* of 6, 6 have several true labels"
    ):
        confident_images(source, right, Pixels((0.0,) * 3, (1.0,) * 3), tile=6)

"""Digit scenes: where their handwriting comes from, and that their ground truth is true."""

from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits

from case_jax import CaseJaxError
from case_jax.data import NOBODY, SHARED, DigitScenes, open_source
from case_jax.data.digit_scenes import CLASS_NAMES, INK_THRESHOLD, REGIONS, SPLITS, _strokes

OPTIONS = {
    "default": {},
    "hard labels": {"hard_labels": True},
    "second body": {"second_body": True},
    "no dim marker": {"dim_marker": False},
    "all": {"hard_labels": True, "second_body": True, "dim_marker": False},
}
EACH = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def scenes(n=40, split="test", **options):
    source = DigitScenes(split, n, **options)
    return [source.scene(i) for i in range(n)]


@pytest.mark.parametrize("digit", range(10))
def test_the_four_splits_share_out_the_source_digits(digit):
    """At their own 8×8 size the strokes are the source images: over all splits each is used exactly once."""
    data = load_digits()
    source = Counter(np.float32(image / 16).tobytes() for image in data.images[data.target == digit])
    used = [Counter(stroke.astype(np.float32).tobytes() for stroke in _strokes(split, 8)[digit]) for split in SPLITS]
    assert sum(used, Counter()) == source
    assert max(source.values()) == 1  # no image occurs twice, so the splits are disjoint by index
    shares = [sum(u.values()) / sum(source.values()) for u in used]
    np.testing.assert_allclose(shares, [0.60, 0.14, 0.10, 0.16], atol=0.01)


@EACH
def test_a_scene_depends_on_split_seed_index_and_options_alone(options):
    def bytes_of(scene):
        return [np.asarray(part).tobytes() for part in scene]

    source = DigitScenes("test", 10, seed=3, **options)
    scene = source.scene(7)
    assert bytes_of(scene) == bytes_of(source.scene(7))
    assert bytes_of(scene) == bytes_of(DigitScenes("test", 1000, seed=3, **options).scene(7))
    np.testing.assert_array_equal(source[7].image, scene.image)
    others = [
        source.scene(6),
        DigitScenes("test", 10, seed=4, **options).scene(7),
        DigitScenes("train", 10, seed=3, **options).scene(7),
    ]
    assert all((other.image != scene.image).any() for other in others)


@EACH
def test_a_scene_names_the_strokes_it_shows(options):
    """Each id is a digit of scikit-learn's, the one whose ink lies in that region; markers are of one pool in both roles."""
    data = load_digits()
    source = DigitScenes("test", 12, **options)
    for i in range(12):
        scene, example = source.scene(i), source[i]
        assert example.clusters == tuple(scene.strokes)
        present = scene.masks.any((1, 2))
        np.testing.assert_array_equal(scene.strokes >= 0, present)
        digits = data.target[scene.strokes[:3]]
        assert CLASS_NAMES[scene.label] == f"{digits[0]}·{digits[1]}"
        for stroke, box, mask in zip(scene.strokes, scene.boxes, scene.masks, strict=True):
            if stroke >= 0:
                top, bottom, left, right = box
                size = 22 if data.target[stroke] < 5 else 12
                pool = _strokes("test", size)[data.target[stroke]]
                found = [(s > INK_THRESHOLD) for s in pool]
                shown = mask[top:bottom, left:right]
                alike = [np.array_equal(s[s.any(1)][:, s.any(0)], shown[shown.any(1)][:, shown.any(0)]) for s in found]
                number = int(np.flatnonzero(alike)[0])
                small = _strokes("test", 8)[data.target[stroke]][number]
                np.testing.assert_allclose(small, data.images[stroke] / 16, atol=1e-6)


def test_strokes_are_used_again_and_again_in_either_role():
    bodies, bright, dim = (set(ids) for ids in np.array([source.clusters for source in DigitScenes("test", 300)]).T)
    assert bright & dim
    assert not bodies & (bright | dim)
    assert len(bodies) <= 143
    assert len(bright | dim) <= 144


@EACH
def test_boxes_are_tight_and_regions_disjoint(options):
    for scene in scenes(**options):
        assert len(scene.masks) == len(scene.boxes) == len(scene.classes) == 3 + options.get("second_body", False)
        assert (np.stack(scene.masks).sum(0) <= 1).all()
        filled = np.zeros((len(scene.boxes), 48, 48), int)
        for r, (top, bottom, left, right) in enumerate(scene.boxes):
            mask = scene.masks[r]
            assert mask.sum() == mask[top:bottom, left:right].sum()
            filled[r, top:bottom, left:right] = 1
            if mask.any():
                edges = mask[top], mask[bottom - 1], mask[:, left], mask[:, right - 1]
                assert all(edge.any() for edge in edges)
            else:
                assert (top, bottom, left, right) == (0, 0, 0, 0)
        assert (filled.sum(0) <= 1).all()


@EACH
def test_every_region_that_is_there_has_ink_and_the_others_none(options):
    there = [True, True, options.get("dim_marker", True), True]
    for scene in scenes(**options):
        for r, mask in enumerate(scene.masks):
            assert mask.any() == there[r], REGIONS[r]
        brightness = scene.image[..., 0] / 255
        ink = [brightness[mask].mean() for mask in scene.masks[:2]]
        background = brightness[~scene.masks.any(0)].mean()
        assert min(ink) > INK_THRESHOLD > background


@EACH
def test_labels_targets_and_regions_tell_the_same_story(options):
    soft = options.get("dim_marker", True) and not options.get("hard_labels", False)
    for scene in scenes(**options):
        body, marker = divmod(scene.label, 5)
        assert CLASS_NAMES[scene.label] == f"{body}·{marker + 5}"
        assert scene.classes[0] == SHARED
        assert scene.classes[1] == scene.label
        rival = scene.classes[2]
        if options.get("dim_marker", True):
            assert rival // 5 == body  # the same body
            assert rival != scene.label  # another marker
        else:
            assert rival == NOBODY
        if options.get("second_body", False):
            assert scene.classes[3] == NOBODY
        expected = np.zeros(25)
        expected[scene.label] = 0.7 if soft else 1.0
        if soft:
            expected[rival] = 0.3
        np.testing.assert_allclose(scene.target, expected, atol=1e-7)


def test_options_change_only_what_they_name():
    for plain, hard, single in zip(scenes(), scenes(hard_labels=True), scenes(dim_marker=False), strict=True):
        np.testing.assert_array_equal(plain.image, hard.image)
        assert plain.label == hard.label == single.label
        np.testing.assert_array_equal(plain.masks[:2], single.masks[:2])
        outside = ~plain.masks[2]
        top, bottom, left, right = plain.boxes[2]
        outside[max(top - 12, 0) : bottom + 12, max(left - 12, 0) : right + 12] = False  # faint ink below the threshold
        np.testing.assert_array_equal(plain.image[outside], single.image[outside])
        assert single.image[plain.masks[2]].mean() < plain.image[plain.masks[2]].mean() / 2


def test_the_bright_marker_is_the_brighter_one():
    means = np.asarray([[s.image[..., 0][mask].mean() for mask in s.masks[1:3]] for s in scenes(100)])
    assert means[:, 0].mean() > 1.2 * means[:, 1].mean()


def test_classes_are_balanced():
    counts = np.bincount([s.label for s in scenes(1000)], minlength=25)
    assert counts.min() > 15  # 40 expected, a standard deviation of 6
    assert counts.max() < 70


def test_examples_carry_filled_boxes_and_stable_names():
    source = DigitScenes("validation", 5)
    example, scene = source[4], source.scene(4)
    assert (example.image_id, example.name, example.label, len(source)) == (4, "scene-000004", scene.label, 5)
    assert example.image.shape == (48, 48, 3)
    assert example.image.dtype == np.uint8
    np.testing.assert_array_equal(example.image[..., 0], example.image[..., 2])
    sizes = (scene.boxes[:, 1] - scene.boxes[:, 0]) * (scene.boxes[:, 3] - scene.boxes[:, 2])
    np.testing.assert_array_equal(example.evidence.regions.sum((1, 2)), sizes)
    assert (example.evidence.regions >= scene.masks).all()
    np.testing.assert_array_equal(example.evidence.classes, scene.classes)


@pytest.mark.parametrize("index", [-1, 5])
def test_scenes_outside_the_set_do_not_exist(index):
    with pytest.raises(IndexError):
        DigitScenes("test", 5)[index]


def test_the_fingerprint_names_the_recipe_but_not_the_size():
    def fingerprint(split="test", size=10, **options):
        return DigitScenes(split, size, **options).fingerprint

    assert fingerprint() == fingerprint(size=20)
    options = [{"split": "train"}, {"seed": 1}, {"hard_labels": True}, {"second_body": True}, {"dim_marker": False}]
    assert len({fingerprint(), *(fingerprint(**o) for o in options)}) == 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DigitScenes("tests"), r"split: 'tests' is unknown\. Did you mean 'test'\?"),
        (lambda: DigitScenes("test", 0), "size: got 0"),
        (
            lambda: open_source("digit_scenes:valid", CLASS_NAMES, resize=48, crop=48),
            "Did you mean 'digit_scenes:validation'",
        ),
        (lambda: open_source("digit_scene", CLASS_NAMES, resize=48, crop=48), "Did you mean 'digit_scenes'"),
        (
            lambda: open_source("digit_scenes", CLASS_NAMES, resize=256, crop=224),
            "48×48 digit scenes for a classifier of 224×224",
        ),
    ],
)
def test_wrong_names_and_sizes_are_refused(make, message):
    with pytest.raises(CaseJaxError, match=message):
        make()


def test_sources_by_name():
    source = open_source("digit_scenes:confusion", CLASS_NAMES, resize=48, crop=48, size=7, seed=2)
    assert (source.name, len(source)) == ("digit_scenes/confusion", 7)
    np.testing.assert_array_equal(source[3].image, DigitScenes("confusion", 50, seed=2)[3].image)
    assert open_source("digit_scenes", CLASS_NAMES, resize=48, crop=48).name == "digit_scenes/test"

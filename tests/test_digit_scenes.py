"""Digit scenes: where their handwriting comes from, that the usual ones stay as they are, and that their ground truth is true."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits

from case_jax import CaseJaxError
from case_jax.data import NOBODY, SHARED, DigitScenes, alike, digit_scenes, open_source
from case_jax.data.digit_scenes import CLASS_NAMES, INK_THRESHOLD, SPLITS
from case_jax.data.scene_layout import place_beside
from case_jax.data.scene_options import SceneOptions, options_of
from case_jax.data.strokes import bent, strokes_of

OPTIONS = {
    "default": {},
    "hard labels": {"hard_labels": True},
    "second body": {"second_body": True},
    "no dim marker": {"dim_marker": False},
    "all of these": {"hard_labels": True, "second_body": True, "dim_marker": False},
    "three candidates": {"third_marker": True},
    "bodies decide": {"body_decides": True},
    "texture": {"background": "texture"},
    "distractors": {"distractors": 2},
    "elastic": {"elastic": True},
    "96 px": {"side": 96},
    "much at once": {"body_decides": True, "background": "texture", "distractors": 3, "elastic": True, "side": 64},
}
REGIONS = {
    "default": ("body", "bright marker", "dim marker"),
    "second body": ("body", "bright marker", "dim marker", "second body"),
    "three candidates": ("body", "bright marker", "dim marker", "faint marker"),
    "bodies decide": ("bright body", "marker", "dim body"),
    "distractors": ("body", "bright marker", "dim marker", "distractor", "distractor"),
    "much at once": ("bright body", "marker", "dim body", "distractor", "distractor", "distractor"),
}
GOLDEN = {  # digests of 50 scenes, and fingerprints, as they have been since these options exist
    ("test", 0): ("6b6c6d9756b7d22b", "1c8b599da34a7e45"),
    ("test", 0, "hard_labels", True): ("379571c13e1775bf", "7c85253ae7afe18f"),
    ("test", 0, "second_body", True): ("a81e1632db9a97f8", "7fa8db1af750b466"),
    ("test", 0, "dim_marker", False): ("baf4fa9fc8a0ad93", "d32b65da4d3f3ed8"),
    ("train", 3): ("fb9612016510d971", "c07d61ade801b3ea"),
}
EACH = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def scenes(n=40, split="test", **options):
    source = DigitScenes(split, n, **options)
    return [source.scene(i) for i in range(n)]


@pytest.mark.parametrize("asked", GOLDEN)
def test_scenes_stay_as_they_are_to_the_bit(asked):
    split, seed, *option = asked
    source = DigitScenes(split, 50, seed=seed, **dict([option] if option else []))
    digest = hashlib.sha256()
    for i in range(50):
        for part in map(np.asarray, source.scene(i)[:6]):
            digest.update(f"{part.dtype}{part.shape}".encode() + part.tobytes())
    assert (digest.hexdigest()[:16], source.fingerprint) == GOLDEN[asked]


@pytest.mark.parametrize("digit", range(10))
def test_the_four_splits_share_out_the_source_digits(digit):
    """At their own 8×8 size the strokes are the source images: over all splits each is used exactly once."""
    data = load_digits()
    source = Counter(np.float32(image / 16).tobytes() for image in data.images[data.target == digit])
    used = [Counter(s.astype(np.float32).tobytes() for s in strokes_of(split, digit, 8).ink) for split in SPLITS]
    assert sum(used, Counter()) == source
    ids = np.concatenate([strokes_of(split, digit, 8).ids for split in SPLITS])
    assert sorted(ids) == np.flatnonzero(data.target == digit).tolist()
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
    """Each id is a digit of scikit-learn's, the one whose ink lies in that region, bent or not and whichever part it is."""
    data, source = load_digits(), DigitScenes("test", 12, **options)
    for i in range(12):
        scene, example, drawn = source.scene(i), source[i], source._drawn(i)
        assert example.clusters == tuple(scene.strokes)
        np.testing.assert_array_equal(scene.strokes >= 0, scene.masks.any((1, 2)))
        digits = data.target[scene.strokes]
        assert CLASS_NAMES[scene.label] == f"{digits[0]}·{digits[1]}"
        for r in np.flatnonzero(scene.strokes >= 0):
            drawn_as, pool = drawn.strokes[r], strokes_of("test", digits[r], len(drawn.strokes[r]))
            (number,) = np.flatnonzero(pool.ids == scene.strokes[r])
            small = strokes_of("test", digits[r], 8).ink[number]
            np.testing.assert_allclose(small, data.images[scene.strokes[r]] / 16, atol=1e-6)
            likeness = np.corrcoef(drawn_as.ravel(), pool.ink[number].ravel())[0, 1]
            assert likeness > (0.5 if options.get("elastic") else 0.999)


def test_strokes_are_used_again_and_again_in_either_role():
    bodies, bright, dim = (set(ids) for ids in np.array([source.clusters for source in DigitScenes("test", 300)]).T)
    assert bright & dim
    assert not bodies & (bright | dim)
    assert len(bodies) <= 143
    assert len(bright | dim) <= 144


@EACH
def test_boxes_are_tight_and_regions_disjoint(options):
    for scene in scenes(**options):
        assert len(scene.masks) == len(scene.boxes) == len(scene.classes) == len(DigitScenes(**options).regions)
        side = options.get("side", 48)
        assert scene.image.shape == (side, side, 3)
        assert (np.stack(scene.masks).sum(0) <= 1).all()
        filled = np.zeros(scene.masks.shape, int)
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


@pytest.mark.parametrize("name", REGIONS)
def test_regions_have_names(name):
    assert DigitScenes(**OPTIONS[name]).regions == REGIONS[name]


@EACH
def test_every_region_that_is_there_has_ink_and_the_others_none(options):
    names = DigitScenes(**options).regions
    for scene in scenes(**options):
        for mask, name in zip(scene.masks, names, strict=True):
            assert mask.any() == (name != "dim marker" or options.get("dim_marker", True)), name
        brightness = scene.image[..., 0] / 255
        ink = [brightness[mask].mean() for mask in scene.masks[:2]]
        background = brightness[~scene.masks.any(0)].mean()
        assert min(ink) > max(INK_THRESHOLD, 1.5 * background)


def speaks_for(options, scene):
    """What the regions of a scene speak for, said anew: by the digits that the label and the rival stand for."""
    label = scene.label
    rival = scene.classes[2]
    if options.get("body_decides"):
        assert rival % 5 == label % 5  # the same marker
        assert rival // 5 != label // 5  # another body
        expected = [label, SHARED, rival]
    elif options.get("dim_marker", True):
        assert rival // 5 == label // 5
        assert rival % 5 != label % 5
        expected = [SHARED, label, rival]
    else:
        expected = [SHARED, label, NOBODY]
    if options.get("third_marker"):
        faint = scene.classes[3]
        assert faint // 5 == label // 5
        assert len({faint, label, rival}) == 3
        expected.append(faint)
    return expected + [NOBODY] * (options.get("second_body", False) + options.get("distractors", 0))


@EACH
def test_labels_targets_and_regions_tell_the_same_story(options):
    for scene in scenes(**options):
        body, marker = divmod(scene.label, 5)
        assert CLASS_NAMES[scene.label] == f"{body}·{marker + 5}"
        assert scene.classes.tolist() == speaks_for(options, scene)
        classes = [int(c) for c in scene.classes if c >= 0]
        expected = np.zeros(25)
        shares = (
            (1.0,) if options.get("hard_labels") else {1: (1.0,), 2: (0.7, 0.3), 3: (0.55, 0.3, 0.15)}[len(classes)]
        )
        expected[classes[: len(shares)]] = shares
        np.testing.assert_allclose(scene.target, expected, atol=1e-7)


@EACH
def test_a_part_looks_like_the_digit_that_its_class_names(options):
    """Nearest mean of the split's own strokes: it names four of five parts and more, so wrong digits would be seen."""
    source, right = DigitScenes("test", 30, **options), []
    means = {}
    for i in range(30):
        drawn, scene = source._drawn(i), source.scene(i)
        for part, (top, left, n), mask in zip(drawn.candidates.parts, drawn.squares, scene.masks, strict=True):
            if not mask.any() or part.name == "distractor":
                continue
            span = range(5) if "body" in part.name else range(5, 10)
            for digit in span:
                means.setdefault((digit, n), strokes_of("test", digit, n).ink.mean(0))
            seen = scene.image[top : top + n, left : left + n, 0] / 255
            nearest = min(span, key=lambda d: -np.corrcoef(seen.ravel(), means[d, n].ravel())[0, 1])
            if part.speaks_for != NOBODY:
                wanted = scene.label if part.speaks_for == SHARED else part.speaks_for
                right.append(nearest == (wanted // 5 if "body" in part.name else 5 + wanted % 5))
    assert np.mean(right) > 0.75


@EACH
def test_a_scene_made_again_without_a_region_differs_there_alone(options):
    source = DigitScenes("test", 3, **options)
    for i in range(3):
        scene, drawn = source.scene(i), source._drawn(i)
        for r, (top, left, n) in enumerate(drawn.squares):
            image = source.without(i, r)
            differs = (image != scene.image).any(-1)
            assert not scene.masks[r].any() or differs[scene.masks[r]].mean() > 0.9
            differs[top : top + n, left : left + n] = False
            assert not differs.any()
        everything = drawn._replace(strokes=[0 * stroke for stroke in drawn.strokes])
        clean = np.clip(drawn.background + drawn.noise, 0, 1) * 255
        np.testing.assert_allclose(digit_scenes._rendered(everything)[..., 0], clean, atol=0.51)


def test_a_region_that_is_not_there_cannot_be_taken_out():
    with pytest.raises(
        CaseJaxError, match="region: got 3; accepted: a number from 0 to 2: body, bright marker, dim marker"
    ):
        DigitScenes().without(0, 3)


@pytest.mark.parametrize(
    "options", [{"background": "texture"}, {"distractors": 2}, {"third_marker": True}, {"elastic": True}]
)
def test_candidates_stay_when_something_is_added(options):
    for plain, changed in zip(scenes(10), scenes(10, **options), strict=True):
        assert plain.label == changed.label
        assert plain.classes[:3].tolist() == changed.classes[:3].tolist()
        if not (options.get("third_marker") or options.get("elastic")):
            np.testing.assert_array_equal(plain.masks, changed.masks[:3])


def test_texture_stays_behind_the_ink():
    for plain, textured in zip(scenes(10), scenes(10, background="texture"), strict=True):
        change = (textured.image.astype(float) - plain.image)[..., 0] / 255
        assert change[~plain.masks.any(0)].std() > 0.05
        assert np.abs(change).max() <= 0.41
        full = plain.image[..., 0][plain.masks[1]].max() > 250
        assert full <= (textured.image[..., 0][plain.masks[1]].max() > 250)


def test_distractors_say_nothing_about_the_class():
    """They are drawn as often of the scene's own body as of any other digit."""
    source = DigitScenes("test", 600, distractors=2)
    drawn = [source._drawn(i).candidates.parts for i in range(600)]
    own = np.mean([part.digit == parts[0].digit for parts in drawn for part in parts[3:]])
    assert own == pytest.approx(0.2, abs=0.045)  # four standard deviations


def test_bent_strokes_are_others_of_the_same_hand():
    stroke = strokes_of("test", 3, 22).ink[0]
    first, again, other = (bent(stroke, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    for found in (first, other):
        assert found.min() >= 0
        assert found.max() <= 1
        assert 0.6 < np.corrcoef(found.ravel(), stroke.ravel())[0, 1] < 0.999


def test_squares_beside_others_by_hand():
    """In 4×4 pixels beside the left half there are three places of 2×2; beside the left three columns there is none."""
    rng = np.random.default_rng(0)
    left = [(0, 0, 2), (2, 0, 2)]
    assert {place_beside(rng, left, 1, 2, 4)[0] for _ in range(60)} == {(0, 2, 2), (1, 2, 2), (2, 2, 2)}
    assert place_beside(rng, [(0, 0, 3)], 1, 2, 4) == []
    assert place_beside(rng, left, 3, 2, 4) in ([(0, 2, 2), (2, 2, 2)], [(2, 2, 2), (0, 2, 2)], [(1, 2, 2)])


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
    options = [{"split": "train"}, {"seed": 1}, *OPTIONS.values()]
    assert len({fingerprint(**o) for o in options}) == len(options)


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
        (
            lambda: open_source("digit_scenes:test,side=96", CLASS_NAMES, resize=48, crop=48),
            "96×96 digit scenes for a classifier of 48×48 images; accepted: side=48",
        ),
        (
            lambda: open_source("digit_scenes:test,backgrond=texture", CLASS_NAMES, resize=48, crop=48),
            "data, option of digit_scenes: 'backgrond' is unknown. Did you mean 'background'",
        ),
        (
            lambda: open_source("digit_scenes:side=96", CLASS_NAMES, resize=96, crop=96),
            "data: 'digit_scenes:side=96' is unknown. Did you mean 'digit_scenes:",
        ),
        (
            lambda: open_source("digit_scenes:test,background=checked", CLASS_NAMES, resize=48, crop=48),
            "background: got 'checked'; accepted: plain or texture",
        ),
        (lambda: options_of("side"), "data: got 'side'; accepted: digit_scenes:SPLIT,OPTION=VALUE"),
        (lambda: options_of("side=96,side=64"), "data: the option side is given twice"),
        (lambda: DigitScenes(side="large"), "side: got 'large'; accepted: an integer from 48 to 224"),
        (lambda: DigitScenes(side=47), "side: got 47"),
        (lambda: DigitScenes(distractors=5), "distractors: got 5; accepted: an integer from 0 to 4"),
        (lambda: DigitScenes(elastic=1), "elastic: got 1; accepted: true or false"),
        (lambda: DigitScenes(third_marker=True, second_body=True), "third_marker: got true with second_body=true"),
        (lambda: DigitScenes(third_marker=True, dim_marker=False), "third_marker: got true with dim_marker=false"),
        (lambda: DigitScenes(body_decides=True, dim_marker=False), "body_decides: got true with dim_marker=false"),
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


@EACH
def test_sources_with_options_by_name(options):
    """The name that a source gives itself opens the same source."""
    source = DigitScenes("validation", 5, seed=1, **options)
    side = options.get("side", 48)
    opened = open_source(source.name.replace("/", ":"), CLASS_NAMES, resize=side, crop=side, size=5, seed=1)
    assert (opened.name, opened.fingerprint) == (source.name, source.fingerprint)


def test_options_are_written_as_they_are_read():
    text = "hard_labels=true,dim_marker=false,background=texture,distractors=2,side=96"
    assert str(SceneOptions(**options_of(text))) == text
    assert options_of("") == {}
    assert DigitScenes().name == "digit_scenes/test"


def test_confusions_are_counted_on_scenes_like_those_evaluated():
    """By default: the model's own split with the options of the data; what a name says itself stays."""
    own = "digit_scenes:confusion"
    other = DigitScenes("test", 2, background="texture", distractors=2)
    assert alike(own, other) == f"{own},background=texture,distractors=2"
    assert alike(own, DigitScenes("test", 2)) == own
    assert alike(f"{own},elastic=true", other) == f"{own},elastic=true"
    assert alike("folder:somewhere", other) == "folder:somewhere"
    assert open_source(alike(own, other), None, resize=48, crop=48, size=2).options == other.options

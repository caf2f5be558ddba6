import inspect
import json
import tempfile
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import studies
from PIL import Image

from case_jax import tag, tap_function, topk_logits
from case_jax._checks import CaseJaxError
from case_jax.cli.grid_pointing import grid_pointing as grid_pointing_command
from case_jax.contrast.choice import ContrastChoice
from case_jax.data import CachedCrops, DigitScenes
from case_jax.evaluation import GridPointing, Pixels
from case_jax.evaluation.engine import Job
from case_jax.evaluation.kept_gallery import REGIONS, save_gallery
from case_jax.evaluation.studies.disconnected import disconnected
from case_jax.evaluation.studies.grid_pointing import DIFULL, GRIDPG, of_mosaics, other_cells, tap_at_mosaic_size
from case_jax.evaluation.studies.mosaics import Mosaics, confident_images, draw_mosaics, least_confidence
from case_jax.methods import centre_gaussian, finer_cam, grad_cam, random_map
from case_jax.metrics.grid_pointing import cell_shares, grid_pointing_scores, join_cells, split_cells
from case_jax.models import tap_classifier
from case_jax.report import write_report
from case_jax.report.grid_pointing import mosaics_figure, page_of, summarise
from case_jax.report.loading import load_run
from case_jax.results import RunFolder
from case_jax.source import Example, UnreadableImageError
from case_jax.stats import mean_interval

PLAIN = Pixels((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
COLOURS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]], np.float32)
SIZE = 8


def colour_logits(params, x):
    """Five detectors, each blind to the other colours, averaged over the image: what explains a class is where its colour is."""
    distance = ((x[:, :, None, :] - params["colours"]) ** 2).sum(-1)
    features = tag(jax.nn.relu(0.5 - distance), "features")
    return features.mean((0, 1)) @ params["head"]


def tap_colours(image):
    params = {"colours": jnp.asarray(COLOURS), "head": 16 * jnp.eye(5, dtype=jnp.float32)}
    return tap_function(colour_logits, params, "features", image)


class ColourImages:
    """`per_class` images of each of five colours, then three bad ones: of a wrong label, of no colour, unreadable."""

    name, fingerprint = "colours", "0"
    class_names = tuple("rgbyc")

    def __init__(self, per_class=4, *, labelled=True):
        self.per_class, self.labelled = per_class, labelled

    def __len__(self):
        return 5 * self.per_class + 3

    def __getitem__(self, index):
        number, noise = index % 5, np.random.default_rng(index).uniform(0, 0.05, (SIZE, SIZE, 3))
        colour, label = COLOURS[number], number
        if index == len(self) - 3:
            label = (number + 1) % 5
        if index == len(self) - 2:
            colour, label = np.full(3, 0.5), 0  # all detectors are silent, and the first class is as likely as any
        if index == len(self) - 1:
            raise UnreadableImageError(f"image {index}", "torn")
        pixels = np.clip(np.abs(colour - noise), 0, 1) * 255
        return Example(index, f"image {index}", pixels.round().astype(np.uint8), label if self.labelled else -1)


def saliency(view, query):
    """Absolute gradient of each target's logit with respect to the pixels, by plain jax.grad."""
    return jax.vmap(lambda c: jnp.abs(jax.grad(lambda x: view.predict(x)[c])(view.image)).sum(-1))(query.targets)


def nothing(view, query):
    return jnp.zeros((len(query.targets), *view.image.shape[:2]))


class Played(NamedTuple):
    job: Job
    folder: RunFolder
    rows: pd.DataFrame
    counts: dict
    excluded: list


def play(methods, **options):
    source = options.pop("source", ColourImages())
    options = {"pixels": PLAIN, "confidence": 0.9, "mosaics": 3, "tile": 2, "part": 2, **options}
    options["part"] = max(1, options["tile"])
    tap = options.pop("tap", tap_colours)
    model = tap(jnp.zeros(source[0].image.shape))
    if "contrast" in options:
        options["contrast"] = ContrastChoice("own", options["contrast"])
    job, folder = studies.play(source, tap, model, methods, tempfile.mkdtemp(), **options)
    rows = folder.rows().rename(columns={"image_id": "mosaic"})
    return Played(job, folder, rows, folder.config()["grid_pointing"]["counts"], folder.excluded())


# the pure part


def test_cells_are_in_row_major_order_and_come_apart_again():
    cells = np.arange(4)[:, None, None, None] * np.ones((1, 2, 3, 1))
    mosaic = join_cells(cells)
    np.testing.assert_array_equal(mosaic[:, :, 0], np.kron([[0, 1], [2, 3]], np.ones((2, 3))))
    noise = np.random.default_rng(0).normal(size=(9, 4, 5, 2))
    np.testing.assert_array_equal(split_cells(join_cells(jnp.asarray(noise)), 3), noise.astype(np.float32))


@pytest.mark.parametrize("shape", [(4, 4), (6, 9), (5, 7), (3, 3)])
@pytest.mark.parametrize("n", [2, 3])
def test_shares_of_known_maps(shape, n):
    np.testing.assert_allclose(cell_shares(jnp.full(shape, 3.0), n), 1 / n**2, rtol=1e-6)
    # brute force: every pixel enlarged to n × n equal parts, which never straddle cells
    saliency = np.random.default_rng(0).normal(size=shape)
    positive = np.kron(np.maximum(saliency, 0), np.ones((n, n)))
    expected = [part.sum() for band in np.split(positive, n, 0) for part in np.split(band, n, 1)] / positive.sum()
    np.testing.assert_allclose(cell_shares(jnp.asarray(saliency, jnp.float32), n), expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-37, 1.0, 1e37])
def test_all_mass_in_one_cell_scores_one_there_and_nothing_elsewhere(scale):
    own = jnp.zeros((12, 12)).at[8:, 4:8].set(scale)  # cell 7 of 9
    scores = grid_pointing_scores(jnp.stack([own, own, own - 1.0 * scale]), jnp.array([7, 2, 7]), 3)
    np.testing.assert_array_equal(scores[:2], [1.0, 0.0])
    assert np.isnan(scores[2])  # nothing positive is left


def test_degenerate_maps_and_cells_that_do_not_exist_have_no_score():
    maps = jnp.stack(
        [jnp.zeros((4, 4)), jnp.full((4, 4), -1.0), jnp.eye(4).at[0, 0].set(jnp.inf), jnp.eye(4), jnp.eye(4)]
    )
    scores = grid_pointing_scores(maps, jnp.array([0, 0, 0, 4, -1]), 2)
    assert np.isnan(scores).all()
    nan = jnp.eye(4).at[3, 0].set(jnp.nan)
    assert np.isnan(cell_shares(nan, 2)).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_shares_keep_or_widen_the_type(dtype):
    with jax.enable_x64(dtype == jnp.float64):
        shares = jax.jit(partial(cell_shares, n=2))(jnp.eye(6, dtype=dtype))
        assert shares.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)
        np.testing.assert_allclose(shares, [0.5, 0, 0, 0.5])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cell_shares(jnp.ones((4, 4)), 1), ["n: got 1", "at least 2"]),
        (lambda: cell_shares(jnp.ones((2, 9)), 3), ["saliency", "(2, 9)", "3×3"]),
        (lambda: cell_shares(jnp.ones((2, 4, 4)), 2), ["saliency", "(2, 4, 4)"]),
        (lambda: join_cells(np.ones((5, 2, 2, 3))), ["cells", "(5, 2, 2, 3)"]),
        (lambda: split_cells(np.ones((5, 4, 3)), 2), ["mosaic", "(5, 4, 3)", "multiples of n = 2"]),
    ],
)
def test_bad_arrays_are_refused(call, words):
    with pytest.raises(CaseJaxError) as error:
        call()
    assert all(word in str(error.value) for word in words)


# which images, in which mosaic


def test_only_confident_and_correct_images_are_chosen_and_the_others_counted():
    source = ColourImages()
    found = confident_images(source, tap_colours(jnp.zeros((SIZE, SIZE, 3))), PLAIN, confidence=0.9, tile=4)
    np.testing.assert_array_equal(found.indices, np.arange(20))
    np.testing.assert_array_equal(found.classes, np.arange(20) % 5)
    assert (found.probabilities > 0.9).all()
    assert list(found.counts.values()) == [23, 1, 0, 1, 1]
    unlabelled = ColourImages(labelled=False)
    found = confident_images(unlabelled, tap_colours(jnp.zeros((SIZE, SIZE, 3))), PLAIN, confidence=0.9)
    assert list(found.counts.values()) == [23, 1, 0, 0, 1]  # without labels nothing can be wrong
    assert len(found.indices) == 21


def test_images_with_logits_that_are_not_finite_are_counted():
    def tap(image):
        model = tap_colours(image)
        broken = model.params | {"head": model.params["head"].at[:, 2].set(jnp.nan)}
        return tap_function(colour_logits, broken, "features", image)

    found = confident_images(ColourImages(), tap(jnp.zeros((SIZE, SIZE, 3))), PLAIN, confidence=0.9)
    assert found.counts["images with logits that are not finite"] == 22
    assert len(found.indices) == 0


def test_mosaics_show_different_classes_and_no_image_twice():
    classes = np.random.default_rng(0).integers(0, 7, 200)
    drawn = draw_mosaics(classes, n=2, count=30, seed=3)
    assert drawn.shape == (30, 4)
    assert len(np.unique(drawn)) == drawn.size
    assert all(len(set(classes[row])) == 4 for row in drawn)


def test_drawing_depends_on_the_seed_alone_and_a_longer_set_begins_with_the_shorter():
    classes = np.random.default_rng(0).integers(0, 12, 200)
    first = draw_mosaics(classes, n=3, count=8, seed=3)
    np.testing.assert_array_equal(first, draw_mosaics(classes, n=3, count=8, seed=3))
    np.testing.assert_array_equal(first[:4], draw_mosaics(classes, n=3, count=4, seed=3))
    assert (first != draw_mosaics(classes, n=3, count=8, seed=4)).any()
    shown = np.bincount(classes[draw_mosaics(classes, n=2, count=20, seed=0)].ravel(), minlength=12)
    assert (shown > 0).all()  # every class has its turn


def test_drawing_ends_when_too_few_classes_have_images_left():
    classes = np.repeat(np.arange(4), [2, 5, 5, 5])
    assert len(draw_mosaics(classes, n=2, count=10, seed=0)) == 2
    assert draw_mosaics(classes[:-5], n=2, count=10, seed=0).shape == (0, 4)


def test_a_mosaic_is_an_example_whose_evidence_are_its_cells():
    source = ColourImages()
    chosen = confident_images(source, tap_colours(jnp.zeros((SIZE, SIZE, 3))), PLAIN, confidence=0.9)
    mosaics = Mosaics(source, chosen, np.array([[0, 1, 7, 3]]))
    example = mosaics[0]
    np.testing.assert_array_equal(example.image[SIZE:, :SIZE], source[7].image)
    np.testing.assert_array_equal(example.evidence.classes, [0, 1, 2, 3])
    np.testing.assert_array_equal(example.evidence.regions.sum(0), 1)
    assert example.evidence.regions[2, SIZE:, :SIZE].all()
    assert mosaics.fingerprint != Mosaics(source, chosen, np.array([[1, 0, 7, 3]])).fingerprint


def test_mosaics_share_what_their_images_share_and_scores_are_by_cluster():
    class Handwritten(ColourImages):
        unit = "strokes"

        def __getitem__(self, index):
            return super().__getitem__(index)._replace(clusters=(index % 2, 2 + index))

    source = Handwritten()
    found = play({"grad_cam": grad_cam, "centre": centre_gaussian}, source=source, difull=False)
    ids = found.rows.filter(like="cluster_")
    assert ids.shape[1] == 8
    np.testing.assert_array_equal(ids["cluster_2"] - 2, found.rows.groupby("mosaic")["image"].transform("first"))
    page = page_of(found.folder.path)[1]
    assert page.unit.startswith("Intervals and tests by stroke: 3 mosaics share 14 strokes")
    plain = page_of(play({"grad_cam": grad_cam}, difull=False).folder.path)[1]
    assert plain.unit == "Intervals and tests by mosaic: 3 mosaics, taken as independent."


def test_the_interval_of_a_mean_over_mosaics_is_by_what_they_share():
    scores, shared = np.array([0.2, 0.4, 0.6, 0.9]), [0, 0, 1, 2]
    rows = pd.DataFrame(
        {"setting": "GridPG", "method": "m", "image_id": np.repeat(np.arange(4), 2), "degenerate": False}
    )
    rows["score"] = np.repeat(scores, 2) + np.tile([-0.1, 0.1], 4)
    rows["cluster_1"] = np.repeat(shared, 2)
    found = summarise(rows).iloc[0]
    expected = mean_interval(scores, np.array(shared)[:, None])
    assert tuple(found[["mean", "low", "high"]]) == pytest.approx(tuple(expected))
    assert found["mosaics"] == 4
    e = scores - scores.mean()
    square = (e[0] + e[1]) ** 2 + e[2] ** 2 + e[3] ** 2
    assert found["se"] == pytest.approx(np.sqrt(max(square, (e**2).sum()) / 16 * 3 / 2))
    assert summarise(rows.drop(columns="cluster_1")).iloc[0]["se"] == pytest.approx(scores.std(ddof=1) / 2)


# disconnected heads


@pytest.fixture(scope="module")
def mosaic(images):
    """Four test scenes, normalised."""
    return join_cells(images[:4])


def test_each_head_sees_its_own_cell_alone(tapped, images, mosaic):
    model = disconnected(tapped, 2)
    assert model.activation_shape == (24, 24, tapped.activation_shape[-1])

    @jax.jit
    def ask_head(cell, mosaic):
        view = model.view((tapped.params, cell), mosaic)
        gradient, pixels = view.pull(jax.nn.one_hot(3, 25)), jax.grad(lambda x: view.predict(x)[3])(mosaic)
        return view.logits, split_cells(gradient, 2), split_cells(pixels, 2)

    alone = jax.jit(jax.vmap(partial(tapped.apply, tapped.params)))(images)
    for cell in range(4):
        logits, *gradients = ask_head(jnp.int32(cell), mosaic)
        np.testing.assert_allclose(logits, alone[cell], rtol=1e-5, atol=1e-5)
        for gradient in gradients:
            assert [bool(part.any()) for part in gradient] == [place == cell for place in range(4)]
        changed = join_cells(jnp.where(jnp.arange(4)[:, None, None, None] == cell, images[:4], images[4:]))
        np.testing.assert_array_equal(logits, ask_head(jnp.int32(cell), changed)[0])


def test_what_by_passes_the_layer_stays_with_its_cell():
    def function(params, x):
        features = tag(jnp.tanh(x * params), "features")
        return (features + x**2).sum((0, 1))  # a shortcut around the tapped value

    model = tap_function(function, jnp.float32(2.0), "features", jnp.zeros((3, 3, 3)))
    cells = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 3, 3)), jnp.float32)
    for cell in range(4):
        view = disconnected(model, 2).view((model.params, jnp.int32(cell)), join_cells(cells))
        np.testing.assert_allclose(view.logits, function(model.params, cells[cell]), rtol=1e-5)


# the game


def test_scores_of_methods_whose_answers_are_known():
    methods = {"grad_cam": grad_cam, "centre": centre_gaussian, "random": random_map, "saliency": saliency}
    found = play(methods)
    assert len(found.rows) == 2 * 3 * 4 * 4
    mean = found.rows.groupby(["setting", "method"])["score"].mean()
    for setting in (GRIDPG, DIFULL):
        of_setting = found.rows[found.rows["setting"] == setting].set_index("method")["score"]
        np.testing.assert_allclose(
            of_setting["grad_cam"], 1, atol=1e-6
        )  # detectors that are blind to all other colours
        np.testing.assert_allclose(of_setting["saliency"], 1, atol=1e-6)
        np.testing.assert_allclose(of_setting["centre"], 0.25, rtol=1e-5)
        assert abs(mean[setting, "random"] - 0.25) < 0.05
    assert not found.rows["degenerate"].any()
    assert found.counts["mosaics drawn"] == 3


def test_defaults_are_the_same_in_python_and_in_the_shell(tmp_path):
    def defaults(function):
        return {p.name: p.default for p in inspect.signature(function).parameters.values()}

    shell, drawing, playing = map(defaults, (grid_pointing_command, of_mosaics, GridPointing))
    assert {name: shell[name] for name in ("mosaics", "confidence")} == {
        k: drawing[k] for k in ("mosaics", "confidence")
    }
    assert {name: shell[name] for name in playing} == playing
    assert shell["n"] == drawing["n"]
    scenes = DigitScenes("test", 1)
    assert [least_confidence(s) for s in (scenes, CachedCrops(scenes, tmp_path), ColourImages())] == [0.6, 0.6, 0.99]


def test_a_gradient_method_is_perfect_with_disconnected_heads_only(classifier):
    facts = classifier.preprocessing
    found = play(
        {"saliency": saliency, "grad_cam": grad_cam, "finer_cam": finer_cam},
        source=DigitScenes("test", 40),
        tap=partial(tap_classifier, classifier),
        pixels=Pixels(facts.mean, facts.std),
        contrast=topk_logits(2, 25),
        confidence=0.6,
    )
    score = found.rows.set_index(["setting", "method"])["score"].sort_index()
    np.testing.assert_allclose(score[DIFULL, "saliency"], 1, atol=1e-6)
    assert score[GRIDPG, "saliency"].max() < 0.9  # every cell matters to a pool over the whole mosaic
    assert 0.3 < score[DIFULL, "grad_cam"].mean() < 0.95  # one weight per channel for all places
    assert score[GRIDPG, "grad_cam"].mean() > 0.4
    own = found.rows[found.rows["setting"] == DIFULL]
    np.testing.assert_allclose(own["p_mosaic"], own["p_image"], rtol=1e-4)  # the head gives what the cell alone gives


def test_scores_are_those_of_maps_made_one_by_one(classifier, tapped):
    """Contrast sets of both settings, cells and mosaics, from single views and plain sums."""
    facts, source = classifier.preprocessing, DigitScenes("test", 40)
    pixels, contrast = Pixels(facts.mean, facts.std), topk_logits(3, 25)
    tap = partial(tap_classifier, classifier)
    found = play({"finer_cam": finer_cam}, source=source, tap=tap, pixels=pixels, contrast=contrast, confidence=None)

    def normalised(i):
        return (jnp.asarray(source[int(i)].image, jnp.float32) / 255 - jnp.array(pixels.mean)) / jnp.array(pixels.std)

    def seen(model):
        """Logits, activation and the weights of all classes."""

        def of(x):
            view = model.view_all(model.params, x)
            return view.logits, view.activation, view.class_weights(jnp.arange(25))

        return jax.jit(of)

    def own_share(activation, logits, weights, target, cell):
        others = [c for c in np.argsort(-logits) if c != target][:3]
        p = np.exp(logits[others] - logits.max())
        difference = (p[:, None] * (weights[target] - weights[others])).sum(0) / p.sum()
        saliency = np.maximum(activation @ difference, 0)
        half = len(saliency) // 2
        y, x = half * (cell // 2), half * (cell % 2)
        return saliency[y : y + half, x : x + half].sum() / saliency.sum()

    see, see_alone = seen(tap(jnp.zeros((96, 96, 3)))), seen(tapped)
    for mosaic, rows in found.rows.groupby("mosaic"):
        of = {name: frame.set_index("cell") for name, frame in rows.groupby("setting")}
        cells = jnp.stack([normalised(i) for i in of[GRIDPG]["image"]])
        logits, activation, weights = (np.asarray(a, np.float64) for a in see(join_cells(cells)))
        alone = [[np.asarray(a, np.float64) for a in see_alone(x)] for x in cells]
        apart = join_cells(np.stack([a for _, a, _ in alone]))
        for cell, target in of[GRIDPG]["class"].items():
            expected = own_share(activation, logits, weights, target, cell)
            np.testing.assert_allclose(of[GRIDPG]["score"][cell], expected, rtol=1e-4, err_msg=f"{mosaic} {cell}")
            expected = own_share(apart, alone[cell][0], alone[cell][2], target, cell)
            np.testing.assert_allclose(of[DIFULL]["score"][cell], expected, rtol=1e-4, err_msg=f"{mosaic} {cell}")


def test_rows_do_not_depend_on_the_tile_and_a_seed_repeats_them():
    methods = {"grad_cam": grad_cam, "random": random_map}
    found = play(methods, difull=False, tile=2).rows
    pd.testing.assert_frame_equal(found, play(methods, difull=False, tile=1).rows)
    assert not found.equals(play(methods, difull=False, seed=1).rows)


def test_degenerate_maps_have_no_score_and_are_counted():
    found = play({"nothing": nothing, "grad_cam": grad_cam}, difull=False)
    flat = found.rows[found.rows["method"] == "nothing"]
    assert flat["degenerate"].all()
    assert flat["score"].isna().all()
    table = summarise(found.folder.rows()).set_index("method")
    assert table.loc["nothing", "degenerate"] == 12
    assert np.isnan(table.loc["nothing", "mean"])
    assert table.loc["nothing", "mean_with_zeros"] == 0
    assert "12 of 12" in str(page_of(found.folder.path)[1].sections)


def test_enlarged_maps_lose_mass_over_the_borders():
    def own_cell(view, query):  # 2×2 pixels, all mass in the own cell
        return jnp.eye(4)[query.targets % 4].reshape(-1, 2, 2)

    source = ColourImages()
    drawn = play({"own": own_cell}, source=source, difull=False).rows
    sharp = drawn[drawn["class"] == drawn["cell"]]["score"]
    smooth = play({"own": own_cell}, source=source, difull=False, upsampled=True).rows
    assert len(sharp)
    np.testing.assert_allclose(sharp, 1, atol=1e-6)
    assert smooth[smooth["class"] == smooth["cell"]]["score"].between(0.6, 0.9).all()


def test_the_other_cells_are_each_class_s_contrast():
    np.testing.assert_array_equal(
        other_cells(jnp.zeros(20), jnp.array([7, 3, 11, 2])), [[3, 11, 2], [7, 11, 2], [7, 3, 2], [7, 3, 11]]
    )
    found = play({"finer_cam": finer_cam})
    np.testing.assert_allclose(found.rows["score"], 1, atol=1e-6)


def test_too_few_images_for_all_mosaics_are_counted_and_some_are_shown():
    found = play({"grad_cam": grad_cam}, mosaics=50)
    assert found.counts["mosaics asked for"] == 50
    assert 3 <= found.counts["mosaics drawn"] == found.rows["mosaic"].nunique() <= 5
    save_gallery(found.job, found.folder, count=2, of=REGIONS)
    write_report(found.folder.path)
    shown = load_run(found.folder.path).gallery
    assert shown.maps.shape == (2, 1, 4, 2 * SIZE, 2 * SIZE)
    for maps, targets in zip(shown.maps[:, 0].astype(np.float32), shown.targets, strict=True):
        for cell, target in enumerate(targets):
            inside = split_cells(maps[cell][..., None], 2)
            assert inside[cell].max() > 0.9
            assert inside[[i for i in range(4) if i != cell]].max() == 0
            assert target in range(5)
    figure = mosaics_figure(shown, [0], ["Grad-CAM"], tuple("rgbyc"), 2)
    assert len(figure.axes) == 2 * 2 * 2


def test_an_image_that_cannot_be_read_again_costs_its_mosaic_only():
    class Torn(ColourImages):
        reads = 0

        def __getitem__(self, index):
            Torn.reads += 1
            if index == 6 and Torn.reads > len(self) + 5:
                raise UnreadableImageError("image 6", "gone")
            return super().__getitem__(index)

    found = play({"grad_cam": grad_cam}, source=Torn(), mosaics=5, difull=False)
    assert len(found.excluded) <= 1
    assert len(found.rows) == 4 * (found.counts["mosaics drawn"] - len(found.excluded))


def dense_logits(params, x):
    return tag(x, "features").ravel() @ params


def pooled_tokens(params, x):
    a = jax.image.resize(x, (4, 4, 3), "linear")
    return tag(a, "features").mean((0, 1)) @ params


def test_networks_that_cannot_take_mosaics_are_refused():
    image = jnp.zeros((SIZE, SIZE, 3))
    tap = partial(tap_function, dense_logits, jnp.ones((SIZE * SIZE * 3, 5)), "features")
    with pytest.raises(CaseJaxError, match=r"model: cannot be tapped at layer 'features' for mosaics of 16×16"):
        tap_at_mosaic_size(tap, tap(image), 2)
    tap = partial(tap_function, pooled_tokens, jnp.ones((3, 5)), "features")
    with pytest.raises(CaseJaxError, match=r"a map of \(4, 4, 3\) at layer 'features'"):
        tap_at_mosaic_size(tap, tap(image), 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 1}, ["n: got 1"]),
        ({"n": 3}, ["n: got 3", "at most 5 cells"]),
        ({"confidence": 0.0}, ["confidence: got 0.0"]),
        ({"confidence": 1.0}, ["confidence: got 1.0", "0.99"]),
        ({"confidence": 0.9999}, ["confidence", "4 different classes", "only 0 classes", "highest found"]),
        ({"mosaics": 0}, ["mosaics: got 0"]),
        ({"limit": 3}, ["different classes", "more images"]),
        ({"limit": 99}, ["limit: got 99"]),
        ({"tile": 0}, ["tile: got 0"]),
        ({"seed": -1}, ["seed: got -1"]),
        ({"methods": {}}, ["methods"]),
        ({"contrast": topk_logits(1, 7)}, ["contrast", "5 classes"]),
        ({"methods": {"odd": lambda view, query: view.image}}, ["method 'odd'", "one map per target"]),
    ],
)
def test_bad_games_are_refused(options, words):
    with pytest.raises(CaseJaxError) as error:
        play(options.pop("methods", {"grad_cam": grad_cam}), **options)
    assert all(word in str(error.value) for word in words)


# the shell


@pytest.fixture
def pointing(shell):
    """`case-jax grid-pointing` with these arguments."""
    return lambda arguments: shell("grid-pointing", *arguments.split())


def test_the_command_writes_rows_summaries_and_a_picture(pointing, tmp_path):
    status, out, _ = pointing(
        "--limit 60 --mosaics 4 --tile 2 --contrast mosaic --methods grad_cam case centre_gaussian --out game"
    )
    assert status == 0
    assert "GridPG" in out
    assert "DiFull" in out
    rows = pd.read_csv(tmp_path / "game" / "grid_pointing.csv")
    assert len(rows) == 2 * 4 * 4 * 3
    blind = rows[rows["method"] == "centre_gaussian"].groupby(["setting", "image_id"])["score"].sum()
    np.testing.assert_allclose(blind, 1.0, rtol=1e-5)  # the shares of one map
    summary = json.loads((tmp_path / "game" / "summary.json").read_text())
    assert summary["counts"]["mosaics drawn"] == 4
    assert summary["settings"]["confidence"] == 0.6
    scores = {(s["setting"], s["method"]): s["mean"] for s in summary["scores"]}
    assert scores[GRIDPG, "grad_cam"] > 0.4
    assert "images looked at: 60" in (tmp_path / "game" / "summary.md").read_text()
    with Image.open(tmp_path / "game" / "figures" / "mosaics.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--n 1", ["n: got 1"]),
        ("--n 6", ["n: got 6", "25"]),
        ("--confidence 0.9999 --limit 40", ["confidence", "highest found"]),
        ("--confidence 1.5", ["confidence: got 1.5"]),
        ("--methods gradcam", ["'gradcam'", "grad_cam"]),
        ("--contrast mosaics", ["contrast", "'mosaics'"]),
        ("--data folder:nowhere", ["no folder"]),
    ],
)
def test_bad_commands_are_refused(pointing, arguments, words):
    status, _, err = pointing(f"{arguments} --contrast mosaic" if "--contrast" not in arguments else arguments)
    assert status == 2
    assert "Traceback" not in err
    assert all(word in err for word in words)


def test_help_shows_an_example(pointing):
    status, out, _ = pointing("--help")
    assert status == 0
    assert "case-jax grid-pointing --n 3" in out

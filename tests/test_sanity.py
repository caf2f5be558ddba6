"""Sanity checks against classifiers and maps whose answers are known; their similarities; their table, curves and command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import nnx
from PIL import Image
from studies import sanity

from case_jax import CaseJaxError, tag, tap_function
from case_jax.contrast.choice import choose_contrast
from case_jax.evaluation import Pixels
from case_jax.evaluation.studies.sanity_step import CASCADING, INDEPENDENT, LABELS, NOTHING_CHANGED, changes
from case_jax.methods import case, centre_gaussian, grad_cam, random_map, sobel_edges
from case_jax.metrics.hog import cell_side, hog, hog_correlation
from case_jax.metrics.similarity import SIMILARITIES, TwoForms, map_similarities
from case_jax.models import save_weights
from case_jax.report import sanity as report
from case_jax.report.loading import Method
from case_jax.results import RunFolder
from case_jax.source import Example, UnreadableImageError
from case_jax.tap import tag_head_input
from case_jax.tap.parameters import ParameterLayers, permuted

CLASSES, SIDE, IMAGES = 4, 14, 5
PIXELS = Pixels((0.5,) * 3, (0.25,) * 3)
LAYERS = ("head", "second", "first")


def logits_of(params, x):
    """Two convolutions of 3×3, a mean and a linear head."""
    for name in ("first", "second"):
        x = jax.lax.conv_general_dilated(
            x[None], params[name]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[0]
        x = jax.nn.relu(x + params[name]["bias"])
    return tag_head_input(tag(x, "features").mean((0, 1))) @ params["head"]["kernel"]


def drawn(seed):
    rng = np.random.default_rng(seed)
    shapes = {"first": (3, 3, 3, 6), "second": (3, 3, 6, 8)}
    params = {
        name: {"kernel": rng.normal(0, 0.3, shape), "bias": rng.normal(0, 0.1, shape[-1])}
        for name, shape in shapes.items()
    }
    return jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float32), params | {"head": {"kernel": rng.normal(size=(8, CLASSES))}}
    )


OWN, OTHER, THIRD = (drawn(seed) for seed in range(3))


def tap(function=logits_of):
    return tap_function(
        function, OWN, "features", jnp.zeros((SIDE, SIDE, 3)), head_kernel=lambda params: params["head"]["kernel"]
    )


class Noise:
    """Smooth random images; some may be unreadable."""

    name, class_names, fingerprint = "noise", None, "v1"

    def __init__(self, *, unreadable=(), side=SIDE):
        self.unreadable, self.side = unreadable, side

    def __len__(self):
        return IMAGES

    def __getitem__(self, index):
        if index in self.unreadable:
            raise UnreadableImageError(f"noise {index}", "torn")
        coarse = np.random.default_rng(index).integers(0, 256, (self.side // 2, self.side // 2, 3))
        return Example(index, f"noise {index}", coarse.repeat(2, 0).repeat(2, 1).astype(np.uint8), -1)


def check(path, methods, **options):
    contrast = choose_contrast("topk_logits:2", CLASSES)
    options = {"source": Noise(), "model": tap(), "untrained": OTHER, "tile": 2, **options}
    found = [options.pop(name) for name in ("source", "model")]
    return sanity(*found, contrast, methods, path, pixels=PIXELS, **options)


def nothing(view, query):
    return jnp.zeros((len(query.targets), *view.image.shape[:2]))


# similarities


def test_histograms_of_gradients_are_scikit_image_s():
    """Numbers of skimage 0.25's hog(pixels_per_cell=(4, 4), cells_per_block=(3, 3), block_norm="L2-Hys") for this map."""
    saliency = np.random.default_rng(0).uniform(size=(14, 19)).astype(np.float32)
    found = np.asarray(hog(jnp.asarray(saliency), cell=4))
    assert found.shape == (1, 2, 9, 9)
    middle = [0.072456, 0.039578, 0.14725, 0.0, 0.0, 0.211331, 0.072205, 0.132804, 0.115664]
    np.testing.assert_allclose(found[0, 1, 4], middle, atol=2e-6)
    np.testing.assert_allclose([found.sum(), (found**3).sum()], [14.159870, 0.326698], rtol=1e-5)


def test_the_gradients_of_a_ramp_point_one_way():
    down = jnp.broadcast_to(jnp.arange(12, dtype=jnp.float32)[:, None], (12, 12))
    for ramp, sector in ((down, 4), (down.T, 0), (-down.T, 0), (down + down.T, 2)):  # 90°, 0°, 180°, 45°
        strength = np.asarray(hog(ramp)[0, 0, 4])
        assert strength[sector] > 0.3
        assert strength.sum() == strength[sector]
    assert not np.asarray(hog(jnp.ones((12, 12)))).any()


def test_cells_grow_with_the_map():
    assert [cell_side((side, side + 9)) for side in (12, 48, 224, 448)] == [4, 4, 16, 32]


def test_histograms_are_compared_by_correlation():
    a, b = (jnp.asarray(np.random.default_rng(i).uniform(size=(24, 24)), jnp.float32) for i in range(2))
    assert hog_correlation(a, a) == pytest.approx(1, abs=1e-6)
    assert abs(float(hog_correlation(a, b))) < 0.3
    expected = np.corrcoef(np.ravel(hog(a)), np.ravel(hog(b)))[0, 1]
    assert hog_correlation(a, b) == pytest.approx(expected, abs=1e-5)
    assert np.isnan(hog_correlation(a, jnp.ones((24, 24))))


def test_signs_count_in_one_of_the_two_rank_correlations():
    raw = jnp.asarray(np.random.default_rng(0).normal(size=(12, 12)), jnp.float32)
    forms = [TwoForms(m, jax.nn.relu(m) / m.max()) for m in (raw, -raw)]
    found = map_similarities(*forms)
    assert tuple(found) == SIMILARITIES == tuple(report.SIMILARITIES)
    assert found["spearman"] == pytest.approx(-1, abs=1e-6)
    assert found["spearman_abs"] == pytest.approx(1, abs=1e-6)
    same = map_similarities(forms[0], forms[0])
    np.testing.assert_allclose(list(same.values()), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: hog(jnp.ones((11, 30))), "at least 3×3 cells"),
        (lambda: hog_correlation(jnp.ones((12, 12)), jnp.ones((12, 13))), "two maps of one shape"),
    ],
)
def test_bad_maps_are_refused(call, words):
    with pytest.raises(CaseJaxError, match=words):
        call()


# what is changed


def test_a_cascade_changes_the_first_layers_and_single_changes_one_each():
    layers = ParameterLayers(("c", "b", "a"), (2, 1, 0))
    found = changes(layers, (CASCADING, INDEPENDENT, LABELS))
    assert [(c.kind, c.step, c.layer, c.chosen.astype(int).tolist()) for c in found] == [
        (NOTHING_CHANGED, 0, "", [0, 0, 0]),
        (CASCADING, 1, "c", [1, 0, 0]),
        (CASCADING, 2, "b", [1, 1, 0]),
        (CASCADING, 3, "a", [1, 1, 1]),
        (INDEPENDENT, 1, "c", [1, 0, 0]),
        (INDEPENDENT, 2, "b", [0, 1, 0]),
        (INDEPENDENT, 3, "a", [0, 0, 1]),
        (LABELS, 1, "all", [1, 1, 1]),
    ]
    assert len(changes(layers, (INDEPENDENT,))) == 4


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """All kinds, and how often the classifier was traced before and while the first images came."""
    traces = []

    def counted(params, x):
        traces.append(1)
        return logits_of(params, x)

    methods = {
        "grad_cam": grad_cam, "case": case, "sobel": sobel_edges, "centre": centre_gaussian, "random": random_map, "nothing": nothing
    }  # fmt: skip
    path = tmp_path_factory.mktemp("sanity") / "run"
    found = check(path, methods, model=tap(counted), shuffled=THIRD, source=Noise(unreadable=(3,)))
    return found, len(traces), path


def test_rows_are_complete_and_exclusions_counted(checked):
    found, _, _ = checked
    assert tuple(found.config()["sanity"]["layers"]) == LAYERS
    assert len(found.rows()) == (IMAGES - 1) * (1 + 3 + 3 + 1) * 6
    assert [e["name"] for e in found.excluded()] == ["noise 3"]
    assert not found.rows().duplicated(["image_id", "kind", "step", "method"]).any()
    assert set(found.rows()["kind"]) == {NOTHING_CHANGED, CASCADING, INDEPENDENT, LABELS}


def test_nothing_changed_gives_the_same_map(checked):
    rows = checked[0].rows()
    same = rows[(rows["kind"] == NOTHING_CHANGED) & rows["method"].isin(["grad_cam", "case", "sobel", "centre"])]
    np.testing.assert_allclose(same[list(SIMILARITIES)], 1, atol=1e-6)
    assert (same["top1"] == same["target"]).all()


def test_maps_that_do_not_look_at_the_classifier_stay_the_same_and_random_ones_never_do(checked):
    rows = checked[0].rows()
    blind = rows[rows["method"].isin(["sobel", "centre"])]
    np.testing.assert_allclose(blind[list(SIMILARITIES)], 1, atol=1e-6)
    drawn_anew = rows[rows["method"] == "random"].groupby(["kind", "step"])[["spearman", "spearman_abs"]].mean()
    assert drawn_anew.abs().max().max() < 0.15
    assert drawn_anew["spearman"].nunique() == len(drawn_anew)  # each change has draws of its own


def test_maps_that_hang_on_parameters_change(checked):
    rows = checked[0].rows().set_index("method")
    changed = rows.loc["grad_cam"]
    changed = changed[(changed["kind"] != NOTHING_CHANGED) & ~changed["degenerate_changed"]]
    assert (changed["spearman"] < 0.999).all()
    assert changed["ssim"].mean() < 0.9


def test_degenerate_maps_have_no_similarity_and_are_counted(checked):
    flat = checked[0].rows()[checked[0].rows()["method"] == "nothing"]
    assert flat["degenerate"].all()
    assert flat["degenerate_changed"].all()
    assert flat[list(SIMILARITIES)].isna().all().all()
    table = report.layer_table(checked[0].rows()).set_index("method").loc["nothing"]
    assert (table["images"] == 0).all()
    assert (table["degenerate_changed"] == IMAGES - 1).all()
    summary = report.summarise(checked[0].rows()).set_index("method").loc["nothing"]
    assert summary["cascading_degenerate"] == 1
    assert np.isnan(summary["cascading_ssim"])


def test_all_changes_share_one_trace(checked, tmp_path):
    """The same number of traces for one kind of change, on one image, as for all kinds on all images."""
    traces = []

    def counted(params, x):
        traces.append(1)
        return logits_of(params, x)

    methods = {
        "grad_cam": grad_cam,
        "case": case,
        "sobel": sobel_edges,
        "centre": centre_gaussian,
        "random": random_map,
    }
    check(tmp_path / "few", methods | {"nothing": nothing}, model=tap(counted), kinds=(INDEPENDENT,), depth=1, limit=1)
    assert len(traces) == checked[1]


def test_similarities_are_those_of_maps_made_one_by_one(checked):
    """Grad-CAM of the trained classifier's class with hand-changed parameters."""
    found, model = checked[0], tap()
    rows = found.rows()[found.rows()["method"] == "grad_cam"].set_index(["image_id", "kind", "step"])
    mixed = {
        (CASCADING, 2): {"head": OTHER["head"], "second": OTHER["second"], "first": OWN["first"]},
        (INDEPENDENT, 3): {"head": OWN["head"], "second": OWN["second"], "first": OTHER["first"]},
        (LABELS, 1): THIRD,
    }

    @jax.jit
    def seen_by(params, image):
        view = model.view(params, image)
        return view.logits, view.activation

    def map_of(params, image, target):
        _, a = (np.asarray(v, np.float64) for v in seen_by(params, image))
        raw = np.maximum(a @ np.asarray(params["head"]["kernel"], np.float64)[:, target], 0)
        shown = (raw - raw.min()) / (1e-7 + (raw - raw.min()).max())
        return TwoForms(*(jnp.asarray(m, jnp.float32) for m in (raw, shown)))

    for (kind, step), params in mixed.items():
        for index in (0, 4):
            image = (jnp.asarray(Noise()[index].image, jnp.float32) / 255 - 0.5) / 0.25
            target = int(seen_by(OWN, image)[0].argmax())
            row = rows.loc[index, kind, step]
            assert row["target"] == target
            assert row["top1"] == int(seen_by(params, image)[0].argmax())
            second = map_of(params, image, target)
            assert row["degenerate_changed"] == (not second.raw.any())
            if second.raw.any():
                expected = map_similarities(map_of(OWN, image, target), second)
                np.testing.assert_allclose([row[n] for n in SIMILARITIES], list(expected.values()), atol=2e-3)


def test_rows_do_not_depend_on_the_tile_a_seed_repeats_them_and_a_stopped_run_resumes(tmp_path):
    methods = {"grad_cam": grad_cam, "random": random_map}
    first = check(tmp_path / "a", methods, kinds=(INDEPENDENT,)).rows()
    RunFolder(tmp_path / "a").part(1).unlink()
    pd.testing.assert_frame_equal(check(tmp_path / "a", methods, kinds=(INDEPENDENT,)).rows(), first)
    other = check(tmp_path / "b", methods, kinds=(INDEPENDENT,), tile=5).rows()
    pd.testing.assert_frame_equal(first, other, check_exact=False, atol=1e-4)
    with pytest.raises(CaseJaxError, match="holds a run with another configuration"):
        check(tmp_path / "a", methods, kinds=(INDEPENDENT,), seed=1)
    with pytest.raises(CaseJaxError, match=r"sanity\.untrained"):
        check(tmp_path / "a", methods, kinds=(INDEPENDENT,), untrained=permuted(OWN))


def test_logits_that_are_not_finite_make_every_map_degenerate(tmp_path):
    broken = OTHER | {"head": {"kernel": OTHER["head"]["kernel"].at[0, 0].set(jnp.nan)}}
    rows = check(tmp_path / "run", {"sobel": sobel_edges}, untrained=broken, kinds=(INDEPENDENT,), limit=2).rows()
    touched = rows["layer"] == "head"
    assert rows.loc[touched, "degenerate_changed"].all()
    assert not rows.loc[~touched, "degenerate_changed"].any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kinds": ("cascade",)}, ["kinds", "'cascade'", "cascading"]),
        ({"kinds": (CASCADING, CASCADING)}, ["kinds", "each once"]),
        ({"kinds": (LABELS,)}, ["shuffled: got no parameters"]),
        ({"kinds": (CASCADING,), "shuffled": THIRD}, ["shuffled: got such parameters without the kind"]),
        ({"untrained": {"head": OTHER["head"]}}, ["untrained", "first.bias in one network only"]),
        ({"shuffled": OTHER | {"head": {"kernel": jnp.zeros((8, 5))}}}, ["shuffled", "head.kernel", "(8, 5)"]),
        ({"depth": 0}, ["depth: got 0"]),
        ({"limit": 6}, ["limit: got 6"]),
        ({"tile": 0}, ["tile: got 0"]),
        ({"seed": -1}, ["seed: got -1"]),
        ({"methods": {}}, ["methods"]),
        ({"methods": {"odd": lambda view, query: view.image}}, ["method 'odd'", "one map per target"]),
        ({"source": Noise(side=10), "model": None}, ["source: got images of 10×10 pixels", "12×12"]),
    ],
)
def test_bad_checks_are_refused(options, words, tmp_path):
    options = dict(options)
    if "model" in options:
        options["model"] = tap()
    with pytest.raises(CaseJaxError) as error:
        check(tmp_path / "run", options.pop("methods", {"grad_cam": grad_cam}), **options)
    assert all(word in str(error.value) for word in words), error.value
    assert not (tmp_path / "run").exists()


def test_tables_rank_methods_and_tell_random_ones(checked):
    summary = report.summarise(checked[0].rows())
    order = [name for name in summary["method"] if name not in ("nothing", "case")]
    assert order[0] in ("random", "grad_cam")
    assert set(order[-2:]) == {"sobel", "centre"}
    by_name = summary.set_index("method")
    assert by_name.loc["sobel", "labels_ssim"] == pytest.approx(1, abs=1e-6)
    low, mean, high = by_name.loc["grad_cam", [f"cascading_ssim{end}" for end in ("_low", "", "_high")]]
    assert low <= mean <= high
    page = report.page_of(checked[0].path)[1]
    assert {method.name for method, _ in page.table.rows} == set(summary["method"])
    assert "100.0%" in str(page.sections[-1].table)  # degenerate
    header = next(line for line in page.text().splitlines() if line.startswith("| method"))
    assert all(line.count("|") == header.count("|") for line in page.text().splitlines() if line.startswith("|"))


def test_shuffled_labels_alone_make_a_table_without_curves(checked, tmp_path):
    rows = checked[0].rows()
    rows = rows[rows["kind"].isin([NOTHING_CHANGED, LABELS]) & rows["method"].isin(["sobel", "grad_cam"])]
    summary, layers = report.summarise(rows), report.layer_table(rows)
    assert summary["method"].tolist() == ["grad_cam", "sobel"]
    assert "shuffled labels" in report._correlations(summary.to_dict("records")[0])
    assert report.curves(layers, []) == []


def test_curves_show_every_layer_and_the_labels(checked):
    layers = report.layer_table(checked[0].rows())
    methods = [Method(name, name, False, False, {}) for name in ("grad_cam", "sobel")]
    figure = report.curves_figure(layers, CASCADING, "words", methods)
    axis = figure.axes[0]
    assert [t.get_text() for t in axis.get_xticklabels()] == ["nothing", *LAYERS, "shuffled labels"]
    line = next(found for found in axis.lines if found.get_label() == "sobel")
    np.testing.assert_allclose(line.get_ydata(), 1, atol=1e-6)
    assert len(line.get_xdata()) == 4


# the shell


@pytest.fixture
def command(shell):
    """`case-jax sanity` with these arguments."""
    return lambda arguments: shell("sanity", *arguments.split())


def test_the_command_writes_rows_tables_and_curves(command, classifier, tmp_path):
    shuffled = tmp_path / "shuffled.safetensors"
    save_weights(shuffled, nnx.jit(lambda: classifier.entry.build(25, rngs=nnx.Rngs(5)))())
    status, out, err = command(
        f"--limit 4 --tile 4 --depth 1 --contrast topk_logits:2 --methods grad_cam sobel --out run --shuffled-weights {shuffled}"
    )
    assert status == 0, err
    assert "Grad-CAM" in out
    layers = pd.read_csv(tmp_path / "run" / "layers.csv")
    assert len(layers) == 2 * (1 + 4 + 4 + 1)
    assert layers.set_index("method").loc["sobel", "ssim"].to_numpy() == pytest.approx(1, abs=1e-6)
    facts = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert facts["layers"] == ["head", "blocks", "bn", "stem"]
    assert facts["counts"] == {"images": 4, "images that could not be read": 0, "layers": 4}
    assert {s["method"]: s["labels_hog"] for s in facts["scores"]}["sobel"] == pytest.approx(1, abs=1e-6)
    for picture in ("cascading.png", "independent.png"):
        with Image.open(tmp_path / "run" / "figures" / picture) as image:
            assert np.asarray(image.convert("L")).std() > 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--kinds labels", ["kinds: got labels", "--shuffled-weights"]),
        ("--kinds cascade", ["'cascade'", "cascading"]),
        ("--methods gradcam", ["'gradcam'", "grad_cam"]),
        ("--limit 0", ["limit: got 0"]),
        ("--depth 0", ["depth: got 0"]),
        ("--shuffled-weights nowhere.safetensors", ["no file at nowhere.safetensors"]),
        ("--redraw forget", ["forget"]),
    ],
)
def test_bad_commands_are_refused(command, arguments, words):
    status, out, err = command(f"{arguments} --contrast topk_logits:2")
    assert status == 2
    assert "Traceback" not in err
    assert all(word in out + err for word in words)


def test_help_shows_an_example(command):
    status, out, _ = command("--help")
    assert status == 0
    assert "case-jax sanity --methods" in out

"""Ways to ask: for and against, rather than another class, by name; as colours and as numbers."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import case_jax as cj
from case_jax.contrast import against, choose_contrast, operators
from case_jax.data import decoding
from case_jax.evaluation.explain import Explanation
from case_jax.imageops import finish_maps, is_degenerate, resize_map, signed_colours
from case_jax.methods import METHODS, class_maps, signed_maps
from case_jax.models.class_names import classes_called
from case_jax.report.explanation import Original, grid
from case_jax.report.map_files import write_maps
from case_jax.source import Example

SIGNED = ("grad_cam", "hires_cam", "xgrad_cam", "layer_cam", "input_x_gradient", "integrated_gradients")
"""Methods of the target's logit alone: of the negated logit they show what speaks against the class."""
TARGETS = jnp.array([0, 3])


def test_finish_maps_keeps_what_is_negative_where_it_is_asked_to():
    maps = jnp.asarray([[[1.0, -4.0], [0.0, 2.0]], [[-3.0, -1.0], [-3.0, -2.0]], [[2.0, 2.0], [2.0, 2.0]]])
    found = finish_maps(maps, (4, 6), signed=True)
    np.testing.assert_allclose(found[0], resize_map(maps[0] / 4, (4, 6)), atol=1e-6)
    np.testing.assert_allclose(
        found[1], resize_map(maps[1] / 3, (4, 6)), atol=1e-6
    )  # all against the class: still a map
    assert not finish_maps(maps, (4, 6))[1].any()
    assert is_degenerate(maps, signed=True).tolist() == [False, False, True]
    assert not found[2].any()
    assert not finish_maps(maps.at[0, 0, 0].set(jnp.nan), (2, 2), signed=True)[0].any()


@pytest.fixture(scope="module")
def asked(toy, toy_images):
    """Maps for, against and signed, of all methods that have a sign; those for of the negated model; and the closed forms."""

    @jax.jit
    def run(params, image):
        view, other = toy.view(params, image), toy.view({**params, "head": -params["head"]}, image)
        query = cj.ask(view, TARGETS, against(1, 5))
        found = {}
        for name in (*SIGNED, "case", "case_span", "finer_cam", "softmax_contrast"):
            few = {"steps": 2} if name == "integrated_gradients" else {}
            method = partial(METHODS[name].maps, **few)
            found[name] = method(view, query), method(view, query, sign=-1), signed_maps(method, view, query)
            if name in SIGNED:
                found[f"negated {name}"] = method(other, query)
        alpha = view.class_weights(TARGETS)
        one = view.class_weights(jnp.array([1]))
        weights = {
            "grad_cam": alpha,
            "finer_cam": alpha - one,
            "case": operators.mean_orthogonal(view, TARGETS, query.contrast),
            "softmax_contrast": operators.softmax(view, TARGETS),
        }
        return found, {name: class_maps(view.activation, w) for name, w in weights.items()}

    return jax.tree.map(np.asarray, run(toy.params, toy_images[1]))


@pytest.mark.parametrize("name", SIGNED)
def test_against_is_the_map_of_the_negated_logit(asked, name):
    found, _ = asked
    np.testing.assert_allclose(found[name][1], found[f"negated {name}"], atol=1e-6)
    assert (found[name][1] != found[name][0]).any()
    assert found[name][1].max() > 0


@pytest.mark.parametrize("name", ["grad_cam", "finer_cam", "case", "softmax_contrast"])
def test_signed_maps_are_the_sums_before_the_relu(asked, name):
    found, sums = asked
    positive, negative, signed = found[name]
    np.testing.assert_allclose(signed, sums[name], atol=1e-6)
    np.testing.assert_array_equal(signed, positive - negative)
    assert (signed < 0).any()


def test_another_sign_is_refused(toy, toy_images):
    with pytest.raises(cj.CaseJaxError, match="sign: got 0; accepted: 1, evidence for the class, or -1"):
        cj.explain(toy, toy_images[0], "grad_cam", sign=0)


def test_explain_and_show_take_signed_maps(toy, toy_images):
    image = toy_images[0]
    found = cj.explain(toy, image, "grad_cam", targets=[0, 3], signed=True)
    view = toy.view(toy.params, image)
    raw = class_maps(view.activation, view.class_weights(TARGETS))
    np.testing.assert_allclose(found, finish_maps(raw, (12, 12), signed=True), atol=1e-5)
    assert found.min() < 0
    panel = cj.show(image, found).axes[1]
    np.testing.assert_allclose(panel.images[1].get_array(), signed_colours(np.asarray(found[0])), atol=1e-6)
    for wrong, words in (
        ({"method": "saliency"}, r"signed: got the method 'saliency'; accepted: .*layer_cam"),
        ({"sign": -1}, "sign: got -1; accepted: no sign"),
        ({"contrast": against([0, 1], 5)}, r"against: got class \[0\], which is also a target"),
    ):
        with pytest.raises(cj.CaseJaxError, match=words):
            cj.explain(toy, image, **{"method": "grad_cam", "targets": [0, 3], "signed": True, **wrong})


def test_colours_of_signed_maps():
    colours = signed_colours(np.array([[1.0, 0.0, -0.5]]))[0]
    assert colours[0, 0] > colours[0, 2]  # red
    assert colours[2, 2] > colours[2, 0]  # blue
    np.testing.assert_allclose(colours[:, 3], [0.85, 0, 0.425])


def test_a_class_rather_than_another(toy, toy_images):
    sets = against(1, 5)
    assert sets == against([1], 5)
    assert choose_contrast(against([2, 4], 5), 5).name == "against:2,4"
    view = toy.view(toy.params, toy_images[0])
    query = cj.ask(view, TARGETS, against([2, 4], 5))
    assert query.contrast.tolist() == [[2, 4], [2, 4]]
    for classes, words in (
        ([], r"got \[\]"),
        ([5], r"got \[5\]; accepted: different classes from 0 to 4"),
        ([1, 1], "different"),
    ):
        with pytest.raises(cj.CaseJaxError, match=words):
            against(classes, 5)
    with pytest.raises(cj.CaseJaxError, match="against: got class"):
        cj.ask(view, TARGETS, against([3, 4], 5))
    with pytest.raises(cj.CaseJaxError, match="sets for 6 classes"):
        cj.ask(view, TARGETS, against(1, 6))


def test_classes_by_name_or_index():
    names = ("tench", "tabby", "tiger cat", "Crane", "crane", "2")
    called = partial(classes_called, "targets", names=names)
    assert called(("tiger cat", "0")) == (2, 0)
    assert called(("TABBY", "crane", "Crane")) == (1, 4, 3)
    assert called(("2",)) == (5,)  # a name before an index
    for words, message in (
        (("6",), "got 6"),
        (("tigr cat",), "Did you mean 'tiger cat'"),
        (("CRANE",), "unknown"),
        (("1", "tabby"), "once"),
    ):
        with pytest.raises(cj.CaseJaxError, match=message):
            called(words)


# --- numbers and pictures -------------------------------------------------------------------------------------------------


@pytest.fixture
def explained():
    rng = np.random.default_rng(0)
    raw = (rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=(2, 6, 8)).astype(np.float32))
    enlarged = rng.normal(size=(2, 2, 6, 8)).astype(np.float32)
    example = Example(0, "a.png", rng.integers(0, 256, (6, 8, 3), np.uint8), -1, changes=(decoding.TURNED,))
    degenerate = np.array([[False, True], [False, False]])
    shares = np.array([0.9, 0.1], np.float32)
    names = ("case", "masker:runs/x")
    return Explanation(
        example, names, np.array([2, 0]), shares, enlarged / 5, degenerate, 4 * degenerate, raw, enlarged, True
    )


GEOMETRY = {"layer": "conv", "crop_in_photograph": {"top": 0, "bottom": 12, "left": 2, "right": 18}}


@pytest.mark.parametrize("kind", ["npz", "npy", "tif"])
def test_maps_are_written_as_numbers(explained, tmp_path, kind):
    files = write_maps(tmp_path / f"maps.{kind}", explained, "xyz", GEOMETRY)
    assert all(file.exists() for file in files)
    if kind == "npz":
        with np.load(files[0]) as stored:
            facts = json.loads(str(stored["facts"]))
            enlarged = np.stack([stored[f"enlarged/{name}"] for name in explained.methods])
            layer = [stored[f"layer/{name}"] for name in explained.methods]
            assert stored["class_names"].tolist() == ["z", "x"]
    elif kind == "npy":
        enlarged, layer = np.load(files[0]), [np.load(file) for file in files[1:3]]
        facts = json.loads((tmp_path / "maps.json").read_text())
    else:
        pages = []
        with Image.open(files[0]) as image:
            facts = json.loads(image.tag_v2[270])
            for page in range(image.n_frames):
                image.seek(page)
                pages.append(np.asarray(image))
        assert facts["pages"][1] == "enlarged, case, x"
        enlarged, layer = np.stack(pages[:4]).reshape(2, 2, 6, 8), [np.stack(pages[4:6]), np.stack(pages[6:])]
    np.testing.assert_array_equal(enlarged, explained.enlarged)
    for found, expected in zip(layer, explained.raw, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (facts["classes"], facts["class_names"], facts["layer"]) == ([2, 0], ["z", "x"], "conv")
    assert facts["crop_in_photograph"]["left"] == 2
    assert facts["degenerate"] == [[False, True], [False, False]]


def test_a_map_lies_on_the_part_of_the_photograph_that_was_seen(explained):
    whole = np.zeros((12, 20, 3), np.uint8)
    panel = grid(explained, ["A", "B"], "xyz", original=Original(whole, (0, 12, 2, 18))).axes[1]
    assert panel.images[0].get_array().shape == (12, 20)
    assert panel.images[1].get_extent() == [1.5, 17.5, 11.5, -0.5]
    assert panel.patches[0].get_bbox().bounds == (1.5, -0.5, 16, 12)
    assert (panel.get_xlim(), panel.get_ylim()) == ((-0.5, 19.5), (11.5, -0.5))
    words = grid(explained, ["A", "B"], "xyz").get_supxlabel()
    assert words == "red: evidence for the class; blue: against it"


def test_the_shell_answers_why_this_class_rather_than_that_one(shell, tmp_path):
    """Of an upright photograph, the same as a camera stores it lying down, and a drawing on transparent ground."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    upright, exif = Image.fromarray(pixels), Image.Exif()
    exif[decoding.ORIENTATION] = 6
    upright.save(tmp_path / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.png", exif=exif)
    Image.fromarray(np.dstack([pixels, pixels[..., 0]])).save(tmp_path / "drawing.png")
    words = ("--targets", "0·7", 3, "--against", 4, "--signed", "--original", "--methods", "grad_cam", "finer_cam")
    words += ("--model", "digit_resnet")
    status, out, err = shell(
        "explain", "upright.png", "lying.png", "drawing.png", *words, "--save-maps", "maps.npz", "--format", "svg"
    )
    assert status == 0, err
    assert "lying.png has an EXIF orientation, applied" in err
    assert "drawing.png has transparent pixels, shown over white" in err
    assert "contrast:" not in err  # nothing was counted for a contrast that the question names itself
    assert out.split() == [f for n in ("upright", "lying", "drawing") for f in (f"explain-{n}.svg", f"maps-{n}.npz")]
    assert "<svg" in (tmp_path / "explain-lying.svg").read_text()
    with np.load(tmp_path / "maps-upright.npz") as first, np.load(tmp_path / "maps-lying.npz") as second:
        for name in ("enlarged/finer_cam", "layer/grad_cam", "image"):
            np.testing.assert_array_equal(first[name], second[name])
        facts, found = json.loads(str(first["facts"])), first["layer/finer_cam"]
        assert first["classes"].tolist() == [2, 3]
    assert (facts["against"], facts["photograph_size"]) == (["0·9"], [60, 90])
    assert facts["crop_in_photograph"] == {"top": 0, "bottom": 60, "left": 15, "right": 75}
    model = cj.load("digit_resnet")
    view = model.view(model.params, model.read(tmp_path / "upright.png"))
    alpha = view.class_weights(jnp.array([2, 3, 4]))
    np.testing.assert_allclose(found, class_maps(view.activation, alpha[:2] - alpha[2]), atol=1e-4)

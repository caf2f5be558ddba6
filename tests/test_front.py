"""The front door: from a name and a file to maps, a figure and a report; what goes through it and the long way are the same bits."""

import subprocess
import sys
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import case_jax as cj
from case_jax.contrast.sets import HighestOthers
from case_jax.data import preprocess
from case_jax.front import explaining
from case_jax.imageops import normalise_image, resize_map
from case_jax.methods import METHODS, rise, usual


@pytest.fixture(scope="module")
def model():
    return cj.load("digit_resnet")


@pytest.fixture(scope="module")
def image(images):
    return images[7]


@pytest.fixture(scope="module")
def own():
    """A network of one's own, whose preprocessing nobody knows."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 6, (3, 3), rngs=rngs)
            self.head = nnx.Linear(6, 3, rngs=rngs)

        def __call__(self, x):
            return self.head(nnx.relu(self.conv(x)).mean((1, 2)))

    return cj.tap_nnx(Net(nnx.Rngs(0)), "conv", jnp.zeros((16, 16, 3)), linear_head="head")


# --- load and read --------------------------------------------------------------------------------------------------------


def test_a_loaded_model_knows_what_its_weights_say(model, classifier):
    assert model.class_names == classifier.class_names
    assert model.preprocessing == classifier.preprocessing
    assert repr(model) == "LoadedModel('digit_resnet', layer='blocks.2', 25 classes, 12×12×48)"
    assert cj.load("digit_resnet", layer="blocks.1.conv2").activation_shape == (12, 12, 32)


def test_read_is_the_weights_own_preprocessing(model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    facts = model.preprocessing
    cropped = preprocess((tmp_path / "a.png").read_bytes(), "a", resize=facts.resize, crop=facts.crop)
    expected = normalise_image(cropped, facts.mean, facts.std)
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels, jnp.asarray(pixels)):
        np.testing.assert_array_equal(model.read(given), expected)
    grey = model.read(pixels[..., 0])
    np.testing.assert_array_equal(grey, model.read(Image.fromarray(pixels[..., 0]).convert("RGB")))


@pytest.mark.parametrize("given", ["none.png", 3, np.zeros((8, 8, 3)), np.zeros((8, 8, 2), np.uint8)])
def test_what_cannot_be_read_is_named(model, given):
    with pytest.raises(cj.CaseJaxError, match=r"image: .*(none\.png|int|float64|uint8)"):
        model.read(given)


def test_a_broken_file_is_named(model, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(cj.CaseJaxError, match=r"broken\.png cannot be read"):
        model.read(tmp_path / "broken.png")


def test_a_loaded_model_is_a_tapped_model_for_everything_else(model, image, tapped):
    view, plain = jax.jit(model.view)(model.params, image), jax.jit(tapped.view)(tapped.params, image)
    np.testing.assert_array_equal(view.logits, plain.logits)


# --- explain and the long way ---------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnums=(0, 4))
def the_long_way(method, model, image, targets, contrast, key=None):
    view = model.view(model.params, image)
    query = cj.ask(view, targets, contrast, key=key)
    return cj.finish_maps(METHODS[method].maps(view, query), image.shape[:2])


@pytest.mark.parametrize("method", ["case", "guided_backprop", "random"])
def test_equal_bits_to_the_long_way(model, image, method):
    key = jax.random.fold_in(jax.random.key(0), 0)
    expected = the_long_way(method, model, image, jnp.asarray([3, 7]), cj.topk_logits(5, 25), key)
    np.testing.assert_array_equal(cj.explain(model, image, method, targets=[3, 7]), expected)


@pytest.mark.parametrize("method", usual(pair=True))
def test_equal_bits_to_the_long_way_of_a_model_of_ones_own(own, method):
    image, key = jax.random.normal(jax.random.key(1), (16, 16, 3)), jax.random.fold_in(jax.random.key(0), 0)
    expected = the_long_way(method, own, image, jnp.asarray([0, 2]), cj.topk_logits(2, 3), key)
    np.testing.assert_array_equal(cj.explain(own, image, method, targets=[0, 2]), expected)


def test_targets_in_every_form(model, images):
    two, best = images[:2], jnp.stack([model.apply(model.params, x).argmax() for x in images[:2]])
    each = np.stack([cj.explain(model, x, targets=list(range(25))) for x in two])
    same = partial(np.testing.assert_allclose, atol=1e-6, rtol=3e-5)  # a GPU's programs of two shapes: 1.5e-5
    same(cj.explain(model, two[0]), each[0, best[0]])
    same(cj.explain(model, two), each[[0, 1], best])
    same(cj.explain(model, two[0], targets=3), each[0, 3])
    same(cj.explain(model, two[0], targets=[3]), each[0, [3]])
    same(cj.explain(model, two, targets=3), each[:, 3])
    same(cj.explain(model, two, targets=(3, 7, 1)), each[:, [3, 7, 1]])
    same(cj.explain(model, two, targets=[[3, 7], [1, 2]]), np.stack([each[0, [3, 7]], each[1, [1, 2]]]))
    same(cj.explain(model, two, targets=np.asarray(best)[:, None]), each[[0, 1], best][:, None])


def test_contrasts_in_every_form(model, image, tmp_path):
    table = cj.contrast.random_sets(3, 25)
    (tmp_path / "sets.json").write_text(str(table.tolist()))
    expected = cj.explain(model, image, targets=[3, 7], contrast=table)
    forms = ("random:3", f"explicit:{tmp_path / 'sets.json'}", table.tolist(), jnp.asarray(table))
    for contrast in (*forms, cj.contrast.table(table, 25), cj.contrast.ConfusionSets(table, table[:, 0])):
        np.testing.assert_array_equal(cj.explain(model, image, targets=[3, 7], contrast=contrast), expected)
    likeliest = cj.explain(model, image, targets=[3, 7], contrast="topk_logits:3")
    for contrast in (cj.topk_logits(3, 25), lambda logits, targets: HighestOthers(3, 25)(logits, targets)):
        found = cj.explain(model, image, targets=[3, 7], contrast=contrast)
        np.testing.assert_allclose(found, likeliest, atol=1e-6)
    assert (np.abs(likeliest - expected) > 0.01).any()


def test_a_mask_is_not_rescaled(model, image):
    def half(view, query):
        return jnp.full((len(query.targets), 4, 4), 0.5).at[:, 0, 0].set(0.75)

    assert cj.explain(model, image, half).max() == pytest.approx(1)
    half.mask = True
    expected = resize_map(half(None, cj.Query(jnp.zeros(1))), (48, 48))[0]
    np.testing.assert_allclose(cj.explain(model, image, half), expected)


def test_options_and_seeds(model, image):
    few = cj.explain(model, image, "rise", masks=8, seed=3)
    key = jax.random.fold_in(jax.random.key(3), 0)
    view = model.view(model.params, image)
    raw = rise(view, cj.ask(view, view.logits.argmax()[None], key=key), masks=8)
    np.testing.assert_allclose(few, cj.finish_maps(raw, (48, 48))[0], atol=1e-5)
    np.testing.assert_array_equal(cj.explain(model, image, partial(rise, masks=8), seed=3), few)
    assert (cj.explain(model, image, "rise", masks=8, seed=4) != few).any()
    both = cj.explain(model, jnp.stack([image, image]), "random")
    np.testing.assert_array_equal(both[0], cj.explain(model, image, "random"))
    assert (both[1] != both[0]).any()


# --- compiled once, and inside what users compile -------------------------------------------------------------------------


def counted():
    def maps(view, query):
        maps.traces += 1
        return cj.grad_cam(view, query)

    maps.traces = 0
    return maps


def test_the_second_call_traces_nothing(model, images):
    method, table = counted(), cj.contrast.random_sets(2, 25)
    cj.explain(model, images[0], method, targets=[3, 7])
    assert method.traces == 1
    cj.explain(model, images[1], method, targets=[1, 2], seed=5)
    cj.explain(model, np.asarray(images[2]), method, targets=np.asarray([1, 2]), contrast="topk_logits:5")
    assert method.traces == 1
    for _ in range(2):
        cj.explain(model, images[0], method, targets=[3, 7], contrast=table)
        cj.explain(model, images[:2], method)
        cj.explain(model, images[0], partial(method))
    assert method.traces == 4  # another kind of contrast, a batch, no targets


def test_other_parameters_trace_nothing(model, image):
    method = counted()
    first = cj.explain(model, image, method, targets=3)
    halved = jax.tree.map(lambda a: a / 2, model)
    assert isinstance(halved, cj.models.LoadedModel)
    assert (cj.explain(halved, image, method, targets=3) != first).any()
    assert method.traces == 1


def test_under_jit_vmap_and_grad(model, images):
    two = images[:2]
    expected = np.stack([cj.explain(model, x, targets=t) for x, t in zip(two, (3, 7), strict=True)])
    compiled = jax.jit(lambda model, x, t: cj.explain(model, x, targets=t))
    np.testing.assert_allclose(compiled(model, two[0], 3), expected[0], atol=1e-6)
    mapped = jax.vmap(lambda x, t: cj.explain(model, x, targets=t))(two, jnp.asarray([3, 7]))
    np.testing.assert_allclose(mapped, expected, atol=1e-6)
    gradient = jax.grad(lambda x: cj.explain(model, x, targets=3).sum())(two[0])
    assert gradient.shape == two[0].shape
    assert np.isfinite(gradient).all()
    assert (gradient != 0).any()


def test_a_traced_class_that_does_not_exist_has_an_empty_map(model, image):
    assert not jax.jit(lambda t: cj.explain(model, image, targets=t))(99).any()


# --- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"targets": 25}, r"targets: got \[25\]; accepted: class indices from 0 to 24"),
        ({"targets": [3, -1]}, r"targets: got \[-1\]"),
        ({"targets": 1.5}, "targets: got shape .*float"),
        ({"targets": [[3]]}, r"targets: got shape \(1, 1\)"),
        ({"targets": []}, "targets: "),
        ({"method": "rize"}, "method: 'rize' is unknown. Did you mean 'rise'"),
        ({"method": 3}, "method: got 3"),
        ({"method": "rise", "mask": 3}, "option of 'rise': 'mask' is unknown. Did you mean 'masks'"),
        ({"target": 3}, "'target' is unknown. Did you mean 'targets'"),
        ({"method": "rise", "masks": [3]}, "masks: got a list; accepted: a value that is hashable"),
        ({"contrast": "topk_logits:25"}, "k: got 25"),
        ({"contrast": "confusion:5"}, "needs labelled images"),
        ({"contrast": 5}, "contrast: got 5; accepted: a name such as"),
        ({"contrast": np.zeros((3, 2), int)}, r"contrast: got a table of shape \(3, 2\)"),
        ({"seed": -1}, "seed: "),
        ({"image": "photo.png"}, r"image: got a str; accepted: an array.*model\.read"),
        ({"image": np.zeros((48, 48, 3), np.uint8)}, "image: got shape .*uint8.*model.read"),
        ({"image": np.zeros((3, 48, 48), np.float32)}, r"image: got shape \(3, 48, 48\).*channels last"),
        (
            {"image": np.full((48, 48, 3), 200.0)},
            "image: got values from 200 to 200, which look like pixels of 0 to 255",
        ),
        ({"model": "digit_resnet"}, "model: got str; accepted: a tapped model"),
        ({"method": lambda view, query: view.logits}, "an output of shape"),
    ],
)
def test_bad_questions_are_named(model, image, change, words):
    asked = {"model": model, "image": image} | change
    with pytest.raises(cj.CaseJaxError, match=words):
        cj.explain(**asked)


def test_a_model_of_ones_own_is_warned_of_pixels_and_of_sizes(own):
    with pytest.warns(UserWarning, match="image: values from 200 to 200, which look like pixels"):
        cj.explain(own, np.full((16, 16, 3), 200.0, np.float32))
    with pytest.warns(UserWarning, match="image: 12×12×3, for a model that was tapped at 16×16×3"):
        assert cj.explain(own, np.zeros((12, 12, 3), np.float32)).shape == (12, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cj.explain(own, np.random.default_rng(0).normal(size=(16, 16, 3)).astype(np.float32))


# --- show -----------------------------------------------------------------------------------------------------------------


def words_of(figure):
    return [
        text
        for axis in figure.axes
        for text in (axis.get_title(), axis.get_xlabel(), *(t.get_text() for t in axis.texts))
    ]


def test_show_names_classes_and_probabilities(model, image):
    probabilities = jax.nn.softmax(model.apply(model.params, image))
    best = int(probabilities.argmax())
    maps = jnp.concatenate([cj.explain(model, image, targets=[best, 3]), jnp.zeros((1, 48, 48))])
    figure = cj.show(image, maps, model=model, targets=[best, 3, 7])
    words, name = words_of(figure), model.class_names
    assert f"{name[best]}, p = {probabilities[best]:.2f}" in words
    assert any(text.startswith(f"{name[best]} {probabilities[best]:.0%}") for text in words)
    assert words.count("degenerate") == 1
    shown = figure.axes[0].images[0].get_array()
    facts = model.preprocessing
    np.testing.assert_allclose(shown, np.clip(image * np.asarray(facts.std) + np.asarray(facts.mean), 0, 1), atol=1e-6)
    np.testing.assert_array_equal(figure.axes[1].images[1].get_array(), maps[0])


def test_show_of_a_model_of_ones_own_and_of_none(own, tmp_path):
    image = jax.random.normal(jax.random.key(1), (16, 16, 3))
    one = cj.explain(own, image, targets=2)
    assert "class 2, p = " in " ".join(words_of(cj.show(image, one, model=own, targets=2)))
    figure = cj.show(np.zeros((16, 16, 1), np.uint8), one)
    assert "map" in words_of(figure)
    figure.savefig(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size[0] > 300


@pytest.mark.parametrize(
    ("image_shape", "maps", "given", "words"),
    [
        ((1, 16, 16, 3), np.zeros((16, 16)), {}, r"image: got shape \(1, 16, 16, 3\)"),
        ((16, 16, 3), np.zeros((1, 1, 16, 16)), {}, r"maps: got shape \(1, 1, 16, 16\)"),
        ((16, 16, 3), np.full((16, 16), 3.0), {}, "maps: got values from 3 to 3; accepted: finished maps"),
        ((16, 16, 3), np.full((16, 16), np.nan), {}, "maps: got values from nan"),
        ((16, 16, 3), np.zeros((2, 16, 16)), {"targets": [1]}, "targets: got .*accepted: 2 classes, one per map"),
        ((16, 16, 3), np.zeros((16, 16)), {"targets": [-1]}, "targets: got"),
    ],
)
def test_show_refuses_what_does_not_fit(image_shape, maps, given, words):
    with pytest.raises(cj.CaseJaxError, match=words):
        cj.show(np.zeros(image_shape, np.float32), maps, **given)


def test_show_uses_no_pyplot():
    code = (
        "import sys, numpy as np, case_jax as cj; cj.show(np.zeros((4, 4, 3), np.uint8), np.eye(4)); "
        "print('matplotlib.pyplot' in sys.modules, 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["False", "False"]


# --- evaluate -------------------------------------------------------------------------------------------------------------


def test_evaluate_a_model_of_ones_own(own, scenes, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, scene in enumerate(scenes[:2]):
        Image.fromarray(scene.image).save(photos / f"{i}.png")
    chosen = {"metrics": ["sensitivity"], "tile": 2, "part": 2, "progress": False}
    pixels, table = ((0.5,) * 3, (0.25,) * 3), cj.contrast.random_sets(1, 3)
    run = partial(cj.evaluate, photos, own, methods={"mine": cj.case}, contrast=table, pixels=pixels, **chosen)
    first = run(out=str(tmp_path / "run")).rows()
    assert list(first["method"]) == ["mine", "mine"]
    again = run(out=tmp_path / "run")  # resumes: nothing is left to do
    assert again.rows().equals(first)
    with pytest.raises(cj.CaseJaxError, match=r"out: got .*inside the data"):
        run(out=photos / "run")
    assert again.config()["pixels"] == {"mean": [0.5] * 3, "std": [0.25] * 3}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "pixels: got None; accepted: the pair"),
        ({"pixels": (127.0,) * 3}, "pixels: got "),
        ({"pixels": ((127.0,) * 3, (60.0,) * 3)}, "pixels: got mean .*divide both by 255"),
        ({"model": 3}, "model: got int; accepted: a tapped model"),
    ],
)
def test_evaluate_refuses_before_it_reads(own, tmp_path, given, words):
    with pytest.raises(cj.CaseJaxError, match=words):
        cj.evaluate(**({"data": tmp_path, "model": own} | given))


def test_what_the_front_door_counts_as_pixels_is_no_normalised_image(classifier):
    """No bundled network's normalisation gives such values."""
    for entry in cj.models.MODELS.values():
        for facts in (*entry.weights.values(), entry.torchvision):
            if facts is not None:
                assert ((1 - np.asarray(facts.mean)) / np.asarray(facts.std)).max() < explaining.PIXELS

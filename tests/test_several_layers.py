"""Several layers tapped at once: their maps and gradients against each tapped alone, RefineCAM against stored maps, and what is refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from test_further_cams import assert_close, stored_network

from case_jax import CaseJaxError, finish_maps, grad_cam, tap_function
from case_jax.contrast.sets import Query
from case_jax.imageops import rescale_map
from case_jax.methods import case, contrasted, described, fused, layer_cam, refine_cam
from case_jax.models.taps import vit_taps
from case_jax.models.vit import VisionTransformer
from case_jax.tap import tap_linen, tap_nnx
from case_jax.tap.precision import at_precision

LAYERS = ("first", "second", "third")
IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(12, 12, 3)), jnp.float32)


@pytest.fixture(scope="module")
def stored(golden):
    arrays = golden("further_cams")
    params = {name: jnp.asarray(arrays[name]) for name in ("conv1", "conv2", "conv3", "head")}
    return arrays, tap_function(stored_network, params, "third", jnp.asarray(arrays["images"][0]), layers=LAYERS)


def test_stored_maps_of_several_layers(stored):
    arrays, model = stored

    @jax.jit
    @jax.vmap
    def run(image, targets):
        maps = refine_cam(model.view(model.params, image), Query(targets))
        return finish_maps(maps, image.shape[:2])

    found = run(jnp.asarray(arrays["images"]), jnp.asarray(arrays["targets"]))
    np.testing.assert_allclose(found, arrays["refine"], atol=5e-5)


def test_each_layer_as_if_tapped_alone(stored):
    arrays, model = stored
    image, query = jnp.asarray(arrays["images"][1]), Query(jnp.asarray([1, 4]))
    alone = [tap_function(stored_network, model.params, layer, image) for layer in LAYERS]

    @jax.jit
    def run(image):
        view, singles = model.view(model.params, image), [one.view(one.params, image) for one in alone]
        several = zip(view.views(), singles, view.activations(), strict=True)
        maps = [(grad_cam(v, query), grad_cam(s, query), a, s.activation) for v, s, a in several]
        finished = rescale_map(jnp.stack([finish_maps(grad_cam(s, query), image.shape[:2]) for s in singles]))
        together = {how: fused(grad_cam, how)(view, query) for how in ("product", "maximum", "mean")}
        return maps, together, {"product": finished.prod(0), "maximum": finished.max(0), "mean": finished.mean(0)}

    maps, together, expected = run(image)
    for of_several, of_one, activation, own in maps:
        assert_close(of_several, of_one, share=1e-6)
        assert_close(activation, own, share=1e-6)
    for how, found in together.items():
        assert_close(found, expected[how], share=1e-6)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.early = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
        self.late = nnx.Conv(4, 5, (3, 3), strides=2, rngs=rngs)
        self.twice = nnx.BatchNorm(5, rngs=rngs)
        self.head = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        x = self.late(nnx.relu(self.early(x)))
        return self.head(jnp.tanh(self.twice(self.twice(x))).mean((1, 2)))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Conv(4, (3, 3), 2, name="early")(x)
        x = linen.Conv(5, (3, 3), 2, name="late")(linen.relu(x))
        return linen.Dense(3, name="head")(jnp.tanh(x).mean((1, 2)))


@pytest.fixture(scope="module")
def taps():
    module = Linen()
    variables = module.init(jax.random.key(0), IMAGE[None])
    return {"nnx": partial(tap_nnx, Nnx(nnx.Rngs(0))), "linen": partial(tap_linen, module, variables)}


@pytest.mark.parametrize("kind", ["nnx", "linen"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_layers_of_modules(taps, kind, precision):
    """The tapped layer may be among them; every precision keeps its maps in float32."""
    tap = taps[kind]
    model = at_precision(tap("late", IMAGE, layers=["early", "late"]), precision)

    @jax.jit
    def run(params, image):
        view = model.view(params, image)
        return [(v.activation.shape, grad_cam(v, Query(jnp.arange(3)))) for v in view.views()], view.activations()

    with jax.numpy_dtype_promotion("standard"):
        (_, early), (_, late) = run(model.params, IMAGE)[0]
        activations = run(model.params, IMAGE)[1]
    assert [a.shape for a in activations] == [(6, 6, 4), (3, 3, 5)]
    assert {a.dtype for a in (early, late, *activations)} == {jnp.dtype(jnp.float32)}
    for layer, found in (("early", early), ("late", late)):
        one = tap(layer, IMAGE)
        share = 1e-6 if precision == "float32" else 0.1
        assert_close(
            found, jax.jit(lambda x, one=one: grad_cam(one.view(one.params, x), Query(jnp.arange(3))))(IMAGE), share
        )


def test_a_vision_transformer_has_layers_of_tokens_at_several_depths():
    sizes = {"depth": 2, "image_size": 12, "patch": 4}
    module = VisionTransformer(width=8, heads=2, hidden=8, num_classes=3, **sizes, rngs=nnx.Rngs(0))
    module.heads.head.kernel[...] = jax.random.normal(jax.random.key(1), (8, 3))
    taps = vit_taps(**sizes)
    (layer,) = taps.layers
    assert taps.further(layer) == tuple(f"encoder.layers.encoder_layer_{i}.ln_1" for i in (0, 1))
    assert taps.further("conv_proj") == ()
    model = tap_nnx(module, layer, IMAGE, layers=taps.further(layer), check=False, **taps.options(layer))
    maps = jax.jit(lambda x: fused(layer_cam)(model.view(model.params, x), Query(jnp.arange(2))))(IMAGE)
    assert maps.shape == (2, 12, 12)
    assert float(maps.min()) >= 0
    assert float(maps.max()) == pytest.approx(1, abs=1e-6)


def test_contrast_sets_reach_every_layer(stored):
    arrays, model = stored
    assert described("own", fused(partial(case, eps=0.0))).contrastive
    assert not described("own", fused(grad_cam)).contrastive
    assert described("own", fused(case)).title == "case, maximum over layers"
    query = Query(jnp.asarray([1, 9]), jnp.asarray([[0, 2], [0, 2]]))
    maps = jax.jit(lambda x: fused(case)(model.view(model.params, x), query))(jnp.asarray(arrays["images"][0]))
    assert maps.shape == (2, 24, 20)
    assert np.isnan(maps[1]).all()
    assert float(maps[0].max()) == pytest.approx(1, abs=1e-5)


def test_contrast_and_fusion_in_either_order(stored):
    arrays, model = stored

    @jax.jit
    def run(image):
        view, query = model.view(model.params, image), Query(jnp.asarray([1, 4]))
        return fused(contrasted(grad_cam, "max"))(view, query), contrasted(fused(grad_cam), "max")(view, query)

    first, second = run(jnp.asarray(arrays["images"][0]))
    assert_close(first, second, share=1e-5)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (["erly"], r"layers: 'erly' is unknown\. Did you mean 'early'\?"),
        ("early", "layers: got .*early.*; accepted: paths of layers, in a list, each once"),
        (["early", "early"], "layers: got .*; accepted: paths of layers, in a list, each once"),
        (["early[0]"], "layers: got .*early.*; accepted: layers outside of loops"),
        (["twice"], "layers: 'twice' is evaluated 2 times in one forward pass"),
        (["head"], "layers: .*head.*"),
    ],
)
def test_layers_that_cannot_be_tapped_are_named(taps, layers, words):
    with pytest.raises(CaseJaxError, match=words):
        taps["nnx"]("late", IMAGE, layers=layers)


def test_tags_that_cannot_be_tapped_are_named(stored):
    model = stored[1]
    for layers, words in (("first", "layers: got 'first'; accepted: tags"), (["fist"], r"layers: 'fist' .* 'first'\?")):
        with pytest.raises(CaseJaxError, match=words):
            tap_function(stored_network, model.params, "third", jnp.zeros(model.image_shape), layers=layers)


def test_one_layer_is_not_several(taps):
    model = taps["linen"]("late", IMAGE)
    view = model.view(model.params, IMAGE)
    for call in (refine_cam, fused(layer_cam)):
        with pytest.raises(
            CaseJaxError, match=r"layers: got a model tapped at one layer alone; accepted: .*layers=\[…\]"
        ):
            call(view, Query(jnp.arange(2)))
    with pytest.raises(CaseJaxError, match=r"fusion: 'max' is unknown\. Did you mean 'maximum'\?"):
        fused(layer_cam, "max")

"""Views, queries and tapped models are pytrees: they leave one compiled function and enter another, batched or not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from case_jax import ask, case, tag, tap_function, tap_nnx, topk_logits
from case_jax.contrast import random_sets, table
from case_jax.methods import METHODS
from case_jax.models.digit_resnet import ResidualBlock
from case_jax.tap import tag_head_input, tag_head_output

TARGETS = jnp.asarray([3, 7])


class Net(nnx.Module):
    """What the shipped classifier is made of, once each."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 6, (3, 3), strides=2, rngs=rngs)
        self.block = ResidualBlock(6, 8, rngs=rngs)
        self.head = nnx.Linear(8, 25, rngs=rngs)

    def __call__(self, x):
        return self.head(self.block(jax.nn.relu(self.stem(x))).mean((1, 2)))


@pytest.fixture(scope="module")
def two():
    return jax.random.normal(jax.random.key(0), (2, 16, 16, 3))


@pytest.fixture(scope="module")
def models(two):
    net = Net(nnx.Rngs(0))
    raw = tap_nnx(net, "block.conv2", two[0], linear_head="head")
    return {
        "closed form": raw,
        "pullback": dataclasses.replace(raw, head_kernel=None),
        "earlier layer": tap_nnx(net, "stem", two[0]),
    }


ASKED = [  # what the methods ask a view for
    ("closed form", "case"),
    ("closed form", "ablation_cam"),
    ("closed form", "guided_backprop"),
    ("pullback", "case"),
    ("pullback", "ablation_cam"),
    ("pullback", "softmax_contrast"),
    ("earlier layer", "case"),
    ("earlier layer", "layer_cam"),
    ("earlier layer", "saliency"),
]


@pytest.mark.parametrize(("kind", "method"), ASKED)
def test_a_view_enters_another_compiled_function(models, two, kind, method):
    model, traces = models[kind], []

    def maps(view, targets):
        traces.append(view)
        return METHODS[method].maps(view, ask(view, targets, topk_logits(3, 25)))

    whole = jax.jit(lambda params, x: maps(model.view(params, x), TARGETS))
    view_of, maps_of = jax.jit(model.view), jax.jit(maps)
    expected = [whole(model.params, x) for x in two]
    traces.clear()
    for x, one in zip(two, expected, strict=True):
        view = view_of(model.params, x)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(view))
        np.testing.assert_allclose(maps_of(view, TARGETS), one, rtol=1e-5, atol=1e-5 * np.abs(one).max())
    assert len(traces) == 1

    views = jax.jit(jax.vmap(model.view, in_axes=(None, 0)))(model.params, two)
    batch = jax.jit(jax.vmap(maps, in_axes=(0, None)))(views, TARGETS)
    np.testing.assert_allclose(batch, np.stack(expected), rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_a_view_made_without_a_trace_is_one_too(tapped, images):
    view = tapped.view(tapped.params, images[0])
    expected = case(view, ask(view, TARGETS, topk_logits(3, 25)))
    found = jax.jit(lambda v: case(v, ask(v, TARGETS, topk_logits(3, 25))))(view)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["closed form", "pullback", "earlier layer"])
def test_a_view_of_all_classes_keeps_its_table(models, two, kind):
    model = models[kind]
    view = jax.jit(model.view_all)(model.params, two[0])
    found = jax.jit(lambda v: v.class_weights(jnp.arange(-1, 26)))(view)
    expected = jax.jit(lambda x: model.view(model.params, x).class_weights(jnp.arange(25)))(two[0])
    np.testing.assert_allclose(found[1:-1], expected, rtol=1e-4, atol=1e-6)
    assert np.isnan(found[jnp.asarray([0, -1])]).all()


def test_a_head_with_more_layers_behind_it_is_kept_too():
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 6), (6, 8), (8, 4))]

    def function(params, x):
        features, head, last = params
        z = tag_head_output(tag_head_input(tag(jax.nn.relu(x @ features), "a").mean((0, 1))) @ head)
        return jax.nn.relu(z) @ last

    image = jnp.asarray(rng.normal(size=(5, 5, 3)), jnp.float32)
    model = tap_function(function, params, "a", image, head_kernel=lambda p: p[1])
    view = jax.jit(model.view)(model.params, image)
    found = jax.jit(lambda v: v.class_weights(jnp.arange(4)))(view)
    expected = model.view(model.params, image).pull
    np.testing.assert_allclose(found, [expected(row).mean((0, 1)) for row in jnp.eye(4)], rtol=1e-4, atol=1e-6)


def test_a_query_and_contrast_sets_enter_a_compiled_function(tapped, images):
    view = tapped.view(tapped.params, images[0])
    query = jax.jit(lambda v, sets: ask(v, TARGETS, sets))(view, table(random_sets(3, 25), 25))
    expected = ask(view, TARGETS, random_sets(3, 25))
    np.testing.assert_array_equal(query.contrast, expected.contrast)
    np.testing.assert_allclose(jax.jit(case)(view, query), case(view, expected), rtol=1e-4, atol=1e-5)


def test_a_model_enters_a_compiled_function_with_any_parameters(tapped, images):
    traces = []

    @jax.jit
    def logits(model, x):
        traces.append(model)
        return model.view(model.params, x).logits

    np.testing.assert_allclose(logits(tapped, images[0]), tapped.apply(tapped.params, images[0]), rtol=1e-5, atol=1e-5)
    halved = jax.tree.map(lambda a: a / 2, tapped)
    assert (logits(halved, images[0]) != logits(tapped, images[0])).any()
    assert len(traces) == 1


def test_the_gradient_with_respect_to_a_whole_model(toy, toy_images):
    gradient = jax.grad(lambda model: model.view(model.params, toy_images[0]).logits[0])(toy)
    assert type(gradient) is type(toy)
    expected = jax.grad(lambda params: toy.apply(params, toy_images[0])[0])(toy.params)
    np.testing.assert_allclose(gradient.params["head"], expected["head"], rtol=1e-5)


def test_a_model_prints_no_parameters(toy):
    assert repr(toy) == "TappedModel(layer='features', 5 classes, 6×6×7)"

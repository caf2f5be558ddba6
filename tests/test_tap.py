"""A model split at a layer: the same network as NNX module, Linen module and plain function, against brute force."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from case_jax import CaseJaxError, Query, ask, case, tag, tap_function, tap_linen, tap_nnx, topk_logits
from case_jax.methods import METHODS
from case_jax.models import tap_classifier
from case_jax.tap import check_closed_form, split, tag_head_input
from case_jax.tap.chunking import map_in_chunks

CLASSES, SIZE = 5, 8
EPS = 1e-5


# --- one network, four ways -----------------------------------------------------------------------------------------------


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
        self.bn = nnx.BatchNorm(4, rngs=rngs)
        self.conv2 = nnx.Conv(4, 6, (3, 3), rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(6, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.bn(self.conv1(x)))
        x = nnx.relu(self.conv2(x))
        return self.head(self.drop(x.mean((1, 2))))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x, train=True):
        x = linen.Conv(4, (3, 3), strides=2, name="conv1")(x)
        x = linen.relu(linen.BatchNorm(use_running_average=not train, name="bn")(x))
        x = linen.relu(linen.Conv(6, (3, 3), name="conv2")(x))
        x = linen.Dropout(0.5, deterministic=not train, name="drop")(x.mean((1, 2)))
        return linen.Dense(CLASSES, name="head")(x)


def random_variables():
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(0, 0.5, shape), jnp.float32)

    return {
        "params": {
            "conv1": {"kernel": normal(3, 3, 3, 4), "bias": normal(4)},
            "bn": {"scale": 1 + normal(4), "bias": normal(4)},
            "conv2": {"kernel": normal(3, 3, 4, 6), "bias": normal(6)},
            "head": {"kernel": normal(6, CLASSES), "bias": normal(CLASSES)},
        },
        "batch_stats": {"bn": {"mean": normal(4), "var": jnp.exp(normal(4))}},
    }


def convolve(x, p, stride):
    out = jax.lax.conv_general_dilated(
        x[None], p["kernel"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return out[0] + p["bias"]


def plain_part_1(variables, x, layer):
    """Image to the output of the layer."""
    p, stats = variables["params"], variables["batch_stats"]["bn"]
    x = convolve(x, p["conv1"], 2)
    if layer == "conv1":
        return x
    x = (x - stats["mean"]) / jnp.sqrt(stats["var"] + EPS) * p["bn"]["scale"] + p["bn"]["bias"]
    return convolve(jax.nn.relu(x), p["conv2"], 1)


def plain_part_2(variables, a, layer):
    """Output of the layer to logits."""
    p, stats = variables["params"], variables["batch_stats"]["bn"]
    if layer == "conv1":
        a = (a - stats["mean"]) / jnp.sqrt(stats["var"] + EPS) * p["bn"]["scale"] + p["bn"]["bias"]
        a = convolve(jax.nn.relu(a), p["conv2"], 1)
    return jax.nn.relu(a).mean((0, 1)) @ p["head"]["kernel"] + p["head"]["bias"]


def nnx_net(variables):
    net = NnxNet(nnx.Rngs(0))
    for collection in variables.values():
        for name, values in collection.items():
            for key, value in values.items():
                getattr(getattr(net, name), key)[...] = value
    return net


def image_of(seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(SIZE, SIZE, 3)), jnp.float32)


def tap_plain(layer, head):
    def function(variables, x):
        a = tag(plain_part_1(variables, x, layer), layer)
        p = variables["params"]
        if head is None:
            return plain_part_2(variables, a, layer)
        return tag_head_input(jax.nn.relu(a).mean((0, 1))) @ p["head"]["kernel"] + p["head"]["bias"]

    kernel = (lambda v: v["params"]["head"]["kernel"]) if head else None
    return tap_function(function, random_variables(), layer, image_of(), head_kernel=kernel)


TAPS = {
    "nnx": lambda layer, head: tap_nnx(nnx_net(random_variables()), layer, image_of(), linear_head=head),
    "linen": lambda layer, head: tap_linen(
        LinenNet(), random_variables(), layer, image_of(), linear_head=head, train=False
    ),
    "function": tap_plain,
}
CASES = [("conv1", None), ("conv2", None), ("conv2", "head")]


@pytest.mark.parametrize(("layer", "head"), CASES)
@pytest.mark.parametrize("kind", TAPS)
def test_view_equals_the_explicit_two_part_network(kind, layer, head):
    model, x, variables = TAPS[kind](layer, head), image_of(2), random_variables()
    a = plain_part_1(variables, x, layer)
    logits = plain_part_2(variables, a, layer)
    jacobian = jax.jacrev(lambda a: plain_part_2(variables, a, layer))(a)

    cotangent, some = jnp.arange(5.0), jnp.asarray([4, 4, 1])

    @jax.jit
    def run(params, x, a):
        view, of_all = model.view(params, x), model.view_all(params, x)
        forward = view.activation, view.logits, view.predict(x), view.tail(a), of_all.logits, view.tail(2 * a)
        weights = [v.class_weights(c) for v in (view, of_all) for c in (jnp.arange(5), some[:1], some)]
        return forward, view.pull(cotangent), weights

    (activation, *outputs, doubled), pulled, weights = run(model.params, x, a)
    np.testing.assert_allclose(activation, a, atol=1e-5)
    for output in outputs:
        np.testing.assert_allclose(output, logits, atol=1e-5)
    np.testing.assert_allclose(doubled, plain_part_2(variables, 2 * a, layer), atol=1e-5)
    np.testing.assert_allclose(pulled, jnp.einsum("chwk,c->hwk", jacobian, cotangent), atol=1e-5)
    alpha = jacobian.mean((1, 2))
    for found, expected in zip(weights, 2 * [alpha, alpha[some[:1]], alpha[some]], strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (model.num_classes, model.activation_shape, model.layer) == (CLASSES, a.shape, layer)


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_logits_equal_the_modules_own_forward_pass(kind):
    x = image_of(2)
    if kind == "nnx":
        own = nnx_net(random_variables())
        own.eval()
        expected = own(x[None])[0]
    else:
        expected = LinenNet().apply(random_variables(), x[None], train=False)[0]
    model = TAPS[kind]("conv1", None)
    np.testing.assert_allclose(model.view(model.params, x).logits, expected, atol=1e-6)


# --- what is differentiated -----------------------------------------------------------------------------------------------


def convolutions(function, *args):
    """How many convolutions the compiled program holds."""
    with jax.default_device(jax.devices("cpu")[0]):
        return jax.jit(function).lower(*args).compile().as_text().count(" convolution(")


def everything(model):
    def run(params, x):
        view = model.view_all(params, x)
        return view.logits, view.class_weights(jnp.arange(model.num_classes))

    return run


@pytest.mark.parametrize("kind", TAPS)
@pytest.mark.parametrize(
    ("layer", "extra"), [("conv2", 0), ("conv1", 1)]
)  # behind conv1 lies one convolution to pull back
def test_nothing_before_the_layer_is_differentiated(kind, layer, extra):
    model = TAPS[kind](layer, None)
    assert convolutions(model.apply, model.params, image_of()) == 2
    assert convolutions(everything(model), model.params, image_of()) == 2 + extra


@pytest.mark.parametrize("layer", ["blocks.2", "blocks.2.conv2"])
def test_all_class_weights_cost_no_convolution_in_the_default_classifier(classifier, images, layer):
    model = tap_classifier(classifier, images[0], layer=layer)
    forward = convolutions(model.apply, model.params, images[0])
    assert forward == 9
    assert convolutions(everything(model), model.params, images[0]) == forward


# --- transformations ------------------------------------------------------------------------------------------------------


def with_custom_vjp(f):
    wrapped = jax.custom_vjp(f)
    wrapped.defvjp(lambda *args: jax.vjp(f, *args), lambda residual, ct: residual(ct))
    return wrapped


def with_custom_jvp(f):
    wrapped = jax.custom_jvp(f)
    wrapped.defjvp(lambda primals, tangents: jax.jvp(f, primals, tangents))
    return wrapped


WRAPPERS = {
    "jit": [jax.jit],
    "checkpoint": [jax.checkpoint],
    "custom_vjp": [with_custom_vjp],
    "custom_jvp": [with_custom_jvp],
    "jit of checkpoint of jit": [jax.jit, jax.checkpoint, jax.jit],
    "checkpoint of custom_vjp of jit": [jax.checkpoint, with_custom_vjp, jax.jit],
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_layer_may_lie_inside_nested_transformations(name):
    """The wrapped function holds the layer in its middle: part of the tail is inside, part outside the wrapper."""
    variables, x = random_variables(), image_of(2)

    def inner(variables, x):
        a = tag(plain_part_1(variables, x, "conv1"), "here")
        return plain_part_2(variables, jnp.sin(a), "conv1")

    for wrapper in WRAPPERS[name]:
        inner = wrapper(inner)
    model = tap_function(lambda v, x: 2 * inner(v, x) + x.sum(), variables, "here", x)

    def tail(a):
        return 2 * plain_part_2(variables, jnp.sin(a), "conv1") + x.sum()

    a = plain_part_1(variables, x, "conv1")
    expected = jax.jacrev(tail)(a).mean((1, 2))
    for run in (everything(model), jax.jit(everything(model)), jax.checkpoint(everything(model))):
        logits, weights = run(variables, x)
        np.testing.assert_allclose(logits, tail(a), atol=1e-5)
        np.testing.assert_allclose(weights, expected, atol=1e-6)


@pytest.mark.parametrize("kind", TAPS)
def test_vmap_equals_the_loop(kind):
    model = TAPS[kind]("conv1", None)
    batch = jnp.stack([image_of(s) for s in range(3)])
    logits, weights = jax.jit(jax.vmap(everything(model), (None, 0)))(model.params, batch)
    for i, x in enumerate(batch):
        alone = everything(model)(model.params, x)
        np.testing.assert_allclose(logits[i], alone[0], atol=1e-5)
        np.testing.assert_allclose(weights[i], alone[1], atol=1e-6)


def test_gradient_through_a_case_map_equals_finite_differences():
    with jax.enable_x64(True):
        double = lambda tree: jax.tree.map(lambda v: v.astype(jnp.float64), tree)  # noqa: E731
        variables, x = double(random_variables()), double(image_of(2))

        def function(variables, x):
            return plain_part_2(variables, tag(plain_part_1(variables, x, "conv1"), "here"), "conv1")

        model = tap_function(function, variables, "here", x)
        query = Query(jnp.asarray([0, 3]), jnp.asarray([[1, 2], [4, 0]]))
        weighting = jnp.asarray(np.random.default_rng(3).normal(size=(2, *model.activation_shape[:2])))

        @jax.jit
        def score(at):
            return (case(model.view(*at), query) * weighting).sum()

        at = (variables, x)
        rng = np.random.default_rng(4)
        directions = {
            "parameters": (jax.tree.map(lambda v: jnp.asarray(rng.normal(size=v.shape)), variables), jnp.zeros_like(x)),
            "image": (jax.tree.map(jnp.zeros_like, variables), jnp.asarray(rng.normal(size=x.shape))),
        }
        gradient = jax.jit(jax.grad(score))(at)
        assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradient))

        @jax.jit
        def moved(h, direction):
            return score(jax.tree.map(lambda v, u: v + h * u, at, direction))

        for direction in directions.values():
            numeric = (moved(1e-6, direction) - moved(-1e-6, direction)) / 2e-6
            analytic = sum(np.vdot(g, u) for g, u in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
            assert abs(analytic) > 1e-3
            np.testing.assert_allclose(numeric, analytic, rtol=1e-5)


def test_split_keeps_what_bypasses_the_layer():
    """The tail may use the image, closed-over constants and values from before the layer; they are constants to it."""
    constant = jnp.asarray([1.0, 2.0, 3.0])

    def function(p, x):
        before = p * x
        a = tag(jnp.tanh(before), "a")
        return a * before + x * constant

    p, x = jnp.float32(2.0), jnp.asarray([0.1, -0.4, 0.7])
    a, tail = split(function, "a")(p, x)
    np.testing.assert_allclose(a, jnp.tanh(2 * x), rtol=1e-6)
    np.testing.assert_allclose(tail(a), function(p, x), rtol=1e-6)
    np.testing.assert_allclose(jax.jacrev(tail)(a), jnp.diag(2 * x), rtol=1e-6)


def test_the_layer_may_be_the_output_itself():
    value, tail = split(lambda x: tag(jnp.sin(x), "out"), "out")(jnp.float32(1.0))
    assert float(tail(value)) == float(value) == pytest.approx(np.sin(1.0), rel=1e-6)


# --- one compilation ------------------------------------------------------------------------------------------------------


def test_the_model_is_traced_once_for_all_images_and_all_parameters():
    traces = []

    def function(variables, x):
        traces.append(1)
        return plain_part_2(variables, tag(plain_part_1(variables, x, "conv1"), "here"), "conv1")

    variables = random_variables()
    model = tap_function(function, variables, "here", image_of())
    step = jax.jit(everything(model))
    traces.clear()
    first = step(variables, image_of(1))
    assert len(traces) <= 1
    compiled = len(traces)
    other = jax.tree.map(lambda v: 1.5 * v, variables)
    second = step(other, image_of(1))
    for seed in range(3):
        step(variables, image_of(seed))
    assert len(traces) == compiled
    assert not np.allclose(first[0], second[0])  # the replaced parameters are really used
    step(variables, jnp.zeros((SIZE + 2, SIZE, 3)))
    assert len(traces) > compiled  # the counter does count


# --- closed form ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["blocks.2", "blocks.2.conv2"])
def test_closed_form_equals_the_pullback(classifier, images, layer):
    model = tap_classifier(classifier, images[0], layer=layer)
    assert model.head_kernel is not None
    every = jnp.arange(model.num_classes)

    @jax.jit
    def both(x):
        return [m.view(m.params, x).class_weights(every) for m in (model, replace(model, head_kernel=None))]

    for x in images[:3]:
        closed, pulled = both(x)
        assert float(jnp.abs(pulled).max()) > 0
        np.testing.assert_allclose(closed, pulled, atol=3e-6 * float(jnp.abs(pulled).max()), rtol=0)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("blocks.0", r"head: the closed form .* layer 'blocks.0' differs .* leave the head out"),
        ("blocks.2.conv1", r"head: the closed form .* layer 'blocks.2.conv1' differs .* leave the head out"),
        ("blocks.1", r"head: got 48 inputs behind layer 'blocks.1' of 32 channels.* leave the head out"),
    ],
)
def test_a_tail_that_mixes_channels_has_no_closed_form(classifier, images, layer, message):
    with pytest.raises(CaseJaxError, match=message):
        tap_nnx(classifier.module, layer, images[0], linear_head="head")


def test_a_head_behind_another_layer_has_no_closed_form():
    def function(p, x):
        a = tag(x, "a")
        return jnp.tanh(tag_head_input(a.mean((0, 1))) @ p)

    with pytest.raises(CaseJaxError, match=r"head: the closed form .* not linear"):
        tap_function(function, jnp.eye(3), "a", image_of(), head_kernel=lambda p: p)


def test_the_check_of_the_closed_form_can_be_repeated_on_other_parameters(tapped, images):
    check_closed_form(tapped, images[1], classes=25)
    broken = replace(tapped, head_kernel=lambda params: 1.01 * tapped.head_kernel(params))
    with pytest.raises(CaseJaxError, match=r"differs from the pullback by 0\.01"):
        check_closed_form(broken, images[1])


def test_forward_mode_table_equals_reverse_mode(classifier, images):
    model = tap_classifier(classifier, images[0], layer="blocks.0")  # 16 channels, 25 classes: forward mode is fewer
    assert model.activation_shape[-1] < model.num_classes
    every = jnp.arange(model.num_classes)
    forward = jax.jit(lambda x: model.view_all(model.params, x).class_weights(every))(images[0])
    reverse = jax.jit(lambda x: model.view(model.params, x).class_weights(every))(images[0])
    np.testing.assert_allclose(forward, reverse, atol=2e-6 * float(jnp.abs(reverse).max()), rtol=0)


@pytest.mark.parametrize(("mode", "layer"), [("view", "blocks.2.conv1"), ("view_all", "blocks.0")])
def test_chunk_size_does_not_matter(classifier, images, mode, layer):
    model = tap_classifier(classifier, images[0], layer=layer)

    def weights(chunk):
        chunked = replace(model, chunk=chunk)
        return jax.jit(lambda x: getattr(chunked, mode)(chunked.params, x).class_weights(jnp.arange(25)))(images[0])

    whole = weights(64)
    for chunk in (1, 7):
        np.testing.assert_allclose(weights(chunk), whole, atol=2e-6 * float(jnp.abs(whole).max()), rtol=0)


@pytest.mark.parametrize("chunk", [1, 3, 25, 50, 64])  # 3: a loop with a remainder
def test_chunks_equal_the_whole(chunk):
    inputs = {"a": jnp.arange(50.0), "b": jnp.arange(100.0).reshape(50, 2)}
    whole = jax.vmap(lambda v: {"sum": v["a"] + v["b"].sum(), "b": v["b"]})(inputs)
    parts = map_in_chunks(lambda v: {"sum": v["a"] + v["b"].sum(), "b": v["b"]}, inputs, chunk=chunk)
    jax.tree.map(np.testing.assert_array_equal, parts, whole)


# --- errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["layer", "linear_head"])
@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_wrong_layers_list_the_existing_ones_nearest_first(kind, argument):
    layer, head = ("conv22", None) if argument == "layer" else ("conv2", "heat")
    nearest = "conv2, conv1" if argument == "layer" else "head, "
    with pytest.raises(
        CaseJaxError, match=rf"^{argument}: .* is unknown\. Did you mean .*Known, nearest first: {nearest}"
    ):
        TAPS[kind](layer, head)


def test_a_wrong_tag_lists_the_existing_ones():
    def function(p, x):
        return tag(x, "early").mean((0, 1)) + tag(x.sum(), "late")

    with pytest.raises(
        CaseJaxError, match=r"^layer: 'earl' is unknown\. Did you mean 'early'\? Known, nearest first: early, late\."
    ):
        tap_function(function, (), "earl", image_of())


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_a_head_that_is_not_linear_is_refused(kind):
    with pytest.raises(CaseJaxError, match="linear_head: got 'conv2', a Conv"):
        TAPS[kind]("conv1", "conv2")


class Odd(nnx.Module):
    """Calls `twice` twice, `never` never, and `pair` returns a tuple."""

    def __init__(self, rngs):
        self.twice = nnx.Conv(3, 3, (1, 1), rngs=rngs)
        self.never = nnx.Conv(3, 3, (1, 1), rngs=rngs)
        self.pair = Pair()

    def __call__(self, x):
        x, y = self.pair(self.twice(self.twice(x)))
        return (x + y).mean((1, 2))


class Pair(nnx.Module):
    def __call__(self, x):
        return x, 2 * x


class OddLinen(linen.Module):
    def setup(self):
        self.twice = linen.Conv(3, (1, 1))
        self.never = linen.Conv(3, (1, 1))
        self.pair = PairLinen()

    def __call__(self, x):
        x, y = self.pair(self.twice(self.twice(x)))
        return (x + y).mean((1, 2))


class PairLinen(linen.Module):
    def __call__(self, x):
        return x, 2 * x


def tap_odd(kind, layer):
    if kind == "nnx":
        return tap_nnx(Odd(nnx.Rngs(0)), layer, image_of())
    module = OddLinen()
    return tap_linen(module, module.init(jax.random.key(0), image_of()[None]), layer, image_of())


@pytest.mark.parametrize("kind", ["nnx", "linen"])
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("twice", "'twice' is evaluated 2 times in one forward pass"),
        ("never", "'never' is (evaluated 0 times|unknown)"),
        ("pair", "'pair' returns a tuple"),
    ],
)
def test_layers_that_cannot_be_tapped(kind, layer, message):
    with pytest.raises(CaseJaxError, match=f"^layer: {message}"):
        tap_odd(kind, layer)


def loop(name):
    def inside(x):
        return tag(jnp.sin(x), "here")

    return {
        "scan": lambda p, x: jax.lax.scan(lambda c, _: (inside(c), None), x, length=2)[0].mean((0, 1)),
        "while": lambda p, x: jax.lax.while_loop(lambda c: c.sum() > 1e9, inside, x).mean((0, 1)),
        "cond": lambda p, x: jax.lax.cond(x.sum() > 0, inside, jnp.cos, x).mean((0, 1)),
    }[name]


@pytest.mark.parametrize("name", ["scan", "while", "cond"])
def test_a_layer_inside_a_loop_or_branch_is_refused(name):
    with pytest.raises(
        CaseJaxError, match=rf"layer: 'here' lies inside a '{name}' loop or branch.*tap a layer outside it"
    ):
        tap_function(loop(name), (), "here", image_of())


class Looping(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 3, (1, 1), rngs=rngs)

    def __call__(self, x):
        return jax.lax.scan(lambda c, _: (self.conv(c), None), x, length=3)[0].mean((1, 2))


def test_a_module_inside_a_loop_is_refused_by_its_own_name():
    with pytest.raises(CaseJaxError, match="layer: 'conv' lies inside a 'scan' loop"):
        tap_nnx(Looping(nnx.Rngs(0)), "conv", image_of())


def test_a_declared_head_must_be_tagged():
    with pytest.raises(CaseJaxError, match="tag_head_input"):
        tap_function(lambda p, x: tag(x, "a").mean((0, 1)) @ p, jnp.eye(3), "a", image_of(), head_kernel=lambda p: p)


@pytest.mark.parametrize(
    ("function", "image", "message"),
    [
        (lambda p, x: tag(x, "a").sum(), image_of(), "model: got an output of shape ()"),
        (lambda p, x: tag(x.mean((0, 1)), "a"), image_of(), "layer: got 'a' with an output of shape (3,)"),
        (lambda p, x: tag(x, "a").mean((0, 1)), image_of()[None], "for one image of shape (1, 8, 8, 3)"),
        (lambda p, x: tag(x, "a").mean((0, 1)), jnp.zeros((8, 8, 3), jnp.uint8), "dtype uint8"),
    ],
)
def test_shapes_are_checked_before_anything_runs(function, image, message):
    with pytest.raises(CaseJaxError) as error:
        tap_function(function, (), "a", image)
    assert message in str(error.value)


@pytest.mark.parametrize("shape", [(1, 8, 8, 3), (3, 8, 8), (8, 8)])
def test_a_view_of_a_batch_or_of_channels_first_is_refused(shape):
    model = TAPS["function"]("conv2", None)
    with pytest.raises(CaseJaxError, match=r"image: .* batch with jax\.vmap"):
        model.view(model.params, jnp.zeros(shape))


def test_a_chunk_below_one_is_refused():
    with pytest.raises(CaseJaxError, match="chunk"):
        tap_nnx(nnx_net(random_variables()), "conv1", image_of(), chunk=0)


@pytest.mark.parametrize(("tap", "advice"), [(tap_nnx, "tap_linen"), (tap_linen, "tap_nnx")])
def test_the_other_flax_is_pointed_to(tap, advice):
    args = (LinenNet(), "conv1") if tap is tap_nnx else (nnx_net(random_variables()), {}, "conv1")
    with pytest.raises(CaseJaxError, match=advice):
        tap(*args, image_of())


# --- the user's module ----------------------------------------------------------------------------------------------------


def test_the_users_module_is_untouched():
    net = nnx_net(random_variables())
    net.train()
    batch = jnp.stack([image_of(s) for s in range(4)])
    before = nnx.state(net)
    before = jax.tree.map(
        lambda v: np.asarray(jax.random.key_data(v) if jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else v), before
    )
    model = tap_nnx(net, "conv2", image_of(), linear_head="head")
    model.view(model.params, image_of(2))
    after = nnx.state(net)
    after = jax.tree.map(
        lambda v: np.asarray(jax.random.key_data(v) if jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else v), after
    )
    assert (type(net), type(net.conv2), type(net.head)) == (NnxNet, nnx.Conv, nnx.Linear)
    assert (net.bn.use_running_average, net.drop.deterministic) == (False, False)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    twin = nnx_net(random_variables())
    twin.train()
    np.testing.assert_array_equal(net(batch), twin(batch))  # the same dropout mask and batch statistics too


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_modules_are_evaluated_in_evaluation_mode(mode):
    net = nnx_net(random_variables())
    getattr(net, mode)()
    model = tap_nnx(net, "conv2", image_of())
    x = image_of(2)
    expected = plain_part_2(random_variables(), plain_part_1(random_variables(), x, "conv1"), "conv1")
    for _ in range(2):
        np.testing.assert_allclose(model.view(model.params, x).logits, expected, atol=1e-5)


def test_a_linen_module_in_training_mode_is_the_users_choice():
    """Linen modules have no mode of their own: without `train=False` it is refused, and nothing is guessed."""
    with pytest.raises(CaseJaxError, match=r"'bn' \(BatchNorm\) writes batch_stats .*train=False"):
        tap_linen(LinenNet(), random_variables(), "conv1", image_of())


def test_a_head_that_does_more_than_its_kernel_says_is_refused(classifier, images):
    from case_jax.models import load_classifier

    module = load_classifier().module
    module.head = nnx.LoRALinear(48, 25, lora_rank=4, rngs=nnx.Rngs(0))
    module.head.lora.lora_b[...] += 1.0
    with pytest.raises(CaseJaxError, match=r"head: the closed form .* or the head is not linear"):
        tap_nnx(module, "blocks.2", images[0], linear_head="head")
    model = tap_nnx(module, "blocks.2", images[0])
    evaluated = nnx.view(module, use_running_average=True)
    np.testing.assert_allclose(model.apply(model.params, images[0]), evaluated(images[:1])[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", sorted(n for n in METHODS if not METHODS[n].attention))
def test_models_in_bfloat16_have_maps_in_float32(method):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 8, (3, 3), strides=2, dtype=jnp.bfloat16, rngs=rngs)
            self.head = nnx.Linear(8, 4, rngs=rngs)

        def __call__(self, x):
            return self.head(nnx.relu(self.conv(x)).mean((1, 2)))

    image = jax.random.normal(jax.random.key(0), (12, 12, 3))
    with jax.numpy_dtype_promotion("standard"):  # flax's own layers need it
        model = tap_nnx(Net(nnx.Rngs(0)), "conv", image, linear_head="head", layers=["conv"])
        view = model.view(model.params, image)
        query = ask(view, jnp.arange(2), topk_logits(2, 4), key=jax.random.key(1))
        assert jax.eval_shape(lambda: METHODS[method].maps(view, query)).dtype == jnp.float32


@pytest.mark.parametrize(("count", "chunk", "loops"), [(6, 6, 0), (6, 64, 0), (6, 2, 1), (17, 1, 1), (7, 3, 1)])
def test_more_than_a_chunk_is_a_loop(count, chunk, loops):
    inputs = jnp.arange(float(count))
    program = str(jax.make_jaxpr(lambda a: map_in_chunks(jnp.sin, a, chunk=chunk))(inputs))
    assert program.count("scan[") == loops
    np.testing.assert_allclose(map_in_chunks(jnp.sin, inputs, chunk=chunk), jnp.sin(inputs), rtol=1e-6)


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.grad])
def test_chunks_can_be_transformed(transform):
    def total(x):
        return map_in_chunks(lambda a: jnp.sin(a * x.sum()), jnp.arange(6.0), chunk=2).sum()

    found = transform(total)(jnp.ones((2, 3)) if transform is jax.vmap else jnp.ones(3))
    assert np.isfinite(found).all()

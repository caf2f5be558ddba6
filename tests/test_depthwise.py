"""Depthwise convolutions: the same numbers under everything JAX does, and other code on CPU alone."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.sharding import Mesh, PartitionSpec
from processes import cpu_environment, on_devices

from case_jax.evaluation.cost import flops
from case_jax.models.convnext import ConvNeXt
from case_jax.tap import tag, tap_function, tap_linen, tap_nnx
from case_jax.tap.depthwise import UNROLLED, fast_depthwise
from case_jax.training.network import Network

LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def convolution(x, kernel, *, layout=None, strides=1, padding="SAME", dilation=1, **others):
    rank = x.ndim - 2
    numbers = layout or LAYOUTS[rank]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (strides,) * rank,
        padding,
        rhs_dilation=(dilation,) * rank,
        dimension_numbers=numbers,
        feature_group_count=x.shape[numbers[0].index("C")],
        **others,
    )


def arrays(*, size=(7, 9), taps=(3, 3), channels=6, seed=0):
    rng = np.random.default_rng(seed)
    x, kernel = rng.normal(size=(2, *size, channels)), rng.normal(size=(*taps, 1, channels))
    return jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)


def lowered(function, *args, platform="cpu"):
    return jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()


def assert_close(found, expected, tolerance=2e-5):
    def one(a, b):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * float(jnp.abs(b).max()))

    jax.tree.map(one, found, expected)


CASES = {
    "3×3": ({}, {}),
    "strided": ({}, {"strides": 2}),
    "valid": ({"taps": (2, 3)}, {"padding": "VALID", "strides": 2}),
    "uneven padding": ({}, {"padding": ((0, 1), (3, 1)), "strides": 2}),
    "cropped": ({}, {"padding": ((-1, 0), (0, -2))}),
    "dilated": ({}, {"dilation": 2}),
    "1×1": ({"taps": (1, 1)}, {}),
    "larger than what is written out": ({"taps": (9, 8)}, {"strides": 2}),
    "sequence": ({"size": (11,), "taps": (4,)}, {"strides": 2}),
    "volume": ({"size": (4, 5, 6), "taps": (2, 3, 3)}, {}),
    "two channels": ({"channels": 2}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_convolution(case):
    made, options = CASES[case]
    args = arrays(**made)
    plain = partial(convolution, **options)
    changed = fast_depthwise(plain)

    def all_of(f):
        def loss(x, kernel):
            return jnp.sin(f(x, kernel)).sum()

        return lambda *args: (f(*args), jax.grad(loss, (0, 1))(*args), jax.jvp(f, args, args[::1]))

    assert_close(jax.jit(all_of(changed))(*args), jax.jit(all_of(plain))(*args))
    assert "stablehlo.convolution" in lowered(all_of(plain), *args)
    assert "stablehlo.convolution" not in lowered(all_of(changed), *args)
    assert lowered(all_of(changed), *args, platform="cuda").count("stablehlo.convolution") == lowered(
        all_of(plain), *args
    ).count("stablehlo.convolution")


def test_one_case_is_looped():
    taps = CASES["larger than what is written out"][0]["taps"]
    assert np.prod(taps) > UNROLLED


def test_channels_first():
    x, kernel = arrays()
    moved = jnp.moveaxis(x, -1, 1), jnp.moveaxis(kernel, (3, 2), (0, 1))
    changed = fast_depthwise(partial(convolution, layout=("NCHW", "OIHW", "NCHW"), strides=2))
    found = jax.jit(changed)(*moved)
    assert_close(jnp.moveaxis(found, 1, -1), convolution(x, kernel, strides=2))
    assert "stablehlo.convolution" not in lowered(changed, *moved)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_other_convolutions_are_left_alone(groups):
    """No groups, groups of several channels, and two outputs from each channel."""
    x = jnp.ones((1, 5, 5, 6))
    kernel = jnp.ones((3, 3, 6 // groups, 12))
    f = partial(jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", feature_group_count=groups)
    f = partial(f, dimension_numbers=LAYOUTS[2])
    assert "stablehlo.convolution" in lowered(fast_depthwise(f), x, kernel)


def test_channel_multiplier_two_is_left_alone():
    x, kernel = jnp.ones((1, 5, 5, 6)), jnp.ones((3, 3, 1, 12))
    assert "stablehlo.convolution" in lowered(fast_depthwise(convolution), x, kernel)


def hessian_product(f, x, kernel):
    return jax.jvp(jax.grad(lambda k: jnp.sin(f(x, k)).sum()), (kernel,), (kernel,))


def each_kernel(f, x, kernel):
    return jax.vmap(f, (None, 0))(x, jnp.stack([kernel, -kernel, 2 * kernel]))


TRANSFORMED = {
    "outside jit": lambda f, x, k: f(x, k),
    "batch": lambda f, x, k: jax.vmap(f, (0, None))(jnp.stack([x, -x, 2 * x]), k),
    "batch of kernels": each_kernel,
    "batch of both": lambda f, x, k: (
        jax.vmap(f, (1, None), 1)(x[:, None], k) + jax.vmap(f)(x[None], k[None])[0][:, None]
    ),
    "gradients of a batch": lambda f, x, k: jax.vmap(jax.grad(lambda x, k: f(x[None], k).sum(), 1), (0, None))(x, k),
    "linearised": lambda f, x, k: jax.vmap(jax.linearize(lambda x: jnp.sin(f(x, k)), x)[1])(jnp.stack([x, -x])),
    "pulled back": lambda f, x, k: jax.vmap(jax.vjp(lambda x: jnp.sin(f(x, k)), x)[1])(jnp.stack([x, -x])),
    "second derivative": hessian_product,
    "rematerialised": lambda f, x, k: jax.grad(jax.checkpoint(lambda x: jnp.sin(f(x, k)).sum()))(x),
    "in a loop": lambda f, x, k: jax.lax.scan(lambda c, _: (f(c, k), c.sum()), x, length=3),
    "in a branch": lambda f, x, k: jax.lax.cond(x.sum() > 0, f, lambda x, k: -f(x, k), x, k),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_transformations_before_and_after(name):
    apply, args = TRANSFORMED[name], arrays()
    expected = apply(convolution, *args)
    assert_close(apply(fast_depthwise(convolution), *args), expected)
    inside = fast_depthwise(partial(apply, convolution))
    assert_close(jax.jit(inside)(*args), expected)
    if name not in ("batch of kernels", "gradients of a batch"):  # a batch of gradients in a kernel is not depthwise
        assert "stablehlo.convolution" not in lowered(inside, *args)


def test_on_two_devices(tmp_path):
    environment = on_devices(cpu_environment(tmp_path / "xla"), 2) | {"PYTHONPATH": os.pathsep.join(sys.path)}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    code = f"import {__name__} as tests; tests.check_gradients_on_two_devices()"
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=120, check=True)


def check_gradients_on_two_devices():
    x, kernel = arrays()
    x = jnp.concatenate([x, 2 * x])
    gradient = jax.grad(lambda x, k, f: jnp.sin(f(x, k)).sum(), (0, 1))
    changed = fast_depthwise(convolution)
    mesh = Mesh(np.asarray(jax.devices()), ("d",))
    assert mesh.size == 2
    rows, all_of = PartitionSpec("d"), PartitionSpec()
    split = jax.shard_map(partial(gradient, f=changed), mesh=mesh, in_specs=(rows, all_of), out_specs=(rows, all_of))
    expected = gradient(x, kernel, convolution)
    assert_close(jax.jit(split)(x, kernel), expected)
    mapped = jax.pmap(partial(gradient, f=changed), in_axes=(0, None))
    images, kernels = mapped(x.reshape(2, 2, *x.shape[1:]), kernel)
    assert_close((images.reshape(x.shape), kernels.sum(0)), expected)


def test_custom_rules_stay():
    @jax.custom_vjp
    def straight(x, kernel):
        return convolution(x, kernel)

    straight.defvjp(lambda x, kernel: (convolution(x, kernel), kernel), lambda kernel, g: (7 * g, 0 * kernel))
    x, kernel = arrays()
    changed = fast_depthwise(straight)
    found = jax.grad(lambda x: changed(x, kernel).sum())(x)
    np.testing.assert_array_equal(found, jnp.full_like(x, 7))
    assert "stablehlo.convolution" not in lowered(changed, x, kernel)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_summed_in_float32_and_rounded_once(dtype):
    x, kernel = (a.astype(dtype) for a in arrays(taps=(7, 7)))
    found = jax.jit(fast_depthwise(convolution))(x, kernel)
    exact = convolution(x.astype(jnp.float32), kernel.astype(jnp.float32))
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=float(jnp.finfo(dtype).eps), atol=1e-5)
    wide = fast_depthwise(partial(convolution, preferred_element_type=jnp.float32))
    assert_close(jax.jit(wide)(x, kernel), exact)


def test_what_reads_programs_reads_the_same():
    args = arrays()
    gradient = jax.grad(lambda f, x, k: jnp.sin(f(x, k)).sum(), (1, 2))
    programs = [jax.make_jaxpr(partial(gradient, f))(*args) for f in (convolution, fast_depthwise(convolution))]
    assert flops(programs[0].jaxpr) == flops(programs[1].jaxpr) > 0
    names = [[eqn.primitive.name for eqn in program.jaxpr.eqns] for program in programs]
    assert names[0].count("conv_general_dilated") == names[1].count("conv_general_dilated") == 3


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Conv(8, (3, 3), feature_group_count=8, name="depthwise")(linen.Conv(8, (1, 1))(x))
        return linen.Dense(3, name="head")(jax.nn.relu(x).mean((1, 2)))


def tapped(kind):
    image = jnp.asarray(np.random.default_rng(3).normal(size=(32, 32, 3)), jnp.float32)
    if kind == "linen":
        module = Linen()
        return tap_linen(module, module.init(jax.random.key(0), image[None]), "depthwise", image, linear_head="head")
    if kind == "nnx":
        module = ConvNeXt((1,), (8,), kernel=5, num_classes=3, rngs=nnx.Rngs(0))
        return tap_nnx(module, "features.1.0.block.0", image, layers=("features.1",))
    x, kernel = arrays(size=(32, 32), channels=3)

    def function(params, x):
        return tag(convolution(x[None], params)[0], "map").sum((0, 1))

    return tap_function(function, kernel, "map", x[0])


@pytest.mark.parametrize("kind", ["linen", "nnx", "function"])
def test_every_adapter_has_it_and_training_too(kind):
    model = tapped(kind)
    image = jnp.ones(model.image_shape)
    assert "feature_group_count = 1 " in lowered(model.apply, model.params, image) or kind == "function"
    for f in (model.apply, jax.grad(lambda p, x: model.apply(p, x).sum(), (0, 1))):
        text = lowered(f, model.params, image)
        assert f"feature_group_count = {model.activation_shape[-1]} " not in text
        assert f"batch_group_count = {model.activation_shape[-1]} " not in text
    if kind == "nnx":
        assert "feature_group_count = 8 " not in lowered(
            lambda p, x: model.view(p, x).activations(), model.params, image
        )


def test_training_has_it():
    network = Network(ConvNeXt((1,), (8,), kernel=5, num_classes=3, rngs=nnx.Rngs(0)))

    def loss(variables, images):
        return network(variables, images, train=True)[0].sum()

    text = lowered(jax.grad(loss), network.variables, jnp.ones((2, 32, 32, 3)))
    assert "group_count = 8 " not in text
    assert "stablehlo.convolution" in text

"""The ImageNet networks: stored numbers of torchvision and timm, symmetry, precisions, module names."""

import gzip
import json
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from case_jax import CaseJaxError, tap_nnx
from case_jax.models import convnext, densenet, resnet, swin, vgg, vit
from case_jax.models.layers import AvgPool, MaxPool
from case_jax.models.torch_names import MapLinear, from_torch, network_sizes
from case_jax.models.vgg import AdaptiveAvgPool
from case_jax.models.weights import abstract
from case_jax.tap.flax_nnx import sub_modules

TINY = {
    "resnet_bottleneck": (resnet.FAMILY, "layer4.0.conv3"),
    "resnet_basic": (resnet.FAMILY, "layer4.1.conv2"),
    "vgg_bn": (vgg.FAMILY, "features.25"),
    "densenet": (densenet.FAMILY, "features.denseblock4.denselayer2.conv2"),
    "convnext": (convnext.FAMILY, "features.7.1.block.0"),
    "convnext_timm": (convnext.FAMILY, "features.7.1.block.0"),
    "swin": (swin.FAMILY, "features.3"),
}
VITS = {
    "vit": {},
    "vit_timm": {},
    "vit_deit3": {"placed": False, "layer_scale": True},
    "vit_registers": {"placed": False, "class_token": False, "registers": 3},
}


def state_of(golden, name):
    """The stored parameters; those that are kept in 16 bits are float32 numbers of few digits."""
    found = {key.removeprefix("state/"): a for key, a in golden(name).items() if key.startswith("state/")}
    return {key: a.astype(np.float32) if a.dtype == np.float16 else a for key, a in found.items()}


def fill(module, arrays):
    """The module in evaluation mode, every variable replaced."""
    flat = nnx.to_flat_state(nnx.state(module))
    filled = {path: variable.replace(jnp.asarray(arrays[".".join(map(str, path))])) for path, variable in flat}
    nnx.update(module, nnx.from_flat_state(filled))
    module.eval()
    return module


@pytest.fixture(scope="module")
def network(golden):
    """A tiny network with the stored parameters, its sizes read from them; built once."""
    built = {}

    def load(name):
        if name not in built:
            state = state_of(golden, name)
            if name in VITS:
                family = vit.FAMILY
                sizes = {"width": 16, "depth": 2, "heads": 2, "hidden": 40, "patch": 8, "image_size": 32}
                sizes |= {"num_classes": 10, **VITS[name]}
            else:
                family = TINY[name][0]
                sizes = network_sizes({key: a.shape for key, a in state.items()}, family)
            module = nnx.eval_shape(lambda: family.build(**sizes, rngs=nnx.Rngs(0)))
            built[name] = fill(module, from_torch(state, module, family=family))
        return built[name]

    return load


def assert_near(found, stored):
    """Within 2e-5 of the largest magnitude: a wrong ε or an approximate GELU is further off."""
    np.testing.assert_allclose(found, stored, rtol=0, atol=2e-5 * np.abs(stored).max())


def tapped_outputs(module, layer, x, **options):
    """Logits and activations of a batch, through the tap."""
    model = tap_nnx(module, layer, x[0], **options)

    @jax.jit
    @jax.vmap
    def run(x):
        view = model.view(model.params, x)
        return view.logits, view.activation

    return run(x)


@pytest.mark.parametrize("name", TINY)
def test_logits_and_activations_are_the_reference_s(golden, network, name):
    stored = golden(name)
    for size in [""] + ["_large"] * ("x_large" in stored):
        x = jnp.asarray(stored[f"x{size}"].transpose(0, 2, 3, 1), jnp.float32)
        logits, a = tapped_outputs(network(name), TINY[name][1], x)
        assert_near(logits, stored[f"logits{size}"])
        a_stored = stored[f"act{size}"]
        assert_near(a, a_stored if name == "swin" else a_stored.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("name", VITS)
def test_a_vision_transformer_s_logits_and_tokens_are_the_reference_s(golden, network, name):
    stored = golden(name)
    x = jnp.asarray(stored["x"].transpose(0, 2, 3, 1), jnp.float32)
    logits, a = tapped_outputs(
        network(name), "encoder.layers.encoder_layer_1.ln_1", x, token_grid=(4, 4), prefix_tokens=network(name).prefix
    )
    assert_near(logits, stored["logits"])
    assert_near(a.reshape(2, 16, 16), stored["act"][:, -16:])


@pytest.mark.parametrize("name", ["resnet_bottleneck", "vgg_bn", "densenet", "convnext"])
def test_transposed_kernels_on_a_transposed_image_give_the_same_logits(network, name):
    graph, state = nnx.split(network(name))
    run = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 72, 56, 3)), jnp.float32)
    turned = nnx.merge(graph, state, copy=True)
    for _, part in nnx.iter_modules(turned):
        if isinstance(part, nnx.Conv):
            part.kernel[...] = part.kernel[...].swapaxes(0, 1)
        elif isinstance(part, MapLinear):
            kernel = part.kernel[...]
            grid = kernel.reshape(*part.window, -1, kernel.shape[-1])
            part.kernel[...] = grid.swapaxes(0, 1).reshape(kernel.shape)
    logits = run(state, x)
    assert logits.shape == (1, 10)
    assert_near(run(nnx.state(turned), x.swapaxes(1, 2)), logits)
    assert np.abs(run(state, x[:, ::-1]) - logits).max() > 1e-3 * np.abs(logits).max()


@pytest.mark.parametrize("name", [*TINY, *VITS])
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_parameters_of_another_precision_give_logits_of_that_precision(golden, network, name, dtype):
    with jax.enable_x64(dtype == "float64"):
        graph, state = nnx.split(network(name))
        state = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, dtype), state)
        x = jax.ShapeDtypeStruct(golden(name)["x"].transpose(0, 2, 3, 1).shape, dtype)
        logits = jax.eval_shape(lambda state, x: nnx.merge(graph, state)(x), state, x)
        assert logits.dtype == dtype


NAMED = {
    "resnet18": (resnet.resnet18, ("layer4.1.conv2", "layer4.1", "layer4", "maxpool", "layer2.0.downsample.0", "fc")),
    "resnet50": (resnet.resnet50, ("layer4.2.conv3", "layer4.2.bn3", "layer1.0.downsample.1", "layer4.2", "fc")),
    "vgg19_bn": (
        vgg.vgg19_bn,
        ("features.49", "features.50", "features.51", "features.52", "classifier.0", "classifier.6"),
    ),
    "densenet201": (
        densenet.densenet201,
        (
            "features.denseblock4.denselayer32.conv2",
            "features.denseblock4",
            "features.norm5",
            "features.transition3.pool",
            "relu",
            "classifier",
        ),
    ),
    "convnext_large": (
        convnext.convnext_large,
        ("features.7.2.block.0", "features.7.2", "features.6.1", "classifier.2"),
    ),
    "swin_tiny": (swin.swin_tiny, ("features.7.1.attn.proj", "features.6.reduction", "norm", "head")),
    "vit_b_16": (vit.vit_b_16, ("encoder.layers.encoder_layer_11.ln_1", "encoder.ln", "conv_proj", "heads.head")),
}


@pytest.mark.parametrize("name", NAMED)
def test_modules_have_torchvision_s_paths(name):
    build, paths = NAMED[name]
    known = sub_modules(abstract(build, 13))
    assert set(paths) <= set(known)
    head = known[paths[-1]]
    assert isinstance(head, nnx.Linear)
    assert head.out_features == 13


@pytest.mark.parametrize("size", [(1, 3), (7, 7), (2, 9), (14, 15)])
def test_adaptive_pooling_averages_the_documented_windows(size):
    x = np.random.default_rng(0).normal(size=(1, *size, 2)).astype(np.float32)
    h, w = size
    expected = np.zeros((1, 7, 7, 2), np.float32)
    for i in range(7):
        for j in range(7):
            rows = slice(int(np.floor(i * h / 7)), int(np.ceil((i + 1) * h / 7)))
            columns = slice(int(np.floor(j * w / 7)), int(np.ceil((j + 1) * w / 7)))
            expected[0, i, j] = x[0, rows, columns].mean((0, 1))
    np.testing.assert_allclose(AdaptiveAvgPool((7, 7))(jnp.asarray(x)), expected, atol=1e-6)


def test_pools_drop_the_rest_and_count_padding_as_nothing():
    x = -1 - jnp.arange(25.0, dtype=jnp.float32).reshape(1, 5, 5, 1)
    np.testing.assert_array_equal(MaxPool(3, stride=2, padding=1)(x)[0, :, :, 0], x[0, [0, 1, 3]][:, [0, 1, 3], 0])
    np.testing.assert_array_equal(MaxPool(2, stride=2)(x)[0, :, :, 0], x[0, 0:4:2, 0:4:2, 0])
    np.testing.assert_allclose(AvgPool()(x)[0, :, :, 0], [[-4.0, -6.0], [-14.0, -16.0]])


@pytest.mark.parametrize("name", ["vgg_bn", "densenet", "convnext"])
def test_images_that_leave_no_map_are_refused(network, name):
    with pytest.raises(CaseJaxError, match=r"image: got 28×90 pixels; accepted: at least (29|32)"):
        network(name)(jnp.zeros((1, 28, 90, 3)))


def test_a_vision_transformer_takes_one_size_only(network):
    with pytest.raises(CaseJaxError, match=r"image: got 32×48 pixels; accepted: 32×32 pixels"):
        network("vit")(jnp.zeros((1, 32, 48, 3)))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"heads": 3}, "heads: got 3; accepted: a divisor of the width 16"),
        ({"heads": 0}, "heads: got 0"),
        ({"image_size": 30}, "image_size: got 30; accepted: a multiple of the patch side 8"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(sizes, message):
    given = {"width": 16, "depth": 1, "heads": 2, "hidden": 8, "patch": 8, "image_size": 32} | sizes
    with pytest.raises(CaseJaxError, match=message):
        vit.VisionTransformer(**given, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("heads", "message"), [((1,), "heads: got .1,.; accepted: one number for each of the 2"), ((1, 3), "divisors")]
)
def test_a_swin_transformer_s_heads_must_fit(heads, message):
    with pytest.raises(CaseJaxError, match=message):
        swin.SwinTransformer(width=8, depths=(1, 1), heads=heads, window=3, rngs=nnx.Rngs(0))


def test_shifted_windows_are_masked_as_the_paper_s_figure_says():
    """A map of 4×4 positions, windows of 2, shifted by 1: only the first window is one region."""
    mask = swin.apart((4, 4), 2, (1, 1)) == 0
    assert mask[0].all()
    np.testing.assert_array_equal(mask[1], [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]])
    np.testing.assert_array_equal(mask[2], [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
    np.testing.assert_array_equal(mask[3], np.eye(4))
    assert (swin.apart((4, 4), 2, (0, 0)) == 0).all()


def test_windows_and_back_is_nothing():
    x = np.random.default_rng(0).normal(size=(2, 6, 9, 4)).astype(np.float32)
    np.testing.assert_array_equal(swin.from_windows(swin.in_windows(jnp.asarray(x), 3), 3, (6, 9)), x)


def seeded(key, shape):
    """An array that hangs on its key alone; goldens/README.md."""
    a = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape, np.float32)
    if (len(shape) == 1 and key.endswith("weight")) or key.endswith("gamma"):
        return 1 + a * np.float32(0.1)
    plain = len(shape) == 1 or "pos" in key or "token" in key
    return a * np.float32(0.1 if plain else 1 / np.sqrt(np.prod(shape[1:])))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("listed", "build", "size", "stored"),
    [
        ("timm", swin.swin_tiny, (224, 224), "swin_tiny_patch4_window7_224"),
        ("torchvision", swin.swin_tiny, (200, 232), "swin_t"),
        ("timm", vit.deit3_s_16, (224, 224), "deit3_small_patch16_224"),
        ("timm", vit.vit_medium_reg4, (256, 256), "vit_medium_patch16_reg4_gap_256"),
    ],
)
def test_transformers_of_full_size_give_the_reference_s_logits(golden, listed, build, size, stored):
    path = Path(__file__).parent / "goldens" / "keys" / f"{listed}.json.gz"
    shapes = json.loads(gzip.decompress(path.read_bytes()))["networks"][build.__name__]
    state = {key: seeded(key, tuple(shape)) for key, shape in shapes.items() if not key.endswith("_index")}
    family = swin.FAMILY if build is swin.swin_tiny else vit.FAMILY
    module = abstract(build, 1000)
    graph, variables = nnx.split(fill(module, from_torch(state, module, family=family)))
    x = jnp.asarray(np.random.default_rng(7).standard_normal((1, *size, 3), np.float32))
    assert_near(jax.jit(lambda v, x: nnx.merge(graph, v)(x))(variables, x)[0], golden("transformers")[stored])


def test_a_new_network_can_be_trained():
    """Gradients reach every parameter, batch statistics follow the batch, and dropout draws from the given key."""
    module = nnx.jit(lambda: vgg.VGG(((4,), (6,)), hidden=(8, 9), num_classes=3, rngs=nnx.Rngs(0)))()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32, 32, 3)), jnp.float32)
    before = np.asarray(module.features[1].mean[...])

    @nnx.jit
    def step(module, x, key):
        return nnx.value_and_grad(lambda m: (m(x, rngs=nnx.Rngs(key)) ** 2).sum())(module)

    (first, grads), (again, _), (other, _) = (step(module, x, jax.random.key(seed)) for seed in (0, 0, 1))
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads))
    assert float(first) == float(again) != float(other)
    assert np.abs(np.asarray(module.features[1].mean[...]) - before).max() > 0
    module.eval()
    without, given = nnx.jit(lambda m, x: (m(x), m(x, rngs=nnx.Rngs(0))))(module, x)
    np.testing.assert_array_equal(without, given)

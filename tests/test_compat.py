"""Other people's models, untouched: Grad-CAM and CASE of all classes against gradients written by hand.

Packages of the extra `compat`; a test whose package is missing is skipped. Weights are small and random. flaxmodels 0.1.3, jax-resnet 0.0.4 and
transformers 4.57, the last release line with Flax, install in half a minute beside the newest JAX.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # read at the first import of keras

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compat import CLASSES, EXTRA, compare, image_of
from flax import linen, nnx

from case_jax import (
    CaseJaxError,
    tap_equinox,
    tap_haiku,
    tap_keras,
    tap_linen,
    tap_nnx,
)

pytestmark = [pytest.mark.compat, pytest.mark.usefixtures("promotion_as_users_have_it")]
WITHIN = 1e-4


def random_variables(module, image, **call):
    """Random numbers in place of what `init` would give, which takes minutes without a compiler."""
    rng = np.random.default_rng(1)

    def drawn(path, leaf):
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        name = path[-1].key
        if name == "kernel":
            return jnp.asarray(noise / np.sqrt(np.prod(leaf.shape[:-1])))
        return jnp.asarray(1 + 0.1 * np.abs(noise) if name in ("scale", "var") else 0.1 * noise)

    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), image[None], **call))
    return jax.tree_util.tree_map_with_path(drawn, shapes)


def by_hand(module, variables, layer, image, pick=lambda out: out, **call):
    """The layer's output and every logit's gradient in it: that of a perturbation which is added to the output."""
    seen = []

    def logits(added):
        def intercept(function, args, kwargs, context):
            out = function(*args, **kwargs)
            if context.method_name != "__call__" or ".".join(context.module.path) != layer:
                return out
            seen.append(out)
            return out + added

        with linen.intercept_methods(intercept):
            return pick(module.apply(variables, image[None], **call))[0]

    shape = jax.eval_shape(lambda: (logits(0.0), seen.pop())[1]).shape

    def everything(added):
        found = logits(added)
        activation = seen.pop()
        _, pull = jax.vjp(logits, added)
        gradients = jax.vmap(lambda row: pull(row)[0])(jnp.eye(CLASSES))
        seen.clear()
        return activation[0], gradients[:, 0], found

    return jax.jit(everything)(jnp.zeros(shape))


def compare_linen(module, variables, layer, image, **call):
    expected = by_hand(module, variables, layer, image, **call)
    compare(tap_linen(module, variables, layer, image, **call), image, *expected, within=WITHIN)


def test_flaxmodels_resnet50():
    flaxmodels = pytest.importorskip("flaxmodels", reason=EXTRA)
    module, image = (
        flaxmodels.ResNet50(pretrained=None, normalize=False, output="logits", num_classes=CLASSES),
        image_of(64, 64),
    )
    compare_linen(module, random_variables(module, image, train=False), "Bottleneck_12", image, train=False)


def test_jax_resnet():
    jax_resnet = pytest.importorskip("jax_resnet", reason=EXTRA)
    module, image = jax_resnet.ResNet18(n_classes=CLASSES), image_of(64, 64)
    compare_linen(module, random_variables(module, image), "layers_7", image)


@pytest.mark.parametrize(
    ("kind", "layer", "config"),
    [
        ("resnet", "resnet.encoder.stages.0", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}),
        (
            "vit",
            "vit.embeddings.patch_embeddings.projection",
            {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
            | {"image_size": 32, "patch_size": 8},
        ),
    ],
)
def test_transformers(kind, layer, config):
    transformers = pytest.importorskip("transformers", reason=EXTRA, minversion="4.57")
    name = {"resnet": "ResNet", "vit": "ViT"}[kind]
    if not hasattr(transformers, f"Flax{name}ForImageClassification"):
        pytest.skip(f"transformers {transformers.__version__} has no Flax models; the last that has is 4.57")
    model = getattr(transformers, f"Flax{name}ForImageClassification")
    config = getattr(transformers, f"{name}Config")(**config, num_labels=CLASSES)
    module, image = model.module_class(config), image_of(32, 32)
    variables = random_variables(module, image)
    tapped = tap_linen(module, variables, layer, image, output="logits")
    compare(tapped, image, *by_hand(module, variables, layer, image, pick=lambda out: out.logits), within=WITHIN)


class Block(nnx.Module):
    def __init__(self, width, rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, width, decode=False, rngs=rngs)
        self.mlp = nnx.Linear(width, width, rngs=rngs)
        self.drop = nnx.Dropout(0.5)

    def __call__(self, x, *, rngs, deterministic):
        x = x + self.attention(self.norm1(x))
        return x + self.drop(nnx.gelu(self.mlp(self.norm2(x))), deterministic=deterministic, rngs=rngs)


class ViT(nnx.Module):
    """A vision transformer whose call demands a random generator and a flag."""

    def __init__(self, rngs, width=16):
        self.patches = nnx.Conv(3, width, (8, 8), strides=8, rngs=rngs)
        self.blocks = nnx.List([Block(width, rngs) for _ in range(2)])
        self.norm, self.head = nnx.LayerNorm(width, rngs=rngs), nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(self, x, *, rngs, deterministic):
        x = self.patches(x)
        x = x.reshape(len(x), -1, x.shape[-1])
        for block in self.blocks:
            x = block(x, rngs=rngs, deterministic=deterministic)
        return self.head(self.norm(x).mean(1))


def test_an_nnx_transformer_that_demands_a_generator():
    net, image = ViT(nnx.Rngs(0)), image_of(32, 32)
    quiet = {"rngs": nnx.Rngs(0), "deterministic": True}
    model = tap_nnx(net, "blocks.1.norm1", image, token_grid=(4, 4), **quiet)

    def tail(x, a):
        """What follows the first norm of the last block, to which x is added."""
        last = net.blocks[1]
        x = x + last.attention(a)
        return net.head(net.norm(x + last.drop(nnx.gelu(last.mlp(last.norm2(x))), **quiet)).mean(1))[0]

    @jax.jit
    def by_hand(image):
        x = net.blocks[0](net.patches(image[None]).reshape(1, 16, -1), **quiet)
        a = net.blocks[1].norm1(x)
        gradients = jax.jacobian(lambda a: tail(x, a))(a)[:, 0]
        return a[0].reshape(4, 4, -1), gradients.reshape(CLASSES, 4, 4, -1), tail(x, a), net(image[None], **quiet)[0]

    *found, whole = by_hand(image)
    np.testing.assert_allclose(found[-1], whole, atol=1e-5)
    compare(model, image, *found, within=WITHIN)


TAPS = {
    "tap_keras": lambda model: tap_keras(model, "a", image_of(8, 8)),
    "tap_equinox": lambda model: tap_equinox(model, "a", image_of(8, 8)),
    "tap_haiku": lambda model: tap_haiku(model, {}, None, "a", image_of(8, 8)),
    "tap_nnx": lambda model: tap_nnx(model, "a", image_of(8, 8)),
    "tap_linen": lambda model: tap_linen(model, {}, "a", image_of(8, 8)),
}


@pytest.mark.parametrize(
    ("library", "right", "model_of"),
    [
        ("keras", "tap_keras", lambda keras: keras.layers.Dense(3)),
        ("equinox", "tap_equinox", lambda eqx: eqx.nn.Linear(3, 3, key=jax.random.key(0))),
        ("haiku", "tap_haiku", lambda hk: hk.transform(lambda x: x)),
        ("flax", "tap_nnx", lambda _: nnx.Linear(3, 3, rngs=nnx.Rngs(0))),
        ("flax", "tap_linen", lambda _: linen.Dense(3)),
    ],
)
def test_the_wrong_adapter_names_the_right_one(library, right, model_of):
    model = model_of(pytest.importorskip(library, reason=EXTRA))
    for other in TAPS.keys() - {right}:
        with pytest.raises(CaseJaxError, match=rf"accepted.*: {right}\("):
            TAPS[other](model)

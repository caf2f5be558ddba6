"""Layers inside loops: transformers whose blocks are scanned, against the same blocks in a Python loop and gradients by hand."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from case_jax import CaseJaxError, case, grad_cam, tag, tap_function, tap_linen, tap_nnx, topk_logits
from case_jax.contrast import ask

CLASSES, WIDTH, DEPTH, GRID = 6, 8, 3, (3, 2)
IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(12, 8, 3)), jnp.float32)


def image_tokens(embedded, token):
    """Those of the image behind a class token."""
    return jnp.concatenate([jnp.broadcast_to(token, (1, 1, WIDTH)), embedded.reshape(1, -1, WIDTH)], 1)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, WIDTH, decode=False, rngs=rngs)
        self.mlp = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.behind(x, self.norm1(x))

    def behind(self, x, normed):
        x = x + self.dropout(self.attention(normed))
        return x + jax.nn.gelu(self.mlp(self.norm2(x)))


class Scanned(nnx.Module):
    """A vision transformer whose blocks are one stack."""

    def __init__(self, rngs):
        self.embed = nnx.Conv(3, WIDTH, (4, 4), strides=4, padding="VALID", rngs=rngs)
        self.token = nnx.Param(jax.random.normal(rngs.params(), (1, 1, WIDTH)))
        self.layers = nnx.split_rngs(splits=DEPTH)(nnx.vmap(Block))(rngs)
        self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def encoded(x, block):
            return block(x)

        return self.head(encoded(image_tokens(self.embed(x), self.token[...]), self.layers)[:, 0])


class ScannedBlock(linen.Module):
    @linen.compact
    def __call__(self, x, _):
        x = x + linen.MultiHeadDotProductAttention(2, name="attention")(linen.LayerNorm(name="norm1")(x))
        return x + jax.nn.gelu(linen.Dense(WIDTH, name="mlp")(linen.LayerNorm(name="norm2")(x))), None


class Encoder(linen.Module):
    @linen.compact
    def __call__(self, x):
        scanned = linen.scan(ScannedBlock, variable_axes={"params": 0}, split_rngs={"params": True}, length=DEPTH)
        return scanned(name="layers")(x, None)[0]


class InLinen(linen.Module):
    @linen.compact
    def __call__(self, x):
        embedded = linen.Conv(WIDTH, (4, 4), strides=4, padding="VALID", name="embed")(x)
        token = self.param("token", linen.initializers.normal(1.0), (1, 1, WIDTH))
        return linen.Dense(CLASSES, name="head")(Encoder(name="encoder")(image_tokens(embedded, token))[:, 0])


@cache
def networks():
    """In NNX, evaluating; in Linen with its variables."""
    net, other = Scanned(nnx.Rngs(0)), InLinen()
    net.eval()
    return net, (other, jax.jit(other.init)(jax.random.key(0), IMAGE[None]))


def nnx_pair(number, of_block):
    """A scanned network's tap, and the tokens before the layer and the logits of those behind it, block after block."""
    net = networks()[0]
    graph, stack = nnx.split(net.layers)
    blocks = [nnx.merge(graph, jax.tree.map(lambda a, i=i: a[i], stack)) for i in range(DEPTH)]

    def before(x):
        tokens = image_tokens(net.embed(x[None]), net.token[...])
        for block in blocks[: number % DEPTH]:
            tokens = block(tokens)
        return tokens, blocks[number](tokens) if of_block else blocks[number].norm1(tokens)

    def behind(tokens, tapped):
        tokens = tapped if of_block else blocks[number].behind(tokens, tapped)
        for block in blocks[number % DEPTH + 1 :]:
            tokens = block(tokens)
        return net.head(tokens[:, 0])[0]

    layer = f"layers[{number}]" + ("" if of_block else ".norm1")
    return tap_nnx(net, layer, IMAGE, token_grid=GRID, prefix_tokens=1), before, behind


def linen_pair(number, of_block):
    net, variables = networks()[1]
    params = variables["params"]
    blocks = [jax.tree.map(lambda a, i=i: a[i], params["encoder"]["layers"]) for i in range(DEPTH)]

    def whole(i, tokens):
        return ScannedBlock().apply({"params": blocks[i]}, tokens, None)[0]

    def from_norm(i, tokens, tapped):
        attention = linen.MultiHeadDotProductAttention(2)
        tokens = tokens + attention.apply({"params": blocks[i]["attention"]}, tapped)
        normed = linen.LayerNorm().apply({"params": blocks[i]["norm2"]}, tokens)
        return tokens + jax.nn.gelu(linen.Dense(WIDTH).apply({"params": blocks[i]["mlp"]}, normed))

    def before(x):
        embedded = linen.Conv(WIDTH, (4, 4), strides=4, padding="VALID").apply({"params": params["embed"]}, x[None])
        tokens = image_tokens(embedded, params["token"])
        for i in range(number % DEPTH):
            tokens = whole(i, tokens)
        norm = linen.LayerNorm()
        if of_block:
            return tokens, whole(number, tokens)
        return tokens, norm.apply({"params": blocks[number]["norm1"]}, tokens)

    def behind(tokens, tapped):
        tokens = tapped if of_block else from_norm(number, tokens, tapped)
        for i in range(number % DEPTH + 1, DEPTH):
            tokens = whole(i, tokens)
        return linen.Dense(CLASSES).apply({"params": params["head"]}, tokens[:, 0])[0]

    layer = f"encoder.layers[{number}]" + ("" if of_block else ".norm1")
    return tap_linen(net, variables, layer, IMAGE, token_grid=GRID, prefix_tokens=1), before, behind


CASES = [(nnx_pair, -1, False), (nnx_pair, 1, True), (linen_pair, 0, False), (linen_pair, -2, True)]


@pytest.mark.parametrize(("pair", "number", "of_block"), CASES)
def test_a_scanned_transformer_equals_its_blocks_one_after_the_other(pair, number, of_block):
    model, before, behind = pair(number, of_block)
    contrast, classes = topk_logits(2, CLASSES), jnp.arange(CLASSES)

    @jax.jit
    def found_and_expected(params, x):
        view = model.view_all(params, x)
        tokens, tapped = before(x)
        gradients = jax.jacrev(lambda a: behind(tokens, a))(tapped)[:, 0, 1:]
        by_hand = replace(
            view,
            logits=behind(tokens, tapped),
            activation=tapped[0, 1:].reshape(*GRID, WIDTH),
            class_weights=lambda chosen: gradients.mean(1)[chosen],
        )
        maps = [[m(v, ask(v, classes, contrast)) for m in (grad_cam, case)] for v in (view, by_hand)]
        return (view.logits, *maps[0]), (by_hand.logits, *maps[1])

    for found, expected in zip(*found_and_expected(model.params, IMAGE), strict=True):
        assert np.asarray(expected).max() > 0
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


# --- loops of one's own ---------------------------------------------------------------------------------------------------

W = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 4, 4)) / 2, jnp.float32)
X = jnp.asarray(np.random.default_rng(2).normal(size=(3, 3, 4)), jnp.float32)


def nested(reverse, unroll=1):
    """Two loops, the outer one forwards or backwards, inside calls; what they stack counts too."""

    def inner(x, w):
        x = tag(jnp.tanh(x @ w), "a")
        return x, x.sum((0, 1))

    @jax.checkpoint
    def outer(x, w):
        x, kept = jax.lax.scan(inner, x, w, unroll=unroll)
        return jnp.sin(x), (kept * jnp.arange(1.0, 4)[:, None]).sum(0)

    def run(w, x):
        x, kept = jax.jit(lambda w, x: jax.lax.scan(outer, x, w, reverse=reverse))(w, x)
        return x.mean((0, 1)) + kept[0] - 2 * kept[1]

    return run


def unrolled(w, x, place, shift, *, reverse):
    total = [jnp.zeros(4), jnp.zeros(4)]
    for i in (1, 0) if reverse else (0, 1):
        for j in range(3):
            x = jnp.tanh(x @ w[i, j])
            x = x + shift if (i, j) == place else x
            total[i] += (j + 1) * x.sum((0, 1))
        x = jnp.sin(x)
    return x.mean((0, 1)) + total[0] - 2 * total[1]


PLACES = [("a[0][-1]", (0, 2), False), ("a[-1][0]", (1, 0), True), ("a[-2][1]", (0, 1), True)]


@pytest.mark.parametrize(("layer", "place", "reverse"), PLACES)
def test_loops_in_loops(layer, place, reverse):
    model = tap_function(nested(reverse, unroll=3), W, layer, X)

    @jax.jit
    def found_and_expected(w, x):
        view = model.view(w, x)
        logits, pull = jax.vjp(lambda shift: unrolled(w, x, place, shift, reverse=reverse), jnp.zeros_like(x))
        return [(view.logits, jax.vmap(view.pull)(jnp.eye(4))), (logits, jax.vmap(pull)(jnp.eye(4))[0])]

    for found, expected in zip(*found_and_expected(W, X), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


REFUSED = {
    "a": "'a' lies inside a 'scan' loop or branch, of 2 iterations: name one, -2 to 1, as in 'a\\[-1\\]' for the last",
    "a[0]": "'a\\[0\\]' lies inside a 'scan' .* of 3 iterations: name one, -3 to 2, as in 'a\\[0\\]\\[-1\\]'",
    "a[2][0]": "got 'a\\[2\\]\\[0\\]'; accepted: a number from -2 to 1, as the loop has 2 iterations",
    "a[0][0][1]": "got 'a\\[0\\]\\[0\\]\\[1\\]', 1 numbers too many; accepted: one for each loop around it",
    "b[0]": "'b\\[0\\]' is unknown. Did you mean 'a'",
}


@pytest.mark.parametrize("layer", REFUSED)
def test_what_names_no_iteration_is_refused(layer):
    with pytest.raises(CaseJaxError, match=f"^layer: {REFUSED[layer]}"):
        tap_function(nested(reverse=False), W, layer, X)


def test_a_module_in_a_loop_is_told_how_to_be_named():
    with pytest.raises(
        CaseJaxError, match=r"'layers.norm1' lies .* of 3 iterations: name one, -3 to 2, as in 'layers\[-1\].norm1'"
    ):
        tap_nnx(networks()[0], "layers.norm1", IMAGE, token_grid=GRID, prefix_tokens=1)

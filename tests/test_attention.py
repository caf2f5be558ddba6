"""Methods for transformers: attention found in traced programs, stored numbers of public implementations, closed forms."""

from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import Primitive

from case_jax import CaseJaxError, all_class_maps, ask, tag, tap_function, tap_linen, tap_nnx, topk_logits
from case_jax.methods import METHODS, attention_rollout, attn_lrp, gradient_rollout, le_grad, libra_grad, method
from case_jax.models.torch_names import from_torch
from case_jax.models.vit import FAMILY
from case_jax.tap.attention import attention
from case_jax.tap.balanced import balanced
from case_jax.tap.blocks import ends
from tests.test_networks import fill, state_of

NAMES = [name for name, entry in METHODS.items() if entry.attention]
SIZES = {"width": 16, "depth": 2, "heads": 2, "hidden": 40, "patch": 8, "image_size": 32, "num_classes": 10}
BLOCK = {"token_grid": (4, 4), "prefix_tokens": 1}


@pytest.fixture(scope="module")
def tapped(golden):
    """The small stored vision transformers, tapped at the last block's first normalisation, with two images."""

    def load(name, layer="encoder.layers.encoder_layer_1.ln_1", **options):
        stored = golden(name)
        module = nnx.eval_shape(lambda: FAMILY.build(**SIZES, rngs=nnx.Rngs(0)))
        module = fill(module, from_torch(state_of(golden, name), module, family=FAMILY))
        images = jnp.asarray(stored["x"].transpose(0, 2, 3, 1))
        return tap_nnx(module, layer, images[0], **(options or BLOCK)), images

    return load


def near(found, stored, share=2e-5):
    """Within a share of the largest magnitude."""
    np.testing.assert_allclose(found, stored, rtol=0, atol=share * np.abs(stored).max())


def mapped(function, model):
    """Maps of classes 0, 1 and 2 of the one image."""
    view = model.view(model.params, IMAGE)
    return function(view, ask(view, EVERY))


def maps_of(function, model, images, classes=range(10)):
    targets = jnp.asarray([*classes])

    @jax.jit
    @jax.vmap
    def run(x):
        view = model.view(model.params, x)
        return function(view, ask(view, targets))

    return run(images)


def test_maps_of_all_classes_are_those_of_public_code(golden, tapped):
    stored = golden("attention")
    model, images = tapped("vit_timm")

    def both(view, query):
        return jnp.stack([attention_rollout(view, query), gradient_rollout(view, query)])

    rollout, weighted = maps_of(both, model, images).swapaxes(0, 1)
    near(rollout, np.broadcast_to(stored["rollout"][:, None], rollout.shape))
    near(weighted, stored["gradient_rollout"])
    model, images = tapped("vit")

    def three(view, query):
        found = [le_grad, partial(le_grad, layers=1), partial(le_grad, pool="network")]
        return jnp.stack([maps(view, query) for maps in found])

    found = maps_of(three, model, images).swapaxes(0, 1)
    for maps, key in zip(found, ("le_grad", "le_grad_last", "le_grad_network"), strict=True):
        near(maps, stored[key])


def test_balanced_gradients_are_those_of_public_code(golden, tapped):
    stored = golden("attention")
    for function, name, key in ((libra_grad, "vit", "cp_lrp"), (attn_lrp, "vit_timm", "attn_lrp")):
        model, images = tapped(name)

        def signed(view, query, function=function):
            return function(view, query) - function(view, query, sign=-1)

        near(maps_of(signed, model, images, stored["classes"]), stored[key])


# --- a small transformer of Flax's own layers: 3×3 patches behind a class token and a register ----------------------------


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(8, rngs=rngs), nnx.LayerNorm(8, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(num_heads=2, in_features=8, decode=False, rngs=rngs)
        self.fc1, self.fc2 = nnx.Linear(8, 12, rngs=rngs), nnx.Linear(12, 8, rngs=rngs)

    def behind_norm(self, x, normed):
        x = x + self.attn(normed)
        return x + self.fc2(nnx.gelu(self.fc1(self.norm2(x))))

    def __call__(self, x):
        return self.behind_norm(x, self.norm1(x))


class Transformer(nnx.Module):
    def __init__(self, rngs):
        self.patches = nnx.Conv(3, 8, (4, 4), strides=4, rngs=rngs)
        self.first = nnx.Param(jax.random.normal(rngs.params(), (1, 2, 8)))
        self.blocks = nnx.List([Block(rngs), Block(rngs)])
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def embedded(self, x):
        first = jnp.broadcast_to(self.first[...], (len(x), 2, 8))
        return jnp.concatenate([first, self.patches(x).reshape(len(x), -1, 8)], axis=1)

    def read(self, x):
        return self.head(x[:, 0])

    def __call__(self, x):
        x = self.embedded(x)
        for block in self.blocks:
            x = block(x)
        return self.read(x)


IMAGE = jax.random.normal(jax.random.key(0), (12, 12, 3))
GRID = {"token_grid": (3, 3), "prefix_tokens": 2}
EVERY = jnp.arange(3)


@pytest.fixture(scope="module")
def transformer():
    return Transformer(nnx.Rngs(0))


def disturbed(module, x, added):
    """The logits by hand, something being added to the probabilities of each block; and the probabilities."""
    x, found = module.embedded(x[None]), []
    for block, more in zip(module.blocks, added, strict=True):
        normed, attn = block.norm1(x), block.attn
        q, k, v = attn.query(normed), attn.key(normed), attn.value(normed)
        a = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(4.0))
        found.append(a[0])
        x = x + attn.out(jnp.einsum("bhqk,bkhd->bqhd", a + more, v))
        x = x + block.fc2(nnx.gelu(block.fc1(block.norm2(x))))
    return module.read(x)[0], found


def test_matrices_and_gradients_are_those_of_attention_written_out(transformer):
    found = attention(lambda x: transformer(x[None])[0], IMAGE)
    assert [place.shape for place in found.places] == [(2, 11, 11)] * 2
    added = jnp.zeros((2, 2, 11, 11))

    @jax.jit
    def both():
        by_hand = jax.jacobian(lambda added: disturbed(transformer, IMAGE, added), has_aux=True)(added)
        pull = found.pullback(IMAGE, lambda a, gradient: jnp.stack([a, gradient]))
        return by_hand, found.matrices(IMAGE), jax.vmap(pull)(jnp.eye(3))

    (gradients, expected), matrices, pulled = both()
    for layer in range(2):
        near(matrices[layer], expected[layer])
        near(pulled[layer][:, 0], jnp.broadcast_to(expected[layer], (3, 2, 11, 11)))
        near(pulled[layer][:, 1], gradients[:, layer])


def test_maps_are_the_same_wherever_tapped_and_when_blocks_are_called_in_a_loop(transformer):
    graph = nnx.graphdef(transformer.blocks[0])
    blocks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(nnx.state(block) for block in transformer.blocks))

    def looped(params, x):
        tokens = transformer.embedded(tag(x, "pixels")[None])
        tokens, _ = jax.lax.scan(lambda x, block: (nnx.merge(graph, block)(x), None), tokens, params)
        return transformer.read(tokens)[0]

    models = {
        "patches": tap_nnx(transformer, "patches", IMAGE),
        "tokens": tap_nnx(transformer, "blocks.1.norm1", IMAGE, **GRID),
        "loop": tap_function(looped, blocks, "pixels", IMAGE),
    }

    @jax.jit
    def maps():
        views = {name: model.view(model.params, IMAGE) for name, model in models.items()}
        views["loop"] = replace(views["loop"], activation=views["patches"].activation)
        return {key: jnp.stack([method(n).maps(v, ask(v, EVERY)) for n in NAMES]) for key, v in views.items()}

    expected, *others = maps().values()
    assert np.ptp(expected, axis=(-2, -1)).min() > 0
    for found in others:
        near(found, expected)


def test_class_activation_maps_at_any_block(transformer, tapped):
    """By the layer's name; against gradients by hand."""
    model = tap_nnx(transformer, "blocks.0.norm1", IMAGE, **GRID)

    @jax.jit
    def both():
        first, second = transformer.blocks
        x = transformer.embedded(IMAGE[None])
        normed = first.norm1(x)
        rows = jax.jacobian(lambda a: transformer.read(second(first.behind_norm(x, a)))[0])(normed)[:, 0, 2:]
        weighted = [jnp.broadcast_to(rows.mean(1, keepdims=True), rows.shape), rows]
        by_hand = [jax.nn.relu((w * normed[0, 2:]).sum(-1)).reshape(3, 3, 3) for w in weighted]
        found = [all_class_maps(method(name).maps, model, model.params, IMAGE) for name in ("grad_cam", "hires_cam")]
        return jnp.stack(by_hand), jnp.stack(found)

    by_hand, found = both()
    assert float(by_hand.max()) > 0
    near(found, by_hand)
    model, images = tapped("vit_timm", "encoder.layers.encoder_layer_0", **BLOCK)
    maps = jax.jit(lambda x: all_class_maps(method("case").maps, model, model.params, x, contrast=topk_logits(2, 10)))
    found = maps(images[0])
    assert found.shape == (10, 4, 4)
    assert np.ptp(found, axis=(1, 2)).max() > 0


# --- other ways to write attention, and what is refused -------------------------------------------------------------------


class LinenTransformer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (4, 4), strides=4, name="patches")(x).reshape(len(x), -1, 8)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x), sow_weights=True)
        return nn.Dense(3)(x.mean(1))


def test_linen_s_attention_is_what_the_layer_itself_keeps():
    module = LinenTransformer()
    variables = {"params": jax.jit(module.init)(jax.random.key(0), IMAGE[None])["params"]}
    model = tap_linen(module, variables, "patches", IMAGE)

    @jax.jit
    def run(x):
        _, kept = module.apply(variables, x[None], mutable="intermediates")
        view = model.view(model.params, x)
        query = ask(view, EVERY)
        found = attention(view.predict, x).matrices(x)
        maps = [attention_rollout(view, query), le_grad(view, query), le_grad(view, query, pool="network")]
        return jax.tree.leaves(kept)[0][0], found, maps

    expected, (found,), (rollout, mean, network) = run(IMAGE)
    near(found, expected)
    near(rollout, np.broadcast_to((1 + expected.mean(0).sum(0)).reshape(3, 3) / 18, (3, 3, 3)))
    near(mean, network)  # this head reads the mean


def network(attend):
    """A plain function around an attention of 9 tokens of length 4."""

    def run(params, x):
        a = tag(jnp.tanh(x.reshape(3, 4, 3, 4, 3).mean((1, 3)) @ params[:3]), "a").reshape(1, 9, 1, 4)
        return (a + attend(a)).mean((0, 1, 2)) @ params[3:]

    return tap_function(run, jnp.asarray(np.random.default_rng(0).normal(size=(7, 4)), jnp.float32), "a", IMAGE)


def dot_products(a, mask=None):
    weights = jax.nn.softmax(jnp.einsum("btd,bsd->bts", a[:, :, 0], a[:, :, 0]))
    weights = weights if mask is None else jnp.where(mask, weights, 0)
    return jnp.einsum("bsd,bts->btd", a[:, :, 0], weights.astype(jnp.bfloat16).astype(a.dtype))[:, :, None]


WRITTEN = {
    "by hand": dot_products,
    "masked": partial(dot_products, mask=jnp.ones((9, 9), bool)),
    "checkpointed": jax.checkpoint(dot_products),
    "jax.nn": lambda a: jax.nn.dot_product_attention(a, a, a, scale=1.0),
    "queries last": lambda a: jnp.einsum("tbs,bshd->bthd", jax.nn.softmax(jnp.einsum("bthd,bshd->tbs", a, a)), a),
}


def test_attention_is_found_however_it_is_written():
    models = [network(attend) for attend in WRITTEN.values()]
    a = models[0].view(models[0].params, IMAGE).activation.reshape(9, 4)
    expected = jax.nn.softmax(a @ a.T)
    for found in jax.jit(lambda x: [attention(partial(m.apply, m.params), x).matrices(x) for m in models])(IMAGE):
        near(found[0][0], expected)


def branching(a):
    return jax.lax.cond(a.sum() < 1e9, dot_products, jnp.sin, a)


KERNEL = Primitive(
    "dot_product_attention_fwd_wrapper"
)  # as it stands in a program where NVIDIA's library computes attention
KERNEL.def_abstract_eval(lambda a: a)
KERNEL.def_impl(lambda a: a)


@jax.custom_vjp
def fused(a):
    return KERNEL.bind(a)


fused.defvjp(lambda a: (a, None), lambda _, gradient: (gradient,))


def in_windows(a):
    rows = a[0, :, 0].reshape(3, 3, 4)
    return jnp.einsum("wts,wsd->wtd", jax.nn.softmax(jnp.einsum("wtd,wsd->wts", rows, rows)), rows).reshape(a.shape)


def pooled(a):
    return jnp.einsum("ts,sd->td", jax.nn.softmax(a[0, :1, 0] @ a[0, :, 0].T), a[0, :, 0])[None, :, None]


def two_after_one(a):
    heads = dot_products(a).reshape(1, 9, 2, 2)
    return jax.nn.dot_product_attention(heads, heads, heads).reshape(a.shape)


REFUSED = {
    "fused": (fused, r"attention is fused \('dot_product_attention_fwd_wrapper'\).*implementation='xla'"),
    "none": (jnp.sin, r"this one needs attention.*grad_cam"),
    "over channels": (lambda a: a * jax.nn.softmax(a, axis=1), "this one needs attention"),
    "branch": (branching, "softmax lies inside a 'cond' loop or branch"),
    "windows": (in_windows, r"map of 9 positions, where attention is over 3 tokens"),
    "finer": (
        lambda a: dot_products(jnp.tile(a, (1, 4, 1, 1)))[:, :9],
        "9 positions, where attention is over 36 tokens",
    ),
    "unequal": (two_after_one, "1 heads or windows of 9×9 and 2 heads or windows of 9×9"),
    "pooling": (pooled, "attention of 1 heads or windows of 1×9 queries and keys"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_networks_without_attention_over_all_tokens_are_refused(name):
    attend, words = REFUSED[name]
    model = network(attend)
    with pytest.raises(CaseJaxError, match=words):
        jax.eval_shape(lambda: mapped(gradient_rollout, model))


def test_le_grad_refuses_what_it_cannot_cut_and_options_that_there_are_not(transformer):
    model = tap_function(lambda p, x: dot_products(tag(x, "a").reshape(1, -1, 1, 9))[0, 0, 0], (), "a", IMAGE)
    with pytest.raises(CaseJaxError, match="no sum of all tokens follows the attention number 0"):
        ends(attention(partial(model.apply, ()), IMAGE))
    model = tap_nnx(transformer, "patches", IMAGE)
    for options, words in (({"pool": "max"}, "pool: got 'max'"), ({"layers": 3}, "layers: got 3.*from 1 to 2")):
        with pytest.raises(CaseJaxError, match=words):
            jax.eval_shape(lambda options=options: mapped(partial(le_grad, **options), model))


# --- balanced gradients ---------------------------------------------------------------------------------------------------


def test_balanced_gradient_x_input_adds_up_to_the_logits(tapped):
    """In a transformer without biases, positions and class token."""
    model, images = tapped("vit")

    def bare(path, leaf):
        words = jax.tree_util.keystr(path)
        return jnp.zeros_like(leaf) if any(w in words for w in ("bias", "pos_embedding", "class_token")) else leaf

    params = jax.tree_util.tree_map_with_path(bare, model.params)

    @jax.jit
    def both(x):
        predict = balanced(partial(model.apply, params), x, through_softmax=False)
        return predict(x), jnp.einsum("chwd,hwd->c", jax.jacobian(predict)(x), x), model.apply(params, x)

    values, sums, logits = both(images[0])
    near(values, logits)
    near(sums, logits, 1e-4)


def test_products_share_their_gradient():
    """`silu(u) v` of a gated perceptron is `u σ(u) v` with a constant σ(u): half of it to u, half to v; a norm is a constant factor."""

    def gated(x):
        u, v = x
        return (jax.nn.silu(u) * v * jax.lax.rsqrt((x * x).mean()))[None]

    def plain(x):
        return jnp.maximum(x, 0)[:1] * 3

    @jax.jit
    def both(x):
        first, second = (balanced(f, x, through_softmax=False) for f in (gated, plain))
        return gated(x), first(x), jax.jacobian(first)(x)[0] * x, jax.jacobian(second)(x)

    x = jnp.asarray([0.7, -1.2])
    value, same, shares, slope = both(x)
    near(same, value)
    near(shares, np.repeat(value / 2, 2))
    near(slope, np.asarray([[3.0, 0.0]]))
    squared = balanced(lambda x: (jnp.maximum(x, 0) ** 2).sum()[None], x, through_softmax=False)
    near(jax.jacobian(squared)(x)[0] * x, np.asarray([0.49, 0.0]))
    with pytest.raises(CaseJaxError, match="'tanh' stands as an activation of its own"):
        balanced(lambda x: jnp.tanh(x) @ jnp.ones((2, 3)), x, through_softmax=False)


def test_products_inside_a_scan_share_their_gradient():
    """Gates that no other factor stands with: `x ← (a x) ⊙ (b x)`, twice; without a product of two such values the loop stays one."""
    a, b = np.random.default_rng(0).normal(size=(2, 2, 3, 3)).astype(np.float32)

    def step(x, weights):
        return (weights[0] @ x) * (weights[1] @ x), None

    def looped(x):
        return jax.lax.scan(step, x, (a, b))[0]

    def written_out(x):
        return step(step(x, (a[0], b[0]))[0], (a[1], b[1]))[0]

    x = jnp.asarray([0.7, -1.2, 0.4])
    first, second = (jax.jacobian(balanced(f, x, through_softmax=False))(x) for f in (looped, written_out))
    near(first, second)
    near(first @ x, looped(x))  # the shares add up
    single = balanced(lambda x: jax.lax.scan(lambda x, w: (w @ x, None), x, a)[0], x, through_softmax=False)
    assert "scan" in str(jax.make_jaxpr(single)(x))

"""What comes out of a network and of a layer: the logits in it, tokens as maps, layers that are called often or reach no logit."""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import case_jax as cj
from case_jax import CaseJaxError, tag, tap_function, tap_linen, tap_nnx
from case_jax.guide import guide
from case_jax.models.vit import VisionTransformer
from case_jax.tap.tokens import grids

IMAGE = jax.random.normal(jax.random.key(0), (6, 8, 3))


class Pair(NamedTuple):
    score: Any
    logits: Any


@dataclass
class Record:
    score: Any
    logits: Any


class Net(nnx.Module):
    def __init__(self, post=lambda y: y, inner=lambda a: a, outer=lambda a: a):
        self.conv = Layer(inner)
        self.head = nnx.Linear(4, 5, rngs=nnx.Rngs(0))
        self.post, self.outer = post, outer

    def __call__(self, x):
        return self.post(self.head(nnx.relu(self.outer(self.conv(x))).mean((1, 2))))


class Layer(nnx.Module):
    def __init__(self, post):
        self.conv, self.post = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0)), post

    def __call__(self, x):
        return self.post(self.conv(x))


class LinenNet(linen.Module):
    post: Any

    @linen.compact
    def __call__(self, x):
        return self.post(linen.Dense(5)(linen.Conv(4, (3, 3))(x).mean((1, 2))))


def tap(post, kind="nnx", **options):
    """A network of five classes that returns its logits in `post`."""
    if kind == "nnx":
        return tap_nnx(Net(post), "conv", IMAGE, **options)
    if kind == "linen":
        module = LinenNet(post)
        return tap_linen(module, module.init(jax.random.key(0), IMAGE[None]), "Conv_0", IMAGE, **options)
    return tap_function(lambda p, x: post(tag(x, "a").mean((0, 1)) @ p), jnp.eye(3, 5), "a", IMAGE, **options)


KINDS = ["nnx", "linen", "function"]
HOLDERS = [
    (lambda y: {"logits": 2 * y, "features": y}, "logits"),
    (lambda y: (y, 2 * y), 1),
    (lambda y: [y, 2 * y], -1),
    (lambda y: Pair(y, 2 * y), "logits"),
    (lambda y: Pair(y, 2 * y), 1),
    (lambda y: Record(y, 2 * y), "logits"),
    (lambda y: {"deep": (y, {"logits": y})}, lambda out: 2 * out["deep"][1]["logits"]),
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_logits_are_taken_out_of_what_a_network_returns(kind):
    plain = tap(lambda y: y, kind)
    expected = 2 * plain.apply(plain.params, IMAGE)
    for post, pick in HOLDERS:
        model = tap(post, kind, output=pick)
        np.testing.assert_allclose(model.apply(model.params, IMAGE), expected, rtol=1e-6)


WRONG = [
    (lambda y: {"logits": y, "features": y}, None, r"a dict with keys 'logits', 'features'; .*: output='logits'\."),
    (lambda y: (y[..., 0], y), None, r"a tuple of an array of shape .*, an array of shape .*; .*: output=1\."),
    (lambda y: [y, y], None, r"a list of .*: output=0\."),
    (lambda y: Record(y, y), None, r"a Record with fields 'score', 'logits'; .*: output='logits'\."),
    (lambda y: {"logits": y, "features": y}, "logit", r"^output: 'logit' is unknown. Did you mean 'logits'\?"),
    (lambda y: (y, y), 2, r"^output: got 2 for a tuple of .*; accepted: the index of an item"),
    (lambda y: (y, y), "logits", r"^output: got 'logits' for a tuple of "),
    (lambda y: Record(y, y), "aux", r"^output: 'aux' is unknown. .* score, logits|logits, score"),
    (lambda y: {"a": {"b": y}}, "a", r"a dict with keys 'b'"),
    (lambda y: "many", None, r"a str; say which of it are the logits"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("post", "pick", "words"), WRONG)
def test_what_came_back_is_named(kind, post, pick, words):
    with pytest.raises(CaseJaxError, match=words):
        tap(post, kind, output=pick)


@pytest.mark.parametrize(
    ("post", "pick", "words"),
    [
        (lambda y: y[:, None, None] * jnp.ones((1, 4, 4, 1)), None, r"shape \(4, 4, 5\) for one image.*output=lambda"),
        (lambda y: {"a": y}, lambda out: out["a"][0], r"^output: got an output of shape \(5,\) for a batch of 1"),
        (lambda y: {"a": y}, lambda out: out, r"^output: the function returns a dict with keys 'a'"),
    ],
)
def test_scores_are_one_vector_for_each_image(post, pick, words):
    with pytest.raises(CaseJaxError, match=words):
        tap(post, output=pick)


def test_several_images_are_no_image():
    for call in (lambda: tap_nnx(Net(), "conv", (IMAGE, IMAGE)), lambda: tap_function(None, 0, "a", [IMAGE])):
        with pytest.raises(CaseJaxError, match=r"^image: got a .* further inputs are arguments of its call"):
            call()


@pytest.mark.parametrize(
    ("inner", "outer", "pick"),
    [
        (lambda a: (a.sum(), a), lambda out: out[1], 1),
        (lambda a: (a.sum(), a), lambda out: out[1], -1),
        (lambda a: [a, a.sum()], lambda out: out[0], 0),
        (lambda a: {"map": a, "other": 0}, lambda out: out["map"], "map"),
        (lambda a: Pair(a.sum(), a), lambda out: out.logits, "logits"),
        (lambda a: Record(a.sum(), a), lambda out: out.logits, "logits"),
    ],
)
def test_a_layer_that_returns_more_than_one_array(inner, outer, pick):
    net = Net(inner=inner, outer=outer)
    with pytest.raises(CaseJaxError, match=r"^layer: 'conv' returns a .*; say which of it is the map: layer_output="):
        tap_nnx(net, "conv", IMAGE)
    for after in (None, "relu"):
        model, plain = (
            tap_nnx(n, "conv", IMAGE, after=after, **o) for n, o in ((net, {"layer_output": pick}), (Net(), {}))
        )
        for found, expected in zip(_facts(model), _facts(plain), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    with pytest.raises(CaseJaxError, match="layer_output"):
        tap_nnx(net, "conv", IMAGE, layer_output="nothing" if isinstance(pick, str) else 7)


def _facts(model):
    view = model.view(model.params, IMAGE)
    return view.activation, view.logits, view.class_weights(jnp.arange(2))


# --- recipes of the guide --------------------------------------------------------------------------------------------------


def test_the_recipes_equal_finite_differences():
    """Mean gradients of dense scores, one box, an embedding and a siamese network: a channel moved up and down."""
    blocks = re.findall(r"```python\n(.*?)```", guide("own_model"), re.DOTALL)
    names = {
        "jax": jax,
        "jnp": jnp,
        "nnx": nnx,
        "cj": cj,
        "images": jax.random.normal(jax.random.key(5), (4, 32, 32, 3)),
    }
    exec("\n".join(b for b in blocks if "class Several" in b or "class Siamese" in b), names)
    step = 0.02
    for name in ("segmentation", "detector", "clip", "siamese"):
        model = names[name]
        view = model.view(model.params, names["photo"])
        every = jnp.arange(model.num_classes)

        @jax.jit
        def both(a, view=view, every=every):
            up, down = (jax.vmap(lambda e, s=s: view.tail(a + s * step * e))(jnp.eye(8)) for s in (1, -1))
            return view.class_weights(every), (up - down).T / (2 * step * a.shape[0] * a.shape[1])

        found, expected = both(view.activation)
        assert float(jnp.abs(expected).max()) > 1e-5
        np.testing.assert_allclose(found, expected, atol=3e-3 * float(jnp.abs(expected).max()))


# --- tokens ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "image", "expected"),
    [
        (24, (32, 48), [(4, 6)]),
        (196, (224, 224), [(14, 14)]),
        (14 * 18, (224, 300), [(14, 18)]),
        (9, (33, 48), [(3, 3)]),
        (60, (60, 1), [(60, 1)]),
        (25, (32, 48), []),
        (2, (32, 32), [(1, 2), (2, 1)]),
        (7, (32, 32), []),
        (16, (60,), [(16,)]),
        (24, (8, 16, 12), [(2, 4, 3)]),
    ],
)
def test_the_grid_that_has_the_image_s_aspect_ratio(tokens, image, expected):
    assert grids(tokens, image) == expected


class Patches(nnx.Module):
    """4×6 patches of an image of 32×48 behind a class token."""

    def __init__(self):
        self.embed = nnx.Linear(192, 8, rngs=nnx.Rngs(0))

    def __call__(self, x):
        patches = x.reshape(-1, 4, 8, 6, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 24, 192)
        tokens = jnp.concatenate([jnp.ones((len(patches), 1, 192)), patches], axis=1)
        return nnx.relu(self.embed(tokens)).mean(1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"token_grid": (6, 4), "prefix_tokens": 1}, "image of 32×48; accepted: token_grid=(4, 6), prefix_tokens=1"),
        ({"token_grid": (4, 6)}, "of 25 tokens; accepted: token_grid=(4, 6), prefix_tokens=1"),
        ({"token_grid": (2, 2)}, "of 25 tokens; accepted: token_grid=(4, 6), prefix_tokens=1"),
        ({"token_grid": (3, 3), "prefix_tokens": 1}, "of 25 tokens; accepted: token_grid=(4, 6), prefix_tokens=1"),
        ({"token_grid": (5, 5)}, "image of 32×48; accepted: token_grid=(4, 6), prefix_tokens=1"),
        ({"token_grid": (5, 6), "prefix_tokens": -5}, "as many rows and columns"),
        ({}, "tokens rather than a map; say how they lie: token_grid=(4, 6), prefix_tokens=1"),
    ],
)
def test_a_grid_that_does_not_fit_is_refused_with_the_one_that_does(options, words):
    with pytest.raises(CaseJaxError, match=re.escape(words)):
        tap_nnx(Patches(), "embed", jnp.zeros((32, 48, 3)), **options)


def test_the_fitting_grid_puts_the_peak_where_the_patch_is():
    image = jnp.zeros((32, 48, 3)).at[8:16, 32:40].set(1.0)  # the patch in row 1, column 4
    model = tap_nnx(Patches(), "embed", image, token_grid=(4, 6), prefix_tokens=1)
    activation = model.view(model.params, image).activation
    assert np.unravel_index(int(jnp.abs(activation).sum(-1).argmax()), (4, 6)) == (1, 4)
    with pytest.raises(CaseJaxError, match="accepted"):  # an image of another size: never other tokens in silence
        model.view(model.params, jnp.zeros((32, 56, 3)))


class Swin(nnx.Module):
    """One stage: 4×4 windows of an 8×8 map, shifted, attention inside; then tokens merged to 4×4."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Conv(3, 8, (4, 4), strides=4, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.block = nnx.Sequential(nnx.Linear(8, 8, rngs=rngs))
        self.merge = nnx.Linear(32, 16, rngs=rngs)
        self.head = nnx.Linear(16, 5, rngs=rngs)

    def __call__(self, x):
        x = jnp.roll(self.embed(x), (-2, -2), (1, 2))
        windows = x.reshape(-1, 2, 4, 2, 4, 8).swapaxes(2, 3).reshape(-1, 16, 8)
        windows = windows + self.attention(windows)
        x = jnp.roll(windows.reshape(-1, 2, 2, 4, 4, 8).swapaxes(2, 3).reshape(-1, 8, 8, 8), (2, 2), (1, 2))
        x = self.block(x)
        x = self.merge(x.reshape(-1, 4, 2, 4, 2, 8).swapaxes(2, 3).reshape(-1, 16, 32))
        return self.head(x.mean(1))


def test_hierarchical_tokens(monkeypatch):
    """Maps are taken as they are, merged tokens with their grid; the inside of windows is none. Shifts and windows keep images apart."""
    image = jnp.zeros((32, 32, 3))
    monkeypatch.setattr("case_jax.tap.evaluation._require_the_same", None)  # proven by reading alone
    assert tap_nnx(Swin(), "block", image).activation_shape == (8, 8, 8)
    assert tap_nnx(Swin(), "merge", image, token_grid=(4, 4)).activation_shape == (4, 4, 16)
    with pytest.raises(
        CaseJaxError, match=r"'attention' with an output of shape \(4, 16, 8\) for one image; .*windows"
    ):
        tap_nnx(Swin(), "attention", image, token_grid=(4, 4))


# --- layers that reach no logit ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vit():
    return VisionTransformer(
        width=8, depth=2, heads=2, hidden=8, patch=8, image_size=32, num_classes=5, rngs=nnx.Rngs(0)
    )


def test_the_last_block_behind_a_class_token_is_refused(vit):
    """Its patches have no gradient; those before the attention have."""
    image, options = jax.random.normal(jax.random.key(1), (32, 32, 3)), {"token_grid": (4, 4), "prefix_tokens": 1}
    last = "encoder.layers.encoder_layer_1"
    for layer in (last, f"{last}.ln_2"):
        with pytest.raises(CaseJaxError, match=rf"depend on '{layer}' at the 1 tokens in front .* is '{last}.ln_1'"):
            tap_nnx(vit, layer, image, **options)
    vit.heads.head.kernel[...] = jnp.ones((8, 5)) * jnp.arange(5.0)
    dead = tap_nnx(vit, last, image, check=False, **options)
    assert not np.any(jax.jit(lambda x: dead.view(dead.params, x).class_weights(jnp.arange(5)))(image))
    live = tap_nnx(vit, f"{last}.ln_1", image, **options)
    assert np.any(jax.jit(lambda x: live.view(live.params, x).class_weights(jnp.arange(5)))(image))


def test_a_layer_that_no_logit_needs_is_refused():
    class Auxiliary(Net):
        def __init__(self):
            super().__init__()
            self.aside = nnx.Conv(4, 4, (1, 1), rngs=nnx.Rngs(0))

        def __call__(self, x):
            a = self.conv(x)
            return self.head(a.mean((1, 2))), self.aside(a).mean((1, 2))

    words = r"do not depend on '{}', .*the nearest before it is '{}'"
    with pytest.raises(CaseJaxError, match=words.format("aside", "conv")):
        tap_nnx(Auxiliary(), "aside", IMAGE, output=0)
    assert tap_nnx(Auxiliary(), "aside", IMAGE, output=1).num_classes == 4

    def function(p, x):
        tag(2 * tag(x, "first"), "second")
        return x.mean((0, 1)) + tag(x, "third").mean((0, 1))

    with pytest.raises(CaseJaxError, match=r"do not depend on 'second', .* none before it"):
        tap_function(function, (), "second", IMAGE)
    with pytest.raises(CaseJaxError, match=r"^layer: 'secnd' is unknown. Did you mean 'second'"):
        tap_function(function, (), "secnd", IMAGE)
    with pytest.raises(CaseJaxError, match=r"^layer: 'a' .*case_jax\.tag"):
        tap_function(lambda p, x: x.mean((0, 1)), (), "a", IMAGE)
    assert tap_function(function, (), "third", IMAGE).layer == "third"


# --- layers called several times ---------------------------------------------------------------------------------------------


class Siamese(nnx.Module):
    def __init__(self):
        self.encoder = Layer(lambda a: a)
        self.head = nnx.Linear(4, 5, rngs=nnx.Rngs(0))

    def __call__(self, x, other):
        a = jnp.tanh(self.encoder(x)).mean((1, 2))
        b = jnp.tanh(self.encoder(other)).mean((1, 2))
        return self.head(a * b)


class SiameseLinen(linen.Module):
    @linen.compact
    def __call__(self, x, other):
        encoder = linen.Conv(4, (3, 3), name="encoder")
        a, b = (jnp.tanh(encoder(image)).mean((1, 2)) for image in (x, other))
        return linen.Dense(5)(a * b)


def tap_siamese(kind, **options):
    other = jnp.flip(IMAGE, 1)[None]
    if kind == "nnx":
        return tap_nnx(Siamese(), "encoder", IMAGE, other=other, **options)
    module = SiameseLinen()
    return tap_linen(module, module.init(jax.random.key(0), other, other), "encoder", IMAGE, other=other, **options)


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_one_of_several_calls_is_tapped(kind):
    """For `y = W(a ⊙ b)` with a = mean tanh(A): mean gradients by hand, `W[k, c] b[k] mean(1 − tanh²(A[k])) / (h w)`."""
    if kind == "nnx":
        encoder, kernel = Siamese().encoder, Siamese().head.kernel[...]
    else:
        variables = tap_siamese(kind, call=0).params
        kernel = variables["params"]["Dense_0"]["kernel"]
        encoder = linen.Conv(4, (3, 3)).bind({"params": variables["params"]["encoder"]})
    maps = [encoder(IMAGE[None])[0], encoder(jnp.flip(IMAGE, 1)[None])[0]]
    means = [jnp.tanh(a).mean((0, 1)) for a in maps]
    for call in (0, 1):
        model = tap_siamese(kind, call=call)
        view = model.view(model.params, IMAGE)
        np.testing.assert_allclose(view.activation, maps[call], rtol=1e-5, atol=1e-6)
        expected = kernel.T * means[1 - call] * (1 - jnp.tanh(maps[call]) ** 2).mean((0, 1)) / 48
        np.testing.assert_allclose(view.class_weights(jnp.arange(5)), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_the_calls_of_a_layer_are_listed(kind):
    words = r"'encoder' is evaluated 2 times .*call=0 in line \d+ of test_tap_outputs.py, call=1 in line \d+ of "
    with pytest.raises(CaseJaxError, match=words):
        tap_siamese(kind)
    with pytest.raises(CaseJaxError, match=r"^call: got 2; accepted: a number below 2, the calls of 'encoder'"):
        tap_siamese(kind, call=2)
    with pytest.raises(CaseJaxError, match=r"^call: got -1"):
        tap_siamese(kind, call=-1)

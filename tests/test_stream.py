"""CA-Stream: its equations against stored numbers of the authors' code, closed forms, the network that has it, and its training."""

import shutil
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from case_jax import CaseJaxError, tag, tap_function, tap_nnx
from case_jax.contrast.sets import Query
from case_jax.evaluation.default_methods import untrained_of
from case_jax.imageops import finish_maps
from case_jax.methods import described, grad_cam
from case_jax.models import load_classifier
from case_jax.models.trained_file import digest
from case_jax.models.weights import flat_state, save_weights
from case_jax.results import RunFolder, fingerprint
from case_jax.source import Example
from case_jax.stream import (
    Stream,
    TrainedStream,
    attention_pool,
    attention_scores,
    load_stream,
    new_stream,
    save_stream,
    stream_task,
    with_stream,
)
from case_jax.stream.task import learnt
from case_jax.tap.parameters import parameter_layers
from case_jax.tap.precision import at_precision
from case_jax.training import Examples, Recipe, train
from case_jax.training.loop import read_curves

RNG = np.random.default_rng(0)
IMAGE = jnp.asarray(RNG.normal(size=(16, 16, 3)), jnp.float32)
FEATURES = jnp.asarray(RNG.normal(size=(3, 4, 6)), jnp.float32)
TOKEN = jnp.asarray(RNG.normal(size=6), jnp.float32)


class Block(nnx.Module):
    def __init__(self, inputs, outputs, *, rngs):
        self.conv = nnx.Conv(inputs, outputs, (3, 3), strides=2, rngs=rngs)
        self.bn = nnx.BatchNorm(outputs, rngs=rngs)

    def __call__(self, x):
        return jax.nn.relu(self.bn(self.conv(x)))


class Small(nnx.Module):
    """Two stages, the average and a linear head, with a layer normalisation in between where asked for."""

    def __init__(self, *, norm=False, flat=False, rngs):
        self.first, self.second = Block(3, 4, rngs=rngs), Block(4, 6, rngs=rngs)
        self.norm = nnx.LayerNorm(6, rngs=rngs) if norm else None
        self.flat = flat
        self.head = nnx.Linear(96 if flat else 6, 3, rngs=rngs)

    def __call__(self, x):
        x = self.second(self.first(x))
        x = x.reshape(len(x), -1) if self.flat else x.mean((1, 2))
        return self.head(x if self.norm is None else self.norm(x))


def small(layer="second", *, norm=False, flat=False):
    head = {"linear_head": "head"} if layer.startswith("second") and not (norm or flat) else {}
    module = Small(norm=norm, flat=flat, rngs=nnx.Rngs(1))
    return tap_nnx(module, layer, IMAGE, layers=("first", "second"), **head)


@pytest.mark.parametrize("heads", [1, 4])
def test_the_stored_numbers_of_the_authors_code(golden, heads):
    arrays = golden("ca_stream")
    stream = Stream((8, 12, 16), heads=heads, rngs=nnx.Rngs(0))
    stream.query[...] = jnp.asarray(arrays[f"heads{heads}/query"])
    for i, projection in enumerate(stream.projections):
        projection.kernel[...] = jnp.asarray(arrays[f"heads{heads}/weight{i}"].T)
        projection.bias[...] = jnp.asarray(arrays[f"heads{heads}/bias{i}"])
    for image in range(2):
        maps = [jnp.moveaxis(jnp.asarray(arrays[f"map{i}"][image]), 0, -1) for i in range(3)]
        for i, visit in enumerate(stream.visits(maps)):
            expected = np.moveaxis(arrays[f"heads{heads}/dots{i}"][image], 0, -1)
            np.testing.assert_allclose(visit.scores, expected, atol=2e-6)
        np.testing.assert_allclose(stream(maps), arrays[f"heads{heads}/answer"][image], atol=2e-6)


def test_weights_sum_to_one_and_a_token_of_zeros_averages():
    constant = attention_pool(jnp.full((3, 4, 6), 0.7), TOKEN, heads=2)
    np.testing.assert_allclose(constant.features, 0.7, rtol=1e-6)
    pooled = attention_pool(FEATURES, jnp.zeros(6))
    np.testing.assert_array_equal(pooled.scores, 0)
    np.testing.assert_allclose(pooled.features, FEATURES.mean((0, 1)), atol=1e-6)


def test_a_large_token_picks_the_position_that_fits_best():
    scores = attention_scores(FEATURES, TOKEN)[..., 0]
    best = np.unravel_index(scores.argmax(), scores.shape)
    np.testing.assert_allclose(attention_pool(FEATURES, 1e4 * TOKEN).features, FEATURES[best], atol=1e-6)


def test_positions_that_change_places_change_the_map_alone():
    places = np.random.default_rng(1).permutation(12)
    moved = FEATURES.reshape(12, 6)[places].reshape(3, 4, 6)
    before, after = (attention_pool(f, TOKEN, heads=3) for f in (FEATURES, moved))
    np.testing.assert_allclose(after.scores.reshape(12, 3), before.scores.reshape(12, 3)[places], atol=1e-6)
    np.testing.assert_allclose(after.features, before.features, atol=1e-6)


def test_heads_are_independent_poolings_at_the_scale_of_all_channels():
    both = attention_pool(FEATURES, TOKEN, heads=2)
    for number, part in enumerate((slice(0, 3), slice(3, 6))):
        alone = attention_pool(FEATURES[..., part], TOKEN[part] / np.sqrt(2))  # 1/√6 is 1/√3 · 1/√2
        np.testing.assert_allclose(both.scores[..., number], alone.scores[..., 0], atol=1e-6)
        np.testing.assert_allclose(both.features[part], alone.features, atol=1e-6)


def averaging(model):
    """A stream of tokens of zeros whose last projection is the identity."""
    stream = new_stream(model)
    for variable in flat_state(stream).values():
        variable[...] = jnp.zeros_like(variable[...])
    stream.projections[-1].kernel[...] = jnp.eye(stream.channels[-1])
    return stream


@pytest.mark.parametrize(("layer", "norm"), [("second", False), ("first", False), ("second", True)])
def test_uniform_attention_gives_the_network_s_own_logits(layer, norm):
    model = small(layer, norm=norm)
    pooled = with_stream(model, averaging(model))
    found, own = (jax.jit(m.apply)(m.params, IMAGE) for m in (pooled, model))
    np.testing.assert_allclose(found, own, atol=1e-6)
    trained = with_stream(model, new_stream(model), check=False)
    assert np.abs(jax.jit(trained.apply)(trained.params, IMAGE) - own).max() > 1e-2


@pytest.mark.parametrize("norm", [False, True])
def test_the_gradient_at_the_last_map_has_the_closed_form(norm):
    with jax.enable_x64(True):
        rng = np.random.default_rng(2)
        F, q, W, b, rows = (jnp.asarray(rng.normal(size=s)) for s in ((3, 4, 6), 6, (6, 6), 6, (6, 5)))

        def head(z):
            return (z - z.mean()) / jnp.sqrt(z.var() + 1e-5) @ rows if norm else z @ rows

        def logits(F):
            return head(attention_pool(F, q).features @ W + b)

        r = attention_pool(F, q).features
        u = jax.jacrev(lambda r: head(r @ W + b))(r)  # the head's row of each class, pulled through what is in between
        a = jax.nn.softmax(attention_scores(F, q)[..., 0], axis=(0, 1))
        along = jnp.einsum("ck,yxk->cyx", u, F - r) * a / jnp.sqrt(6.0)
        expected = a[None, :, :, None] * u[:, None, None] + along[..., None] * q
        found = jax.jacrev(logits)(F)
        np.testing.assert_allclose(found, expected, atol=1e-12)
        np.testing.assert_allclose(found.sum((1, 2)), u, atol=1e-12)


@pytest.mark.parametrize("norm", [False, True])
def test_class_weights_at_the_last_map_have_a_closed_form(norm):
    model, classes = small(norm=norm), jnp.arange(3)
    for stream in (new_stream(model, heads=2), new_stream(model, final=True)):
        pooled = with_stream(model, stream)
        assert pooled.head_is_last is not norm

        @jax.jit
        def both(params, image, pooled=pooled):
            view, pulled = pooled.view(params, image), replace(pooled, head_kernel=None).view(params, image)
            return [(v.class_weights(classes), grad_cam(v, Query(classes))) for v in (view, pulled)]

        (weights, maps), (pulled, same) = both(pooled.params, IMAGE)
        np.testing.assert_allclose(weights, pulled, atol=1e-6)
        np.testing.assert_allclose(maps, same, atol=1e-6)
        assert np.abs(weights).max() > 1e-3


def test_in_front_of_the_last_map_class_weights_are_pulled_back():
    model = with_stream(small("second.conv"), new_stream(small()))
    assert model.head_kernel is None
    same = small("second.bn", norm=True)
    assert with_stream(same, new_stream(same)).head_kernel is None


def test_the_map_is_the_attention_whatever_the_network_pools_by():
    model = small()
    stream = new_stream(model, heads=2)
    method, query = TrainedStream(stream, "", "d"), Query(jnp.arange(2))
    pooled = with_stream(model, stream)
    view, own = (m.view(m.params, IMAGE) for m in (pooled, model))
    visits = stream.visits(own.activations())
    for stage in (-1, 0, 1):
        scores = visits[stage].scores.mean(-1)
        maps = method(view, query, stage=stage)
        np.testing.assert_allclose(maps[1], scores - scores.min(), atol=1e-6)
        np.testing.assert_array_equal(method(own, query, stage=stage), maps)
    assert finish_maps(maps, (16, 16)).shape == (2, 16, 16)
    assert described("x", partial(method, stage=0)).class_blind
    alone = TrainedStream(new_stream(model, final=True), "")
    assert alone(view, query).shape == (2, 4, 4)
    with pytest.raises(CaseJaxError, match="stage: got 1; accepted: one of 1 visited maps, -1 to 0"):
        alone(view, query, stage=1)
    with pytest.raises(CaseJaxError, match="layers: got a model tapped at one layer alone"):
        method(replace(view, layers=()), query)


def behind():
    """A tap behind the last of the layers that a stream would visit."""

    def function(params, x):
        a = tag(x, "first")
        return tag(2 * a, "second").mean((0, 1)) @ params

    return tap_function(function, jnp.ones((3, 4)), "second", IMAGE, layers=["first"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: with_stream(small(flat=True), new_stream(small())), r"model: got .* replaced by its average; accepted: a network"),
        (lambda: with_stream(small(), Stream((4, 5), rngs=nnx.Rngs(0))), r"stream: got .*\(4, 5\).*\(4, 6\), or \(6,\)"),
        (lambda: with_stream(behind(), new_stream(behind())), "layer: got 'second', which would see"),
        (lambda: with_stream(at_precision(small(), "bf16"), new_stream(small())), "model: got a model in bf16"),
        (lambda: new_stream(replace(small(), layers=())), "model: got a model tapped at one layer alone"),
        (lambda: Stream((4, 6), heads=4, rngs=nnx.Rngs(0)), r"heads: got 4 for maps of \(4, 6\)"),
        (lambda: Stream((), rngs=nnx.Rngs(0)), r"channels: got \(\)"),
        (lambda: Stream((6, 6), rngs=nnx.Rngs(0)).visits([FEATURES]), r"maps: got maps of \(6,\) channels"),
        (lambda: attention_pool(FEATURES, TOKEN, heads=4), "heads: got 4 for a map of 6"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(CaseJaxError, match=message):
        call()


def test_fewer_bits_come_last():
    model = small()
    low = at_precision(with_stream(model, new_stream(model)), "bf16")
    view, exact = (jax.jit(m.view)(m.params, IMAGE) for m in (low, low.exact))
    np.testing.assert_allclose(view.logits, exact.logits, atol=0.05 * np.abs(exact.logits).max())
    assert view.class_weights(jnp.arange(2)).dtype == jnp.float32


def test_layers_of_the_stream_come_before_those_of_the_network(tapped):
    pooled = with_stream(tapped, new_stream(tapped), check=False)
    names = parameter_layers(pooled).names
    assert names[:2] == ("network.head", "stream.projections.3")
    assert "network.stem" in names
    assert "stream" in names
    control = untrained_of(pooled, seed=0)
    assert control is not None
    drawn, own = (m.params.stream["query"][...] for m in (control.model, pooled))
    assert np.abs(drawn - own).max() > 0.1


class Cards:
    """Cards of a class's own grey, brightest in one corner."""

    name, class_names, fingerprint = "cards", ("a", "b", "c"), "v1"

    def __len__(self):
        return 12

    def __getitem__(self, index):
        image = np.full((16, 16, 3), 20, np.uint8)
        image[:8, :8] = 60 + 80 * (index % 3)
        return Example(index, f"card {index}", image, index % 3)


def test_a_stream_learns_and_goes_on_and_its_network_stays(tmp_path):
    model = small(norm=True)
    stream = new_stream(model, heads=2)
    before = jax.tree.map(np.array, (model.params, nnx.state(stream)))
    task = stream_task(model, stream, mean=(0.2,) * 3, std=(0.2,) * 3, optimiser=optax.adam(3e-2))

    def trained():
        recipe = Recipe(40, 6, log_every=10, save_every=20)
        return train(task, Examples(Cards()), recipe, RunFolder(tmp_path), config={}, facts={}, progress=False)

    state = trained()
    log = [line["loss"] for line in read_curves(tmp_path / "log.csv")]
    assert log[-1] < 0.5 * log[0]
    jax.tree.map(np.testing.assert_array_equal, (state.network, nnx.state(stream)), before)
    assert np.abs(learnt(stream, state).query[...] - stream.query[...]).max() > 1e-2
    shutil.rmtree(tmp_path / "checkpoints" / "40")
    jax.tree.map(np.testing.assert_array_equal, trained(), state)


def test_a_stream_is_kept_and_what_is_none_is_refused(tmp_path):
    stream = new_stream(small(), heads=2)
    save_stream(tmp_path / "stream.safetensors", stream, classifier="abc")
    found = load_stream(tmp_path)
    assert (found.classifier, found.stream.heads, found.digest) == ("abc", 2, digest(stream))
    maps = [jnp.ones((8, 8, 4)), FEATURES]
    np.testing.assert_array_equal(found.stream(maps), stream(maps))
    with pytest.raises(
        CaseJaxError, match=r"stream: no stream.safetensors in nowhere; give a folder of `case-jax train stream`"
    ):
        load_stream("nowhere")
    save_weights(tmp_path / "other.safetensors", stream, metadata={"masker": {}})
    with pytest.raises(CaseJaxError, match="which holds another network"):
        load_stream(tmp_path / "other.safetensors")
    save_weights(tmp_path / "damaged.safetensors", stream, metadata={"stream": {"channels": [4]}, "classifier": ""})
    with pytest.raises(CaseJaxError, match=r"damaged .*KeyError: 'heads'"):
        load_stream(tmp_path / "damaged.safetensors")


def test_a_stream_is_trained_and_used_from_the_shell(shell, tapped, tmp_path):
    short = ("--limit", 40, "--epochs", 2, "--share", 0.5, "--batch", 10)
    status, out, err = shell("train", "stream", *short, "--out", "s")
    assert status == 0, err
    assert "Next: case-jax evaluate --stream s --methods stream:s grad_cam case" in out
    assert load_stream(tmp_path / "s").classifier == digest(load_classifier().module)
    words = (
        "--limit",
        6,
        "--metrics",
        "sensitivity",
        "--contrast",
        "topk_logits:3",
        "--methods",
        "stream:s",
        "grad_cam",
    )
    status, _, err = shell("evaluate", *words, "--stream", "s", "--set", "stream:s.stage=0", "--out", "run")
    assert status == 0, err
    assert "its last map is pooled by the stream of s" in err
    folder = RunFolder(tmp_path / "run")
    rows, facts = folder.rows().set_index("method"), folder.config()
    np.testing.assert_allclose(rows.loc["stream:s", "F"], 1, atol=1e-6)
    assert facts["methods"]["stream:s"]["class_blind"]
    assert facts["model"]["class_weights"] == "closed form"
    model = with_stream(tapped, load_stream(tmp_path / "s").stream, check=False)
    assert facts["model"]["weights"] == fingerprint(jax.tree.leaves(model.params))
    status, _, err = shell("sanity", "--stream", "s", "--shuffled-weights", "no.safetensors")
    assert (status, "stream: got s; accepted: no --stream with --shuffled-weights" in err) == (2, True)
    status, _, err = shell("explain", "digit_scenes:0", "--stream", "s", "--layers", "blocks.1")
    assert (status, "layers: got blocks.1; accepted: none with --stream" in err) == (2, True)
    save_stream(tmp_path / "s" / "stream.safetensors", load_stream(tmp_path / "s").stream, classifier="another")
    for asked in (("--stream", "s"), ("--methods", "stream:s")):
        status, _, err = shell("explain", "digit_scenes:0", *asked)
        assert status == 2
        assert "a stream trained with another classifier than digit_resnet" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--rate 0", "rate: got 0.0; accepted: a finite number above 0"),
        ("--heads 0", "heads: got 0; accepted: at least 1"),
        ("--heads 7", "heads: got 7 for maps of (16, 16, 32, 48) channels; accepted: a divisor of all of them"),
    ],
)
def test_bad_trainings_are_refused(shell, tmp_path, words, message):
    status, _, err = shell("train", "stream", "--limit", 10, *words.split(), "--out", "run")
    assert status == 2
    assert message in err
    assert not (tmp_path / "run").exists()

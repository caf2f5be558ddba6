"""The masking model against the reference's stored outputs, and its variants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from case_jax import CaseJaxError
from case_jax.masking import Masker, binary_concrete, to_image
from case_jax.models import MODELS
from case_jax.models.weights import flat_state
from case_jax.tap.flax_nnx import outputs_of
from case_jax.training import Network

TAGS = {"all": (0, 1, 2, 3, 4), "l34": (3, 4), "prob": (1, 2, 3, 4)}


@pytest.fixture(scope="module")
def maps(golden):
    stored = golden("masker")
    return tuple(jnp.moveaxis(stored[f"layer{i}"], 1, -1) for i in range(5))


def reference(golden, tag):
    """The stored masker as a module of ours."""
    stored = golden("masker")
    channels = stored["channels"].tolist()
    masker = Masker(channels, stages=TAGS[tag], width=8, size_conditional=tag == "prob", rngs=nnx.Rngs(0))
    leaves = {"bn.scale": "1.weight", "bn.bias": "1.bias", "bn.mean": "1.running_mean", "bn.var": "1.running_var"}
    for path, variable in flat_state(masker).items():
        place, _, leaf = path.removeprefix("branches.").partition(".")
        if place == "final":
            array = stored[f"{tag}/state/final.0.{'bias' if leaf == 'bias' else 'weight'}"]
        else:
            array = stored[f"{tag}/state/conv1x1_{place}.{leaves.get(leaf, '0.weight')}"]
        variable[...] = jnp.asarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array)
    return masker


def called(masker, maps, *, train=False, **kwargs):
    network = Network(masker)
    logits, _, after = network(network.variables, maps, train=train, **kwargs)
    return logits, nnx.to_pure_dict(after.stats)


@pytest.mark.parametrize("tag", TAGS)
def test_masks_are_those_of_the_reference(golden, maps, tag):
    stored = golden("masker")
    sizes = {"sizes": jnp.full(4, 0.3)} if tag == "prob" else {}
    logits, _ = called(reference(golden, tag), maps, **sizes)
    shown = to_image(logits, (64, 64))
    np.testing.assert_allclose(shown, stored[f"{tag}/mask_logit"][:, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.nn.sigmoid(shown), stored[f"{tag}/mask"][:, 0], atol=1e-6)
    if tag != "prob":
        smooth = to_image(jax.nn.sigmoid(logits), (64, 64), smooth=True)
        np.testing.assert_allclose(smooth, stored[f"{tag}/mask_bilinear"][:, 0], atol=1e-6)


def test_a_wanted_size_for_each_image(golden, maps):
    stored = golden("masker")
    logits, _ = called(reference(golden, "prob"), maps, sizes=jnp.asarray(stored["prob/use_p"]))
    mask = jax.nn.sigmoid(to_image(logits, (64, 64)))
    np.testing.assert_allclose(mask, stored["prob/mask_per_image"][:, 0], atol=1e-6)


def test_training_normalises_by_the_batch_and_keeps_unbiased_statistics(golden, maps):
    stored = golden("masker")
    logits, stats = called(reference(golden, "all"), maps, train=True)
    mask = jax.nn.sigmoid(to_image(logits, (64, 64)))
    np.testing.assert_allclose(mask, stored["all/mask_train_mode"][:, 0], atol=2e-6)
    for i in range(1, 5):
        for ours, theirs in (("mean", "running_mean"), ("var", "running_var")):
            expected = stored[f"all/state_after_train/conv1x1_{i}.1.{theirs}"]
            np.testing.assert_allclose(stats["branches"][str(i)]["bn"][ours], expected, rtol=1e-5, atol=1e-6)


def test_a_class_conditional_masker_asks_about_each_class(maps):
    masker = Masker([m.shape[-1] for m in maps], num_classes=10, rngs=nnx.Rngs(0))
    one, _ = called(masker, maps, labels=jnp.arange(4))
    other, _ = called(masker, maps, labels=jnp.array([0, 1, 2, 9]))
    np.testing.assert_array_equal(one[:3], other[:3])
    assert np.abs(one[3] - other[3]).max() > 1e-3


def test_the_first_stage_alone_has_a_branch(maps):
    masker = Masker([m.shape[-1] for m in maps], stages=(0,), rngs=nnx.Rngs(0))
    assert list(masker.branches) == ["0"]
    assert called(masker, maps)[0].shape == (4, 16, 16)


def test_binary_concrete_samples_are_bernoulli_and_pass_gradients(maps):
    logits = jnp.full(20_000, 0.8)
    sample = binary_concrete(jax.random.key(0), logits)
    assert set(np.unique(sample)) <= {0.0, 1.0}
    assert abs(sample.mean() - jax.nn.sigmoid(0.8)) < 0.01  # four standard errors
    hard, soft = (
        jax.grad(lambda x, hard=hard: binary_concrete(jax.random.key(1), x, hard=hard).sum())(logits[:9])
        for hard in (True, False)
    )
    np.testing.assert_allclose(hard, soft, rtol=1e-6)
    assert (soft >= 0).all()


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"stages": (4, 3)}, {}, r"stages: got \(4, 3\); accepted: numbers of stages in order"),
        ({"stages": ()}, {}, r"stages: got \(\)"),
        ({"stages": (5,)}, {}, r"stages: got \(5,\)"),
        ({"width": 0}, {}, "width: got 0"),
        ({"num_classes": 3}, {}, "labels: got None; accepted: a value an image"),
        ({}, {"labels": np.zeros(4, int)}, "labels: got .*; accepted: None"),
        ({"size_conditional": True}, {}, "sizes: got None; accepted: a value an image"),
    ],
)
def test_bad_maskers_are_refused(maps, options, call, message):
    with pytest.raises(CaseJaxError, match=message):
        Masker([m.shape[-1] for m in maps], **options, rngs=nnx.Rngs(0))(maps, **call)


STAGED = {e.taps.stages: name for name, e in reversed(MODELS.items()) if e.taps.stages}
"""The smallest network for each set of stages."""


@pytest.mark.parametrize("name", STAGED.values())
def test_stages_of_every_network_exist_and_halve(name):
    entry = MODELS[name]
    side = entry.default_preprocessing.shape[0]
    module = nnx.eval_shape(lambda: entry.build(7, rngs=nnx.Rngs(0)))
    module.eval()
    graph, state = nnx.split(module)

    def run(state, x):
        return outputs_of(nnx.merge(graph, state, copy=True), entry.taps.stages, x)[1]

    sides = [m.shape[1] for m in jax.eval_shape(run, state, jnp.zeros((1, *entry.default_preprocessing.shape)))]
    if name == "digit_resnet":
        assert sides == [24, 24, 12, 12]
    elif name == "sound_cnn":
        assert sides == [63, 32, 32, 32]
    elif name.startswith(("vgg", "efficientnet")):
        assert sides == [-(-side // 2**i) for i in range(1, 6)]
    else:
        assert sides == [56, 56, 28, 14, 7]

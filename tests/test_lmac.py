"""L-MAC's losses and guidance, by closed forms; its masker on spectrograms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from case_jax.cli.train.data import Data
from case_jax.cli.train.masker import MaskerRun
from case_jax.masking import (
    LMAC,
    Ingredients,
    guidance,
    masked_in,
    masked_out,
    masker_task,
    networks,
    objective,
)
from case_jax.masking.guidance import guided, likeness, loud
from case_jax.masking.ingredients import LMAC_CONTRASTIVE, LMAC_OUT
from case_jax.masking.masked_batch import Question, _mask_loss, _side_loss
from case_jax.metrics.masked_confidence import double_softmax_drop
from case_jax.models.layers import conv
from case_jax.training import Batch
from case_jax.training.loop import Keys

LOGITS = jnp.log(jnp.array([[0.7, 0.2, 0.1], [1e-30, 0.5, 0.5]]))
SAID = jnp.array([0, 0])


def test_the_masked_out_class_is_minimised_to_a_limit():
    free = objective("classification", "minimise", LOGITS, SAID)
    np.testing.assert_allclose(free, np.log([0.7, 1e-30]), rtol=1e-5)
    limited = jax.value_and_grad(lambda y: objective("classification", "minimise", y, SAID, most=20.0).sum())
    value, gradient = limited(LOGITS)
    np.testing.assert_allclose(value, np.log(0.7) - 20, rtol=1e-5)
    np.testing.assert_allclose(gradient, [[0.3, -0.2, -0.1], [0, 0, 0]], atol=1e-6)


def test_guidance_is_the_cross_entropy_against_where_the_clean_sound_is_loud():
    clean = jnp.array([[[1.0], [0.35], [0.3], [0.0]]])[None]
    np.testing.assert_array_equal(loud(clean), [[[True, True, False, False]]])
    mask = jnp.array([[[0.5, 1.0, 0.5, 0.0]]])
    np.testing.assert_allclose(guidance(clean, mask), [np.log(2) / 2], rtol=1e-6)
    worst = jnp.array([[[0.0, 0.0, 1.0, 1.0]]])
    assert np.isfinite(guidance(clean, worst)).all()
    assert np.isfinite(jax.grad(lambda m: guidance(clean, m).sum())(worst)).all()


def test_masks_that_follow_the_clean_sound_are_guided():
    rng = np.random.default_rng(0)
    clean = jnp.asarray(rng.uniform(size=(1, 5, 7, 1)), jnp.float32)
    np.testing.assert_allclose(likeness(clean, 3 * clean), [1], rtol=1e-6)
    np.testing.assert_array_equal(likeness(clean, 0 * clean), [0])
    first = (jnp.arange(7)[:, None] < 3).astype(jnp.float32)
    apart = clean * first, clean * (1 - first)
    np.testing.assert_allclose(likeness(*apart), [0], atol=1e-7)
    assert guided(clean, clean, jnp.ones((1, 5, 7)))[0]
    assert not guided(apart[0], clean, (1 - first[None, None, :, 0]) * jnp.ones((1, 5, 7)))[0]


class Heard(nnx.Module):
    """Two stages of a spectrogram of 11×13."""

    def __init__(self, rngs):
        self.first = conv(1, 4, 3, stride=2, rngs=rngs)
        self.second = conv(4, 6, 3, stride=2, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.relu(self.second(jax.nn.relu(self.first(x))))
        return self.head(x.mean((1, 2)))


def stepped(made_of, clean=None):
    """The numbers of one step, and both states."""
    rng = np.random.default_rng(1)
    net = Heard(nnx.Rngs(0))
    images = rng.uniform(size=(4, 11, 13, 1)).astype(np.float32)
    nets = networks(net, ("first", "second"), made_of, images.shape[1:], num_classes=3, seed=0)
    task = masker_task(nets, made_of, mean=(0.0,), std=(1.0,))
    labels = np.array([0, 1, 2, 0], np.int32)
    batch = Batch(images, labels, np.eye(3, dtype=np.float32)[labels], None if clean is None else clean * images)
    lifted = jax.tree.map(
        lambda a: jnp.asarray(a)[None], (task.state, batch, Keys(jax.random.key(0), jax.random.key(1)))
    )
    after, numbers = jax.jit(jax.vmap(task.step, axis_name="devices"))(*lifted)
    return {name: float(value[0]) for name, value in numbers.items()}, net, images, task.state, after


def test_a_step_has_the_paper_s_loss_on_a_spectrogram_that_is_not_square():
    found, net, images, before, after = stepped(LMAC)
    said = net(images).argmax(-1)
    assert found["loss"] == pytest.approx(
        4 * found["in_loss"] + 0.2 * found["out_loss"] + 6.4 * found["mask_mean"], rel=1e-5
    )
    assert found["out_loss"] < 0 < found["in_loss"]
    assert found["clean_accuracy"] == pytest.approx(float((said == np.array([0, 1, 2, 0])).mean()))
    moved = jax.tree.map(lambda a, b: bool((a != b[0]).any()), before.masker.params, after.masker.params)
    assert all(jax.tree.leaves(moved))


def test_guided_masks_pay_for_their_distance_and_not_for_their_size():
    made_of = LMAC._replace(guidance=4.0)
    found = stepped(made_of, clean=1.0)[0]
    assert found["guided"] == 1  # a mask of about a half leaves the clean sound's own shape
    rest = found["loss"] - 4 * found["in_loss"] - 0.2 * found["out_loss"]
    assert rest > 4 * 0.5  # 4 · BCE of masks about a half is near 4 ln 2
    with pytest.raises(ValueError, match="guidance: got a batch without clean sounds"):
        stepped(made_of)


def test_both_sides_of_the_contrast_weigh_alike_and_ask_one_of_two_classes():
    found = stepped(LMAC_CONTRASTIVE)[0]
    whole = 4 * found["in_loss"] + 4 * found["out_loss"] + found["mask_mean"]
    assert found["loss"] == pytest.approx(whole, rel=1e-5)
    assert min(found["in_loss"], found["out_loss"]) > 0  # softplus of a difference


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({}, LMAC),
        ({"masked_in": "maximise-contrast", "masked_out": "minimise-contrast", "class_conditional": True}, LMAC_CONTRASTIVE),
        ({"guidance": 4.0, "size_penalty": 1.0}, LMAC._replace(guidance=4.0, size_penalty=1.0)),
    ],
)  # fmt: skip
def test_the_command_trains_by_these_losses_for_sounds(words, expected):
    run = MaskerRun(Data(data="sound_scenes:train"), decay_epochs=2, **words)
    assert run.ingredients(10) == expected._replace(decay_every=20)


@pytest.mark.parametrize(
    "change", [{"size_penalty": -1.0}, {"guidance": -0.1}, {"masked_out": LMAC_OUT._replace(most=0.0)}]
)
def test_bad_ingredients_are_refused(change):
    with pytest.raises(ValueError, match=r"size_penalty|guidance|most_out"):
        stepped(LMAC._replace(**change))


def test_the_default_ingredients_are_the_masking_paper_s():
    assert (Ingredients().size_penalty, Ingredients().guidance, Ingredients().targets) == (0, 0, "label")


@pytest.fixture(scope="module")
def recipe(golden):
    """SpeechBrain's own functions on sixteen spectrograms, with a classifier that is one matrix on mel bands."""
    return golden("lmac")


def asked(recipe, mask, made_of):
    """The loss of L-MAC's recipe by this package's functions, and the logits of both masked inputs."""
    spectrograms = jnp.asarray(recipe["X"])[..., None]
    said, clean = recipe["logits"].argmax(-1), jnp.asarray(recipe["clean"])[..., None]

    def hears(shown):
        return jnp.log1p(jnp.expm1(shown[..., 0]) @ recipe["bank"]).mean(1) @ recipe["W"]

    inside, outside = hears(masked_in(spectrograms, mask)), hears(masked_out(spectrograms, mask))
    question = Question(jnp.zeros((16, 5)), jnp.asarray(said), jnp.asarray(said), jnp.ones(16, bool), None, clean if made_of.guidance else None)  # fmt: skip
    sides = (made_of.masked_in, inside, True), (made_of.masked_out, outside, False)
    values = [side.weight * _side_loss(side, y, mask, question, inside=i).mean() for side, y, i in sides]
    of_mask, led = _mask_loss(made_of, mask, spectrograms, question)
    return sum(values) + of_mask, (inside, outside, led)


def test_losses_and_gradients_are_those_of_the_recipe(recipe):
    """Its L1 is a sum over a batch, here 16 · 0.4 = 6.4; guided, that weight is 0, as it takes the mean of all masks for each."""
    mask = jnp.asarray(recipe["mask"])
    made_of = LMAC, LMAC._replace(guidance=4.0, size_penalty=0.0)
    for name, ingredients in zip(("plain", "guided"), made_of, strict=True):
        found = jax.value_and_grad(lambda m: asked(recipe, m, ingredients), has_aux=True)  # noqa: B023
        (loss, _), gradient = found(mask)
        np.testing.assert_allclose(loss, recipe[name], rtol=1e-5)
        expected = recipe[f"{name}_gradient"]
        np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())
    clean, spectrograms = (jnp.asarray(recipe[n])[..., None] for n in ("clean", "X"))
    np.testing.assert_array_equal(guided(clean, spectrograms, mask), recipe["led"] == 1)
    assert 0 < recipe["led"].mean() < 1


def test_scores_are_those_of_the_recipe(recipe):
    mask = jnp.asarray(recipe["mask"])
    _, (inside, outside, _) = asked(recipe, mask, LMAC)
    before, after, rest = (jax.nn.softmax(y) for y in (jnp.asarray(recipe["logits"]), inside, outside))
    said = before.argmax(-1)
    drops = jax.vmap(double_softmax_drop)(before, after, said)
    np.testing.assert_allclose(100 * drops, recipe["AD"], atol=1e-3)
    rows = jnp.arange(16)
    np.testing.assert_allclose(before[rows, said] - rest[rows, said], recipe["FF"], atol=1e-5)
    np.testing.assert_array_equal(after.argmax(-1) == said, recipe["fidelity"] == 1)

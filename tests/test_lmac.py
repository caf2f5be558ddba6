"""L-MAC's losses and guidance, by closed forms; its masker on spectrograms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from case_jax.masking import LMAC, Ingredients, guidance, masker_task, networks, objective
from case_jax.masking.guidance import guided, likeness, loud
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
    assert found["loss"] == pytest.approx(4 * found["in_loss"] + 0.2 * found["out_loss"] + 6.4 * found["mask_mean"], rel=1e-5)
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


@pytest.mark.parametrize("change", [{"size_penalty": -1.0}, {"guidance": -0.1}, {"masked_out": LMAC.masked_out._replace(most=0.0)}])
def test_bad_ingredients_are_refused(change):
    with pytest.raises(ValueError, match=r"size_penalty|guidance|most_out"):
        stepped(LMAC._replace(**change))


def test_the_default_ingredients_are_the_masking_paper_s():
    assert (Ingredients().size_penalty, Ingredients().guidance, Ingredients().targets) == (0, 0, "label")

"""What a masker is trained for, against the reference's values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from case_jax import CaseJaxError
from case_jax.masking import objective, size_reward, total_variation
from case_jax.masking.losses import correct


@pytest.fixture(scope="module")
def stored(golden):
    return golden("masking_loss")


@pytest.fixture(scope="module")
def mask(stored):
    return jnp.asarray(stored["mask_u8"][:, 0].astype(np.float32) / 256)


def masked_logits(stored, mask):
    cells = mask.reshape(4, 14, 16, 14, 16).mean((2, 4)).reshape(4, -1)
    return cells @ stored["P"] + stored["B"]


def earned(stored, logits, *, inside):
    y = stored["y"]
    return correct(logits, y) if inside else correct(stored["y_hat"], y) & ~correct(logits, y)


def terms(stored, mask):
    """By the golden's names, a value an image."""
    y, weight = jnp.asarray(stored["y"]), float(stored["lambda_r"])
    counted = correct(jnp.asarray(stored["y_hat"]), y)
    logits = masked_logits(stored, mask)

    def reward(inside, **sizes):
        return size_reward(mask, earned(stored, logits, inside=inside), weight=weight, **sizes)

    def wanted(kind, direction):
        return objective(kind, direction, logits, y, counted=counted)

    sizes = jnp.full(4, 0.3)
    found = {
        "mask_in_reg": reward(True),
        "mask_out_reg": reward(False),
        "mask_in_reg_prob_l1": reward(True, sizes=sizes),
        "mask_in_reg_prob_l2": reward(True, sizes=sizes, power=2),
        "cls_max": wanted("classification", "maximise"),
        "ent_max": wanted("entropy", "maximise"),
        "ent_min": wanted("entropy", "minimise"),
        "tv": total_variation(mask),
        "tv_no_border": total_variation(mask, border=0.0),
        "tv_weight1": total_variation(mask, weight=1.0),
    }
    for total, kind, direction, inside in (
        ("cls_max_in", "classification", "maximise", True),
        ("cls_min_out", "classification", "minimise", False),
        ("ent_max_out", "entropy", "maximise", False),
        ("ent_min_in", "entropy", "minimise", True),
    ):
        found[f"total_{total}_loss"] = wanted(kind, direction)
        found[f"total_{total}_mask_reg"] = reward(inside)
        found[f"total_{total}"] = wanted(kind, direction) + reward(inside) + found["tv"]
    return found


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * max(np.abs(expected).max(), 1e-30))


def test_the_stand_in_classifier_is_the_stored_one(stored, mask):
    close(masked_logits(stored, mask), stored["masked_logits"])
    close(mask.mean((1, 2)), stored["mask_mean"])


def test_values_are_those_of_the_reference(stored, mask):
    found = terms(stored, mask)
    names = [key.removeprefix("value/") for key in stored if key.startswith("value/")]
    assert len(names) == 14
    for name in names:
        close(found[name].mean(), stored[f"value/{name}"])
    per_image = [key.removeprefix("per_image/") for key in stored if key.startswith("per_image/")]
    for name in per_image:
        if name.endswith("negative_entropy"):
            everywhere = objective("entropy", "maximise", masked_logits(stored, mask), jnp.asarray(stored["y"]))
            close(everywhere, stored[f"per_image/{name}"])
        else:
            close(found[name], stored[f"per_image/{name}"])


@pytest.mark.parametrize("name", ["mask_in_reg", "mask_out_reg", "cls_max", "ent_max", "tv"])
def test_gradients_are_those_of_the_reference(stored, mask, name):
    gradient = jax.grad(lambda m: terms(stored, m)[name].mean())(mask)
    close(gradient, stored[f"grad/{name}"][:, 0])


def test_gradients_of_whole_losses_and_of_wanted_sizes(stored, mask):
    for name in ("total_cls_max_in", "total_cls_min_out", "total_ent_max_out", "total_ent_min_in"):
        gradient = jax.grad(lambda m, name=name: terms(stored, m)[name].mean())(mask)
        close(jnp.stack([gradient.sum(), jnp.abs(gradient).sum()])[1], stored[f"gradsum/{name}"][1])
        assert abs(gradient.sum() - stored[f"gradsum/{name}"][0]) < 1e-5 * stored[f"gradsum/{name}"][1]
    for name in ("mask_in_reg_prob_l1", "mask_in_reg_prob_l2"):
        gradient = jax.grad(lambda m, name=name: terms(stored, m)[name].mean())(mask)
        close(gradient.mean((1, 2)), stored[f"gradmean/{name}"])


@pytest.mark.parametrize(
    ("name", "kind", "direction"),
    [("cls_max", "classification", "maximise"), ("ent_max", "entropy", "maximise"), ("ent_min", "entropy", "minimise")],
)
def test_gradients_of_logits(stored, name, kind, direction):
    y = jnp.asarray(stored["y"])
    counted = correct(jnp.asarray(stored["y_hat"]), y)
    gradient = jax.grad(lambda z: objective(kind, direction, z, y, counted=counted).mean())(stored["masked_logits"])
    close(gradient, stored[f"grad_logits/{name}"])


def test_contrast_sees_nothing_but_the_difference_of_two_classes():
    logits = jnp.array([[3.0, 1.0, -2.0], [0.0, 0.0, 5.0]])
    labels, rivals = jnp.array([0, 1]), jnp.array([1, 0])
    kept = objective("contrast", "maximise", logits, labels, rivals=rivals)
    np.testing.assert_allclose(kept, np.log1p(np.exp([-2.0, 0.0])), rtol=1e-6)
    lost = objective("contrast", "minimise", logits + 7, labels, rivals=rivals)  # a common shift changes nothing
    np.testing.assert_allclose(lost, np.log1p(np.exp([2.0, 0.0])), rtol=1e-6)


def test_masks_of_any_size():
    mask = jnp.ones((2, 5, 7)).at[0].set(0.0)
    np.testing.assert_allclose(size_reward(mask, jnp.array([True, True]), weight=2.0), [-2.0, 0.0])
    np.testing.assert_allclose(total_variation(mask, weight=2.0, border=1.0), [0.0, 2 * 5 + 2 * 7])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("entrophy", "maximise"), "objective.*entropy"),
        (("entropy", "maximize"), "direction.*maximise"),
        (("contrast", "maximise"), "rivals: got None"),
    ],
)
def test_bad_objectives_are_refused(words, message):
    with pytest.raises(CaseJaxError, match=message):
        objective(*words, jnp.zeros((1, 2)), jnp.zeros(1, int))


def test_another_power_is_refused():
    with pytest.raises(CaseJaxError, match="power: got 3; accepted: 1 or 2"):
        size_reward(jnp.zeros((1, 2, 2)), jnp.array([True]), weight=1.0, power=3)

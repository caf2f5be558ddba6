"""Average drop, gain and increase, and the drop less the rival's: numbers by hand, and maps whose score is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from case_jax import CaseJaxError, ask, tag, tap_function
from case_jax.imageops import finish_maps, is_degenerate, masked_image, normalise_image
from case_jax.methods import opti_cam, whole_image
from case_jax.metrics import METRICS, MetricInputs, masked_confidence
from case_jax.metrics.relative_drop import relative_drop_columns
from case_jax.tap.link import complement, probabilities


def logit(p):
    return float(np.log(p) - np.log1p(-p))


def by_mean(at_half, at_one, *, link=None):
    """The view of an image of ones, of which class 0 has the logit `at_one`, and `at_half` when the image is multiplied with ½."""
    slope = 2 * (at_one - at_half)

    def apply(params, x):
        tone = tag(x, "tone").mean()
        return jnp.stack([at_one + slope * (tone - 1), 0.0 * tone])

    image = jnp.ones((4, 4, 1))
    model = tap_function(apply, {}, "tone", image, link=link)
    return model.view(model.params, image)


@pytest.mark.parametrize(
    ("o", "m", "expected"), [(0.8, 0.6, (0.25, 0, 0)), (0.8, 0.9, (0, 0.5, 1)), (0.8, 0.8, (0, 0, 0)), (0.2, 0.6, (0, 0.5, 1))]
)  # fmt: skip
@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_numbers_by_hand(o, m, expected, link):
    found = masked_confidence(by_mean(logit(m), logit(o), link=link), jnp.full((4, 4), 0.5), 0, space="normalised")
    np.testing.assert_allclose(found[:3], expected, atol=1e-6)
    assert found.mask_mean == 0.5


def test_nothing_cancels_next_to_certainty():
    """o = 1 − 2e-9 and m = 1 − 1e-9 are 1 in float32, and the gain is a half."""
    view = by_mean(-np.log(1e-9), -np.log(2e-9))
    assert view.probabilities()[0] == 1
    found = masked_confidence(view, jnp.full((4, 4), 0.5), 0, space="normalised")
    np.testing.assert_allclose(found[:3], (0, 0.5, 1), atol=1e-5)
    certain = masked_confidence(by_mean(300.0, 200.0), jnp.full((4, 4), 0.5), 0, space="normalised")
    assert np.isfinite(np.asarray(certain)).all()
    assert certain.gain == 0


def test_the_whole_image_has_no_drop_no_gain_and_no_increase():
    view = by_mean(0.3, 1.1)
    for space in ("pixels", "normalised"):
        found = masked_confidence(view, jnp.ones((4, 4)), 0, space=space, black=-jnp.ones(1))
        assert found == (0, 0, 0, 1)


def test_pixels_are_multiplied_before_the_normalisation():
    raw = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    mask = jax.random.uniform(jax.random.key(0), (5, 6))
    image, black = normalise_image(raw, mean, std), -jnp.asarray(mean) / jnp.asarray(std)
    by_hand = (raw / 255 * np.asarray(mask)[..., None] - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(masked_image(image, mask, black=black), by_hand, atol=1e-5)
    np.testing.assert_allclose(masked_image(image, 0 * mask, black=black)[0, 0], black, atol=1e-6)
    assert not masked_image(image, 0 * mask).any()
    view = by_mean(0.3, 1.1)
    for wrong, words in (({}, "black"), ({"space": "pixel"}, "pixels")):
        with pytest.raises(CaseJaxError, match=words):
            masked_confidence(view, jnp.ones((4, 4)), 0, **wrong)


def test_the_whole_image_but_a_pixel_is_a_map_that_is_no_explanation():
    view = by_mean(0.3, 1.1)
    maps = finish_maps(whole_image(view, ask(view, jnp.arange(2))), (4, 4))
    assert not is_degenerate(maps).any()
    found = masked_confidence(view, maps[0], 0, black=jnp.zeros(1))
    assert 0 < found.drop < 0.1
    np.testing.assert_allclose(found.mask_mean, 15 / 16, rtol=1e-6)


def test_opti_cam_masks_with_what_it_is_told(toy, toy_images):
    """Black that is the mean changes nothing; another black changes the map; of other channels it is refused."""
    view = toy.view(toy.params, toy_images[0])
    query = ask(view, jnp.asarray([1]))
    usual, same, other = (
        opti_cam(view, query, steps=5, black=black) for black in (None, (0.0, 0.0, 0.0), (-3.0, -3.0, -3.0))
    )
    np.testing.assert_allclose(usual, same, atol=1e-5)
    assert np.abs(usual - other).max() > 1e-3
    with pytest.raises(CaseJaxError, match="black"):
        opti_cam(view, query, black=(0.0,))


def test_the_complement_is_what_is_missing_to_one():
    logits = jnp.asarray([3.0, -1.0, 0.5, 40.0])
    for link in ("softmax", "sigmoid"):
        exact = np.asarray(logits, np.float64)
        p = 1 / (1 + np.exp(-exact)) if link == "sigmoid" else np.exp(exact) / np.exp(exact).sum()
        missing = 1 / (1 + np.exp(exact[3])) if link == "sigmoid" else np.delete(p, 3).sum()
        np.testing.assert_allclose(complement(logits, 3, link), missing, rtol=1e-5)
        np.testing.assert_allclose(complement(logits, 1, link), 1 - p[1], rtol=1e-5)
    assert np.isnan(jax.jit(lambda c: complement(logits, c, "softmax"))(4))
    with pytest.raises(CaseJaxError, match="target"):
        complement(logits, 4, "softmax")


def test_relative_drop_by_hand(toy, toy_images):
    """It is what fidelity's test removes, watched for two classes."""
    view = toy.view(toy.params, toy_images[0])
    targets = jax.lax.top_k(view.logits, 2)[1]
    maps = jax.random.uniform(jax.random.key(0), (2, *toy_images[0].shape[:2]))
    inputs = MetricInputs(
        maps, jnp.zeros(2, bool), view, targets, view.probabilities()[targets], jnp.zeros((0, 12, 12), bool),
        jnp.zeros(0, int), -jnp.ones(3), jax.random.key(1),
    )  # fmt: skip
    found = relative_drop_columns(inputs, percent=10.0)["relative_drop"]
    count = round(0.1 * maps[0].size)
    top = np.argsort(-np.asarray(maps[0]).ravel(), kind="stable")[:count]
    altered = np.array(toy_images[0]).reshape(-1, 3)
    altered[top] = 0
    left = probabilities(view.predict(jnp.asarray(altered).reshape(toy_images[0].shape)), "softmax")[targets]
    before = view.probabilities()[targets]
    np.testing.assert_allclose(found, (before[0] - left[0]) - (before[1] - left[1]), atol=1e-6)
    assert METRICS["relative_drop"].removal() == METRICS["fidelity"].removal(percents=(5,))

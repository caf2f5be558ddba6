"""Explanations as masks, round by round: closed forms of a linear classifier, and networks without biases."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from case_jax import METRICS, CaseJaxError, ask, case, grad_cam, tag, tap_function
from case_jax.cli.named import map_function
from case_jax.data import DigitScenes
from case_jax.evaluation.batches import load_tile, template
from case_jax.imageops import resize_map
from case_jax.methods import (
    METHODS,
    attribution_mask,
    contrasted,
    described,
    gradient_x_sign,
    input_x_gradient,
    integrated_gradients,
    masked_rounds,
    recursive,
    titles_of,
)
from case_jax.methods.gradient_x_sign import gradient_x_sign_attribution
from case_jax.methods.input_x_gradient import input_x_gradient_attribution
from case_jax.methods.recursive import rescaled
from case_jax.metrics import MetricInputs
from case_jax.models.bias_free import without_biases
from case_jax.models.convnext import ConvNeXt
from case_jax.models.digit_resnet import DigitResNet
from case_jax.tap.link import probabilities

SHAPE, CLASSES = (4, 5, 3), 4
WEIGHTS = jnp.asarray(np.random.default_rng(0).normal(size=(CLASSES, *SHAPE)), jnp.float32)
IMAGE = jnp.asarray(np.random.default_rng(1).normal(size=SHAPE), jnp.float32)
LINEAR = tap_function(lambda w, x: jnp.einsum("chwd,hwd->c", w, tag(x, "x")), WEIGHTS, "x", IMAGE)
TARGETS = jnp.asarray([2, 0])


def n01(a):
    low, high = a.min((0, 1)), a.max((0, 1))
    return (a - low) / np.where(high > low, high - low, 1)


def test_of_a_linear_classifier_every_round_is_known():
    """Gradient × sign is w ⊙ sign(x) as long as nothing is zero; input × gradient is damped by the mask, too."""
    view, w, x = LINEAR.view(WEIGHTS, IMAGE), np.asarray(WEIGHTS), np.asarray(IMAGE)
    for rounds in range(4):
        found = masked_rounds(view, ask(view, TARGETS[:1]), gradient_x_sign, rounds)
        mask, logits = np.ones_like(x), [np.einsum("chwd,hwd->c", w, x)]
        for _ in range(rounds):
            mask = mask * n01(w[2] * np.sign(x * mask))
            logits.append(np.einsum("chwd,hwd->c", w, x * mask))
        np.testing.assert_allclose(found.mask, mask, atol=1e-6)
        np.testing.assert_allclose(found.logits, logits, atol=1e-4)
    np.testing.assert_allclose(gradient_x_sign_attribution(view, TARGETS), w[[2, 0]] * np.sign(x), rtol=1e-6)
    once = masked_rounds(view, ask(view, TARGETS[:1]), input_x_gradient, 2).mask
    first = n01(w[2] * x)
    np.testing.assert_allclose(once, first * n01(w[2] * x * first), atol=1e-6)


def test_the_map_is_the_mean_mask_and_every_spelling_is_one():
    view = LINEAR.view(WEIGHTS, IMAGE)
    query = ask(view, TARGETS)
    found = attribution_mask(view, query, rounds=2)
    assert found.shape == (2, *SHAPE[:2])
    alone = masked_rounds(view, ask(view, TARGETS[1:]), gradient_x_sign, 2).mask.mean(-1)
    np.testing.assert_allclose(found[1], alone, atol=1e-6)
    np.testing.assert_array_equal(found, recursive(gradient_x_sign, 2)(view, query))
    exact = recursive(partial(integrated_gradients, steps=1), 2)(
        view, query
    )  # of a linear classifier IG is input × gradient
    np.testing.assert_allclose(exact, attribution_mask(view, query, rounds=2, attribution="gxi"), atol=1e-5)
    against = masked_rounds(view, ask(view, TARGETS[:1]), partial(input_x_gradient, sign=-1), 1).mask
    np.testing.assert_allclose(against, n01(-np.asarray(WEIGHTS[2] * IMAGE)), atol=1e-6)
    even = LINEAR.view(WEIGHTS, jnp.sign(IMAGE))
    np.testing.assert_array_equal(
        gradient_x_sign_attribution(even, TARGETS), input_x_gradient_attribution(even, TARGETS)
    )


def test_what_is_flat_masks_everything():
    assert not rescaled(jnp.full((3, 3, 2), 7.0)).any()
    view = LINEAR.view(0 * WEIGHTS, IMAGE)
    assert not attribution_mask(view, ask(view, TARGETS)).any()
    assert np.isnan(jax.jit(lambda c: attribution_mask(view, ask(view, c)))(jnp.asarray([9]))).all()


def test_options_that_cannot_be_are_refused():
    view = LINEAR.view(WEIGHTS, IMAGE)
    for call, words in (
        (lambda: attribution_mask(view, ask(view, TARGETS), rounds=0), "rounds"),
        (lambda: attribution_mask(view, ask(view, TARGETS), attribution="lime"), "gxsi"),
        (lambda: recursive(grad_cam, 0), "rounds"),
        (lambda: masked_rounds(view, ask(view, jnp.arange(3)), grad_cam), "targets"),
        (lambda: view.of(IMAGE[:2]), "image"),
    ):
        with pytest.raises(CaseJaxError, match=words):
            call()


def test_maps_of_a_layer_are_enlarged_and_contrast_sets_stay(toy, toy_images):
    """Two rounds of Grad-CAM written plainly; CASE is asked about the classes that the whole image was."""
    query = ask(toy.view(toy.params, toy_images[0]), jnp.asarray([1, 3]), "topk_logits:2")

    @jax.jit
    def found(params, image):
        view = toy.view(params, image)
        return recursive(grad_cam, 2)(view, query), recursive(case, 1)(view, query), view.of(2 * image).logits

    twice, once, doubled = found(toy.params, toy_images[0])
    for i, target in enumerate((1, 3)):
        mask = np.ones((12, 12))
        for _ in range(2):
            seen = toy.view(toy.params, toy_images[0] * jnp.asarray(mask, jnp.float32)[..., None])
            mask = mask * n01(np.asarray(resize_map(grad_cam(seen, ask(seen, jnp.asarray([target])))[0], (12, 12))))
        np.testing.assert_allclose(twice[i], mask, atol=1e-5)
    view = toy.view(toy.params, toy_images[0])
    np.testing.assert_allclose(once[0], n01(np.asarray(resize_map(case(view, query)[0], (12, 12)))), atol=1e-5)
    np.testing.assert_allclose(doubled, toy.view(toy.params, 2 * toy_images[0]).logits, rtol=1e-5)
    named = titles_of({"a": recursive(case), "b": recursive(contrasted(grad_cam), 5)})
    marks = {name: described("own", recursive(METHODS[name].maps)) for name in ("case", "sobel", "eigen_cam")}
    assert [marks["case"].contrastive, marks["sobel"].control, marks["eigen_cam"].class_blind] == [True] * 3
    assert [marks["case"].control, marks["eigen_cam"].control] == [False] * 2
    assert map_function("recursive:grad_cam") == recursive(grad_cam)
    with pytest.raises(CaseJaxError, match="exchanged"):
        map_function("recursive:exchanged")
    assert list(named.values()) == ["case, 3 rounds", "grad_cam, weighted contrast, 5 rounds"]


def test_masked_accuracy_by_hand():
    """Masks for a class raise it in a linear classifier; the label is told from the prediction, and unknown where it is."""
    view = LINEAR.view(WEIGHTS, IMAGE)
    order = jnp.argsort(-view.logits)

    def recursed(target, rounds):
        return masked_rounds(view, ask(view, target[None]), gradient_x_sign, rounds).logits

    maps = jnp.zeros((3, *SHAPE[:2]))
    targets = jnp.stack([order[0], order[1], order[3]])
    inputs = MetricInputs(
        maps, jnp.zeros(3, bool), view, targets, probabilities(view.logits, "softmax")[targets],
        jnp.zeros((0, *SHAPE[:2]), bool), jnp.zeros(0, int), jnp.zeros(3), jax.random.key(0), label=order[2], recursed=recursed,
    )  # fmt: skip
    columns = METRICS["masked_accuracy"].columns
    found = jax.jit(lambda label: columns(inputs._replace(label=label), rounds=2))
    for name, target in (("label", order[2]), ("predicted", order[0]), ("wrong", order[3])):
        said = [int(y.argmax() == target) for y in recursed(target, 2)]
        assert [float(found(order[2])[f"mia_{name}_{i}"]) for i in range(3)] == said
        assert found(order[2])[f"mia_{name}"] == said[-1]
    assert found(order[2])["mia_predicted_0"] == 1
    assert found(order[2])["mia_wrong_0"] == 0
    unknown, same = found(-1), found(order[3])
    assert np.isnan(unknown["mia_label_2"])
    assert not np.isnan(unknown["mia_wrong"])
    assert np.isnan(same["mia_wrong"])
    with pytest.raises(CaseJaxError, match="recursed"):
        columns(inputs._replace(recursed=None))


def test_a_tile_is_told_its_labels():
    source = DigitScenes("test", 5)
    last = load_tile(source, np.arange(5), 1, template(source, np.arange(5), 3)).batch
    np.testing.assert_array_equal(last.labels, [source[3].label, source[4].label, -1])
    np.testing.assert_array_equal(last.image_ids, [source[3].image_id, source[4].image_id, -1])


# --- networks without biases ------------------------------------------------------------------------------------------------


def test_without_biases_a_network_is_homogeneous():
    """y(2x) = 2 y(x), y(x) = J(x) x, and input × gradient sums to the logit."""
    net = without_biases(DigitResNet(5, (4, 6, 8), rngs=nnx.Rngs(0)))
    images = jax.random.normal(jax.random.key(0), (6, 16, 16, 3))
    net(images)  # in training: running variances move
    net.eval()
    assert not any("bias" in path for path, _ in nnx.to_flat_state(nnx.state(net, nnx.Param)))

    @jax.jit
    def numbers(x):
        def apply(x):
            return net(x[None])[0]

        return apply(x), apply(1.7 * x), jnp.einsum("chwd,hwd->c", jax.jacrev(apply)(x), x)

    y, larger, sums = numbers(images[0])
    size = np.abs(y).max()
    np.testing.assert_allclose(larger, 1.7 * y, atol=1e-5 * size)
    np.testing.assert_allclose(sums, y, atol=1e-5 * size)
    assert size > 1e-3


def test_batch_scale_by_hand():
    net = without_biases(nnx.Sequential(nnx.BatchNorm(3, momentum=0.9, epsilon=1e-5, rngs=nnx.Rngs(0))))
    scale = next(m for _, m in nnx.iter_modules(net) if type(m).__name__ == "BatchScale")
    z = np.random.default_rng(0).normal(2, 3, (4, 5, 3)).astype(np.float32)
    variance = z.reshape(-1, 3).var(0)
    np.testing.assert_allclose(scale(jnp.asarray(z)), z / np.sqrt(variance + 1e-5), rtol=1e-5)
    np.testing.assert_allclose(scale.var[...], 0.9 + 0.1 * variance * 20 / 19, rtol=1e-5)
    net.eval()
    np.testing.assert_allclose(scale(jnp.asarray(z)), z / np.sqrt(np.asarray(scale.var[...]) + 1e-5), rtol=1e-5)


def test_what_would_not_be_homogeneous_is_refused():
    with pytest.raises(CaseJaxError, match="LayerNorm"):
        without_biases(ConvNeXt((1,), (4,), num_classes=5, rngs=nnx.Rngs(0)))

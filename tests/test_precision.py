from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from case_jax import case, finish_maps, topk_logits
from case_jax._checks import CaseJaxError
from case_jax.methods import top_class_maps
from case_jax.tap import check_closed_form
from case_jax.tap.precision import PRECISIONS, Precision, at_precision


def maps(model, image):
    found = jax.jit(lambda p, x: top_class_maps(case, model, p, x, contrast=topk_logits(3, model.num_classes)))(
        model.params, image
    )
    return finish_maps(found, image.shape[:2])


def products(model, image):
    """Operand types and precisions of all convolutions and matrix products of one view's weights."""

    def eqns(jaxpr):
        for eqn in jaxpr.eqns:
            yield eqn
            for inner in jax.tree.leaves(eqn.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
                if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                    yield from eqns(getattr(inner, "jaxpr", inner))

    def weights(params, x):
        return model.view(params, x).class_weights(jnp.arange(2))

    traced = jax.make_jaxpr(weights)(model.params, image)
    named = ("conv_general_dilated", "dot_general")
    return [
        (e.invars[0].aval.dtype.name, e.params["precision"]) for e in eqns(traced.jaxpr) if e.primitive.name in named
    ]


def test_float32_is_the_model_itself(tapped):
    assert at_precision(tapped, "float32") is tapped
    assert tapped.precision == "float32"


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_activation_logits_and_maps_are_float32_and_near(tapped, images, precision):
    low = at_precision(tapped, precision)
    view, exact = low.view(low.params, images[0]), tapped.view(tapped.params, images[0])
    assert view.activation.dtype == view.logits.dtype == jnp.float32
    np.testing.assert_allclose(view.logits, exact.logits, atol=0.02 * float(jnp.abs(exact.logits).max()))
    assert view.head is not None  # the closed form still serves
    found = maps(low, images[0])
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, maps(tapped, images[0]), atol=0.1)


def test_bf16_rounds_what_float32_does_not(tapped, images):
    low = at_precision(tapped, "bf16")
    assert (
        np.asarray(low.view(low.params, images[0]).logits) != np.asarray(tapped.view(tapped.params, images[0]).logits)
    ).any()
    convolutions = [dtype for dtype, _ in products(low, images[0])][:4]
    assert convolutions == ["bfloat16"] * 4


def test_tf32_asks_the_device_for_it_in_the_classifier_alone(tapped, images):
    asked = products(at_precision(tapped, "tf32"), images[0])
    assert asked[0] == ("float32", (jax.lax.Precision.HIGH, jax.lax.Precision.HIGH))  # what JAX calls it
    assert all(precision is None for _, precision in products(tapped, images[0])[:4])


def test_parameters_are_still_an_argument(tapped, images):
    low = at_precision(tapped, "bf16")
    halved = jax.tree.map(lambda a: a / 2, tapped.params)
    assert (low.view(halved, images[0]).logits != low.view(low.params, images[0]).logits).any()


def test_an_unknown_precision_is_named(tapped):
    with pytest.raises(CaseJaxError, match=r"precision: 'fp16' is unknown\."):
        at_precision(tapped, "fp16")
    assert tuple(PRECISIONS) == get_args(Precision) == ("float32", "tf32", "bf16")


def test_a_model_of_fewer_bits_knows_the_exact_one(tapped, images):
    low = at_precision(tapped, "bf16")
    assert (low.precision, low.exact) == ("bf16", tapped)
    assert at_precision(low, "float32") is tapped
    assert at_precision(low, "tf32").exact is tapped  # nothing is rounded twice
    check_closed_form(low, images[0], tolerance=1e-5)  # of the exact one: bfloat16 alone would miss that


def test_maps_of_further_layers_have_fewer_bits_too(tapped, images):
    exact, low, half = (at_precision(tapped, p).view(tapped.params, images[0]).activations() for p in PRECISIONS)
    for a, b, c in zip(exact, low, half, strict=True):
        assert a.dtype == b.dtype == c.dtype == jnp.float32
        assert 0 < jnp.abs(c - a).max() < 0.05 * jnp.abs(a).max()
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)  # the same on CPUs

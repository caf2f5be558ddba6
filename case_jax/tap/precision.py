"""A classifier that computes with fewer bits, while everything around it stays in float32."""

from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from case_jax import parallel
from case_jax._checks import unknown
from case_jax.tap.split import split, tag
from case_jax.tap.view import Params, TappedModel

Precision = Literal["float32", "tf32", "bf16"]
PRECISIONS: dict[Precision, str] = {
    "float32": "every product in float32, overriding the device's default",
    "tf32": "convolutions and matrix products on TF32 units (NVIDIA), in three bfloat16 passes (TPU), in float32 elsewhere",
    "bf16": "parameters, images and all between in bfloat16: half of the memory and of its traffic",
}


def at_precision(model: TappedModel, precision: str) -> TappedModel:
    """The same model, its forward and backward passes with fewer bits, those for the maps of further layers too.

    The activation at the layer, the logits, and so class weights, maps and all that is counted on them, are float32 again.

    Args:
        model: a model in float32, or one of this function.
        precision: a name in `PRECISIONS`.

    Raises:
        CaseJaxError: for an unknown name.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    exact = model.exact or model
    if precision == "float32":
        return exact
    if precision == "tf32":
        apply = parallel.with_precision(exact.apply, "tensorfloat32")
        return replace(exact, apply=apply, precision=precision, exact=exact)
    name = f"{exact.tag} in float32"

    def in_bf16(params: Params, image: Array) -> Array:
        low = jax.tree.map(_to_bf16, params)
        activation, tail = split(exact.apply, exact.tag)(low, _to_bf16(image))
        return tail(_to_bf16(tag(activation.astype(jnp.float32), name))).astype(jnp.float32)

    return replace(
        exact,
        apply=in_bf16,
        tag=name,
        activation_dtype=jnp.dtype(jnp.float32),
        layers=tuple(name if layer == exact.tag else layer for layer in exact.layers),
        precision=precision,
        exact=exact,
    )


def _to_bf16(value: Any) -> Any:
    return value.astype(jnp.bfloat16) if jnp.issubdtype(jnp.result_type(value), jnp.floating) else value

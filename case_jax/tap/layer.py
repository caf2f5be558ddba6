"""What an adapter puts around the tapped layer's output, and around the first pass through a network."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from case_jax._checks import CaseJaxError, require
from case_jax.tap.split import LAYER, tag

CHANNELS = (1, 3, 4)
"""Usual numbers of an image's channels."""


@contextlib.contextmanager
def told_of_channels(image: Any) -> Iterator[None]:
    """Whatever a network raises inside the context, where the image has its channels first or no picture's axes, is an error that says so."""
    try:
        yield
    except CaseJaxError:
        raise
    except Exception as error:
        shape = jnp.shape(image)
        given = f"image: got shape {shape}, dtype {jnp.result_type(image)}; accepted: one normalised floating-point image of shape"
        if len(shape) > 1 and shape[0] in CHANNELS and shape[-1] not in CHANNELS:
            raise CaseJaxError(
                f"{given} {(*shape[1:], shape[0])}, channels last: jnp.moveaxis(image, 0, -1)."
            ) from error
        if len(shape) == 3:
            raise
        raise CaseJaxError(
            f"{given} (height, width, channels), where the network takes pictures, without a batch axis and with one of channels also where "
            f"there is one: image[..., None]. The network raised {type(error).__name__}: {error}"
        ) from error


def require_array(output: Any, layer: str) -> jax.Array:
    """A layer's output, unless it is more or something else than one array."""
    if not isinstance(output, jax.Array):
        raise CaseJaxError(f"layer: {layer!r} returns a {type(output).__name__}; tap a layer that returns one array.")
    return output


def tag_output(output: Any, layer: str, token_grid: tuple[int, ...] | None) -> Any:
    """Tag a layer's output for a batch of one image, (1, h, w, K), or with a token grid (1, prefix + h·w, K).

    Of tokens, the last h·w, in row order, become the map; those before them (a class token) are left out of it and pass by.

    Raises:
        CaseJaxError: for an output that is not one array, or tokens that the grid does not fit.
    """
    output = require_array(output, layer)
    if token_grid is None:
        return tag(output[0], LAYER + layer)[None]
    count = math.prod(token_grid)
    require(
        output.ndim == 3 and min(token_grid) >= 1 and output.shape[1] >= count,
        "token_grid",
        f"{'×'.join(map(str, token_grid))} for the output {output.shape} of layer {layer!r}",
        "as many rows and columns as the layer has tokens of image patches, its output being (batch, tokens, channels)",
    )
    before = output.shape[1] - count
    grid = tag(output[0, before:].reshape(*token_grid, -1), LAYER + layer)
    return jnp.concatenate([output[:, :before], grid.reshape(1, count, -1)], axis=1)

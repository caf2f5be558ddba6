"""What an adapter puts around the tapped layer's output."""

from typing import Any

import jax
import jax.numpy as jnp

from case_jax._checks import CaseJaxError, require
from case_jax.tap.split import LAYER, tag


def tag_output(output: Any, layer: str, token_grid: tuple[int, int] | None) -> Any:
    """Tag a layer's output for a batch of one image, (1, h, w, K), or with a token grid (1, prefix + h·w, K).

    Of tokens, the last h·w, in row order, become the map; those before them (a class token) are left out of it and pass by.

    Raises:
        CaseJaxError: for an output that is not one array, or tokens that the grid does not fit.
    """
    if not isinstance(output, jax.Array):
        raise CaseJaxError(f"layer: {layer!r} returns a {type(output).__name__}; tap a layer that returns one array.")
    if token_grid is None:
        return tag(output[0], LAYER + layer)[None]
    height, width = token_grid
    require(
        output.ndim == 3 and height >= 1 and width >= 1 and output.shape[1] >= height * width,
        "token_grid",
        f"{height}×{width} for the output {output.shape} of layer {layer!r}",
        "as many rows and columns as the layer has tokens of image patches, its output being (batch, tokens, channels)",
    )
    before = output.shape[1] - height * width
    grid = tag(output[0, before:].reshape(height, width, -1), LAYER + layer)
    return jnp.concatenate([output[:, :before], grid.reshape(1, height * width, -1)], axis=1)

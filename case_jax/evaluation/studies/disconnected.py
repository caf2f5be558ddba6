"""A classifier of mosaics whose heads are disconnected: head i sees cell i alone, so it is known what a map must not show."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from case_jax.metrics.grid_pointing import join_cells, require_grid, split_cells
from case_jax.tap import tag, tap_function
from case_jax.tap.split import split
from case_jax.tap.view import TappedModel

MOSAIC = "case_jax.mosaic"


def disconnected(model: TappedModel, n: int) -> TappedModel:
    """The classifier run on each cell of an n × n mosaic separately, tapped at the mosaic of the cells' activations (DiFull).

    `A = join(A_0, …, A_{n²−1})` with `A_i` the layer's output for cell i, and `y = tail(A_i)` for the cell i that is asked about. The
    other cells do not influence y in any way, so `∂y/∂A` and `∂y/∂x` are zero there. What follows for a score (`cell_shares`):

    - 1 (to rounding) for maps that multiply or show the gradient at each place: gradients of the input, HiResCAM, LayerCAM;
    - below 1 for maps that give each channel one weight for all places (Grad-CAM, CASE and every other weighted sum of
      channels), as far as the channels that speak for the class are active in other cells, too. This is a fact about such
      methods, and the one that this test was made to show.

    Args:
        model: the classifier, tapped at the size of one cell.
        n: rows and columns of cells.

    Returns:
        A model of the mosaic with C logits. Its parameters are the pair `(model.params, cell)`: pass
        `(params, jnp.int32(i))` to `view` to ask head i.

    Raises:
        CaseJaxError: for n below 2.

    DiFull of Rao, Böhle, Schiele, "Towards Better Understanding Attribution Methods", CVPR 2022 (arXiv 2205.10435).
    """
    require_grid(n)
    front = split(model.apply, model.tag)

    def apply(params: Any, mosaic: Array) -> Array:
        weights, cell = params
        cells = split_cells(mosaic, n)
        activations = jax.vmap(lambda x: front(weights, x)[0])(cells)
        merged = split_cells(tag(join_cells(activations), MOSAIC), n)
        _, tail = front(weights, cells[cell])  # what by-passes the layer must be that of this cell
        return tail(merged[cell])

    height, width, depth = model.image_shape
    image = jnp.zeros((n * height, n * width, depth))
    return tap_function(apply, (model.params, jnp.int32(0)), MOSAIC, image, chunk=model.chunk, link=model.link)

"""RefineCAM."""

from jaxtyping import Array, Float

from case_jax.contrast.sets import Query
from case_jax.methods.fused import fused_maps
from case_jax.methods.grad_cam_plus_plus import grad_cam_plus_plus
from case_jax.tap.view import View


def refine_cam(view: View, query: Query) -> Float[Array, "T *Space"]:
    """The product of Grad-CAM++ at several layers: where all of them mark.

    `Π_l S_l`, S_l the finished Grad-CAM++ map in [0, 1] of layer l at the image's resolution. The layers are those with which the model was tapped,
    `layers=[…]`; a loaded network has one for each resolution. With another method: `fused(method, "product")`.

    Args:
        view: one image's view, of a model tapped at several layers.
        query: targets (T,); contrast sets and key are not used.

    Returns:
        One map per target at the image's resolution, in [0, 1]; all zero where the layers mark nothing in common or the map of one is
        degenerate; NaN for a class that the model does not have.

    Raises:
        CaseJaxError: for a model that was tapped at one layer alone.

    Domeniconi, Stramiglio, Lombardi, Salti, How to Evaluate and Refine your CAM (arXiv 2605.14641), as in pytorch-grad-cam 1.5.7.
    """
    return fused_maps(view, query, grad_cam_plus_plus, "product")

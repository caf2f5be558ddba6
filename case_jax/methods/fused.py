"""Maps of several layers made one."""

from dataclasses import dataclass
from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

from case_jax._checks import unknown
from case_jax.contrast.sets import Query
from case_jax.imageops import finish_maps, rescale_map
from case_jax.methods.cam import of_existing
from case_jax.methods.naming import MapFunction, name_of
from case_jax.tap.view import View

Fusion = Literal["product", "maximum", "mean"]


def fused_maps(view: View, query: Query, method: MapFunction, fusion: Fusion) -> Float[Array, "T *Space"]:
    """A method's maps at all further layers of the view, each from 0 to 1 at the image's resolution, put together; NaN for no class."""
    shape = view.image.shape[:-1]
    finished = [finish_maps(method(layer, query), shape, space=len(shape)) for layer in view.views()]
    maps = rescale_map(jnp.stack(finished), space=len(shape))  # enlarging takes the peaks off coarse maps
    put_together = {"product": jnp.prod, "maximum": jnp.max, "mean": jnp.mean}[fusion]
    return of_existing(view, query, put_together(maps, axis=0))


@dataclass(frozen=True)
class Fused:
    """A method's maps of several layers made one; from `fused`."""

    method: MapFunction
    fusion: Fusion

    @property
    def title(self) -> str:
        """Its name in tables."""
        return f"{name_of(self.method)}, {self.fusion} over layers"

    def __call__(self, view: View, query: Query) -> Float[Array, "T *Space"]:
        """One map per target, in [0, 1], at the image's resolution; raises as the method, and for a model tapped at one layer alone."""
        return fused_maps(view, query, self.method, self.fusion)


def fused(method: MapFunction, fusion: Fusion = "maximum") -> Fused:
    """The method's maps of several layers made one: fine ones of early layers, and those of late layers, which know the class.

    `product`, `maximum` or `mean` over the layers l of `S_l`, the map of layer l at the image's resolution, from 0 to 1 in every layer. The layers are those with which
    the model was tapped, `layers=[…]`; the tapped layer itself is among them only if it is named there. A loaded network has one for each resolution.

    Args:
        method: a map function `(view, query) -> maps`, of activations and their gradients.
        fusion: see above. LayerCAM's authors take the maximum, pytorch-grad-cam the mean of several target layers (scaled before they are enlarged), RefineCAM the product.

    Returns:
        A map function. A layer whose map is degenerate counts as zero everywhere. It costs a backward pass through the network from each layer.

    Raises:
        CaseJaxError: for an unknown `fusion`; when it is called, for a model that was tapped at one layer alone.

    Jiang et al., LayerCAM, IEEE TIP 2021, without its scaling of shallow layers by tanh.
    """
    if fusion not in get_args(Fusion):
        raise unknown("fusion", fusion, get_args(Fusion))
    return Fused(method, fusion)

"""Input attributions against captum's."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from case_jax.methods.deconvolution import deconvolution_attribution
from case_jax.methods.guided_backprop import guided_backprop_attribution
from case_jax.methods.input_x_gradient import input_x_gradient_attribution
from case_jax.methods.integrated_gradients import convergence_delta, integrated_gradients_attribution
from case_jax.methods.occlusion import occlusion_attribution
from case_jax.methods.saliency import saliency_attribution
from experiments.parity.compare import Line, relative
from experiments.parity.goldens import Arrays, Network

BOUND = 2e-5
INTEGRALS = {
    "ig_trapezoid": partial(integrated_gradients_attribution, steps=32, rule="riemann_trapezoid"),
    "ig_gausslegendre": partial(integrated_gradients_attribution, steps=32, rule="gausslegendre"),
}
ATTRIBUTIONS: dict[str, Callable[..., Any]] = {
    "gradient": saliency_attribution,
    "saliency_abs": lambda view, targets: jnp.abs(saliency_attribution(view, targets)),
    "input_x_gradient": input_x_gradient_attribution,
    "guided_backprop": guided_backprop_attribution,
    "deconvolution": deconvolution_attribution,
    "occlusion": lambda view, targets: occlusion_attribution(view, targets, window=8, stride=4)[..., None],
    **INTEGRALS,
}


def attribution_lines(network: Network, stored: Arrays) -> Iterator[Line]:
    """Every attribution, of each image's likeliest class; with the integrals, how far they are from complete."""
    images, targets = network.images(), jnp.asarray(stored["target"])
    model = network.tap(images[0])
    for name, attribution in ATTRIBUTIONS.items():

        def one(x, target, name=name, attribution=attribution):
            view, classes = model.view(model.params, x), target[None]
            found = attribution(view, classes)
            delta = convergence_delta(view, classes, found)[0] if name in INTEGRALS else jnp.float32(0)
            return jnp.moveaxis(found[0], -1, 0), delta

        found, delta = jax.jit(jax.vmap(one))(images, targets)
        yield relative(network.name, name, found, stored[name], _bound(stored, name))
        if name in INTEGRALS:
            expected, summed = stored[f"{name}_delta"], float(np.abs(stored[name]).sum((1, 2, 3)).max())
            bound = _bound(stored, f"{name}_delta")  # a small rest of large sums: rounding follows the terms
            yield relative(network.name, f"{name} delta", delta, expected, bound, scale=summed)


def _bound(stored: Arrays, name: str) -> float:
    return max(BOUND, 20 * float(stored[f"relerr/{name}"])) if name.endswith("_delta") else BOUND

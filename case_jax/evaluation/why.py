"""Why maps are nowhere positive: what the maps alone do not tell, asked only of images that have such maps."""

from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from case_jax import parallel
from case_jax.evaluation.maps import Pixels
from case_jax.imageops import normalise_image
from case_jax.methods import MapFunction, described
from case_jax.reasons import Reason
from case_jax.tap.relu import count_gates
from case_jax.tap.view import TappedModel, at_least_float32


class Why:
    """Finds why maps of a model are nowhere positive; compiles a program when it is first asked."""

    def __init__(self, model: TappedModel, methods: Mapping[str, MapFunction], pixels: Pixels):
        self._model, self._pixels = model, pixels
        self._gradients = [described(name, function).gradient for name, function in methods.items()]

    def __call__(
        self, image: np.ndarray, targets: Int[np.ndarray, " T"], reasons: Int[np.ndarray, "M T"]
    ) -> Int[np.ndarray, "M T"]:
        """The reasons, those that say no more than `NOT_POSITIVE` replaced by more exact ones where there are any.

        A gradient method's map of a class is without gradient where the class's logit at this image has none, at the layer or at the image,
        as the method takes it: not one number other than zero. There is no path from the layer to the class where the gradient is zero at
        an activation of random numbers and at its negative, too.

        Args:
            image: pixels as the model's source gives them.
            targets: the classes of the maps.
            reasons: one row for each method.
        """
        found = np.array(reasons)
        if not any(g and (row == Reason.NOT_POSITIVE).any() for g, row in zip(self._gradients, found, strict=True)):
            return found
        flat, severed = (np.asarray(a) for a in self._zeros(self._model.params, image, targets))
        for row, gradient in zip(found, self._gradients, strict=True):
            asked = row == Reason.NOT_POSITIVE
            if gradient == "ReLUs" and not self._relus:
                row[asked] = Reason.NO_RELU
            elif gradient == "layer":
                row[asked & flat[0]] = Reason.NO_GRADIENT
                row[asked & flat[0] & severed] = Reason.NO_PATH
            elif gradient:
                row[asked & flat[1]] = Reason.NO_GRADIENT
        return found

    @cached_property
    def _relus(self) -> int:
        model = self._model
        like = jax.ShapeDtypeStruct(model.image_shape, jnp.float32)
        return count_gates(partial(model.apply, model.params), like).relus

    @cached_property
    def _zeros(self) -> Any:
        model, pixels = self._model, self._pixels

        def zeros(params: Any, image: Array, targets: Array) -> tuple[Array, Array]:
            """Whether each target's gradient is zero at the layer and at the image (2, T), and at random activations (T,)."""
            view = model.view(params, normalise_image(image, *pixels))
            like = at_least_float32(view.activation)
            random = jax.random.normal(jax.random.key(0), like.shape, like.dtype).astype(view.activation.dtype)
            rows = jax.nn.one_hot(targets, len(view.logits), dtype=view.logits.dtype)

            def zero(function: Any, at: Array) -> Array:
                pull = jax.vjp(function, at)[1]
                return jax.lax.map(lambda row: (pull(row)[0] == 0).all(), rows)

            flat = [zero(view.tail, view.activation), zero(view.predict, view.image)]
            return jnp.stack(flat), zero(view.tail, random) & zero(view.tail, -random)

        return parallel.on_one_device(zeros)

"""What one forward pass of one image gives: logits, activation and, on demand, class weights."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial, register_dataclass
from jaxtyping import Array, Float, Int

from case_jax._checks import require
from case_jax.imageops import channel_means
from case_jax.tap.chunking import map_in_chunks
from case_jax.tap.head import (
    Factors,
    Head,
    Weights,
    all_weights,
    at_least_float32,
    closed_form,
    factors,
    head_of,
)
from case_jax.tap.layer import told_of_size
from case_jax.tap.link import Link, probabilities
from case_jax.tap.split import Tail, only_backwards, split, values_at

Params = Any
PROGRAM = (
    "apply",
    "layer",
    "tag",
    "num_classes",
    "image_shape",
    "activation_shape",
    "activation_dtype",
    "head_kernel",
    "head_channels",
    "head_is_last",
    "chunk",
    "layers",
    "precision",
    "exact",
    "link",
    "one_logit",
)
"""All that a tapped model is but its parameters."""
LEAVES = ("image", "logits", "activation", "tail", "predict", "pull", "class_weights", "head")


@partial(register_dataclass, data_fields=("pull", "logits"), meta_fields=("chunk",))
@dataclass(frozen=True, eq=False)
class PulledBack:
    """Class weights as mean gradients, those of at most `chunk` classes in memory at once; a pytree."""

    pull: Callable[[Array], Array]
    logits: Float[Array, " C"]
    chunk: int

    def __call__(self, classes: Int[Array, " n"]) -> Float[Array, "n K"]:
        """`α` of the given classes; zero for a class that does not exist."""
        rows = jax.nn.one_hot(classes, len(self.logits), dtype=self.logits.dtype)
        return map_in_chunks(lambda row: channel_means(at_least_float32(self.pull(row))), rows, chunk=self.chunk)


@partial(register_dataclass, data_fields=LEAVES, meta_fields=("chunk", "link", "layers", "tag"))
@dataclass(frozen=True, eq=False)
class View:
    """One image as the classifier sees it.

    With `y = tail(A)`, the channel weights of class c are `α_c[k] = mean_{hw} ∂y_c/∂A[h,w,k]`. In all formulas h, w stand for however many
    spatial axes there are: one in signals, three in volumes.

    A pytree, its functions too: `jax.jit(model.view)` returns one, and a compiled function takes it. `jax.vmap(model.view)` gives the views
    of a batch; its leaves hold the parameters once per image, so for many images make a view and use it inside one mapped function.
    """

    image: Float[Array, "*space D"]
    logits: Float[Array, " C"]
    activation: Float[Array, "*layer K"]
    tail: Tail
    """The classifier after the layer: activation to logits."""
    predict: Callable[[Float[Array, "*space D"]], Float[Array, " C"]]
    """The whole classifier: normalised image to logits."""
    pull: Callable[[Float[Array, " C"]], Float[Array, "*layer K"]]
    """Gradient of `⟨cotangent, y⟩` with respect to the activation."""
    class_weights: Weights
    """`α` of the given classes."""
    head: Head | None
    """The first dense layer, where no channels mix before it and the model declares so; else None."""
    chunk: int
    """Most classes, channels or altered copies of the image that a method holds in memory at once."""
    link: Link = "softmax"
    """How logits become probabilities."""
    layers: tuple[str, ...] = ()
    """Tags of further layers; none where the model was tapped without."""
    tag: str = ""
    """Of the layer."""

    def probabilities(self) -> Float[Array, " C"]:
        """Of all classes, by the model's link, in float32 at least; an error where there are none (link `identity`)."""
        return probabilities(self.logits, self.link)

    def factors(self) -> Factors | None:
        """Class weights as a product of the head's columns and one response per channel; None where they are none."""
        return factors(self.head, self.activation)

    def activations(self) -> tuple[Float[Array, "*stage k"], ...]:
        """Of the further layers, in the order in which they were given, in float32 at least; raises as `views`."""
        self._require_layers()
        return tuple(at_least_float32(value) for value in values_at(self.predict, self.layers)(self.image))

    def views(self) -> tuple["View", ...]:
        """The same image at each of the further layers, in the order in which they were given; class weights are pulled back.

        Raises:
            CaseJaxError: for a model that was tapped without.
        """
        self._require_layers()
        return tuple(self._at(tag) for tag in self.layers)

    def _require_layers(self) -> None:
        accepted = "a model tapped with layers=[…], the paths of several layers, as loaded networks are"
        require(self.layers, "layers", "a model tapped at one layer alone", accepted)

    def of(self, image: Float[Array, "*space D"]) -> "View":
        """The same classifier's view of another image, for methods that change the image and ask again; class weights are pulled back.

        Raises:
            CaseJaxError: for an image of another shape.
        """
        require(image.shape == self.image.shape, "image", f"shape {image.shape}", f"the view's own, {self.image.shape}")
        return replace(self, image=image)._at(self.tag)

    def _at(self, tag: str) -> "View":
        activation, tail = split(self.predict, tag)(self.image)
        logits, pull, weights = _pulled_back(tail, activation, self.chunk)
        found = {"logits": logits, "activation": activation, "tail": tail, "pull": pull, "class_weights": weights}
        return replace(self, **found, head=None, tag=tag)


@partial(register_dataclass, data_fields=("params",), meta_fields=PROGRAM)
@dataclass(frozen=True, eq=False, repr=False)
class TappedModel:
    """A classifier split at one layer; a pure function and its parameters.

    Pass other parameters of the same shapes to `view` (re-randomised, fine-tuned) and nothing is traced again. A pytree whose leaves are
    the parameters, so that a compiled function takes the whole model as an argument.
    """

    apply: Callable[[Params, Float[Array, "*space D"]], Float[Array, " C"]]
    """One normalised image to logits, with the layer's output tagged `tag`."""
    params: Params
    layer: str
    tag: str
    num_classes: int
    image_shape: tuple[int, ...]
    activation_shape: tuple[int, ...]
    activation_dtype: Any
    head_kernel: Callable[[Params], Float[Array, "F M"]] | None = None
    """The kernel of the first dense layer when all between layer and it acts on each channel alone; else None."""
    head_channels: tuple[int, int] | None = None
    """The first of the layer's channels among those in front of the head, and how many these are; None for all."""
    head_is_last: bool = True
    """Whether the head's output are the logits."""
    chunk: int = 64
    """Most classes (or channels) that one pullback holds in memory at once."""
    layers: tuple[str, ...] = ()
    """Tags of further layers, whose outputs `apply` tags, too."""
    precision: str = "float32"
    """Of its passes, see `at_precision`."""
    exact: "TappedModel | None" = None
    """The same model in float32, where this one has fewer bits."""
    link: Link = "softmax"
    """How its logits become probabilities: `softmax` (a softmax that the network ended in has been taken off), `sigmoid` of each, or
    `identity`, where there are none."""
    one_logit: bool = False
    """Whether its two classes are −z/2 and z/2 of one logit z: "not" the class, and the class, whose probability is sigmoid(z)."""

    def __repr__(self) -> str:
        """Layer, number of classes and the layer's shape; no parameters."""
        return f"{type(self).__name__}({self._facts()})"

    def _facts(self) -> str:
        shape = "×".join(map(str, self.activation_shape))
        return f"layer={self.layer!r}, {self.num_classes} classes, {shape}"

    def view(self, params: Params, image: Float[Array, "*space D"]) -> View:
        """One forward pass; only the part after the layer is differentiated.

        Args:
            params: parameters, `self.params` or others of the same structure.
            image: one normalised image, channels last; batch with `jax.vmap`.

        Returns:
            The view of this image.

        Raises:
            CaseJaxError: when the image is not a single one, channels last.
        """
        require(
            jnp.ndim(image) == len(self.image_shape)
            and jnp.shape(image)[-1] == self.image_shape[-1]
            and jnp.issubdtype(jnp.result_type(image), jnp.floating),
            "image",
            f"shape {jnp.shape(image)}, dtype {jnp.result_type(image)}",
            f"one normalised floating-point image of shape {self.image_shape}, channels last; batch with jax.vmap",
        )
        with told_of_size(image, self.image_shape):
            activation, tail = split(self.apply, self.tag)(params, image)
        logits, pull, weights = _pulled_back(tail, activation, self.chunk)
        head = self._head(params, tail, activation, logits)
        if head is not None:
            weights = Partial(_of_existing, closed_form(head, activation), logits)
        predict = Partial(self.apply, params)
        program = (self.chunk, self.link, self.layers, self.tag)
        return View(image, logits, activation, tail, predict, pull, weights, head, *program)

    def _head(self, params: Params, tail: Tail, activation: Array, logits: Array) -> Head | None:
        if self.head_kernel is None:
            return None
        kernel = self.head_kernel(params)
        return head_of(tail, activation, logits, kernel, channels=self.head_channels, last=self.head_is_last)

    def view_all(self, params: Params, image: Float[Array, "*space D"]) -> View:
        """As `view`, with the weights of all classes computed at once and looked up afterwards.

        Closed form where the head is declared; otherwise reverse mode over classes or forward mode over channels,
        whichever is fewer, in chunks of `chunk`; always reverse mode where a `jax.custom_vjp` lies behind the layer.
        """
        view = self.view(params, image)
        *space, channels = view.activation.shape
        if view.head is not None:
            if view.head.rest is None:
                return view
            table = all_weights(view.head, view.activation, self.num_classes)
        elif channels < self.num_classes and not only_backwards(view.tail, view.activation):
            logits, push = jax.linearize(view.tail, view.activation)
            view = replace(view, logits=logits)  # the same numbers; the tail is then evaluated once

            def shifted(unit):
                return at_least_float32(push(jnp.broadcast_to(unit, view.activation.shape))) / math.prod(space)

            units = jnp.eye(channels, dtype=view.activation.dtype)
            table = map_in_chunks(shifted, units, chunk=self.chunk).T
        else:
            table = view.class_weights(jnp.arange(self.num_classes))
        return replace(view, class_weights=Partial(_of_existing, Partial(_looked_up, table), view.logits))


def _pulled_back(tail: Tail, activation: Array, chunk: int) -> tuple[Array, Callable[[Array], Array], Weights]:
    """Logits, gradients with respect to the activation, and class weights by them."""
    logits, vjp = jax.vjp(tail, activation)
    pull = Partial(_pulled, vjp, logits)
    return logits, pull, Partial(_of_existing, PulledBack(pull, logits, chunk), logits)


def _pulled(vjp: Callable[[Array], Any], logits: Float[Array, " C"], cotangent: Float[Array, " C"]) -> Array:
    return vjp(cotangent.astype(logits.dtype))[0]


def _of_existing(known: Weights, logits: Float[Array, " C"], classes: Int[Array, " n"]) -> Float[Array, "n K"]:
    exists = (classes >= 0) & (classes < len(logits))
    return jnp.where(exists[:, None], known(classes), jnp.nan)  # never another class's weights in silence


def _looked_up(table: Float[Array, "C K"], classes: Int[Array, " n"]) -> Float[Array, "n K"]:
    return table[classes]

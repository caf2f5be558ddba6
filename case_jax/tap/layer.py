"""What an adapter puts around the tapped layer's output, and around a pass through a network."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from case_jax._checks import CaseJaxError, require, unknown
from case_jax.tap.loops import iterations
from case_jax.tap.outputs import changed
from case_jax.tap.split import LAYER, tag
from case_jax.tap.tokens import Tokens, require_no_tokens

CHANNELS = (1, 3, 4)
"""Usual numbers of an image's channels."""


Channels = Literal["first", "last"]
"""Where a network's images and maps have their channels."""


class Form(NamedTuple):
    """How a layer's output for one image is laid out."""

    batched: bool = True
    """Whether it has a batch axis, of length one."""
    channels_first: bool = False
    """Whether the channels of a map stand before its places; those of tokens never do."""

    def rows(self, value: jax.Array, *, turned: bool) -> jax.Array:
        """The output with a batch axis, and its channels last."""
        value = value if self.batched else value[None]
        return jnp.moveaxis(value, 1, -1) if turned and self.channels_first else value

    def back(self, value: jax.Array, *, turned: bool) -> jax.Array:
        """The inverse of `rows`."""
        value = jnp.moveaxis(value, -1, 1) if turned and self.channels_first else value
        return value if self.batched else value[0]


BATCHED = Form()


class Tapped(NamedTuple):
    """Which value of a network is tapped."""

    layer: str
    """The layer's path."""
    output: str | int | None = None
    """Which part of what the layer returns; None where that is one array."""
    call: int | None = None
    """Which of the layer's calls, from 0; None where there is one."""
    tokens: Tokens | None = None
    """How the layer's tokens lie in the image; None for a layer that returns a map."""
    form: Form = BATCHED
    """How the output is laid out."""

    def tag(self, output: Any, image_shape: Sequence[int]) -> Any:
        """Tag what the layer returns for one image: a map (1, h, w, K), or tokens (1, prefix + h·w, K), or what has another form.

        Raises:
            CaseJaxError: for an output that is not one array, several rows for one image, or tokens that the grid does not fit.
        """

        def changing(value: jax.Array) -> jax.Array:
            turned = self.tokens is None and value.ndim == len(image_shape) + self.form.batched
            rows = self.form.rows(value, turned=turned)
            require(
                rows.ndim >= 1 and rows.shape[0] == 1,
                "layer",
                f"{self.layer!r} with an output of shape {tuple(value.shape)} for one image",
                "a layer that returns one map, (1, height, width, channels); of parts of an image (windows) tap the block around them",
            )
            if self.tokens is None:
                require_no_tokens(rows.shape, image_shape, self.layer)
                return self.form.back(tag(rows[0], LAYER + self.layer)[None], turned=turned)
            prefix, grid = self.tokens.prefix, self.tokens.grid
            self.tokens.require_fit(rows.shape, image_shape, self.layer)
            tagged = tag(rows[0, prefix:].reshape(*grid, -1), LAYER + self.layer)
            whole = jnp.concatenate([rows[:, :prefix], tagged.reshape(1, math.prod(grid), -1)], axis=1)
            return self.form.back(whole, turned=turned)

        return changed(output, self.output, changing, self.layer)


def tapped_value(
    layer: str,
    *,
    output: str | int | None,
    call: int | None,
    token_grid: Sequence[int] | None,
    prefix_tokens: int,
    check: bool,
    form: Form = BATCHED,
) -> Tapped:
    """Which value of a network is tapped, by the arguments of the adapters.

    Raises:
        CaseJaxError: for a call of a layer inside a loop, or tokens that cannot be.
    """
    numbers = iterations(layer)[1]
    accepted = "None for a layer inside a loop, which a number in its path chooses"
    require(call is None or not numbers, "call", call, accepted)
    tokens = None if token_grid is None else Tokens(tuple(token_grid), prefix_tokens, check)
    return Tapped(layer, output, call, tokens, form)


def further_layers(
    layers: Sequence[str], tapped: Tapped, known: Iterable[str]
) -> tuple[tuple[Tapped, ...], tuple[str, ...]]:
    """Which values are tapped besides the one, by the argument `layers` of the adapters, and the tags of all that it names.

    Tokens and channels lie as those of the tapped layer do. Where that layer is itself among them, it is not tagged again.

    Raises:
        CaseJaxError: for a text, an unknown path, one that is named twice, or one inside a loop.
    """
    proper = not isinstance(layers, str) and len(set(layers)) == len(layers)
    require(proper, "layers", repr(layers), "paths of layers, in a list, each once")
    for path in layers:
        if path not in known and path != tapped.layer:
            require(not iterations(path)[1], "layers", repr(path), "layers outside of loops")
            raise unknown("layers", path, known)
    others = tuple(Tapped(path, tokens=tapped.tokens, form=tapped.form) for path in layers if path != tapped.layer)
    return others, tuple(LAYER + path for path in layers)


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


@contextlib.contextmanager
def told_of_size(image: Any, tapped: Sequence[int]) -> Iterator[None]:
    """Whatever a network raises inside the context, where the image has another size than the tapped one, is an error that says so."""
    try:
        yield
    except CaseJaxError:
        raise
    except Exception as error:
        if jnp.shape(image) == tuple(tapped):
            raise
        raise CaseJaxError(
            f"image: got shape {jnp.shape(image)}, which the network does not take; accepted: {tuple(tapped)}, the size at which it was "
            "tapped: resize the image, or tap the network again at the new size if it can change."
        ) from error

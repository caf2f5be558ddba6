"""Maps of an image, or of a batch, in one call."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from case_jax import parallel
from case_jax._checks import CaseJaxError, require, require_seed, unknown
from case_jax.contrast import ContrastSet, ask, choose_contrast
from case_jax.contrast.choice import AnyContrast
from case_jax.contrast.sets import Against
from case_jax.imageops import finish_maps, resize_map
from case_jax.methods import MapFunction, described, require_signed, signed_maps
from case_jax.methods import method as method_called
from case_jax.tap.view import TappedModel

TAPPED = "a tapped model: load(NAME), or tap_nnx, tap_linen or tap_function of one of your own"
OWN = ("targets", "contrast", "signed", "seed")
PIXELS = 16
"""A normalised image has negative values, and none as large; one without the former and with the latter holds pixels of 0 to 255."""


class _Chosen(NamedTuple):
    """A method as a compiled program knows it."""

    name: str
    function: MapFunction
    options: tuple[tuple[str, Any], ...]
    mask: bool
    """Whether its values are not to be rescaled."""
    signed: bool = False
    """Whether evidence against a class is kept."""


def explain(
    model: TappedModel,
    image: Float[Array | np.ndarray, "*B_space_D"],
    method: str | MapFunction = "case",
    *,
    targets: int | Int[Any, "*BT"] | None = None,
    contrast: AnyContrast | None = None,
    signed: bool = False,
    seed: int | Int[Any, ""] = 0,
    **options: Any,
) -> Float[Array, "*BT_space"]:
    """A method's maps of an image's classes, in [0, 1] and at the image's size.

    The same bits as the long way under `jax.jit`: `finish_maps(method(view, ask(view, targets, contrast)), (H, W))` with
    `view = model.view(model.params, image)`. Compiled once for each model, method with its options, and shapes; may be called inside
    `jax.jit`, `jax.vmap` and `jax.grad`.

    Args:
        model: from `load` or one of the taps.
        image: a normalised image (H, W, D), as `model.read` gives it, or a batch (B, H, W, D); for a model of signals (L, D), of volumes
            (depth, H, W, D), and batches of these.
        method: a name in `METHODS`, or a function `(view, query) -> maps`.
        targets: the predicted class of each image (None), a class, a list of classes, the same for every image, or an array (B, T) with
            a row for each image of a batch (`labels[:, None]` for a class each).
        contrast: which classes each target is contrasted with, for contrastive methods: a name such as "topk_logits:5", a table (C, k),
            or a contrast set. By default the 5 likeliest other classes of the image (all others, where there are fewer). The command line
            counts the classifier's confusions first where it can, which takes a pass over data: `confusion_sets`.
        signed: keep evidence against the class: maps in [−1, 1], the method with `sign=1` less the method with `sign=-1`.
        seed: of random methods. Image i of a batch has the key `fold_in(key(seed), i)`; a single image that of i = 0.
        **options: of the method, for example `masks=500` for RISE.

    Returns:
        Maps in [0, 1] (`signed`: [−1, 1]), (H, W) for None or one class, (T, H, W) for T classes, with a leading batch axis for a batch;
        in signals and volumes with their own spatial axes. All zero where a map is degenerate: constant, not finite, nowhere positive, or
        of a traced class that does not exist.

    Raises:
        CaseJaxError: for an unknown method or option, images of another kind, values from 0 to 255 for a classifier whose preprocessing
            is known (for another classifier: a warning), classes that do not exist, or a contrast that does not fit.
    """
    require(isinstance(model, TappedModel), "model", type(model).__name__, TAPPED)
    chosen = _chosen(method, options)
    if signed:
        require_signed(chosen.name, chosen.function)
        accepted = "no sign: a signed map has both"
        require("sign" not in dict(chosen.options), "sign", dict(chosen.options).get("sign"), accepted)
        chosen = chosen._replace(signed=True)
    image = checked_image(model, image)
    batch = len(image) if image.ndim > len(model.image_shape) else None
    asked = _targets(targets, model.num_classes, batch)
    if contrast is None and model.num_classes > 1:
        contrast = f"topk_logits:{min(5, model.num_classes - 1)}"
    sets = None if contrast is None else choose_contrast(contrast, model.num_classes, seed=seed).sets
    if isinstance(sets, Against) and targets is not None and not isinstance(targets, Tracer):
        sets.require_others(np.asarray(targets))
    if not isinstance(seed, Tracer):
        require_seed(seed)
        seed = np.asarray(seed, np.uint32)
    maps = _maps(model, image, asked, sets, seed, method=chosen)
    return maps.squeeze(-len(model.image_shape)) if targets is None or np.ndim(targets) == 0 else maps


@partial(parallel.on_one_device, static_argnames="method")
def _maps(
    model: TappedModel,
    image: Float[Array, "*B_space_D"],
    targets: Int[Array, "*BT"] | None,
    sets: ContrastSet | None,
    seed: Int[Array, ""],
    *,
    method: _Chosen,
) -> Float[Array, "*BT_space"]:
    def one(image: Array, targets: Array | None, number: Any) -> Array:
        view = model.view(model.params, image)
        asked = view.logits.argmax()[None] if targets is None else targets
        query = ask(view, asked, sets, key=jax.random.fold_in(jax.random.key(seed), number))
        function = partial(signed_maps, method.function) if method.signed else method.function
        maps = function(view, query, **dict(method.options))
        accepted = f"one map per target, shape ({len(asked)}, height, width), with the image's number of spatial axes"
        proper = maps.ndim == image.ndim and len(maps) == len(asked)
        require(proper, f"method {method.name!r}", f"an output of shape {maps.shape}", accepted)
        shape = image.shape[:-1]
        return (
            resize_map(maps, shape) if method.mask else finish_maps(maps, shape, space=len(shape), signed=method.signed)
        )

    if image.ndim == len(model.image_shape):
        return one(image, targets, 0)
    rows = 0 if targets is not None and targets.ndim == 2 else None
    return jax.vmap(one, in_axes=(0, rows, 0))(image, targets, jnp.arange(len(image)))


def _chosen(method: str | MapFunction, options: Mapping[str, Any]) -> _Chosen:
    """The method with its options, those of a `functools.partial` among them, so that equal questions are compiled once.

    Raises:
        CaseJaxError: for an unknown method or option, or the value of one that is not hashable.
    """
    require(isinstance(method, str) or callable(method), "method", repr(method), "a name in METHODS, or a function")
    function: Callable[..., Any] = method_called(method).maps if isinstance(method, str) else method
    name = method if isinstance(method, str) else getattr(method, "__name__", type(method).__name__)
    if isinstance(function, partial) and not function.args:
        function, options = function.func, {**function.keywords, **options}
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    for option, value in options.items():
        if option not in known and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            raise unknown(f"option of {name!r}", option, [*known, *OWN])
        try:
            hash(value)
        except TypeError as error:
            raise CaseJaxError(
                f"{option}: got a {type(value).__name__}; accepted: a value that is hashable (a tuple for a list), as the method is "
                "compiled for it."
            ) from error
    return _Chosen(name, function, tuple(sorted(options.items())), described(name, function).mask)


def checked_image(model: TappedModel, image: Any) -> Array:
    """The image or batch as an array of JAX's; what it holds is looked at where it is known."""
    rank, size = len(model.image_shape), "×".join(map(str, model.image_shape))
    accepted = (
        f"an array: a normalised floating-point image of {size}, channels last, or a batch of them; of a file or of uint8 pixels "
        "model.read makes one, where the model is from load"
    )
    require(hasattr(image, "shape") and hasattr(image, "dtype"), "image", f"a {type(image).__name__}", accepted)
    shape, dtype = image.shape, image.dtype
    proper = len(shape) in (rank, rank + 1) and 0 not in shape and shape[-1] == model.image_shape[-1]
    require(proper and jnp.issubdtype(dtype, jnp.floating), "image", f"shape {shape}, dtype {dtype}", accepted)
    if shape[-rank:] != model.image_shape:
        given = "×".join(map(str, shape[-rank:]))
        warnings.warn(f"image: {given}, for a model that was tapped at {size}", stacklevel=3)
    if not isinstance(image, Tracer):
        values = np.asarray(image)
        low, high = values.min(), values.max()
        if low >= 0 and high > PIXELS:
            _tell_of_pixels(model, f"values from {low:g} to {high:g}")
    return jnp.asarray(image)


def _tell_of_pixels(model: TappedModel, given: str) -> None:
    facts = getattr(model, "preprocessing", None)
    if facts is None:
        warnings.warn(
            f"image: {given}, which look like pixels of 0 to 255; a classifier of normalised images, (x / 255 − mean) / std, answers "
            "anything to them",
            stacklevel=4,
        )
    else:
        raise CaseJaxError(
            f"image: got {given}, which look like pixels of 0 to 255; accepted: (x / 255 − mean) / std with mean {facts.mean} and std "
            f"{facts.std}, as model.read makes it."
        )


def _targets(targets: Any, classes: int, batch: int | None) -> Array | None:
    """Classes as (T,), the same for every image, or as (B, T); None for the predicted ones."""
    if targets is None:
        return None
    given = targets if isinstance(targets, Tracer) else np.asarray(targets)
    fits = given.ndim < 2 or (given.ndim == 2 and len(given) == batch)
    accepted = f"class indices from 0 to {classes - 1}: one class, or a list of classes"
    rows = "" if batch is None else f" for every image, or an array ({batch}, T) with a row for each"
    proper = np.issubdtype(given.dtype, np.integer) and given.size and fits
    require(proper, "targets", f"shape {given.shape}, dtype {given.dtype}", accepted + rows)
    if isinstance(given, np.ndarray):
        wrong = sorted({int(c) for c in given.ravel() if not 0 <= c < classes})
        require(not wrong, "targets", wrong, accepted + rows)
    array = jnp.asarray(given, jnp.int32)
    return array[None] if given.ndim == 0 else array

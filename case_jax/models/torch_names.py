"""From a PyTorch state dict to a module's own arrays: every key used once, every variable filled once."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from case_jax._checks import CaseJaxError
from case_jax.models.layers import LayerNorm

Shape = tuple[int, ...]
Convert = Callable[[np.ndarray], np.ndarray]

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


class Layout(NamedTuple):
    """One way in which files name a network's arrays."""

    name: str
    marker: str
    """Regular expression; a file has this layout when it matches the start of some key."""
    renames: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = ()
    """(pattern, replacement) pairs of `re.sub`, applied in this order: from the file's key to module path and torch's leaf name."""
    staged: str | None = None
    """Where the file numbers blocks within their stages and the network counts them through: a regular expression of what stands in front,
    the stage's number and the block's, each a group. Applied last."""


class Family(NamedTuple):
    """What the conversion must know about a family of networks."""

    title: str
    build: Callable[..., nnx.Module]
    """The class; `build(**sizes(shapes), rngs=...)` is the network of a state dict."""
    sizes: Callable[[Mapping[str, Shape]], dict[str, Any]]
    """Shapes under torchvision's names → arguments of `build`."""
    head: str
    """Path of the linear layer that gives the logits."""
    layouts: tuple[Layout, ...]
    """The first whose marker is found is taken."""
    computed: str | None = None
    """Regular expression that is found in the names of arrays that files may hold and the network computes for itself."""


class Source(NamedTuple):
    """Where a variable's values come from."""

    key: str
    """Key of the state dict."""
    convert: Convert
    """The stored array in the module's own layout; a view where possible."""


class MapLinear(nnx.Linear):
    """A linear layer on a flattened map of `window` positions, channels last; PyTorch flattens channels first."""

    def __init__(self, window: tuple[int, int], channels: int, outputs: int, *, rngs: nnx.Rngs):
        super().__init__(window[0] * window[1] * channels, outputs, rngs=rngs)
        self.window = window


def layout_of(keys: Iterable[str], family: Family) -> Layout | None:
    """The layout of a state dict with these keys, or None when it is none of the family's."""
    keys = list(keys)
    for layout in family.layouts:
        if any(re.match(layout.marker, key) for key in keys):
            return layout
    return None


def torchvision_names(keys: Iterable[str], family: Family, *, source: str = "the state dict") -> dict[str, str]:
    """File key → torchvision's name, with every array under the path of a module (`in_proj.weight`, not `in_proj_weight`).

    Args:
        keys: keys of a state dict in any of the family's layouts.
        family: from the network's own file.
        source: what to call the state dict in errors.

    Raises:
        CaseJaxError: when the keys belong to none of the family's layouts, or two of them mean the same array.
    """
    keys = list(keys)
    layout = layout_of(keys, family)
    if layout is None:
        known = " or ".join(f"{layout.name} (keys like {_readable(layout.marker)}…)" for layout in family.layouts)
        raise CaseJaxError(
            f"weights: {source} holds no {family.title} under names that are known; accepted: {known}. "
            f"Its keys ({len(keys)}): {', '.join(sorted(keys)[:10]) or '–'}"
        )
    names: dict[str, str] = {}
    owners: dict[str, str] = {}
    for key in keys:
        name = key
        for pattern, replacement in layout.renames:
            name = re.sub(pattern, replacement, name)
        names[key] = name
    if layout.staged is not None:
        names = _counted_through(names, layout.staged)
    for key, name in names.items():
        if name in owners:
            raise CaseJaxError(f"weights: {source} holds {name} twice, as {owners[name]} and as {key}; remove one.")
        owners[name] = key
    return names


def _counted_through(names: Mapping[str, str], staged: str) -> dict[str, str]:
    """The names with one number for a stage's and a block's."""
    places = {name: match for name in names.values() if (match := re.match(staged, name))}
    blocks = sorted({(int(match[2]), int(match[3])) for match in places.values()})
    number = {block: n for n, block in enumerate(blocks)}

    def one(name: str) -> str:
        match = places.get(name)
        return name if match is None else f"{match[1]}{number[int(match[2]), int(match[3])]}.{name[match.end() :]}"

    return {key: one(name) for key, name in names.items()}


def network_sizes(shapes: Mapping[str, Shape], family: Family, *, source: str = "the state dict") -> dict[str, Any]:
    """Arguments of `family.build` for a state dict of any size of the family: depths, widths, number of classes.

    Args:
        shapes: key → shape, in any of the family's layouts.
        family: from the network's own file.
        source: what to call the state dict in errors.

    Raises:
        CaseJaxError: for other keys, or when an array that fixes a size is missing or has the wrong rank.
    """
    names = torchvision_names(shapes, family, source=source)
    try:
        return family.sizes({names[key]: tuple(shape) for key, shape in shapes.items()})
    except CaseJaxError as error:
        missing = _no_classifier(family) if f"{family.head}.weight" not in names.values() else ""
        raise CaseJaxError(f"weights: {source} is no complete {family.title}.{missing} {error}") from None


def shape_of(shapes: Mapping[str, Shape], name: str, rank: int) -> Shape:
    """The shape under a name.

    Raises:
        CaseJaxError: when there is none, or it has another rank or an empty axis.
    """
    if name not in shapes:
        raise CaseJaxError(f"{name} is missing, which the network's sizes are read from.")
    if len(shapes[name]) != rank or 0 in shapes[name]:
        raise CaseJaxError(f"{name} has shape {shapes[name]}, but an array of {rank} axes is expected.")
    return shapes[name]


def numbered(names: Iterable[str], pattern: str, *, start: int = 0) -> int:
    """How many different numbers the one group of a regular expression matches at the start of the names.

    Raises:
        CaseJaxError: when there are none, or they do not count on from `start`.
    """
    found = sorted({int(match[1]) for name in names if (match := re.match(pattern, name))})
    if not found or found != list(range(start, start + len(found))):
        raise CaseJaxError(f"The modules {_readable(pattern)} should count on from {start}, but there are {found}.")
    return len(found)


def match_torch(
    shapes: Mapping[str, Shape], module: nnx.Module, *, family: Family, source: str = "the state dict"
) -> dict[str, Source]:
    """Which array of a state dict fills which variable of a module, from keys and shapes alone.

    Args:
        shapes: key → shape, under torchvision's or timm's names.
        module: the network to fill; may be abstract (`nnx.eval_shape`).
        family: from the network's own file.
        source: what to call the state dict in errors.

    Returns:
        The module's dotted paths in its own order, each with its key and the conversion of that array.

    Raises:
        CaseJaxError: unless every key is used once and every variable filled once by an array of its shape; names the first
            ten of each side that are not. Batch counters (`num_batches_tracked`) of an existing batch normalisation are
            used up without effect.
    """
    names = torchvision_names(shapes, family, source=source)
    keys = {name: key for key, name in names.items()}
    parts = {".".join(map(str, path)): part for path, part in nnx.iter_modules(module)}
    used = {f"{path}.num_batches_tracked" for path, part in parts.items() if isinstance(part, nnx.BatchNorm)}
    if family.computed:
        used |= {name for name in keys if re.search(family.computed, name)}
    plan: dict[str, Source] = {}
    missing, other = [], []
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        *parents, leaf = map(str, path)
        owner = parts[".".join(parents)]
        own = ".".join([*parents, leaf])
        name = ".".join([*parents, LEAVES[leaf]]) if _named_by_torch(owner) else own
        used.add(name)
        if name not in keys:
            missing.append(own)
            continue
        accepted = _conversions(owner, leaf, tuple(variable.shape))
        given = tuple(shapes[keys[name]])
        if given in accepted:
            plan[own] = Source(keys[name], accepted[given])
        else:
            other.append(f"{keys[name]}: file {given}, model {next(iter(accepted))}")
    unused = sorted(key for name, key in keys.items() if name not in used)
    if unused or missing or other:
        raise CaseJaxError(
            f"weights: {source} does not fit {type(module).__name__}.{_advice(shapes, keys, parts, family)}\n"
            f"  in the file only ({len(unused)}): {', '.join(unused[:10]) or '–'}\n"
            f"  in the model only ({len(missing)}): {', '.join(sorted(missing)[:10]) or '–'}\n"
            f"  other shape ({len(other)}): {'; '.join(sorted(other)[:10]) or '–'}"
        )
    return plan


def from_torch(
    state: Mapping[str, Any], module: nnx.Module, *, family: Family, source: str = "the state dict"
) -> dict[str, np.ndarray]:
    """Arrays for a module from a PyTorch state dict under torchvision's or timm's names.

    Args:
        state: key → array (anything `numpy.asarray` takes).
        module: the network to fill; may be abstract (`nnx.eval_shape`).
        family: from the network's own file.
        source: what to call the state dict in errors.

    Returns:
        Dotted path → array in the module's own layout, in the state dict's precision; views of the given arrays.

    Raises:
        CaseJaxError: as `match_torch`, and for values that are not finite floating-point numbers.
    """
    plan = match_torch({key: np.shape(array) for key, array in state.items()}, module, family=family, source=source)
    arrays = {path: (key, convert(np.asarray(state[key]))) for path, (key, convert) in plan.items()}
    strange = sorted(
        key for key, a in arrays.values() if not jnp.issubdtype(a.dtype, np.floating) or not np.isfinite(a).all()
    )
    if strange:
        raise CaseJaxError(
            f"weights: {source} has values that are no finite floating-point numbers in {', '.join(strange[:10])}."
        )
    return {path: array for path, (_, array) in arrays.items()}


def _named_by_torch(owner: nnx.Module) -> bool:
    """Whether a module's variables have other names in PyTorch; parameters of a network's own modules do not."""
    return isinstance(owner, nnx.Conv | nnx.Linear | nnx.BatchNorm | LayerNorm)


def _conversions(owner: nnx.Module, leaf: str, shape: Shape) -> dict[Shape, Convert]:
    """Shapes in which PyTorch may store a variable of this shape, torchvision's first, each with its conversion."""
    if leaf == "kernel" and isinstance(owner, nnx.Conv):
        height, width, inputs, outputs = shape
        return {(outputs, inputs, height, width): lambda a: a.transpose(2, 3, 1, 0)}
    if leaf == "kernel":
        flat, outputs = shape
        height, width = owner.window if isinstance(owner, MapLinear) else (1, 1)
        stored = (outputs, flat // (height * width), height, width)

        def dense(a: np.ndarray) -> np.ndarray:
            rows = a.reshape(outputs, -1, height * width).swapaxes(1, 2)  # this order of copying is four times faster
            return rows.reshape(outputs, flat).T

        return {(outputs, flat): dense, stored: dense}  # the second as a convolution that sees the whole map
    if len(shape) == 1 and not _named_by_torch(owner):
        return {(*shape, 1, 1): lambda a: a.reshape(shape), shape: lambda a: a}  # a scale per channel of NCHW maps
    return {shape: lambda a: a}


def _advice(shapes: Mapping[str, Shape], keys: Mapping[str, str], parts: Mapping[str, Any], family: Family) -> str:
    """A sentence about the commonest reason: another number of classes, or no classifier at all."""
    kernel = keys.get(f"{family.head}.weight")
    if kernel is None:
        return _no_classifier(family)
    given, built = shapes[kernel], parts[family.head].out_features
    if given and given[0] != built:
        return f" It is for {given[0]} classes and the model for {built}: build the model with num_classes={given[0]}."
    return ""


def _no_classifier(family: Family) -> str:
    return (
        f" It holds no classifier ({family.head}.weight), and features alone give no logits: take a file with a head."
    )


def _readable(pattern: str) -> str:
    """A regular expression of keys as a reader would write the key."""
    return re.sub(r"\(?\\d\+\)?", "N", pattern).replace("\\", "").removesuffix("$").replace("w+", "…")

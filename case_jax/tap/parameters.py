"""Which layers the parameters of a tapped model belong to, and other parameters for some of these layers."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Literal
from jaxtyping import Array, Bool

from case_jax._checks import require, require_seed
from case_jax.tap.split import CALLS, inner_jaxprs
from case_jax.tap.view import Params, TappedModel

IMAGE = None
"""What stands for a value that depends on the image; any other value is known by the parameters that it is made of."""
Made = frozenset[int] | None


class ParameterLayers(NamedTuple):
    """The layers that own parameters, nearest to the logits first."""

    names: tuple[str, ...]
    """Dotted paths of the modules."""
    of_leaf: tuple[int, ...]
    """For each array of the parameters, in the order of `jax.tree.leaves`, its layer; −1 where it never meets the image."""


def parameter_layers(model: TappedModel, *, depth: int | None = None) -> ParameterLayers:
    """The layers of a model, in reverse order of evaluation.

    A layer is a module that owns arrays: a convolution, a normalisation with its statistics, a block with a scale of its own. An array that
    no module owns is a layer by itself. The order is read from the traced forward pass: the place of a layer is that of the last operation
    that brings one of its arrays together with the image. So it is the order of use, in whatever order the modules were defined.

    Args:
        model: the tapped model.
        depth: counts all modules below the first `depth` names of a path as one layer (with 2, `layer4.1.conv2` belongs to `layer4.1`);
            None leaves every module for itself.

    Raises:
        CaseJaxError: for a depth below 1, or a model without parameters.
    """
    require(depth is None or depth >= 1, "depth", depth, "a number of names of at least 1, or none")
    paths = leaf_paths(model.params)
    image = jax.ShapeDtypeStruct(model.image_shape, jnp.float32)
    uses = last_uses(jax.make_jaxpr(model.apply)(model.params, image).jaxpr, len(paths))
    owners = [".".join(owner_of(path)[:depth]) for path in paths]
    place: dict[str, int] = {}
    for owner, use in zip(owners, uses, strict=True):
        if use is not None:
            place[owner] = max(use, place.get(owner, use))
    require(place, "model", "no parameters that an image ever meets", "a classifier with parameters to change")
    names = tuple(sorted(place, key=lambda owner: -place[owner]))
    of_leaf = (-1 if use is None else names.index(owner) for owner, use in zip(owners, uses, strict=True))
    return ParameterLayers(names, tuple(of_leaf))


def leaf_paths(params: Params) -> list[tuple[str, ...]]:
    """The names that lead to each array, without those that say nothing of a module: Flax's collections and the inside of a variable."""
    collections = isinstance(params, Mapping) and "params" in params
    paths = []
    for keys, _ in jax.tree_util.tree_flatten_with_path(params)[0]:
        if len(keys) > 1 and keys[-1] == jax.tree_util.GetAttrKey("value"):
            keys = keys[:-1]  # an nnx.Variable
        names = tuple(jax.tree_util.keystr((key,), simple=True) for key in keys)
        paths.append(names[1:] if collections and len(names) > 1 else names)
    return paths


def owner_of(path: Sequence[str]) -> Sequence[str]:
    """The module that owns an array: its path without the last name, unless there is no other."""
    return path[:-1] or path


def last_uses(jaxpr: Jaxpr, count: int) -> list[int | None]:
    """For each of the first `count` inputs, the number of the last operation in which it, or what is made of such inputs alone, meets the others.

    Operations are numbered in order of evaluation, those inside calls too; a loop or branch is one operation.
    """
    found: list[int | None] = [None] * count
    numbers = itertools.count()
    made: list[Made] = [frozenset({i}) if i < count else IMAGE for i in range(len(jaxpr.invars))]

    def run(jaxpr: Jaxpr, given: Sequence[Made]) -> list[Made]:
        env: dict[Any, Made] = dict(zip(jaxpr.invars, given, strict=True))
        env.update(dict.fromkeys(jaxpr.constvars, frozenset()))

        def read(atom: Any) -> Made:
            return frozenset() if isinstance(atom, Literal) else env[atom]

        for eqn in jaxpr.eqns:
            inputs = [read(atom) for atom in eqn.invars]
            inner = next(inner_jaxprs(eqn), None) if eqn.primitive.name in CALLS else None
            if inner is not None:
                env.update(zip(eqn.outvars, run(inner[0], inputs), strict=True))
                continue
            number, alone = next(numbers), frozenset().union(*(m or () for m in inputs))
            meets = any(m is IMAGE for m in inputs)
            for i in alone if meets else ():
                found[i] = number
            env.update(dict.fromkeys(eqn.outvars, IMAGE if meets else alone))
        return [read(atom) for atom in jaxpr.outvars]

    run(jaxpr, made)
    return found


def fitted(params: Params, other: Params, argument: str) -> Params:
    """Other parameters in the very structure of a model's own, so that what was compiled for these takes them.

    Raises:
        CaseJaxError: unless there is an array of the same name, shape and type for each; names the first that there is not.
    """
    own, given = (dict(_named(tree)) for tree in (params, other))
    accepted = "parameters of the same network: the same names, shapes and types"
    lacking = sorted(own.keys() ^ given.keys())
    require(not lacking, argument, f"{'.'.join(lacking[0])} in one network only" if lacking else "", accepted)
    for path, leaf in own.items():
        shapes = [(jnp.shape(a), jnp.result_type(a)) for a in (given[path], leaf)]
        words = [f"{dtype} {shape}" for shape, dtype in shapes]
        require(shapes[0] == shapes[1], argument, f"{words[0]} for {'.'.join(path)}, which is {words[1]}", accepted)
    return jax.tree.unflatten(jax.tree.structure(params), [given[path] for path in own])


def _named(params: Params) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Arrays by their whole paths."""
    for keys, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        yield tuple(jax.tree_util.keystr((key,), simple=True) for key in keys), leaf


def with_layers_of(params: Params, other: Params, layers: ParameterLayers, chosen: Bool[Array, " L"]) -> Params:
    """The parameters with the arrays of the chosen layers taken from others of the same structure.

    Args:
        params: a model's own.
        other: from `fitted`.
        layers: of this model, from `parameter_layers`.
        chosen: which layers; may be traced, so that one compiled program serves every choice.
    """
    own, structure = jax.tree.flatten(params)
    mixed = [
        mine if layer < 0 else jnp.where(chosen[layer], its, mine)
        for mine, its, layer in zip(own, jax.tree.leaves(other), layers.of_leaf, strict=True)
    ]
    return jax.tree.unflatten(structure, mixed)


def permuted(params: Params, *, seed: int = 0) -> Params:
    """The parameters with the values of every array in another order: what is left of training are their distributions.

    For models without an initialiser. The vectors of one module (a normalisation's mean, variance, scale and bias) are permuted alike, so
    that a small variance is not met by the scale of another channel, also those with further axes of length one; other arrays each for itself.

    Args:
        params: trained parameters, any pytree.
        seed: of the permutations.

    Raises:
        CaseJaxError: for a seed outside [0, 2³²).
    """
    require_seed(seed)
    paths = leaf_paths(params)
    modules = sorted({tuple(owner_of(path)) for path in paths})
    vectors, arrays = jax.random.split(jax.random.key(seed))
    leaves, structure = jax.tree.flatten(params)

    @cache  # to sort is what takes long to compile
    def alike(module: int, size: int) -> Array:
        return jax.random.permutation(jax.random.fold_in(vectors, module), size)

    changed = []
    for number, (path, leaf) in enumerate(zip(paths, leaves, strict=True)):
        if jnp.size(leaf) == max(jnp.shape(leaf), default=0):
            order = alike(modules.index(tuple(owner_of(path))), jnp.size(leaf))
        else:
            order = jax.random.permutation(jax.random.fold_in(arrays, number), jnp.size(leaf))
        changed.append(jnp.ravel(leaf)[order].reshape(jnp.shape(leaf)))
    return jax.tree.unflatten(structure, changed)

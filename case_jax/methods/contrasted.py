"""Contrast as an operator on a method: any map of a class becomes one of the class rather than its rivals."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from case_jax._checks import require, unknown
from case_jax.contrast.sets import Query
from case_jax.methods.cam import contrast_of, evidence, of_existing
from case_jax.methods.naming import MapFunction, name_of
from case_jax.tap.link import log_probabilities
from case_jax.tap.view import PulledBack, View, at_least_float32

How = Literal["mean", "max", "weighted"]
Among = Literal["all", "set"]


def rival_shares(view: View, query: Query, how: How, among: Among) -> Float[Array, "T C"]:
    """How much of each class is taken from each target's, `s`: at least 0, nothing of the target, and in sum 1.

    NaN where there is no rival. Of the rivals, `mean` takes the same of each, `max` the one with the highest logit, `weighted` `p_j / Σ_i p_i`.

    Args:
        view: one image's view.
        query: targets, and their contrast sets where these are the rivals.
        how: see above.
        among: whether the rivals are `all` other classes, or those of the contrast `set`.

    Raises:
        CaseJaxError: for a query without the contrast sets that are asked for, a model of one class, or `weighted` of one without probabilities.
    """
    count = len(view.logits)
    require(count >= 2, "targets", f"a class of {count}", "a model of at least 2 classes, one to contrast with")
    every, logits = jnp.arange(count), at_least_float32(view.logits)
    sets = None if among == "all" else contrast_of(query)
    others = every != query.targets[:, None]
    rivals = others if sets is None else others & (sets[:, :, None] == every).any(1)
    if how == "mean":
        return rivals.astype(logits.dtype) / rivals.sum(1, keepdims=True).astype(logits.dtype)
    if how == "max":
        likeliest = jax.nn.one_hot(jnp.where(rivals, logits, -jnp.inf).argmax(1), count, dtype=logits.dtype)
        return jnp.where(rivals.any(1, keepdims=True), likeliest, jnp.nan)
    return jax.nn.softmax(jnp.where(rivals, log_probabilities(view.logits, view.link), -jnp.inf))


def contrasted_view(view: View, query: Query, how: How, among: Among) -> View:
    """The same image seen by a classifier whose logit t is `y_{c_t} − Σ_j s_tj y_j`, with the shares s of `rival_shares` held fixed.

    Its classes are the T targets.
    """
    shares = rival_shares(view, query, how, among)
    own = jax.nn.one_hot(query.targets, len(view.logits), dtype=shares.dtype)
    rows = own - shares
    logits, pull = _mixed(rows, view.logits), Partial(_pulled, view.pull, rows)
    return replace(
        view,
        logits=logits,
        tail=Partial(_mixed_output, view.tail, rows),
        predict=Partial(_mixed_output, view.predict, rows),
        pull=pull,
        class_weights=PulledBack(pull, logits, view.chunk),
        head=None,
        link="identity",  # a difference of logits is none, and has no probability
    )


def _mixed(rows: Float[Array, "T C"], logits: Float[Array, " C"]) -> Float[Array, " T"]:
    return jnp.matmul(rows, logits.astype(rows.dtype), precision=jax.lax.Precision.HIGHEST)


def _mixed_output(function: Callable[[Array], Array], rows: Float[Array, "T C"], value: Array) -> Array:
    return _mixed(rows, function(value))


def _pulled(pull: Callable[[Array], Array], rows: Float[Array, "T C"], cotangent: Float[Array, " T"]) -> Array:
    return pull(jnp.matmul(cotangent.astype(rows.dtype), rows, precision=jax.lax.Precision.HIGHEST))


@dataclass(frozen=True)
class _AgainstRivals:
    """A method, and what is taken out of its maps."""

    method: MapFunction
    how: How
    among: Among

    @property
    def contrastive(self) -> bool:
        """Whether it needs contrast sets."""
        return self.among == "set"


class Contrasted(_AgainstRivals):
    """A method asked about a difference of logits; from `contrasted`."""

    @property
    def title(self) -> str:
        """Its name in tables."""
        return f"{name_of(self.method)}, {self.how} contrast"

    def __call__(self, view: View, query: Query, *, sign: int = 1) -> Float[Array, "T *space"]:
        """One map per target, as the method gives them; NaN for a class that the model does not have.

        Args:
            view: one image's view.
            query: targets (T,); their contrast sets, where these are the rivals; a random key, where the method needs one.
            sign: −1 for what speaks against the class, where the method has that option.

        Raises:
            CaseJaxError: as the method, and as `rival_shares`; for `sign=-1` of a method without that option.
        """
        able = "sign" in inspect.signature(self.method).parameters
        require(able or sign == 1, "sign", sign, f"1, as {name_of(self.method)} has no option sign")
        seen = contrasted_view(view, query, self.how, self.among)
        options: dict[str, Any] = {"sign": sign} if able else {}
        maps = self.method(seen, Query(jnp.arange(len(query.targets)), key=query.key), **options)
        return of_existing(view, query, maps)


def contrasted(method: MapFunction, how: How = "weighted", *, among: Among = "all") -> Contrasted:
    """The method's map of a class's logit less those of its rivals: why this class, and not the others?

    The method is asked about `y_c − Σ_j s_j y_j` instead of y_c, the shares s held fixed (`rival_shares`). For a method that is linear in the score
    before its rectification (Grad-CAM, HiResCAM, gradients, input × gradient, integrated gradients, and attention methods that use
    one gradient) that is the signed map of c less those of its rivals, exactly; for others (LayerCAM, Grad-CAM++, occlusion, Ablation-CAM) it is
    the map of the difference, which is not the difference of maps. What a map costs does not change: T maps for T targets, whatever the number of
    rivals.

    With Grad-CAM: `mean` and `max` are `mean_contrast` and `max_contrast`; `weighted` times 1 − p_c is `softmax_contrast`; `weighted` among a `set`
    is `finer_cam`.

    Args:
        method: a map function `(view, query) -> maps` that asks the classifier for logits or their gradients.
        how: `mean`, `max` (the likeliest rival) or `weighted` (by probability).
        among: which the rivals are: `all` other classes, or those of the query's contrast `set`.

    Returns:
        A map function, with the option `sign` where the method has it.

    Raises:
        CaseJaxError: for an unknown `how` or `among`; when it is called, also for a method that asks for probabilities, of which a
            difference of logits has none.

    Wang and Wang, "Why Not Other Classes?", NeurIPS 2022, for gradients.
    """
    _require_known(how, among)
    return Contrasted(method, how, among)


class MapDifference(_AgainstRivals):
    """The difference of a method's maps; from `difference_of_maps`."""

    @property
    def title(self) -> str:
        """Its name in tables."""
        return f"{name_of(self.method)}, {self.how} difference of maps"

    def __call__(self, view: View, query: Query, *, sign: int = 1) -> Float[Array, "T *space"]:
        """`relu(sign · (M_c − Σ_j s_j M_j))` for each target.

        Args:
            view: one image's view.
            query: targets (T,); their contrast sets, where these are the rivals; a random key, where the method needs one.
            sign: −1 for what speaks against the class.

        Raises:
            CaseJaxError: as the method, and as `rival_shares`; for another sign.
        """
        require(sign in (1, -1), "sign", sign, "1, evidence for the class, or -1, evidence against it")
        shares = of_existing(view, query, rival_shares(view, query, self.how, self.among))
        every = self.method(view, Query(jnp.arange(len(view.logits)), key=query.key))
        others = jnp.tensordot(shares.astype(every.dtype), every, 1, precision=jax.lax.Precision.HIGHEST)
        return evidence(every[query.targets] - others, sign)


def difference_of_maps(method: MapFunction, how: How = "weighted", *, among: Among = "all") -> MapDifference:
    """A class's map less those of its rivals, for methods of which no logit can be asked, trained masks first.

    `relu(M_c − Σ_j s_j M_j)` with the shares of `rival_shares`, M as the method returns it, after its own rectification: a difference of maps,
    not the map of a difference. It asks the method for all C classes.

    Args:
        method: a map function `(view, query) -> maps` that needs no contrast sets.
        how: as in `contrasted`.
        among: as in `contrasted`.

    Returns:
        A map function with the option `sign`. Of a class-blind method all its maps are zero, but for rounding.

    Raises:
        CaseJaxError: for an unknown `how` or `among`.
    """
    _require_known(how, among)
    return MapDifference(method, how, among)


def _require_known(how: Any, among: Any) -> None:
    if how not in get_args(How):
        raise unknown("how", how, get_args(How))
    if among not in get_args(Among):
        raise unknown("among", among, get_args(Among))

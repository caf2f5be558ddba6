"""A Flax NNX module as a pure function of its variables, in training and in evaluation."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from flax import nnx
from jaxtyping import Array

from case_jax.tap.depthwise import fast_depthwise
from case_jax.tap.flax_nnx import outputs_of


class Variables(NamedTuple):
    """What training changes of a network."""

    params: Any
    """Changed by the optimiser."""
    stats: Any
    """Running statistics, changed by calls in training."""


class Network:
    """A module taken apart: `network(variables, x, train=…)`.

    In training normalisations use the batch's own statistics; dropout stays off.

    Args:
        module: left untouched.
        stages: paths of sub-modules whose outputs a call returns, too.
    """

    def __init__(self, module: nnx.Module, stages: Sequence[str] = ()):
        still = nnx.clone(module)
        still.eval()
        self.stages, self._graphs = tuple(stages), {}
        for train in (True, False):
            view = nnx.view(still, use_running_average=not train, raise_if_not_found=False)
            self._graphs[train], params, stats, self._rest = nnx.split(view, nnx.Param, nnx.BatchStat, ...)
            self.variables = Variables(params, stats)

    def __call__(
        self, variables: Variables, *args: Any, train: bool, **kwargs: Any
    ) -> tuple[Any, tuple[Array, ...], Variables]:
        """Output, the stages' outputs, and the variables with their new statistics."""

        def forward(variables: Variables, args: Any, kwargs: Any) -> tuple[Any, tuple[Array, ...], Any]:
            module = nnx.merge(self._graphs[train], *variables, self._rest, copy=True)
            out, stages = outputs_of(module, self.stages, *args, **kwargs)
            return out, stages, nnx.state(module, nnx.BatchStat)

        out, stages, stats = fast_depthwise(forward)(variables, args, kwargs)
        return out, stages, Variables(variables.params, stats)

    def module(self, variables: Variables) -> nnx.Module:
        """The module with these variables, in evaluation."""
        return nnx.merge(self._graphs[False], *variables, self._rest, copy=True)

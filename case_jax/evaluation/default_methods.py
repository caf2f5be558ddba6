"""What runs when no methods are named; and the control that needs the classifier itself: a contrast of the same network before training."""

import warnings
from collections.abc import Mapping

from case_jax._checks import CaseJaxError, require
from case_jax.methods import UNTRAINED, MapFunction, UntrainedContrast, method, untrained_contrast, usual
from case_jax.models import LoadedModel
from case_jax.models import model as bundled_model
from case_jax.models.initial import drawn_params
from case_jax.stream import before_training
from case_jax.tap.view import TappedModel

LEFT_OUT = (
    f"the control {UNTRAINED} is left out: nothing is known of this model's parameters before training; where you have them, give "
    f"case_jax.methods.untrained_contrast(model, params) among the methods"
)


def untrained_of(model: TappedModel, *, seed: int) -> UntrainedContrast | None:
    """The control of a model that was loaded by its name; None for any other, and for sizes that are not its name's."""
    if not isinstance(model, LoadedModel):
        return None
    outputs = 1 if model.one_logit else model.num_classes
    try:
        drawn = drawn_params(bundled_model(model.name), outputs, seed=seed)
        return untrained_contrast(model, before_training(model, drawn, seed=seed), seed=seed)
    except CaseJaxError:
        return None


def with_untrained(
    methods: Mapping[str, MapFunction], model: TappedModel, *, named: bool, seed: int
) -> dict[str, MapFunction]:
    """The methods, and after them the control; where there is none, a warning says so.

    Raises:
        CaseJaxError: where there is none and the user has `named` it.
    """
    control = untrained_of(model, seed=seed)
    if control is not None:
        return {**methods, UNTRAINED: control}
    require(not named, "methods", UNTRAINED, f"other methods: {LEFT_OUT}")
    warnings.warn(f"methods: {LEFT_OUT}.", stacklevel=4)
    return dict(methods)


def default_methods(model: TappedModel, *, scored: bool, seed: int) -> dict[str, MapFunction]:
    """What runs when no methods are named: those that are usual, and where a study has them `scored` by two classes of an image also those
    that need a pair, and the control of the untrained network where there is one."""
    methods = {name: method(name).maps for name in usual(pair=scored)}
    return with_untrained(methods, model, named=False, seed=seed) if scored else methods

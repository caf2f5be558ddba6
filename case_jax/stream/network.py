"""A tapped classifier whose last map is pooled by a stream instead of by its average."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from case_jax import parallel
from case_jax._checks import require
from case_jax.models.initial import UNTRAINED
from case_jax.stream.module import Stream
from case_jax.tap.head import HEAD_INPUT, HEAD_OUTPUT
from case_jax.tap.split import LAYER, split, tag, tagged_shapes, tags
from case_jax.tap.tapping import check_closed_form
from case_jax.tap.view import Params, TappedModel

TOLERANCE = 1e-4
SUITABLE = (
    "a network that averages its last stage's map over all positions, as ResNets, ConvNeXts, EfficientNet-Lites and digit_resnet do, "
    "tapped with its stages"
)
Model = TypeVar("Model", bound=TappedModel)


class StreamedParams(NamedTuple):
    """Parameters of a network with a stream."""

    network: Params
    stream: Any
    """`nnx.state` of the stream."""


def stage_channels(model: TappedModel) -> tuple[int, ...]:
    """The channels of the maps that a stream visits: those of the layers that the model was tapped with."""
    shapes = tagged_shapes(_program(model))
    return tuple(shapes[name][-1] for name in model.layers)


def new_stream(model: TappedModel, *, final: bool = False, heads: int = 1, seed: int = 0) -> Stream:
    """A stream that has learnt nothing, for a model that was tapped with its stages.

    Args:
        model: as `with_stream` takes it.
        final: visit the last map alone.
        heads: of the attention.
        seed: of the initial values.

    Raises:
        CaseJaxError: as `with_stream` does.
    """
    require(model.layers, "model", "a model tapped at one layer alone", SUITABLE)
    channels = stage_channels(model)
    return Stream(channels[-1:] if final else channels, heads=heads, rngs=nnx.Rngs(seed))


def before_training(model: TappedModel, drawn: Params, *, seed: int = 0) -> Params:
    """Parameters of a model before training: those drawn for its network, and where it has a stream also a newly drawn one.

    Args:
        model: with a stream or without.
        drawn: of the network alone, for example `models.initial.initial_params`.
        seed: of the stream's draws, which are never those that its training began with.
    """
    if not isinstance(model.params, StreamedParams):
        return drawn
    projections = model.params.stream["projections"]
    channels = [projections[number]["kernel"].shape[0] for number in sorted(projections)]
    fresh = Stream(channels, rngs=nnx.Rngs(jax.random.fold_in(jax.random.key(seed), UNTRAINED)))
    return StreamedParams(drawn, nnx.state(fresh))


def with_stream(model: Model, stream: Stream, *, check: bool = True) -> Model:
    """The same classifier with its last map pooled by a stream: `y = head(q_{L+1})`, the head being all that follows the average.

    Methods, metrics and studies take it as they take the network itself. The head is given `q_{L+1}` as a map of equal positions, whose
    average it is. So any network fits that averages its last map, whatever follows.

    At the last map F_L class weights keep a closed form. With a the attention, r what it pools, `u_c = W_Lᵀ w_c` and w_c the head's row of
    class c,

        ∂y_c/∂F[i] = a_i u_c + (a_i / √K) (u_c · (F[i] − r)) q,   which sums over positions to u_c

    because `Σ_i a_i F[i] = r`: Grad-CAM's weights are `u_c / positions`, those of average pooling with the head's rows u_c. HiResCAM, LayerCAM
    and Grad-CAM++ see the second term.

    Args:
        model: a classifier tapped with its stages (`layers=…`), as loaded networks are, in float32, at a layer that is not behind the last of
            them.
        stream: over all the stages, or the last alone.
        check: whether to compare, on a random image, the head of the last map with the head of its average, and the closed form with the pullback.

    Raises:
        CaseJaxError: for a model without stages, one that does not average its last map, a layer behind that map, fewer bits than float32,
            or a stream of other channels.

    Torres, Zhang, Sicre, Ayache, Avrithis, arXiv 2404.14996.
    """
    require(model.layers, "model", "a model tapped at one layer alone", SUITABLE)
    require(
        model.exact is None, "model", f"a model in {model.precision}", "a model in float32; at_precision comes last"
    )
    channels, count = stage_channels(model), len(stream.channels)
    require(
        stream.channels in (channels, channels[-1:]),
        "stream",
        f"a stream over maps of {stream.channels} channels",
        f"one over {channels}, or {channels[-1:]} for the last map alone",
    )
    names, met = model.layers[-count:], tags(_program(model))
    before = met.index(model.tag) <= met.index(names[-1])
    accepted = f"a layer that is not behind {names[-1].removeprefix(LAYER)!r}"
    require(before, "layer", f"{model.layer!r}, which would see what the stream has pooled", accepted)
    if check:
        _require_average(model, names[-1])
    found = _put_together(model, stream, names)
    if check and found.head_kernel is not None:
        check_closed_form(found, _random_image(model))
    return found


def _put_together(model: Model, stream: Stream, names: tuple[str, ...]) -> Model:
    graph, state = nnx.split(stream)
    params = StreamedParams(model.params, state)
    closed = _is_last(model, names[-1])
    short = closed and model.head_kernel is not None and model.head_is_last
    apply = _applied(model, names, graph, mark_output=closed and not short)

    def projection(params: StreamedParams) -> Array:
        return nnx.merge(graph, params.stream, copy=True).projections[-1].kernel[...]

    def rows(params: StreamedParams) -> Array:
        return projection(params) @ model.head_kernel(params.network)  # type: ignore[misc]

    kernel = None if not closed else rows if short else projection
    last = short or not closed
    return replace(model, apply=apply, params=params, head_kernel=kernel, head_channels=None, head_is_last=last)


def _applied(model: TappedModel, names: tuple[str, ...], graph: Any, *, mark_output: bool) -> Callable[..., Array]:
    def apply(params: StreamedParams, image: Array) -> Array:
        function: Callable[..., Any] = model.apply
        args: tuple[Any, ...] = (params.network, image)
        maps: list[Array] = []
        for name in names:
            value, function = split(function, name)(*args)
            maps.append(tag(value, name))
            args = (maps[-1],)
        stream = nnx.merge(graph, params.stream, copy=True)
        pooled = tag(stream.visits(maps)[-1].features, HEAD_INPUT)
        answer = stream.projections[-1](pooled).astype(maps[-1].dtype)
        answer = tag(answer, HEAD_OUTPUT) if mark_output else answer
        everywhere = jnp.broadcast_to(answer, maps[-1].shape)
        if model.head_kernel is None:
            return function(everywhere)
        vector, head = split(function, HEAD_INPUT)(everywhere)  # the network's own mark goes: there can be one
        return head(vector)

    return apply


def _program(model: TappedModel) -> Any:
    return jax.make_jaxpr(model.apply)(model.params, _random_image(model)).jaxpr


def _random_image(model: TappedModel) -> Array:
    return jax.random.normal(jax.random.key(0), model.image_shape, jnp.float32)


def _is_last(model: TappedModel, last: str) -> bool:
    """Whether what is tapped is the last stage's map itself, under whatever name."""
    if model.tag == last:
        return True
    between: list[Any] = []

    def look(params: Params, image: Array) -> Array:
        activation, tail = split(model.apply, model.tag)(params, image)
        traced = jax.make_jaxpr(lambda a: split(tail, last)(a)[0])(activation)
        between.append(traced.jaxpr)
        return activation

    jax.eval_shape(look, model.params, _random_image(model))
    return all(eqn.primitive.name == "name" for eqn in between[0].eqns)


def _require_average(model: TappedModel, last: str) -> None:
    """Raise unless the network sees nothing of its last stage's map but its average."""

    @parallel.on_one_device
    def both(params: Params, image: Array) -> tuple[Array, Array]:
        value, tail = split(model.apply, last)(params, image)
        mean = value.mean(tuple(range(value.ndim - 1)))
        return tail(value), tail(jnp.broadcast_to(mean, value.shape))

    whole, averaged = (np.asarray(a, np.float64) for a in both(model.params, _random_image(model)))
    error = float(np.max(np.abs(whole - averaged)) / max(np.max(np.abs(whole)), 1e-30))
    given = f"a network whose logits change by {error:.2g} of the largest when {last.removeprefix(LAYER)!r} is replaced by its average"
    require(error <= TOLERANCE, "model", given, SUITABLE)

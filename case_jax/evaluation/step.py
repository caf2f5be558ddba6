"""The compiled step: one batch of images to one row per image and method."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from case_jax._checks import require
from case_jax.contrast.asking import ask
from case_jax.contrast.sets import ContrastSet, Query
from case_jax.imageops import finish_maps, is_degenerate, normalise_image, resize_map
from case_jax.methods import MapFunction, described
from case_jax.metrics import Metric, Scored
from case_jax.tap.view import Params, TappedModel, View, at_least_float32

NOISE, RANDOM_CLASS, AGAIN = range(1 << 30, (1 << 30) + 3)
"""What is folded into an image's key for the metrics' noise, the random class, and maps of altered images; class indices lie below."""


class Batch(NamedTuple):
    """Images on their way to a device, with what is known about them."""

    images: UInt8[Any, "B H W 3"]
    image_ids: Int[Any, " B"]
    regions: Bool[Any, "B R H W"]
    region_classes: Int[Any, "B R"]


class Pixels(NamedTuple):
    """How pixels become the classifier's input: `(x / 255 − mean) / std`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def black(self) -> Float[Array, " 3"]:
        """A black pixel in normalised units."""
        return -jnp.asarray(self.mean) / jnp.asarray(self.std)


class Protocol(NamedTuple):
    """What decides the numbers of a step."""

    methods: Mapping[str, MapFunction]
    contrast: ContrastSet
    metrics: Mapping[str, Metric]
    options: Mapping[str, Mapping[str, Any]]
    """Keyword options of each metric."""
    pixels: Pixels
    seed: int = 0


class ImageMaps(NamedTuple):
    """All methods' finished maps of one image's two likeliest classes and, where a metric needs one, of a random other."""

    maps: Float[Array, "M T H W"]
    degenerate: Bool[Array, "M T"]
    targets: Int[Array, " T"]
    probabilities: Float[Array, " T"]


def image_key(seed: int, image_id: Int[Array, ""]) -> Key[Array, ""]:
    """The random key of one image; depends on nothing but the seed and the image's id."""
    return jax.random.fold_in(jax.random.key(seed), image_id)


def view_for_targets(model: TappedModel, params: Params, image: Float[Array, "H W 3"]) -> View:
    """A view whose class weights all methods share: a table of all classes where one pullback can hold them."""
    return model.view_all(params, image) if model.num_classes <= model.chunk else model.view(params, image)


def maps_of_view(protocol: Protocol, view: View, targets: Int[Array, " T"], key: Key[Array, ""]) -> tuple[Array, Array]:
    """Finished maps (M, T, H, W) of all methods at input resolution, and which are degenerate (M, T)."""
    query, shape, finite = ask(view, targets, protocol.contrast, key=key), view.image.shape[:2], finite_logits(view)
    found = [
        finished(raw_maps(name, method, view, query), shape, finite, rescaled=not described(name, method).mask)
        for name, method in protocol.methods.items()
    ]
    maps, degenerate = zip(*found, strict=True)
    return jnp.stack(maps), jnp.stack(degenerate)


def finite_logits(view: View) -> Bool[Array, ""]:
    """Whether all logits of the image are finite; otherwise every map of it is degenerate, whatever the method."""
    return jnp.isfinite(view.logits).all()


def raw_maps(name: str, method: MapFunction, view: View, query: Query) -> Float[Array, "T h w"]:
    """A method's maps at its own resolution, one per target."""
    maps, count = method(view, query), len(query.targets)
    accepted = f"one map per target, shape ({count}, height, width)"
    require(maps.ndim == 3 and len(maps) == count, f"method {name!r}", f"an output of shape {maps.shape}", accepted)
    return maps


def finished(
    raw: Float[Array, "T h w"], shape: tuple[int, ...], finite: Bool[Array, "*T"], *, rescaled: bool = True
) -> tuple[Float[Array, "T H W"], Bool[Array, " T"]]:
    """Maps in [0, 1] at input resolution, and which are degenerate; all of them where the image's logits are not `finite`.

    Masks, which say how much of each pixel is seen, are not `rescaled`.
    """
    degenerate = is_degenerate(raw) | ~finite
    if rescaled:
        return finish_maps(raw, shape), degenerate
    return resize_map(jnp.where(degenerate[..., None, None], 0.0, raw), shape), degenerate


def other_class(key: Key[Array, ""], target: Int[Array, ""], num_classes: int) -> Int[Array, ""]:
    """A class drawn uniformly from all but the target."""
    drawn = jax.random.randint(key, (), 0, num_classes - 1, target.dtype)
    return drawn + (drawn >= target).astype(target.dtype)


def image_maps(
    protocol: Protocol, model: TappedModel, params: Params, image: UInt8[Array, "H W 3"], image_id: Array
) -> tuple[View, ImageMaps]:
    """One image's view and the maps that the protocol's metrics need."""
    view = view_for_targets(model, params, normalise_image(image, *protocol.pixels))
    key = image_key(protocol.seed, image_id)
    targets = jax.lax.top_k(view.logits, 2)[1]
    if any(metric.random_class for metric in protocol.metrics.values()):
        drawn = other_class(jax.random.fold_in(key, RANDOM_CLASS), targets[0], model.num_classes)
        targets = jnp.append(targets, drawn)
    maps, degenerate = maps_of_view(protocol, view, targets, key)
    return view, ImageMaps(maps, degenerate, targets, jax.nn.softmax(at_least_float32(view.logits))[targets])


def make_step(protocol: Protocol, model: TappedModel) -> Any:
    """The step of an evaluation.

    Returns:
        A pure function `(params, batch) → columns`: `top1`, `top2`, `p1`, `p2` of shape (B,), and of shape (B, M)
        `degenerate_1`, `degenerate_2` and the columns of every metric; with a random class also `random_class` and
        `degenerate_random`. Replaced parameters of the same shapes do not retrace it.
    """
    metrics = protocol.metrics

    def one(params: Params, image: Array, image_id: Array, regions: Array, classes: Array) -> dict[str, Array]:
        view, found = image_maps(protocol, model, params, image, image_id)
        key = image_key(protocol.seed, image_id)
        black, noise = protocol.pixels.black(), jax.random.fold_in(key, NOISE)
        again = jax.random.fold_in(key, AGAIN)  # a random map that is drawn anew is another map

        def scored(maps: Array, degenerate: Array) -> Scored:
            return Scored(maps, degenerate, view, found.targets, found.probabilities, regions, classes, black, noise)

        def score(method: tuple[Array, Array]) -> dict[str, Array]:
            return _columns(protocol, scored(*method), [name for name in metrics if not metrics[name].explains])

        def score_explaining(number: int, method: MapFunction) -> dict[str, Array]:
            def explain(altered: Float[Array, "H W 3"]) -> Float[Array, "H W"]:
                other = view_for_targets(model, params, altered)
                maps = method(other, ask(other, found.targets[:1], protocol.contrast, key=again))
                return finish_maps(maps, altered.shape[:2])[0]

            known = scored(found.maps[number], found.degenerate[number])._replace(explain=explain)
            return _columns(protocol, known, [name for name in metrics if metrics[name].explains])

        explaining = [score_explaining(i, method) for i, method in enumerate(protocol.methods.values())]
        third = {"random_class": found.targets[2], "degenerate_random": found.degenerate[:, 2]}
        return {
            "top1": found.targets[0],
            "top2": found.targets[1],
            "p1": found.probabilities[0],
            "p2": found.probabilities[1],
            "degenerate_1": found.degenerate[:, 0],
            "degenerate_2": found.degenerate[:, 1],
            **(third if len(found.targets) > 2 else {}),
            **jax.lax.map(score, (found.maps, found.degenerate)),
            **jax.tree.map(lambda *columns: jnp.stack(columns), *explaining),
        }

    def step(params: Params, batch: Batch) -> dict[str, Array]:
        with jax.default_matmul_precision("highest"):  # the classifier alone may have fewer bits, see `at_precision`
            return jax.vmap(partial(one, params))(*batch)

    return step


def _columns(protocol: Protocol, scored: Scored, names: Sequence[str]) -> dict[str, Array]:
    """The columns of these metrics for one map."""
    columns: dict[str, Array] = {}
    for name in names:
        found = protocol.metrics[name].columns(scored, **protocol.options.get(name, {}))
        twice = sorted(columns.keys() & found.keys())
        require(
            not twice,
            "metrics",
            f"columns {', '.join(twice)} from {name!r} and from another",
            "column names of its own",
        )
        columns |= found
    return columns


def empty_batch(like: Any) -> Any:
    """Padding: an all-zero batch of the same shapes and kind (`Batch`, or another named tuple), whose rows are thrown away."""
    return like._make(np.zeros_like(a) for a in like)

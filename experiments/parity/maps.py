"""Logits, activations, class weights and every class activation map of a network against its reference."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from case_jax import METHODS, ask, confusion_sets
from case_jax.contrast import table
from case_jax.contrast.operators import mean_orthogonal
from case_jax.imageops import finish_maps, rescale_map
from case_jax.methods import MapFunction, ablation_cam, class_maps, score_cam
from case_jax.tap import TappedModel
from experiments.parity.compare import Line, absolute, exact, not_compared, relative
from experiments.parity.goldens import Arrays, Network

REFERENCE: dict[str, MapFunction] = {
    "gradcam": METHODS["grad_cam"].maps,
    "hirescam": METHODS["hires_cam"].maps,
    "gradcampp": METHODS["grad_cam_plus_plus"].maps,
    "xgradcam": METHODS["xgrad_cam"].maps,
    "scorecam": partial(score_cam, align="corners"),
    "ablationcam": partial(ablation_cam, reference=True),
    "layercam": METHODS["layer_cam"].maps,
    "eigencam": METHODS["eigen_cam"].maps,
    "eigengradcam": METHODS["eigen_grad_cam"].maps,
}
"""The reference's methods in its own names, set to what it computes."""
EITHER_SIGN = ("eigencam", "eigengradcam")
NOISE = 1e-2
"""Where the reference's own float32 and float64 runs differ by more, its numbers are rounding noise."""
HALF = 2.5e-4
"""What storing a map in float16 may move its values by."""


def model_lines(network: Network) -> Iterator[Line]:
    """Logits, activation, class weights by pullback and in closed form, and spatial gradients."""
    for suffix in ("", "_large"):
        stored, name = network.arrays, network.name
        if f"logits{suffix}" not in stored:
            continue
        images = network.images(suffix)
        model, declared = network.tap(images[0]), network.tap_declared(images[0])
        every = jnp.arange(model.num_classes)

        def of_image(x: Any, model: TappedModel = model, every: Any = every) -> Any:
            view = model.view(model.params, x)
            return view.logits, jnp.moveaxis(view.activation, -1, 0), view.class_weights(every)

        logits, act, weights = jax.jit(jax.vmap(of_image))(images)
        yield relative(name, f"logits{suffix}", logits, stored[f"logits{suffix}"], 2e-5)
        yield relative(name, f"act{suffix}", act, stored[f"act{suffix}"], 2e-5)
        reference = stored[f"gradcam_weights{suffix}"]
        yield relative(name, f"gradcam_weights{suffix}, pullback", weights, reference, 1e-5)
        if declared is not None:
            closed = jax.jit(jax.vmap(lambda x, m=declared, c=every: m.view_all(m.params, x).class_weights(c)))(images)
            yield relative(name, f"gradcam_weights{suffix}, closed form", closed, reference, 1e-5)
        if not suffix:
            yield relative(name, "grads", _gradients(model, images, stored["targets"]), stored["grads"], 1e-5)


def _gradients(model: TappedModel, images: Any, targets: np.ndarray) -> Any:
    def one(x, classes):
        view = model.view(model.params, x)
        rows = jax.nn.one_hot(classes, model.num_classes, dtype=view.logits.dtype)
        return jnp.moveaxis(jax.vmap(view.pull)(rows), -1, 1)

    return jax.jit(jax.vmap(one))(images, jnp.asarray(targets))


def maps_of(network: Network, method: MapFunction, suffix: str = "", contrast: Any = None) -> Any:
    """A method's maps of every image and target of the file, at the layer's resolution, as a function of the model."""
    images, targets = network.images(suffix), jnp.asarray(network.arrays[f"targets{suffix}"])

    def compute(model: TappedModel) -> Any:
        def one(x, classes):
            view = model.view(model.params, x)
            return method(view, ask(view, classes, contrast))

        return jax.jit(jax.vmap(one))(images, targets)

    return compute


def method_lines(network: Network, stored: Arrays) -> Iterator[Line]:
    """Every class activation map, at the layer's resolution and finished as the reference finishes its own."""
    name = network.name
    for method in REFERENCE:
        if f"lowres/{method}" not in stored:
            continue
        error = float(stored[f"relerr/{method}"].max())
        if np.median(stored[f"relerr/{method}"]) > NOISE:
            yield not_compared(name, f"{method} maps", f"rounding noise in the reference ({error:.0%}), not compared")
            continue
        for suffix in ("", "_large"):
            if f"lowres{suffix}/{method}" not in stored:
                continue
            low = np.asarray(maps_of(network, REFERENCE[method], suffix)(network.tap(network.images(suffix)[0])))
            expected = stored[f"lowres{suffix}/{method}"]
            final = stored[f"final{suffix}/{method}"]
            if method in EITHER_SIGN:
                expected, final = _signed(low, expected, final)
            bound, scale = max(2e-5, 20 * error), float(np.abs(expected).max())
            yield relative(name, f"{method} lowres{suffix}", low, np.maximum(expected, 0), bound, scale=scale)
            bound = (1e-3 if method == "xgradcam" else 2e-4) + (HALF if final.dtype == np.float16 else 0)
            finished = rescale_map(finish_maps(jnp.asarray(low), final.shape[-2:]))
            yield absolute(name, f"{method} final{suffix}", finished, final, bound)


def _signed(low: np.ndarray, expected: np.ndarray, final: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The reference leaves these maps' signs open: turn each as ours, and finish it again where it was turned."""
    expected = np.asarray(expected)
    straight = np.abs(low - np.maximum(expected, 0)).max((-2, -1))
    turned = np.abs(low - np.maximum(-expected, 0)).max((-2, -1)) < straight
    other = rescale_map(finish_maps(jnp.asarray(np.maximum(-expected, 0)), final.shape[-2:]))
    sign = np.where(turned, -1, 1)[..., None, None]
    return sign * expected, np.where(turned[..., None, None], np.asarray(other), final).astype(final.dtype)


def case_lines(network: Network, stored: Arrays) -> Iterator[Line]:
    """CASE: the contrast sets, the orthogonalised weights, the maps."""
    name, classes = network.name, len(stored["conf_matrix"])
    for k in sorted({int(key.split("/")[0][1:]) for key in stored if key.endswith("/contrast")}):
        sets = confusion_sets(stored["conf_matrix"], k).indices
        for suffix in ("", "_large"):
            if f"k{k}/contrast{suffix}" not in stored:
                continue
            targets = stored[f"targets{suffix}"]
            yield exact(name, f"case k={k} contrast{suffix}", sets[targets], stored[f"k{k}/contrast{suffix}"])
            images, contrast = network.images(suffix), table(sets, classes)
            model = network.tap(images[0])

            def one(x, chosen, model=model, contrast=contrast):
                view = model.view(model.params, x)
                query = ask(view, chosen, contrast)
                weights = mean_orthogonal(view, query.targets, contrast(view.logits, chosen))
                return weights, class_maps(view.activation, weights), METHODS["case"].maps(view, query)

            weights, low, maps = jax.jit(jax.vmap(one))(images, jnp.asarray(targets))
            scale = float(np.abs(network.arrays[f"gradcam_weights{suffix}"]).max())
            expected = stored[f"k{k}/orth_weights{suffix}"]
            yield relative(name, f"case k={k} weights{suffix}", weights, expected, 1e-5, scale=scale)
            bound = max(2e-5, 20 * float(stored[f"k{k}/relerr"].max()))
            yield relative(name, f"case k={k} lowres{suffix}", low, stored[f"k{k}/lowres{suffix}"], bound)
            final = stored[f"k{k}/maps{suffix}"]
            yield absolute(name, f"case k={k} maps{suffix}", finish_maps(maps, final.shape[-2:]), final, 5e-4)

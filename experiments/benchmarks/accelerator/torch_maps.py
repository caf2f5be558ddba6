"""The same maps through PyTorch, with the same weights on the same chip: how much faster, and how far apart."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from case_jax import METHODS, all_class_maps, ask, finish_maps, topk_logits
from case_jax.imageops import rescale_map
from case_jax.methods import top_class_maps
from case_jax.methods.integrated_gradients import integrated_gradients_attribution
from case_jax.models import tap_classifier
from case_jax.tap import TappedModel
from case_jax.tap.precision import at_precision
from experiments.benchmarks.accelerator.timetable import Job
from experiments.benchmarks.accelerator.torch_side import pair, products_in
from experiments.benchmarks.timing import interleaved
from experiments.benchmarks.torch_peers import official_case, peer_ablation, torch_device

CONTRAST, STEPS = 5, 32
REPEATS, SECONDS = 7, 6.0


class Size(NamedTuple):
    """Of the comparisons."""

    model: str
    side: int
    batch: int
    path: int
    """Images whose gradients are integrated together."""


FULL, QUICK = Size("resnet50", 224, 64, 8), Size("resnet18", 64, 2, 1)


def jobs(quick: bool) -> Iterator[Job]:
    """CASE, Grad-CAM, Ablation-CAM, integrated gradients in float32; the first two with tf32."""
    size = QUICK if quick else FULL
    yield Job("CASE of one class, the authors' procedure; float32", partial(case, size, "float32"))
    yield Job(f"Grad-CAM, {size.batch} images, pytorch-grad-cam; float32", partial(grad_cam, size, "float32"))
    yield Job("Ablation-CAM, one image, pytorch-grad-cam; float32", partial(ablation_cam, size))
    yield Job(f"integrated gradients, {size.path} images, captum; float32", partial(integrated_gradients, size))
    yield Job(f"Grad-CAM, {size.batch} images, pytorch-grad-cam; tf32", partial(grad_cam, size, "tf32"))
    yield Job("CASE of one class, the authors' procedure; tf32", partial(case, size, "tf32"))


@cache
def _ours(size: Size) -> tuple[TappedModel, np.ndarray]:
    """The model at its last post-activation map, and the images."""
    images = np.random.default_rng(0).standard_normal((size.batch, size.side, size.side, 3), np.float32)
    return tap_classifier(pair(size.model)[1], jnp.asarray(images[0])), images


def _to_torch(images: np.ndarray) -> Any:
    import torch  # type: ignore[import-not-found]

    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(torch_device())


def _beside(
    theirs: Callable[[], np.ndarray], ours: Callable[[], Any], images: int, *, more: Callable[[], Any] | None = None
) -> dict[str, Any]:
    """Milliseconds an image, their ratio, and the largest difference as a share of the largest value."""
    expected, found = np.asarray(theirs(), np.float64), np.asarray(ours(), np.float64)
    took = interleaved({"theirs": theirs, "ours": ours, **({"more": more} if more else {})}, REPEATS, seconds=SECONDS)
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    row = {
        "pytorch_ms_per_image": 1e3 * took["theirs"] / images,
        "ours_ms_per_image": 1e3 * took["ours"] / images,
        "times_faster": took["theirs"] / took["ours"],
        "largest_difference": float(difference),
    }
    return row | ({"more_s": took["more"]} if more else {})


def case(size: Size, precision: str) -> dict[str, Any]:
    """The likeliest class of one image by one forward and six backward passes, against ours; and ours of all classes."""
    network = pair(size.model)[0]
    tapped, images = _ours(size)
    model = at_precision(tapped, precision)
    contrast, method = topk_logits(CONTRAST, model.num_classes), METHODS["case"].maps
    one = jax.jit(lambda x: top_class_maps(method, model, model.params, x, contrast=contrast, top=1)[0])
    every = jax.jit(jax.vmap(partial(all_class_maps, method, model, model.params, contrast=contrast)))
    order = np.argsort(-np.asarray(jax.jit(partial(model.apply, model.params))(images[0])))
    torch_image, on_device = _to_torch(images[:1]), jax.device_put(images)
    with products_in(precision):
        theirs = partial(
            official_case, network, network.layer4[-1], torch_image, int(order[0]), order[1 : CONTRAST + 1].tolist()
        )
        row = _beside(theirs, partial(one, on_device[0]), 1, more=partial(every, on_device))
    each = row.pop("more_s") / size.batch
    all_ms = {
        "ours_all_classes_ms_per_image": 1e3 * each,
        "all_classes_times_faster": row["pytorch_ms_per_image"] * model.num_classes / (1e3 * each),
    }
    return row | all_ms


def grad_cam(size: Size, precision: str) -> dict[str, Any]:
    """Finished maps of each image's likeliest class, on the host: pytorch-grad-cam's way and ours."""
    from pytorch_grad_cam import GradCAM  # type: ignore[import-not-found]

    network = pair(size.model)[0]
    tapped, images = _ours(size)
    model = at_precision(tapped, precision)
    shape = images.shape[1:3]

    @jax.jit
    def finished(batch: jax.Array) -> jax.Array:
        low = jax.vmap(partial(top_class_maps, METHODS["grad_cam"].maps, model, model.params, top=1))(batch)[:, 0]
        return rescale_map(finish_maps(low, shape))

    torch_images, on_device = _to_torch(images), jax.device_put(images)
    with products_in(precision), GradCAM(model=network, target_layers=[network.layer4[-1]]) as cam:
        theirs = partial(cam, torch_images, None)
        return _beside(theirs, lambda: np.asarray(finished(on_device)), size.batch)


def ablation_cam(size: Size) -> dict[str, Any]:
    """Finished map of one image: every channel taken away in turn, against the closed form."""
    network = pair(size.model)[0]
    model, images = _ours(size)

    @jax.jit
    def finished(image: jax.Array) -> jax.Array:
        low = top_class_maps(METHODS["ablation_cam"].maps, model, model.params, image, top=1)
        return rescale_map(finish_maps(low, image.shape[:2]))[0]

    target = int(np.argmax(np.asarray(jax.jit(partial(model.apply, model.params))(images[0]))))
    on_device = jax.device_put(images[0])
    with products_in("float32"):
        return _beside(lambda: peer_ablation(network, images[0], target)[0], partial(finished, on_device), 1)


def integrated_gradients(size: Size) -> dict[str, Any]:
    """Signed attributions of each image's likeliest class, Gauss-Legendre: captum's, and ours."""
    import torch  # type: ignore[import-not-found]
    from captum.attr import IntegratedGradients  # type: ignore[import-not-found]

    network = pair(size.model)[0]
    model, images = _ours(size)
    images = images[: size.path]

    @jax.jit
    @jax.vmap
    def attributed(image: jax.Array) -> jax.Array:
        view = model.view(model.params, image)
        return integrated_gradients_attribution(view, ask(view, jnp.argmax(view.logits)[None]).targets, steps=STEPS)[0]

    targets = np.argmax(np.asarray(jax.jit(jax.vmap(partial(model.apply, model.params)))(images)), 1)
    chosen = torch.from_numpy(targets.astype(np.int64)).to(torch_device())
    torch_images, on_device = _to_torch(images), jax.device_put(images)
    captum = IntegratedGradients(network)

    def theirs() -> np.ndarray:
        settings = {"n_steps": STEPS, "method": "gausslegendre", "internal_batch_size": 64}
        found = captum.attribute(torch_images, target=chosen, **settings)
        return found.detach().cpu().numpy().transpose(0, 2, 3, 1)

    with products_in("float32"):
        return _beside(theirs, partial(attributed, on_device), len(images))

"""The compiled steps of localisation: images to the maps of one class, and boxes to what the classifier sees in them."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from case_jax.evaluation.batches import Batch
from case_jax.evaluation.maps import Pixels, Question, finite_logits, image_key, maps_of_view, view_for_targets
from case_jax.imageops import normalise_image
from case_jax.metrics.saliency_metric import saliency_metric
from case_jax.tap.view import TappedModel


class Crops(NamedTuple):
    """What the step that looks at crops takes."""

    images: Any
    boxes: Any
    targets: Any


def make_map_step(question: Question, model: TappedModel, target: str) -> Any:
    """`(params, batch)` to each image's maps (B, M, H, W) of one class, which are degenerate, the class, and what is predicted."""

    def one(params: Any, image: Array, image_id: Array, label: Array) -> dict[str, Array]:
        view = view_for_targets(model, params, normalise_image(image, *question.pixels))
        top1 = view.logits.argmax().astype(jnp.int32)
        asked = top1 if target == "predicted" else jnp.maximum(label, 0)
        maps, degenerate = maps_of_view(question, view, asked[None], image_key(question.seed, image_id))
        p = view.probabilities()[asked].astype(jnp.float32)
        p = jnp.where(finite_logits(view), p, jnp.nan)
        return {"maps": maps[:, 0], "degenerate": degenerate[:, 0], "target": asked, "top1": top1, "p": p}

    def step(params: Any, batch: Batch) -> dict[str, Array]:
        return jax.vmap(partial(one, params))(batch.images, batch.image_ids, batch.labels)

    return step


def make_crop_step(pixels: Pixels, model: TappedModel) -> Any:
    """`(params, Crops)` to the two terms of the saliency metric of each image's K boxes, (B, K) each."""

    def step(params: Any, batch: Crops) -> dict[str, Array]:
        images = jax.vmap(partial(normalise_image, mean=pixels.mean, std=pixels.std))(batch.images)
        score = jax.vmap(partial(saliency_metric, partial(model.apply, params), link=model.link))
        found = jax.lax.map(lambda boxes: score(images, boxes, batch.targets), batch.boxes.swapaxes(0, 1))
        terms = {"sm": found.value, "sm_log_area": found.log_area, "sm_log_p": found.log_p}
        return {name: term.swapaxes(0, 1).astype(jnp.float32) for name, term in terms.items()}

    return step

"""Saliency methods: each a pure function of one image's view and a query; `METHODS` is the only dispatch."""

import inspect
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from jaxtyping import Array, Float

from case_jax._checks import require, unknown
from case_jax.contrast.sets import Query
from case_jax.methods.ablation_cam import ablation_cam
from case_jax.methods.attention_rollout import attention_rollout
from case_jax.methods.attn_lrp import attn_lrp
from case_jax.methods.attribution_mask import attribution_mask
from case_jax.methods.cam import class_maps
from case_jax.methods.case import case
from case_jax.methods.case_span import case_span
from case_jax.methods.contrast_controls import (
    UNTRAINED,
    UntrainedContrast,
    exchanged,
    noise_contrast,
    untrained_contrast,
)
from case_jax.methods.contrasted import contrasted, difference_of_maps
from case_jax.methods.contrastive_explanation import contrastive_explanation
from case_jax.methods.controls import centre_gaussian, random_map, sobel_edges, whole_image
from case_jax.methods.deconvolution import deconvolution
from case_jax.methods.eigen_cam import eigen_cam
from case_jax.methods.eigen_grad_cam import eigen_grad_cam
from case_jax.methods.extremal_perturbation import extremal_perturbation
from case_jax.methods.fem import fem
from case_jax.methods.finer_cam import finer_cam
from case_jax.methods.full_grad import full_grad, full_gradients
from case_jax.methods.fused import Fused, fused
from case_jax.methods.grad_cam import grad_cam
from case_jax.methods.grad_cam_plus_plus import grad_cam_plus_plus
from case_jax.methods.gradient_rollout import gradient_rollout
from case_jax.methods.gradient_x_sign import gradient_x_sign
from case_jax.methods.guided_backprop import guided_backprop
from case_jax.methods.hires_cam import hires_cam
from case_jax.methods.input_x_gradient import input_x_gradient
from case_jax.methods.integrated_gradients import integrated_gradients
from case_jax.methods.kpca_cam import kpca_cam
from case_jax.methods.layer_cam import layer_cam
from case_jax.methods.le_grad import le_grad
from case_jax.methods.libra_grad import libra_grad
from case_jax.methods.max_contrast import max_contrast
from case_jax.methods.mean_contrast import mean_contrast
from case_jax.methods.meaningful_perturbation import meaningful_perturbation
from case_jax.methods.naming import MapFunction, bare
from case_jax.methods.occlusion import occlusion
from case_jax.methods.of_classes import all_class_maps, top_class_maps
from case_jax.methods.opti_cam import opti_cam
from case_jax.methods.recursive import Recursive, masked_rounds, recursive
from case_jax.methods.refine_cam import refine_cam
from case_jax.methods.rise import rise
from case_jax.methods.saliency import saliency
from case_jax.methods.score_cam import score_cam
from case_jax.methods.shapley_cam import shapley_cam
from case_jax.methods.signature_activation import image_signature, signature_activation
from case_jax.methods.smooth_grad import smooth_grad
from case_jax.methods.softmax_contrast import softmax_contrast
from case_jax.methods.xgrad_cam import xgrad_cam
from case_jax.tap.view import View


class Method(NamedTuple):
    """A saliency method and what a reader of a table must know about it."""

    maps: MapFunction
    title: str
    contrastive: bool = False
    """Whether it needs contrast sets."""
    control: bool = False
    """Whether it is a yardstick for the others: its map ignores the classifier, what that has learnt, or which class is asked about."""
    class_blind: bool = False
    """Whether its map is the same for every class, whatever the classifier says."""
    mask: bool = False
    """Whether its values say how much of each pixel is seen, from 0 to 1, and are not to be rescaled."""
    probability: bool = False
    """Whether it is made of probabilities, so that it refuses a model without (link `identity`)."""
    slow: bool = False
    """Whether it needs hundreds of passes through the classifier per image: such a method runs only when asked for by name."""
    pair: bool = False
    """Whether its map of a class depends on the other classes asked about, so that it needs two: by default it runs in `evaluate` alone."""
    by_name: bool = False
    """Whether it runs only when asked for by name, whatever it costs: a near relative of another, or for some architectures alone."""
    attention: bool = False
    """Whether it needs the attention probabilities of a transformer, so that it refuses a network without."""
    gradient: Literal["", "layer", "image", "ReLUs"] = ""
    """Where it takes one gradient of the class, without which its map is zero: at the layer, at the image, or there by other rules for ReLUs."""


METHODS: dict[str, Method] = {
    "grad_cam": Method(grad_cam, "Grad-CAM", gradient="layer"),
    "case": Method(case, "CASE", contrastive=True, gradient="layer"),
    "case_span": Method(case_span, "CASE-span", contrastive=True, gradient="layer"),
    "finer_cam": Method(finer_cam, "Finer-CAM", contrastive=True, probability=True, gradient="layer"),
    "softmax_contrast": Method(softmax_contrast, "softmax-contrast", probability=True, gradient="layer"),
    "mean_contrast": Method(mean_contrast, "mean contrast", by_name=True, gradient="layer"),
    "max_contrast": Method(max_contrast, "max contrast", by_name=True, gradient="layer"),
    "contrastive_explanation": Method(
        contrastive_explanation,
        "contrastive explanation",
        contrastive=True,
        probability=True,
        by_name=True,
        gradient="layer",
    ),
    "hires_cam": Method(hires_cam, "HiResCAM", gradient="layer"),
    "grad_cam_plus_plus": Method(grad_cam_plus_plus, "Grad-CAM++", gradient="layer"),
    "xgrad_cam": Method(xgrad_cam, "XGrad-CAM", gradient="layer"),
    "layer_cam": Method(layer_cam, "LayerCAM", gradient="layer"),
    "refine_cam": Method(refine_cam, "RefineCAM", by_name=True, gradient="layer"),
    "shapley_cam": Method(shapley_cam, "ShapleyCAM", by_name=True, gradient="layer"),
    "eigen_cam": Method(eigen_cam, "Eigen-CAM", class_blind=True),
    "eigen_grad_cam": Method(eigen_grad_cam, "Eigen-Grad-CAM", gradient="layer"),
    "kpca_cam": Method(kpca_cam, "KPCA-CAM", class_blind=True, by_name=True),
    "fem": Method(fem, "FEM", class_blind=True, by_name=True),
    "signature_activation": Method(signature_activation, "Signature Activation", class_blind=True, by_name=True),
    "score_cam": Method(score_cam, "Score-CAM", slow=True),
    "ablation_cam": Method(ablation_cam, "Ablation-CAM"),
    "saliency": Method(saliency, "saliency", gradient="image"),
    "input_x_gradient": Method(input_x_gradient, "input × gradient", gradient="image"),
    "gradient_x_sign": Method(gradient_x_sign, "gradient × sign", by_name=True, gradient="image"),
    "attribution_mask": Method(attribution_mask, "Attribution Mask", mask=True, by_name=True, gradient="image"),
    "full_grad": Method(full_grad, "FullGrad", by_name=True, gradient="image"),
    "integrated_gradients": Method(integrated_gradients, "integrated gradients", slow=True),
    "smooth_grad": Method(smooth_grad, "SmoothGrad", slow=True),
    "guided_backprop": Method(guided_backprop, "guided backprop", gradient="ReLUs"),
    "deconvolution": Method(deconvolution, "deconvolution", gradient="ReLUs"),
    "occlusion": Method(occlusion, "occlusion", slow=True),
    "rise": Method(rise, "RISE", probability=True, slow=True),
    "opti_cam": Method(opti_cam, "Opti-CAM", slow=True),
    "meaningful_perturbation": Method(meaningful_perturbation, "meaningful perturbation", probability=True, slow=True),
    "extremal_perturbation": Method(extremal_perturbation, "extremal perturbation", slow=True),
    "attention_rollout": Method(attention_rollout, "attention rollout", class_blind=True, attention=True, by_name=True),
    "gradient_rollout": Method(gradient_rollout, "gradient rollout", attention=True, by_name=True),
    "le_grad": Method(le_grad, "LeGrad", attention=True, by_name=True),
    "libra_grad": Method(libra_grad, "LibraGrad", by_name=True),
    "attn_lrp": Method(attn_lrp, "AttnLRP", by_name=True),
    "random": Method(random_map, "random map", control=True),
    "centre_gaussian": Method(centre_gaussian, "centre Gaussian", control=True, class_blind=True),
    "sobel": Method(sobel_edges, "Sobel edges", control=True, class_blind=True),
    "whole_image": Method(whole_image, "whole image but one pixel", control=True, class_blind=True, by_name=True),
    "image_signature": Method(image_signature, "image signature", control=True, class_blind=True, by_name=True),
    "exchanged": Method(
        exchanged,
        "Finer-CAM, maps exchanged",
        contrastive=True,
        control=True,
        probability=True,
        pair=True,
    ),
    "noise_contrast": Method(noise_contrast, "contrast of noise", control=True, pair=True),
}


def usual(*, pair: bool = False) -> tuple[str, ...]:
    """The names of the methods that run when none are named: neither slow nor `by_name`; with `pair` also those that need a pair of classes."""
    return tuple(
        name for name, entry in METHODS.items() if not (entry.slow or entry.by_name) and (pair or not entry.pair)
    )


def described(name: str, function: MapFunction) -> Method:
    """What is known of a map function that runs under this name: its entry, or what a function of one's own says of itself.

    Such a function may have the attributes `title`, `contrastive`, `control`, `class_blind` and `mask`.
    """
    own, known = bare(function), METHODS.get(name)
    if known is not None and known.maps is own:
        return known
    flags: dict[str, Any] = {
        flag: getattr(own, flag, False) for flag in ("contrastive", "control", "class_blind", "mask")
    }
    if isinstance(own, Fused | Recursive):  # of a method of ours, which says nothing of itself
        within = bare(own.method)
        for flag in ("contrastive", "control", "class_blind"):
            known_so = any(entry.maps is within and getattr(entry, flag) for entry in METHODS.values())
            flags[flag] = known_so or getattr(within, flag, False)
    return Method(function, getattr(own, "title", name), **flags)


def titles_of(methods: Mapping[str, MapFunction]) -> dict[str, str]:
    """The titles of map functions that stand in one table, by name; one that several have comes with the name."""
    titles = {name: described(name, function).title for name, function in methods.items()}
    count = Counter(titles.values())
    return {name: title if count[title] == 1 else f"{title} ({name})" for name, title in titles.items()}


def method(name: str) -> Method:
    """The method of this name.

    Raises:
        CaseJaxError: for an unknown name; lists those that exist, nearest first.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def signed_maps(function: MapFunction, view: View, query: Query, **options: Any) -> Float[Array, "T *space"]:
    """Evidence for each target less evidence against it: `function(sign=1) − function(sign=−1)`.

    Of a class activation map that is the weighted sum of the channels before its rectification.
    """
    return function(view, query, sign=1, **options) - function(view, query, sign=-1, **options)


def require_signed(name: str, function: MapFunction) -> None:
    """Raise unless a method can show evidence against a class: unless it has the option `sign`.

    Raises:
        CaseJaxError: names those that can.
    """
    able = [known for known, entry in METHODS.items() if "sign" in inspect.signature(entry.maps).parameters]
    has = "sign" in inspect.signature(bare(function)).parameters
    require(has, "signed", f"the method {name!r}", f"methods with the option sign: {', '.join(able)}")


__all__ = [
    "METHODS",
    "UNTRAINED",
    "MapFunction",
    "Method",
    "UntrainedContrast",
    "ablation_cam",
    "all_class_maps",
    "attention_rollout",
    "attn_lrp",
    "attribution_mask",
    "case",
    "case_span",
    "centre_gaussian",
    "class_maps",
    "contrasted",
    "contrastive_explanation",
    "deconvolution",
    "difference_of_maps",
    "eigen_cam",
    "eigen_grad_cam",
    "exchanged",
    "extremal_perturbation",
    "fem",
    "finer_cam",
    "full_grad",
    "full_gradients",
    "fused",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient_rollout",
    "gradient_x_sign",
    "guided_backprop",
    "hires_cam",
    "image_signature",
    "input_x_gradient",
    "integrated_gradients",
    "kpca_cam",
    "layer_cam",
    "le_grad",
    "libra_grad",
    "masked_rounds",
    "max_contrast",
    "mean_contrast",
    "meaningful_perturbation",
    "method",
    "noise_contrast",
    "occlusion",
    "opti_cam",
    "random_map",
    "recursive",
    "refine_cam",
    "require_signed",
    "rise",
    "saliency",
    "score_cam",
    "shapley_cam",
    "signature_activation",
    "signed_maps",
    "smooth_grad",
    "sobel_edges",
    "softmax_contrast",
    "top_class_maps",
    "untrained_contrast",
    "usual",
    "whole_image",
    "xgrad_cam",
]

"""`case-jax sanity`: do maps notice that the classifier has forgotten what it learnt? From the shell."""

import dataclasses
from pathlib import Path
from typing import Literal

from case_jax._checks import require
from case_jax.cli.common import Asked, CommonArgs, run_study
from case_jax.cli.setup import Names, Setup
from case_jax.evaluation.studies.sanity import Sanity
from case_jax.evaluation.studies.sanity_step import LABELS
from case_jax.evaluation.subject import Subject
from case_jax.models import Classifier
from case_jax.models.applications import is_application
from case_jax.models.initial import initial_params
from case_jax.stream import before_training
from case_jax.tap.parameters import permuted

LIMIT = 200


def sanity(
    common: CommonArgs,
    kinds: Names = (),
    shuffled_weights: Path | None = None,
    redraw: Literal["initialise", "permute"] = "initialise",
    depth: int | None = None,
) -> None:
    """Do maps change when the classifier loses what it has learnt, layer by layer, or learnt nothing but noise?

    Compares each map with the map of the same class after layers have lost their training: all layers from the logits down to one
    (`cascading`), or one layer alone (`independent`). Also with the map of a classifier trained on shuffled labels (`labels`). A map
    that stays the same does not explain this classifier. 200 images by default.
    If it is killed, the same command continues where it stopped.

    For example:

        case-jax sanity --methods grad_cam case guided_backprop sobel

        case-jax sanity --shuffled-weights shuffled.safetensors --kinds labels

        case-jax sanity --model resnet50 --data folder:photos --depth 2 --limit 50 --methods grad_cam saliency

    Args:
        common: options of all studies.
        kinds: cascading, independent, labels; by default the first two, and labels where there are --shuffled-weights.
        shuffled_weights: weights of the same network, trained on shuffled labels.
        redraw: what replaces a layer's parameters: newly drawn initial values (initialise), or its own values in random order (permute).
        depth: modules whose paths begin with the same DEPTH names count as one layer (2: all of layer4.1); by default every module is a layer.
    """
    require(LABELS not in kinds or shuffled_weights is not None, "kinds", LABELS, "labels with --shuffled-weights FILE")
    drawn = redraw == "permute" or not is_application(common.model.model)
    accepted = "--redraw permute, which needs no initialisation anew"
    require(drawn, "redraw", f"{redraw} for {common.model.model}", accepted)
    pooled = common.model.stream is not None and shuffled_weights is not None
    accepted = "no --stream with --shuffled-weights, whose network has no stream of its own"
    require(not pooled, "stream", common.model.stream, accepted)
    seed, limit = common.seed, common.limit

    def asked(setup: Setup, subject: Subject) -> Asked:
        own = setup.model.params
        classifier = setup.classifier
        if redraw == "initialise" and isinstance(classifier, Classifier):
            untrained = before_training(setup.model, initial_params(classifier, seed=seed), seed=seed)
        else:
            untrained = permuted(own, seed=seed)
        shuffled = None if shuffled_weights is None else setup.params_of(shuffled_weights)
        return Sanity(untrained, shuffled, kinds or None, depth), subject

    run_study(dataclasses.replace(common, limit=LIMIT if limit is None else limit), asked, "sanity", gallery=None)

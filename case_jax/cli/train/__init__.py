"""`case-jax train masker | stream | classifier | infiller`."""

from typing import Annotated

import tyro

from case_jax.cli.numerics import require_right_numbers
from case_jax.cli.processes import together
from case_jax.cli.train.classifier import ClassifierRun, train_classifier
from case_jax.cli.train.infiller import InfillerRun, train_infiller
from case_jax.cli.train.masker import MaskerRun, train_masker
from case_jax.cli.train.stream import StreamRun, train_stream
from case_jax.training import require_shared


def train_(
    what: Annotated[
        Annotated[MaskerRun, tyro.conf.subcommand("masker", description="A masking model for a classifier.")]
        | Annotated[StreamRun, tyro.conf.subcommand("stream", description="Attention pooling for a classifier.")]
        | Annotated[ClassifierRun, tyro.conf.subcommand("classifier", description="A bundled network.")]
        | Annotated[InfillerRun, tyro.conf.subcommand("infiller", description="A network that fills holes.")],
        tyro.conf.arg(name=""),
    ],
) -> None:
    """Train a masking model, attention pooling, a classifier, or an infiller. If it is killed, the same command continues, with any number of processes.

    For example:

        case-jax train masker --epochs 20 --out runs/masker && case-jax evaluate --methods masker:runs/masker grad_cam case

        case-jax train masker --classifier history --infill runs/infiller --per-class 10

        case-jax train masker --model resnet50 --data tfds:imagenet2012:train --augment    # the paper's, fixed classifier

        case-jax train stream --epochs 20 --out runs/stream && case-jax evaluate --stream runs/stream --methods stream:runs/stream grad_cam

        case-jax train infiller --epochs 20 --out runs/infiller

        case-jax train classifier --shuffled-labels --fresh --limit 1000 --share 1 --out runs/shuffled

        case-jax train classifier --model densenet201 --new-head --data tfds:cifar100:train --augment --out runs/cifar

        case-jax train masker --coordinator host0:1234 --process-count 2 --process-id 0    # and the same with 1 on another host

    Args:
        what: which one; each has its own --help.
    """
    what.data.check()
    what.check()
    with together(what.processes) as first:
        require_right_numbers()
        require_shared(what.data.batch)
        if isinstance(what, MaskerRun):
            train_masker(what, first=first)
        elif isinstance(what, StreamRun):
            train_stream(what, first=first)
        elif isinstance(what, ClassifierRun):
            train_classifier(what, first=first)
        else:
            train_infiller(what, first=first)

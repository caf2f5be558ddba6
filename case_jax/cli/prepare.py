"""`case-jax prepare`: data sets that have no open download, from their archives."""

import dataclasses
import shlex
from pathlib import Path
from typing import Annotated

import tyro

from case_jax._checks import require
from case_jax.cli.output import say
from case_jax.data.array_records import leftovers
from case_jax.data.boxes import BoxCounts
from case_jax.data.cifar100 import prepare_cifar100
from case_jax.data.ilsvrc import TRAINING_IMAGES, VALIDATION_IMAGES
from case_jax.data.imagenet import add_boxes, prepare_imagenet

IMAGENET = "ILSVRC2012, from the archives that registered users of image-net.org get."
CIFAR100 = "CIFAR-100, from the archive of its authors."


@dataclasses.dataclass(frozen=True)
class Imagenet:
    """ILSVRC2012, as asked for."""

    val_tar: Path | None = None
    """ILSVRC2012_img_val.tar (6.74 GB), or a part of it; not needed to add --boxes to images that are prepared already."""
    train_tar: Path | None = None
    """ILSVRC2012_img_train.tar (147.9 GB); not needed to evaluate."""
    boxes: Path | None = None
    """ILSVRC2012_bbox_val_v3.tgz, or a folder of its XML files: boxes of the validation images, the evidence of their classes."""
    data_dir: Path | None = None
    """Where tensorflow-datasets keeps its data; TFDS_DATA_DIR, else ~/tensorflow_datasets, by default."""


@dataclasses.dataclass(frozen=True)
class Cifar100:
    """CIFAR-100, as asked for."""

    tar: Path
    """cifar-100-binary.tar.gz (169 MB), from www.cs.toronto.edu/~kriz/cifar.html."""
    data_dir: Path | None = None
    """Where tensorflow-datasets keeps its data; TFDS_DATA_DIR, else ~/tensorflow_datasets, by default."""
    any_archive: bool = False
    """Take an archive of the same form that is not the published one."""


def prepare(
    dataset: Annotated[
        Annotated[Imagenet, tyro.conf.subcommand("imagenet", description=IMAGENET)]
        | Annotated[Cifar100, tyro.conf.subcommand("cifar100", description=CIFAR100)],
        tyro.conf.arg(name=""),
    ],
) -> None:
    """Prepare ImageNet or CIFAR-100 for evaluation, once, from their archives.

    Writes what tensorflow-datasets writes (array_record), without TensorFlow; nothing is left when it is interrupted.

    For example:

        case-jax prepare imagenet --val-tar ILSVRC2012_img_val.tar --boxes ILSVRC2012_bbox_val_v3.tgz

        case-jax prepare cifar100 --tar cifar-100-binary.tar.gz

    Args:
        dataset: which one; each has its own --help.
    """
    if isinstance(dataset, Imagenet):
        _imagenet(dataset)
    else:
        done = prepare_cifar100(dataset.tar, data_dir=dataset.data_dir, any_archive=dataset.any_archive)
        for split, number in done.images.items():
            print(f"{split}: {number:,} images")
        if not done.published:
            print(f"{dataset.tar} is not the published archive; taken as it is.")
        _print_where(done.folder, "--model MODEL --data tfds:cifar100:test", dataset.data_dir)


def _imagenet(given: Imagenet) -> None:
    some = given.val_tar or (given.boxes and not given.train_tar)
    require(some, "val_tar", "none", "ILSVRC2012_img_val.tar; or --boxes alone, for images that are prepared already")
    if given.val_tar is None:
        assert given.boxes is not None, "that has been checked"
        folder, counts = add_boxes(given.boxes, data_dir=given.data_dir)
        _print_boxes(counts)
    else:
        say("prepare: reading the names in the archives")
        done = prepare_imagenet(given.val_tar, train_tar=given.train_tar, boxes=given.boxes, data_dir=given.data_dir)
        folder = done.folder
        for split, number in done.images.items():
            whole = {"validation": VALIDATION_IMAGES, "train": TRAINING_IMAGES}[split]
            part = "" if number == whole else ": a part of the archive"
            print(f"{split}: {number:,} of {whole:,} images{part}")
        for error in done.unreadable:
            print(f"cannot be decoded: {error}; kept, and counted as unreadable by an evaluation")
        if done.boxes is not None:
            _print_boxes(done.boxes)
    _print_where(folder, "--model resnet50 --data tfds:imagenet2012:validation", given.data_dir)


def _print_boxes(counts: BoxCounts) -> None:
    print(f"boxes: {counts.boxes:,} of {counts.images:,} images; {counts.without_box:,} readable images without a box")
    left_out = {
        "annotations without a readable image": counts.without_image,
        "annotations of an image of another size": counts.other_size,
        "boxes of another class than the image's": counts.other_class,
        "boxes outside the image": counts.outside,
    }
    print("boxes left out: " + ", ".join(f"{number:,} {what}" for what, number in left_out.items()))


def _print_where(folder: Path, command: str, data_dir: Path | None) -> None:
    for leftover in leftovers(folder):
        print(f"Left over from an attempt that was killed, to be deleted: {leftover}")
    found_by = "" if data_dir is None else f"TFDS_DATA_DIR={shlex.quote(str(folder.parent.parent.absolute()))} "
    print(f"Prepared: {folder}\nTo evaluate on it: {found_by}case-jax evaluate {command}")

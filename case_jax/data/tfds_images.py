"""Images of a data set that tensorflow-datasets has prepared, read without TensorFlow."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from case_jax._checks import CaseJaxError, require, unknown
from case_jax.data.boxes import read_boxes
from case_jax.data.decoding import EXIF, Exif
from case_jax.data.ilsvrc import validation_labels, validation_number
from case_jax.data.preprocess import box_region, boxes_in_crop, crop_encoded, random_view
from case_jax.source import NOBODY, Evidence, Example, Truth

HOW_TO_PREPARE = {
    "imagenet2012": (
        "ImageNet cannot be downloaded without an account: register at image-net.org, get ILSVRC2012_img_val.tar (6.74 GB; the training "
        "images are not needed to evaluate) and prepare it once:\n  case-jax prepare imagenet --val-tar ILSVRC2012_img_val.tar"
    ),
    "cifar100": (
        "Get cifar-100-binary.tar.gz (169 MB) from www.cs.toronto.edu/~kriz/cifar.html and prepare it once:\n"
        "  case-jax prepare cifar100 --tar cifar-100-binary.tar.gz"
    ),
}
BY_TENSORFLOW_DATASETS = "Prepare it once with tensorflow-datasets, file_format='array_record' (most of its builders need TensorFlow for that, reading does not)."
SAMPLED = 32
"""Records that a fingerprint is made of, spread over the split."""
AT_ONCE = 64
"""Records that are read together for their labels, encoded images and all."""


def open_records(name: str, split: str, data_dir: str | Path | None) -> tuple[Any, Any]:
    """The builder and the records of a prepared split; images stay encoded.

    Raises:
        CaseJaxError: see `TfdsImages`.
    """
    import tensorflow_datasets as tfds  # half a second that only its users pay

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise CaseJaxError(f"data: tensorflow-datasets knows no {name!r}; give tfds:NAME:SPLIT.") from error
    except (AssertionError, ValueError) as error:  # an unknown version or configuration
        raise CaseJaxError(f"data: tensorflow-datasets cannot open {name!r}: {error}") from error
    if not (Path(builder.data_path).exists() and builder.is_prepared()):
        raise CaseJaxError(
            f"data: {name!r} is not prepared: nothing at {builder.data_path}. "
            f"{HOW_TO_PREPARE.get(builder.name, BY_TENSORFLOW_DATASETS)}\n"
            "Where it is prepared already, in another folder, name that folder in TFDS_DATA_DIR. Without it: case-jax evaluate, on "
            "embedded data, or --data folder:PATH, on any images."
        )
    if split not in builder.info.splits:
        raise unknown("split", split, builder.info.splits)
    features: Any = builder.info.features
    if not {"image", "label"} <= set(features) or not hasattr(features["label"], "names"):
        raise CaseJaxError(
            f"data: {name!r} has features {sorted(features)}; needed: an image, and a label with class names."
        )
    try:
        read: Any = builder.as_data_source
        return builder, read(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    except NotImplementedError as error:
        raise CaseJaxError(
            f"data: {name!r} at {builder.data_path} is not stored as array_record and cannot be read by position. Delete it, or take "
            f"another folder. {HOW_TO_PREPARE.get(builder.name, BY_TENSORFLOW_DATASETS)}"
        ) from error


class TfdsImages:
    """One split of a prepared image-classification data set, stored as array_record.

    The id of an ImageNet validation image is the number in its file's name. Other ids are positions in the prepared files, which
    tensorflow-datasets shuffles once, by hash. Names are the data set's own where it has them.

    Where boxes were prepared with ImageNet's validation images, they are the evidence of the image's class: one region, the union of
    the boxes, as much of it as is left in the crop, and a place holder where nothing is.

    Args:
        name: the data set, for example `imagenet2012` or `cifar100:3.0.2`.
        split: for example `validation`.
        resize: shorter side in pixels.
        crop: side of the central crop in pixels.
        interpolation: `bilinear` or `bicubic`.
        exif: `apply` turns photographs as their EXIF orientation says; `ignore` does not, as torchvision, and as ImageNet's boxes need it.
        channels: 3, or 1 for grey.
        data_dir: where tensorflow-datasets keeps its data; None takes its own default (`TFDS_DATA_DIR`, `~/tensorflow_datasets`).

    Raises:
        CaseJaxError: for an unknown data set or split, one that is not prepared as array_record (says where it was looked for, and what
            to do), or one without images and class labels; on reading, for an ImageNet whose labels belong to other images.
    """

    def __init__(
        self,
        name: str,
        split: str,
        *,
        resize: int,
        crop: int,
        interpolation: str = "bilinear",
        exif: Exif = "ignore",
        channels: int = 3,
        data_dir: str | Path | None = None,
    ):
        if exif not in EXIF:
            raise unknown("exif", exif, EXIF)
        builder, self.records = open_records(name, split, data_dir)
        self.class_names = tuple(builder.info.features["label"].names)
        self.name = f"tfds:{builder.info.full_name}:{split}"
        self.folder = Path(builder.data_path)
        self.numbered = builder.name == "imagenet2012" and split == "validation"
        self.boxes = read_boxes(self.folder) if self.numbered else None
        self.truths = () if self.boxes is None else ("boxes",)
        turned = self.boxes is not None and exif == "apply"
        require(not turned, "exif", "'apply' for images with boxes", "'ignore': the boxes lie on the images as stored")
        self.resize, self.crop, self.interpolation = resize, crop, interpolation
        self._how: dict[str, Any] = {"interpolation": interpolation, "exif": exif, "channels": channels}
        self.fingerprint = self._fingerprint()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        """Image `index`; raises `UnreadableImageError` when it cannot be decoded."""
        encoded, found = self._record(index)
        cut = crop_encoded(encoded, found.name, resize=self.resize, crop=self.crop, **self._how)
        evidence = self._evidence(found.image_id, found.label)
        return found._replace(image=cut.pixels, evidence=evidence, changes=cut.changes)

    def labels_of(self, indices: Int[np.ndarray, " n"], /) -> Int[np.ndarray, " n"]:
        """The labels of these images; their records are read, and no image is decoded."""
        found = np.empty(len(indices), np.int64)
        for start in range(0, len(indices), AT_ONCE):
            records = self.records.__getitems__(indices[start : start + AT_ONCE].tolist())
            found[start : start + AT_ONCE] = [int(record["label"]) for record in records]
        return found

    def random_view(self, index: int, rng: np.random.Generator, /) -> Example:
        """Image `index` in a random view, of which no evidence is known."""
        encoded, found = self._record(index)
        return found._replace(image=random_view(encoded, found.name, crop=self.crop, rng=rng, **self._how))

    def _record(self, index: int) -> tuple[bytes, Example]:
        """An image's bytes, and its example without pixels."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        record = self.records[index]
        name, label = self._name(record, index), int(record["label"])
        image_id = self._number(name, label) if self.numbered else index
        return record["image"], Example(image_id, name, np.empty((0, 0, 3), np.uint8), label)

    def truth(self, index: int, kind: str, /) -> Truth | None:
        """The boxes of image `index`; None where it has none, or nothing of them is left in the crop.

        Raises:
            CaseJaxError: where no boxes were prepared, or for another kind than `boxes`.
        """
        if self.boxes is None or kind not in self.truths:
            raise unknown("truth", kind, self.truths)
        record = self.records[index]
        number = self._number(self._name(record, index), int(record["label"]))
        if number not in self.boxes.of:
            return None
        (width, height), boxes = self.boxes.of[number]
        found = boxes_in_crop(boxes, width, height, resize=self.resize, crop=self.crop)
        shown = np.clip(found, 0, self.crop)
        seen = (shown[:, 0] < shown[:, 1]) & (shown[:, 2] < shown[:, 3])
        return Truth(found) if seen.any() else None

    def _fingerprint(self) -> str:
        """The number of images, a digest of some of them and of all boxes, and the preprocessing."""
        digest, count = hashlib.sha256(), len(self)
        for index in np.unique(np.linspace(0, count - 1, SAMPLED).astype(int)).tolist():
            record = self.records[index]
            digest.update(repr((self._name(record, index), int(record["label"]))).encode() + record["image"])
        if self.boxes is not None:
            digest.update(self.boxes.digest.encode())
        facts = [self.name, count, digest.hexdigest()[:16], self.resize, self.crop, self.interpolation]
        if (self._how["exif"], self._how["channels"]) != ("ignore", 3):
            facts += [self._how["exif"], self._how["channels"]]
        return ":".join(map(str, facts))

    def _name(self, record: dict[str, Any], index: int) -> str:
        own = record.get("file_name", record.get("id"))
        return own.decode() if isinstance(own, bytes) else f"{self.name}[{index}]"

    def _number(self, name: str, label: int) -> int:
        """The number in an ImageNet validation image's name, whose label must be this one."""
        number = validation_number(name)
        again = "delete the folder and prepare it again, with case-jax prepare imagenet"
        if number is None:
            raise CaseJaxError(
                f"data: {self.folder} holds {name!r}, which is no validation image of ILSVRC2012; {again}."
            )
        right = validation_labels()[number - 1]
        if label != right:
            raise CaseJaxError(
                f"data: {self.folder} holds {name} as class {label}, and it is class {right} (tensorflow-datasets itself labels images by "
                f"their rank, which is wrong where some are missing); {again}."
            )
        return number

    def _evidence(self, number: int, label: int) -> Evidence | None:
        if self.boxes is None:
            return None
        region = np.zeros((self.crop, self.crop), bool)
        if number in self.boxes.of:
            (width, height), boxes = self.boxes.of[number]
            region = box_region(boxes, width, height, resize=self.resize, crop=self.crop)
        return Evidence(region[None], np.array([label if region.any() else NOBODY], np.int32))

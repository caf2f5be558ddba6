"""Images of a data set that tensorflow-datasets has prepared, read without TensorFlow."""

from typing import Any

from case_jax._checks import CaseJaxError, unknown
from case_jax.data.preprocess import preprocess
from case_jax.source import Example


class TfdsImages:
    """One split of a prepared image-classification data set, stored as array_record.

    Ids are positions in the prepared files, which tensorflow-datasets shuffles once, by hash; names are the data set's file names
    where it has them.

    Args:
        name: the data set, for example `imagenet2012` or `cifar100:3.0.2`.
        split: for example `validation`.
        resize: shorter side in pixels.
        crop: side of the central crop in pixels.
        interpolation: `bilinear` or `bicubic`.
        data_dir: where tensorflow-datasets keeps its data; None takes its own default (`TFDS_DATA_DIR`, `~/tensorflow_datasets`).

    Raises:
        CaseJaxError: for an unknown data set or split, one that is not prepared as array_record (says where it was looked for), or
            one without images and class labels.
    """

    def __init__(
        self,
        name: str,
        split: str,
        *,
        resize: int,
        crop: int,
        interpolation: str = "bilinear",
        data_dir: str | None = None,
    ):
        import tensorflow_datasets as tfds  # half a second that only its users pay

        try:
            builder = tfds.builder(name, data_dir=data_dir)
        except tfds.core.DatasetNotFoundError as error:
            raise CaseJaxError(f"data: tensorflow-datasets knows no {name!r}; give tfds:NAME:SPLIT.") from error
        if not builder.is_prepared():
            raise CaseJaxError(
                f"data: {name!r} is not prepared: nothing at {builder.data_path}. Prepare it once with tensorflow-datasets, "
                "file_format='array_record' (most of its builders need TensorFlow for that, reading does not), or name the folder "
                "that holds it in TFDS_DATA_DIR. Without it: case-jax evaluate, or --data folder:PATH."
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
            self.records = read(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        except NotImplementedError as error:
            raise CaseJaxError(
                f"data: {name!r} at {builder.data_path} is not stored as array_record and cannot be read by position; "
                "prepare it again with file_format='array_record'."
            ) from error
        self.class_names = tuple(features["label"].names)
        self.name = f"tfds:{builder.info.full_name}:{split}"
        self.fingerprint = f"{builder.info.full_name}:{split}:{len(self.records)}:{resize}:{crop}:{interpolation}"
        self.resize, self.crop, self.interpolation = resize, crop, interpolation

    def __len__(self) -> int:
        """Number of images."""
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        """Image `index`; raises `UnreadableImageError` when it cannot be decoded."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        record = self.records[index]
        name = record["file_name"].decode() if "file_name" in record else f"{self.name}[{index}]"
        pixels = preprocess(record["image"], name, resize=self.resize, crop=self.crop, interpolation=self.interpolation)
        return Example(index, name, pixels, int(record["label"]))

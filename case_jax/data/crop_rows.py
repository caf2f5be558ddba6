"""One row of a cache of crops as bytes: a record with a checksum, and the pixels."""

import json
import math
import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from case_jax.source import Evidence, Example, UnreadableImageError

LONGEST_TEXT = 1000
"""Bytes for an image's name with several labels if it has them, or for its name and the reason why it cannot be read."""
_ABSENT, _IMAGE, _UNREADABLE = 0, 1, 2


class RowShape(NamedTuple):
    """What all rows of a cache have in common."""

    height: int
    width: int
    regions: int | None
    """Number of evidence regions; None where examples have no evidence."""
    channels: int = 3

    @staticmethod
    def of(example: Example) -> "RowShape | None":
        """The shape of an example's row; None for an image that is not uint8 of shape (H, W, D)."""
        image = np.asarray(example.image)
        if image.ndim != 3 or image.dtype != np.uint8:
            return None
        height, width, channels = image.shape
        return RowShape(height, width, None if example.evidence is None else len(example.evidence.classes), channels)

    @property
    def dtype(self) -> np.dtype:
        """Of a record: everything but the pixels."""
        regions, packed = self.regions or 0, math.ceil(self.height * self.width / 8)
        return np.dtype(
            [
                ("check", "<u4"),
                ("state", "u1"),
                ("image_id", "<i8"),
                ("label", "<i8"),
                ("text_size", "<u4"),
                ("text", "u1", (LONGEST_TEXT,)),
                ("classes", "<i4", (regions,)),
                ("regions", "u1", (regions, packed)),
            ]
        )


def pack(found: Example | UnreadableImageError, shape: RowShape) -> tuple[bytes, bytes] | None:
    """The record and the pixels of a row; None for what does not fit: another shape, or too long a name."""
    record, pixels = np.zeros((), shape.dtype), b""
    if isinstance(found, UnreadableImageError):
        text = json.dumps([found.name, found.reason]).encode()
        record["state"] = _UNREADABLE
    else:
        if RowShape.of(found) != shape:
            return None
        words = [found.name, list(found.labels), list(found.changes), list(found.clusters)]
        text, pixels = json.dumps(words).encode(), np.asarray(found.image).tobytes()
        record["state"], record["image_id"], record["label"] = _IMAGE, found.image_id, found.label
        if found.evidence is not None:
            record["classes"] = found.evidence.classes
            record["regions"] = np.packbits(found.evidence.regions.reshape(len(found.evidence.classes), -1), axis=1)
    if len(text) > LONGEST_TEXT:
        return None
    record["text_size"], record["text"][: len(text)] = len(text), np.frombuffer(text, np.uint8)
    record["check"] = _checksum(record.tobytes(), pixels)
    return record.tobytes(), pixels


def unpack(raw: bytes, stored: UInt8[np.ndarray, "H W D"], shape: RowShape) -> Example | UnreadableImageError | None:
    """What a row holds; None when it holds nothing, or something torn."""
    record = np.frombuffer(raw, shape.dtype)[0]
    if record["state"] not in (_IMAGE, _UNREADABLE):
        return None
    pixels = np.array(stored) if record["state"] == _IMAGE else None  # a copy, which nobody writes into
    if record["check"] != _checksum(raw, b"" if pixels is None else pixels.data):
        return None
    name, *rest = json.loads(record["text"][: record["text_size"]].tobytes())
    if pixels is None:
        return UnreadableImageError(name, *rest)
    evidence = None
    if shape.regions is not None:
        bits = np.unpackbits(record["regions"], axis=1, count=shape.height * shape.width).astype(bool)
        evidence = Evidence(bits.reshape(-1, shape.height, shape.width), record["classes"].copy())
    labels, changes, clusters = map(tuple, rest)
    image_id, label = int(record["image_id"]), int(record["label"])
    return Example(image_id, name, pixels, label, evidence, labels=labels, changes=changes, clusters=clusters)


def _checksum(record: bytes, pixels: bytes | memoryview) -> int:
    return zlib.crc32(memoryview(record)[4:], zlib.crc32(pixels))

"""What it costs to prepare images, to decode them, and to read them from a cache of crops.

Question   How long does preparing 50,000 images take, and what does the cache save who reads them again?
Command    python -m experiments.benchmarks.data [--quick] [--out FILE.json]
Cost       about a minute and 600 MB of disk on 2 CPU cores; 500×375 JPEGs of about 110 kB, cut from two photographs, in a tar like ILSVRC's
Expected   read from the cache at 10 × the rate of decoding or more
"""

import dataclasses
import io
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image
from tabulate import tabulate

from case_jax.data import CachedCrops, TfdsImages, prepare_imagenet
from case_jax.evaluation.batches import LOADERS
from case_jax.source import Source
from experiments.benchmarks.record import circumstances, recorded


@dataclasses.dataclass(frozen=True)
class Config:
    """How many images, and how often."""

    images: int = 2000
    repeats: int = 5
    """Of each reading; the median is taken."""
    quick: bool = False
    """Twenty images, once, to prove that it runs."""
    out: Path | None = None
    """JSON file to write."""


def write_archive(path: Path, images: int) -> None:
    """A tar of JPEGs under ILSVRC's names."""
    from sklearn.datasets import load_sample_images

    loaded: Any = load_sample_images()
    photographs = [Image.fromarray(pixels).resize((900, 600)) for pixels in loaded.images]
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as archive:
        for number in range(1, images + 1):
            left, top = (int(rng.integers(0, n)) for n in (400, 225))
            buffer = io.BytesIO()
            photographs[number % 2].crop((left, top, left + 500, top + 375)).save(buffer, "JPEG", quality=97)
            entry = tarfile.TarInfo(f"ILSVRC2012_val_{number:08d}.JPEG")
            entry.size = buffer.tell()
            buffer.seek(0)
            archive.addfile(entry, buffer)


def rate(source: Source, threads: int) -> float:
    """Images a second."""
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda i: source[i].image_id, range(len(source))))
    return len(source) / (time.perf_counter() - start)


def main(config: Config) -> dict[str, Any]:
    """Measure, print, and write JSON when asked."""
    images, repeats = (20, 1) if config.quick else (config.images, config.repeats)
    row: dict[str, float] = {"images": images}

    def median(name: str, measured: Callable[[], float]) -> None:
        row[name] = statistics.median(measured() for _ in range(repeats))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_archive(folder / "val.tar", images)
        row["mean_kb"] = (folder / "val.tar").stat().st_size / images / 1e3
        start = time.perf_counter()
        prepare_imagenet(folder / "val.tar", data_dir=folder)
        row["prepare_per_second"] = images / (time.perf_counter() - start)
        source = TfdsImages("imagenet2012", "validation", resize=256, crop=224, data_dir=folder)
        cached = CachedCrops(source, folder / "crops")
        row["fill_per_second"] = rate(cached, LOADERS)
        for threads in (1, LOADERS):
            median(f"decode_{threads}_per_second", lambda n=threads: rate(source, n))
            median(f"cached_{threads}_per_second", lambda n=threads: rate(cached, n))
    row["cached_over_decode"] = row[f"cached_{LOADERS}_per_second"] / row[f"decode_{LOADERS}_per_second"]
    print(tabulate(list(row.items()), floatfmt=".3g"))
    result = {**circumstances(devices=False), "data": [row]}
    return recorded(result, config.out)


if __name__ == "__main__":
    main(tyro.cli(Config))

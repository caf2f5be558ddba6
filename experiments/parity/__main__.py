"""Compare a folder of reference numbers with what this library computes: networks, their maps, scores and attributions.

    python -m experiments.parity --goldens tests/goldens
    python -m experiments.parity --goldens tests/goldens --device gpu
    python -m experiments.parity --goldens tests/goldens --precision bf16

Cost: two to three minutes on 2 CPU cores. Expected: every line passes; the exit status is 1 if one fails. With a lower
precision nothing is judged: the table says how many of the top 5% pixels change, which to know before a sweep on a TPU.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import jax
import tyro
from tabulate import tabulate

from case_jax._checks import CaseJaxError
from experiments.parity.attributions import attribution_lines
from experiments.parity.compare import Line, not_compared
from experiments.parity.goldens import Arrays, network, networks, read
from experiments.parity.maps import case_lines, method_lines, model_lines
from experiments.parity.precision import changes, how, logits_change
from experiments.parity.scores import eval_lines, list_lines, stored_maps

Precision = Literal["float32", "bf16", "tf32"]
ATTRIBUTED = "resnet_bottleneck"
"""The network whose input attributions the file `attributions` holds."""
MASKING = ("masker", "masking_loss", "localisation")
TESTED = (*MASKING, "masks", "reference_metrics", "vit", "vit_timm", "convnext_timm")
"""Files that the test suite compares: the masking model, optimised masks, further metrics, networks of other layouts."""
PARTS = ("_maps", "_case", "_eval")


def lines(files: Mapping[str, Arrays]) -> Iterator[Line]:
    """Every quantity that the files hold."""
    known = {"metrics", "attributions"}
    for name in networks(files):
        found = network(name, files[name])
        known |= {name, *(name + part for part in PARTS)}
        yield from model_lines(found)
        if f"{name}_maps" in files:
            yield from method_lines(found, files[f"{name}_maps"])
        if f"{name}_case" in files:
            yield from case_lines(found, files[f"{name}_case"])
        if all(f"{name}{part}" in files for part in PARTS):
            stored = files[f"{name}_eval"]
            maps = stored_maps(stored["methods"].tolist(), files[f"{name}_maps"], files[f"{name}_case"])
            yield from eval_lines(found, stored, maps)
        if name == ATTRIBUTED and "attributions" in files:
            yield from attribution_lines(found, files["attributions"])
    if "metrics" in files:
        yield from list_lines(files["metrics"])
    for name in files:
        if name in TESTED:
            yield not_compared(name, "all", "compared by the test suite")
        elif name not in known:
            yield not_compared(name, "all", "an unknown file, not compared")


def shown(found: list[Line]) -> str:
    """The parity table."""
    rows = [(n, q, "" if a != a else f"{a:.1e}", "" if r != r else f"{r:.1e}", b, v) for n, q, a, r, b, v in found]
    heads = ("network", "quantity", "absolute", "relative", "bound", "verdict")
    return tabulate(rows, headers=heads, disable_numparse=True)


def parity(goldens: Path, device: str | None = None, precision: Precision = "float32") -> int:
    """Compare a folder of reference numbers with what this library computes; 1 when a quantity misses its bound.

    Args:
        goldens: folder with the reference numbers.
        device: platform to compute on: cpu, gpu or tpu; by default the one that JAX takes.
        precision: of convolutions and matrix products; below float32 the change of the maps is reported, and nothing judged.
    """
    start = time.monotonic()
    files = read(goldens)
    try:
        chosen = jax.devices(device)[0]
    except RuntimeError as error:
        raise CaseJaxError(f"device: {device!r} is not there ({error}); there are {jax.devices()}.") from error
    print(f"{chosen.device_kind} ({chosen.platform}), jax {jax.__version__}, {len(files)} files in {goldens}")
    with jax.default_device(chosen), jax.default_matmul_precision("highest"):
        if precision != "float32":
            return report_precision(files, precision, chosen.platform)
        found = []
        for line in lines(files):
            found.append(line)
            print(
                f"\r{len(found)} compared, {line.network}: {line.quantity[:60]:60}", end="", file=sys.stderr, flush=True
            )
        print(file=sys.stderr)
    failed = [line for line in found if line.verdict == "FAIL"]
    passed = sum(line.verdict == "pass" for line in found)
    print(shown(found))
    print(
        f"{passed} of {passed + len(failed)} pass, {len(found) - passed - len(failed)} not compared; "
        f"{time.monotonic() - start:.0f} s"
    )
    for line in failed:
        print(f"FAIL: {line.network}, {line.quantity}: {line.absolute:.2e} absolute, {line.relative:.2e} relative")
    if not passed:
        print("Nothing was compared: the folder holds no network and no file of metrics.")
    return 0 if passed and not failed else 1


def report_precision(files: Mapping[str, Arrays], precision: str, platform: str) -> int:
    """How maps change with fewer bits."""
    print(f"{how(platform, precision)}; against float32 on the same device")
    rows, summary = [], []
    for name in networks(files):
        found = network(name, files[name])
        error, other = logits_change(found, precision, platform)
        summary.append((name, f"{error:.1e}", f"{other} of {len(found.arrays['x'])}"))
        for change in changes(found, precision, platform, files.get(f"{name}_case")):
            rows.append((name, change.method, f"{change.mean:.1%}", f"{change.largest:.1%}", change.maps))
    print(tabulate(summary, headers=("network", "logits, relative change", "other top-1 class")))
    print(tabulate(rows, headers=("network", "method", "top-5% pixels changed, mean", "largest", "maps")))
    return 0 if rows else 1


def run(arguments: list[str] | None = None) -> int:
    """The command; 2 for bad input."""
    try:
        return tyro.cli(parity, args=arguments, prog="python -m experiments.parity")
    except CaseJaxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(run())

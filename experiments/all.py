"""All experiments, one after the other, and the page that shows what they found.

Question   Which claims of the two papers hold here?
Command    python -m experiments.all [--quick] [--only sensitivity ties] [--again] [--index]
Cost       four hours on 2 CPU cores; --quick under ten minutes
Expected   `experiments/results/index.html` and `README.md`; an experiment that fails is named there and at the end, and the others run all the same
"""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

from case_jax._checks import unknown
from experiments.cited import renew
from experiments.kept import QUICK, from_shell
from experiments.page import write_pages

HERE = Path(__file__).parent
RESULTS = HERE / "results"
EXPERIMENTS = (
    "specificity", "architectures", "sensitivity", "fidelity", "ties", "contrasts", "seeds", "scenes", "masking", "stream", "sanity", "crossover",
    "recursive", "photographs", "sound", "lmac", "peers",
)  # fmt: skip
"""In the order of the page; `ties` reads what `sensitivity` wrote, `crossover` the maskers of `masking` and `lmac`."""
NEEDS = {"peers": ("torch", "pytorch_grad_cam", "quantus")}


@dataclasses.dataclass(frozen=True)
class Config:
    """What runs, and where its answers go."""

    quick: bool = False
    """Small sizes, to prove that everything runs; answers go below runs/ then."""
    only: tuple[str, ...] = ()
    """These experiments alone."""
    again: bool = False
    """Run nothing: conclude again from what is kept."""
    index: bool = False
    """Run and conclude nothing: write the pages again."""
    out: Path | None = None
    """By default experiments/results, or runs/experiments/quick/results."""

    @property
    def folder(self) -> Path:
        """Where answers go."""
        return self.out or (QUICK if self.quick else RESULTS)


def lacking(name: str) -> list[str]:
    """Packages that an experiment needs and that are not there."""
    from importlib.util import find_spec

    return [package for package in NEEDS.get(name, ()) if find_spec(package) is None]


def run(name: str, config: Config) -> str | None:
    """Run an experiment in a process of its own; why not, when it failed."""
    missing = [] if config.again else lacking(name)
    if missing:
        return f"not run: {', '.join(missing)} not installed (pip install '.[bench]')"
    words = [sys.executable, "-m", f"experiments.{name}", "--out", str(config.folder / name)]
    words += [f"--{flag}" for flag in ("quick", "again") if getattr(config, flag)]
    status = subprocess.run(words, check=False).returncode
    return None if status == 0 else f"failed with status {status}: {' '.join(words[1:])}"


def main(config: Config) -> None:
    """Run, and write the page."""
    for name in config.only:
        if name not in EXPERIMENTS:
            raise unknown("only", name, EXPERIMENTS)
    config.folder.mkdir(parents=True, exist_ok=True)
    reasons: dict[str, str | None] = {}
    for name in () if config.index else config.only or EXPERIMENTS:
        start = time.monotonic()
        print(f"\n=== {name}", flush=True)
        reasons[name] = run(name, config)
        print(reasons[name] or f"{name}: {time.monotonic() - start:.0f} s", flush=True)
        write_pages(config.folder, EXPERIMENTS, reasons)
    print(f"\n{write_pages(config.folder, EXPERIMENTS, reasons)}")
    if config.folder == RESULTS:
        renew(HERE.parent / "README.md", RESULTS)
    failed = [f"{name} {reason}" for name, reason in reasons.items() if reason and reason.startswith("failed")]
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    from_shell(main, Config)

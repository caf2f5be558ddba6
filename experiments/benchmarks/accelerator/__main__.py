"""Everything that an accelerator has to be asked, section by section, the most valuable first, kept row by row.

Question   Are numbers right there? What do maps of all classes, evaluations, sweeps and training cost, alone and beside PyTorch?
Command    python -m experiments.benchmarks.accelerator --pack DIR      (where there is a network: a few small wheels)
           python -m experiments.benchmarks.accelerator --packed DIR    (on the accelerator; no network, nothing installed)
Cost       under eight minutes, ended by an alarm of the system if need be; the sections' budgets are in `sections.py`
Expected   parity passes; all-class CASE of ResNet-50 ≤ 1.05 × forward; the devices at work for ≥ 0.9 of an evaluation
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.benchmarks.accelerator import pack
from experiments.benchmarks.accelerator.tables import markdown

LIMIT = 475
"""Seconds after which the system ends the process, whatever it is doing."""


def parser() -> argparse.ArgumentParser:
    """The options; tyro need not be there."""
    options = argparse.ArgumentParser(prog="python -m experiments.benchmarks.accelerator", description=__doc__)
    options.formatter_class = argparse.RawDescriptionHelpFormatter
    options.add_argument(
        "--pack", type=Path, metavar="DIR", help="collect the wheels that a plain machine lacks; then stop"
    )
    options.add_argument(
        "--packed", type=Path, metavar="DIR", help="use these wheels where nothing of their name is installed"
    )
    options.add_argument("--only", nargs="+", metavar="LETTER", help="run these sections only")
    options.add_argument("--quick", action="store_true", help="small sizes without budgets, to prove that it runs")
    options.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON to write; default: results/accelerator-DEVICE-DATE.json"
    )
    options.add_argument("--table", type=Path, metavar="FILE", help="print such a JSON as Markdown tables; then stop")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 when a job failed, 2 for bad input."""
    options = parser().parse_args(arguments)
    if options.table:
        if not options.table.is_file():
            parser().error(f"--table: {options.table} is no file; give a JSON that this command has written")
        print(markdown(json.loads(options.table.read_text())))
        return 0
    if options.pack:
        wheels = pack.collect(options.pack)
        print(f"{len(wheels)} wheels, {sum(w.stat().st_size for w in wheels) / 1e6:.1f} MB, in {options.pack}")
        return 0
    if options.packed:
        pack.put_behind(options.packed)
    if not options.quick:
        signal.alarm(LIMIT)
    # before JAX is imported: PyTorch needs room on the same chip
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from case_jax._checks import CaseJaxError
    from experiments.benchmarks.accelerator.sections import measure

    try:
        return measure(only=options.only, quick=options.quick, out=options.out)
    except CaseJaxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

"""Where a command's words and files go."""

import sys
from pathlib import Path

from case_jax._checks import CaseJaxError
from case_jax.cli.numerics import cache_folder
from case_jax.results import RunFolder, require_writable


def say(text: str) -> None:
    """A line about what is going on, to stderr: stdout is for results."""
    print(text, file=sys.stderr, flush=True)


def run_folder(out: Path | None, *words: object) -> RunFolder:
    """The folder asked for, or one below runs/ named by these words; None leaves a word out."""
    name = "-".join(str(word).replace("/", "-").replace(":", "-") for word in words if word is not None)
    return RunFolder(out or Path("runs") / name)


def kept_between_runs() -> Path | None:
    """The cache folder for a command that has no run folder; None where it cannot be written."""
    try:
        require_writable(cache_folder())
    except CaseJaxError:
        say(f"contrast: nothing can be kept in {cache_folder()}; what is counted is counted anew each time")
        return None
    return cache_folder()

"""The shell: `case-jax evaluate | explain | pairs | grid-pointing | localise | sanity | report | guide | list | prepare | train`."""

import logging
import os
import sys

import tyro

from case_jax._checks import CaseJaxError, require
from case_jax.cli import commands
from case_jax.cli.compilations import keep_compilations
from case_jax.cli.evaluate import evaluate
from case_jax.cli.explain import explain
from case_jax.cli.grid_pointing import grid_pointing
from case_jax.cli.guide import guide
from case_jax.cli.localise import localise
from case_jax.cli.numerics import avoid_wrong_fusions
from case_jax.cli.pairs import pairs
from case_jax.cli.prepare import prepare
from case_jax.cli.sanity import sanity
from case_jax.cli.train import train_

RESUMABLE = ("evaluate", "pairs", "localise", "grid-pointing", "sanity", "train")


def _require_once(words: list[str]) -> None:
    """Refuse an argument that is given twice, of which the parser would keep the last in silence."""
    given = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    for name in given:
        require(given.count(name) == 1, name[2:], f"{given.count(name)} times", f"{name} once, with all its values")


def main() -> None:
    """Entry point of the console script."""
    known = {
        "evaluate": evaluate,
        "explain": explain,
        "pairs": pairs,
        "grid-pointing": grid_pointing,
        "localise": localise,
        "sanity": sanity,
        "report": commands.report,
        "guide": guide,
        "list": commands.list_,
        "prepare": prepare,
        "train": train_,
    }
    try:
        _require_once(sys.argv[1:])
        keep_compilations()
        avoid_wrong_fusions()
        logging.basicConfig()
        for handler in logging.getLogger().handlers:  # also where a package that was imported has made one
            if type(handler) is logging.StreamHandler:
                handler.setFormatter(logging.Formatter("%(message)s"))
        logging.getLogger("case_jax").setLevel(logging.INFO)
        tyro.extras.subcommand_cli_from_dict(
            known,
            prog="case-jax",
            description="Do saliency maps say something about this class, or only about the image?",
        )
    except CaseJaxError as error:
        print(f"case-jax: error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `case-jax list methods | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"case-jax: error: {error}; what was written before is kept.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        resumes = " The same command resumes." if "".join(sys.argv[1:2]) in RESUMABLE else ""
        print(f"case-jax: interrupted.{resumes}", file=sys.stderr)
        sys.exit(130)

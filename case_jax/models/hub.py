"""Weight files of the Hugging Face hub: from its cache when they are there, else fetched once."""

import re
from pathlib import Path
from typing import NamedTuple

from case_jax._checks import CaseJaxError

WEIGHTS, TORCH_WEIGHTS, CONFIG = "model.safetensors", "pytorch_model.bin", "config.json"
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".npz", ".json", ".tar", ".msgpack", ".h5")


class HubFiles(NamedTuple):
    """One repository's files on this machine."""

    weights: Path
    config: Path | None


def is_hub_id(text: str) -> bool:
    """Whether a text can name a repository, `organisation/name` or `organisation/name@revision`; a file name cannot."""
    broken = "--" in text or ".." in text or text.lower().endswith(_FILES)
    return _ID.fullmatch(text) is not None and not broken


def fetch(repo: str, *, need_config: bool = True) -> HubFiles:
    """The weights of a repository and, where it has one, its `config.json`.

    What the cache holds is used without asking the hub (HF_HOME says where the cache is), so that a run on a machine without a
    connection starts at once and the same weights are used until the cache is cleared; `@revision` names another commit.
    With HF_HUB_OFFLINE=1 nothing is asked at all.

    Args:
        repo: `organisation/name` or `organisation/name@revision`.
        need_config: whether to fetch the `config.json` when the cache lacks it.

    Raises:
        CaseJaxError: when the repository or its weights do not exist or cannot be reached; says what to fetch and where to put it.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache  # users of local files need none of it
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    name, _, revision = repo.partition("@")
    names = [WEIGHTS, TORCH_WEIGHTS]
    cached = [try_to_load_from_cache(name, file, revision=revision or None) for file in names]
    weights = next((path for path in cached if isinstance(path, str)), None)
    for file in names if weights is None else ():
        try:
            weights = hf_hub_download(name, file, revision=revision or None)
            break
        except LocalEntryNotFoundError as error:  # no connection: asking for the other file would wait as long again
            raise _unreachable(name, revision, error) from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # the hub's errors share no base class
            raise _unreachable(name, revision, error) from error
    if weights is None:
        raise CaseJaxError(
            f"weights: the repository {name!r} has no {' or '.join(names)}; give a repository that has, such as the timm/… that "
            "`case-jax list models` names, or a file."
        )
    config = Path(weights).with_name(CONFIG)
    if need_config and not config.is_file():
        try:
            hf_hub_download(name, CONFIG, revision=config.parent.name)
        except Exception:  # a repository without the file and one out of reach: the caller has other facts, and says so
            return HubFiles(Path(weights), None)
    return HubFiles(Path(weights), config if config.is_file() else None)


def _near(name: str) -> str:
    """A file that may have been meant."""
    found = next((name + suffix for suffix in _FILES if Path(name + suffix).is_file()), None)
    return "" if found is None else f" (but {found} is: give the whole name)"


def _unreachable(name: str, revision: str, error: Exception) -> CaseJaxError:
    from huggingface_hub import constants, hf_hub_url

    cause = error.__cause__ or error
    reason = (str(cause).strip().splitlines() or [""])[0]
    url = hf_hub_url(name, WEIGHTS, revision=revision or None)
    at = f" --revision {revision}" if revision else ""
    return CaseJaxError(
        f"weights: cannot fetch {WEIGHTS} of {name!r} from the Hugging Face hub ({type(cause).__name__}: {reason}), and there is no file "
        f"of that name here{_near(name)}.\n"
        f"  It is not in the cache at {constants.HF_HUB_CACHE} either (HF_HOME moves it).\n"
        f"  On a machine with a connection fetch {url}\n"
        f"  and {CONFIG} beside it, copy both here and give --weights FILE (from Python: weights=FILE);\n"
        f"  or run there: hf download {name} {WEIGHTS} {CONFIG}{at}, and copy its cache here."
    )

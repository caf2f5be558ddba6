"""Does JAX compute right numbers here? Asked once per version and machine, before a command computes anything."""

import hashlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import jax

from case_jax import canaries, parallel
from case_jax._checks import CaseJaxError
from case_jax.results import write_json

NAME = "--xla_cpu_experimental_ynn_fusion_type"
FLAG = f"{NAME}="
"""Takes from XLA's CPU back end the fusions that compute wrong numbers in jax 0.10.2 to 0.12.0.1 (all that there were)."""
FIRST_WRONG, FIRST_UNKNOWN = (0, 10, 2), (0, 12, 1)
RIGHT = "0.10.0 and 0.10.1"
CPU_FACTS = ("model name", "flags", "CPU implementer", "CPU part", "Features")


def cache_folder() -> Path:
    """Where this package keeps what it need not find out again."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111 (never raises)
    return base / "case_jax"


def avoid_wrong_fusions() -> None:
    """Set `FLAG`, unless `XLA_FLAGS` says something of it, where this version of JAX needs it; before a device is used for the first time.

    Not for versions that nobody has tried: XLA ends a process that gives it a flag which it does not know.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if FIRST_WRONG <= jax.__version_info__ < FIRST_UNKNOWN and NAME not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {FLAG}".strip()


def require_right_numbers() -> None:
    """Raise where JAX computes wrong numbers; under half a second the first time, and nothing to speak of from then on.

    That all is right is remembered in `cache_folder()`, for this version, device, processor and these flags; that something is not,
    is not remembered. Where the folder cannot be written, everything is computed each time.

    Raises:
        CaseJaxError: names the first wrong expression, the flag that helps, and the versions that need none.
    """
    facts = circumstances()
    file = cache_folder() / f"numerics-{digest(json.dumps(facts).encode())}.json"
    if _remembers(file, facts):
        return
    wrong = canaries.wrong(canaries.errors())
    if wrong:
        raise CaseJaxError(_refusal(wrong, facts))
    _remember(file, facts)


def circumstances() -> dict[str, str]:
    """What decides whether numbers are right, and of which expressions it is known."""
    return {
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "device": parallel.device_names()[0],
        "processor": processor(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "expressions": digest(Path(canaries.__file__).read_bytes()),
    }


def digest(data: bytes) -> str:
    """Sixteen characters that other bytes do not have."""
    return hashlib.sha256(data).hexdigest()[:16]


def processor() -> str:
    """Name and abilities of the first processor: virtual machines give one name to many."""
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    facts = [known[name] for name in CPU_FACTS if name in known]
    return f"{platform.machine()} {facts[0] if facts else ''} {digest(' '.join(facts).encode())}"


def _remembers(file: Path, facts: Mapping[str, str]) -> bool:
    try:
        return json.loads(file.read_bytes()) == facts
    except (OSError, ValueError):  # none, or damaged: what is in it is then found out anew
        return False


def _remember(file: Path, facts: Mapping[str, str]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, facts)
    except OSError:
        pass  # a folder that cannot be written costs time, no more


def _refusal(wrong: Mapping[str, float], facts: Mapping[str, str]) -> str:
    words, error = next(iter(wrong.items()))
    size = "is not a number" if math.isnan(error) else f"is off by {error:.1g} of its largest value"
    what = (
        f"numerics: jax {facts['jax']} with jaxlib {facts['jaxlib']} computes wrong numbers on this machine ({facts['device']}): {len(wrong)} of "
        f"{len(canaries.CANARIES)} small expressions are not what NumPy gives; {words} {size} (accepted: {canaries.BOUND:g}). "
    )
    flags = facts["xla_flags"]
    others = f"install another version of jax ({RIGHT} are right on CPUs)."
    if not facts["device"].startswith("cpu"):
        return f"{what}Take another device, or {others}"
    if NAME in flags:
        return f"{what}XLA_FLAGS={flags!r} does not help: set {FLAG} there, with nothing behind it, or {others}"
    value = f"'{flags} {FLAG}'" if flags else FLAG
    return f"{what}Set XLA_FLAGS={value} in the environment and start the same command again, or {others}"

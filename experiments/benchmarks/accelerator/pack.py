"""The few small wheels that a plain machine without a network lacks: collected beforehand, then put behind its own packages.

Nothing but the standard library is imported here: the package itself cannot be imported before this has been done.
"""

import subprocess
import sys
from pathlib import Path

WHEELS = ("jaxtyping", "wadler-lindig", "grad-cam", "ttach", "captum")
"""What the package needs to be imported (the first two), and what it is compared with. All are pure Python."""


def collect(folder: Path) -> list[Path]:
    """Fetch or build the wheels with this Python's pip, without what they depend on.

    Raises:
        SystemExit: when pip fails, or a wheel is not pure Python and would not run elsewhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), *WHEELS]
    if subprocess.run(command).returncode:
        raise SystemExit(f"pack: pip could not collect {', '.join(WHEELS)} into {folder}; it says above why.")
    found = sorted(folder.glob("*.whl"))
    for wheel in found:
        if not wheel.name.endswith("-none-any.whl"):
            raise SystemExit(f"pack: {wheel} is not pure Python; give an empty folder.")
    return found


def put_behind(folder: Path) -> None:
    """Make the wheels importable where nothing of that name is installed.

    Raises:
        SystemExit: when the folder holds no wheel.
    """
    found = sorted(folder.glob("*.whl"))
    if not found:
        raise SystemExit(f"packed: no wheels in {folder}; collect them with --pack {folder} where there is a network.")
    sys.path.extend(str(wheel.resolve()) for wheel in found)

"""The architecture, read from the imports: a room imports from lower floors and from itself only."""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

FLOORS = (
    ("_checks",),
    ("audio", "files"),
    ("source", "imageops", "ranking", "metric_column", "parallel", "records", "reasons", "stall"),
    ("results", "tap", "data", "stopping", "canaries", "guide"),
    ("shared_folder",),
    ("models",),
    ("training",),
    ("contrast",),
    ("masking",),
    ("stream",),
    ("methods", "metrics"),
    ("evaluation",),
    ("stats",),
    ("report",),
    ("front",),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
NO_JAX = ("files", "audio", "metric_column", "reasons", "records", "results", "stats", "report")
HEAVY = ("tensorflow_datasets", "tensorflow", "matplotlib", "scipy", "pyarrow", "pandas", "sklearn")

PACKAGE = Path(find_spec("case_jax").origin).parent
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(file):
    return Path(file).parts[0].removesuffix(".py")


def imports(path):
    """Dotted names of everything that a file imports, imports inside functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_used(path):
    return {
        name.split(".")[1] for name in imports(path) if name.startswith("case_jax.") and name.split(".")[1] in FLOOR
    }


INSIDE = [file for file in FILES if file != "__init__.py"]


def test_every_room_has_a_floor():
    assert {room_of(file) for file in INSIDE} == set(FLOOR)


def test_imports_go_downwards_only():
    upwards = {
        (file, used)
        for file in INSIDE
        for used in rooms_used(FILES[file]) - {room_of(file)}
        if FLOOR[used] >= FLOOR[room_of(file)]
    }
    assert not upwards, "(file, room on its own floor or above)"


def test_no_file_imports_the_whole_package():
    whole = {
        (file, name)
        for file in INSIDE
        for name in set(imports(FILES[file])) - {"case_jax.__version__"}
        if name.startswith("case_jax.") and name.split(".")[1] not in FLOOR
    }
    assert not whole, "(file, what it imports through the package: name the room)"


def test_the_reader_of_imports_sees_them(tmp_path):
    """The table is only as good as the reader."""
    file = tmp_path / "example.py"
    file.write_text(
        "import jax.numpy as jnp\nfrom case_jax import parallel\n\ndef f():\n    from case_jax.tap.view import View\n"
    )
    assert {"jax.numpy", "case_jax.parallel", "case_jax.tap.view"} <= set(imports(file))
    assert rooms_used(file) == {"parallel", "tap"}
    assert len(INSIDE) > 25


def test_rooms_of_rows_and_tables_do_not_import_jax():
    found = {
        (file, name)
        for file in INSIDE
        if room_of(file) in NO_JAX
        for name in {name.split(".")[0] for name in imports(FILES[file])} & {"jax", "flax", "optax", "orbax"}
    }
    assert not found


DEVICES = {
    "jit", "pmap", "shard_map", "devices", "local_devices", "device_put", "process_index", "process_count", "Mesh",
}  # fmt: skip


def words_of_jax(path):
    tree = ast.walk(ast.parse(path.read_text()))
    return {
        n.attr for n in tree if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "jax"
    } | {name.removeprefix("jax.") for name in imports(path) if name.startswith("jax.")}


def test_only_parallel_speaks_of_devices_and_compiles(tmp_path):
    example = tmp_path / "example.py"
    example.write_text("import jax\nfrom jax import pmap\n\njax.jit(len)\n")
    assert words_of_jax(example) & DEVICES == {"jit", "pmap"}
    found = {
        (file, word) for file in INSIDE if room_of(file) != "parallel" for word in words_of_jax(FILES[file]) & DEVICES
    }
    assert not found


def test_what_does_not_train_does_not_import_checkpoints():
    code = "import sys, case_jax, case_jax.cli.evaluate; case_jax.evaluate; print('orbax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"


def test_importing_the_package_is_light():
    code = f"import sys, case_jax; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"

"""`labels.csv` beside the images of a folder: their true labels, one or several for each."""

import csv
from collections.abc import Sequence
from pathlib import Path

from case_jax._checks import CaseJaxError, require, unknown

LABELS = "labels.csv"
COLUMNS = ("file", "label")


def read_label_table(
    table: Path, files: Sequence[str], class_names: tuple[str, ...] | None
) -> tuple[list[tuple[int, ...]], tuple[str, ...]]:
    """The labels of each file, and the names of the classes.

    Args:
        table: a CSV file with the columns `file` (a path below the folder, with `/`) and `label` (a class's name): a row for each label of
            each file. Files without a row have no label.
        files: the folder's images.
        class_names: the classifier's classes; None takes the table's, in sorted order.

    Raises:
        CaseJaxError: for a table that cannot be read or lacks a column, a file that is not there, an unknown class, or a row given twice.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            header, rows = tuple(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CaseJaxError(
            f"data: cannot read {table} ({error}); give a CSV file with the columns file,label, or remove it."
        ) from error
    lacking = [column for column in COLUMNS if column not in header]
    given = f"{table} with the columns {', '.join(header) or 'none'}"
    require(not lacking, "data", given, "a header with file,label, and a row for each label of each file")
    pairs = [((row["file"] or "").strip(), (row["label"] or "").strip()) for row in rows]
    names = tuple(sorted({label for _, label in pairs})) if class_names is None else class_names
    place, found = {name: i for i, name in enumerate(names)}, {file: [] for file in files}
    for file, label in pairs:
        if file not in found:
            raise unknown(f"data, file of {table}", file, found)
        if label not in place:
            raise unknown(f"data, label of {table}", label, names)
        require(
            place[label] not in found[file], "data", f"{file} with label {label!r} twice in {table}", "every label once"
        )
        found[file].append(place[label])
    return [tuple(found[file]) for file in files], names

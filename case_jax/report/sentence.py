"""The answer of a run in one sentence, generated from its numbers."""

import math
from collections.abc import Sequence

import pandas as pd

from case_jax.report.loading import Method
from case_jax.report.words import counted, listed, p_value, percent


def answer(
    table: pd.DataFrame, methods: Sequence[Method], *, theta: float, percent_of_pixels: float, removed: float
) -> str:
    """Which methods are class-sensitive, which is most faithful and which lies on its class's evidence.

    Controls are yardsticks and never win; a method without usable maps gets no verdict; what the run did not measure is
    not claimed.

    Args:
        table: `Summary.table`.
        methods: those of the run.
        theta: the threshold that the verdict is given for.
        percent_of_pixels: how many top pixels the agreement compares.
        removed: percentage of pixels removed in the fidelity test.
    """
    judged = [method for method in methods if not method.control]
    controls = [method for method in methods if method.control]
    images = counted(int(table["images"].max()), "image")
    if not judged:
        return f"This run holds only {counted(len(controls), 'control')} on {images} and so no method to judge."
    with_controls = f" (and {counted(len(controls), 'control')})" if controls else ""
    start = f"Of {counted(len(judged), 'method')}{with_controls} on {images}, "
    if len(judged) == 1:
        start = f"On {images}{f', beside {counted(len(controls), chr(99) + "ontrol")}' if controls else ''}, "
    parts = [
        _sensitivity(table, judged, theta, percent_of_pixels),
        _fidelity(table, judged, controls, removed),
        _evidence(table, judged),
    ]
    said = [part for part in parts if part]
    return f"{start}{'; '.join(said) or 'nothing was measured'}."

"""How figures of reports are drawn in tests: with few pixels and blank PDFs, or as users get them."""

from contextlib import contextmanager

import pytest
from matplotlib.figure import Figure

from case_jax.report import figures, gallery

DPI, CHEAP, SAVE = figures.DPI, 80, Figure.savefig
assert gallery.DPI == DPI  # that module has its own copy, which sizes its pages


def save_png(figure, file, **options):
    """The PNG of a report's figure; for its PDF the first bytes. Other figures as always."""
    if (options.get("format"), options.get("dpi")) == ("pdf", CHEAP):
        file.write(b"%PDF")
    else:
        SAVE(figure, file, **options)


@contextmanager
def drawn(*, cheaply):
    """Half of a report's time is its figures, and few tests look at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "DPI", CHEAP if cheaply else DPI)
        patch.setattr(Figure, "savefig", save_png)
        yield

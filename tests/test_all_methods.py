"""Every method through every default test."""

import html

import numpy as np
import pandas as pd
import pytest

from case_jax import METHODS
from case_jax.methods import UNTRAINED
from case_jax.results import RunFolder

EVERY = {name: entry for name, entry in METHODS.items() if not entry.attention}


@pytest.mark.slow
def test_every_method_through_every_default_test(shell, tmp_path):
    """All of them in one run, ranked in its report; the long ones with smaller budgets."""
    budgets = ["rise.masks=12", "opti_cam.steps=2", "smooth_grad.samples=3", "integrated_gradients.steps=3"]
    budgets += ["meaningful_perturbation.steps=2", "extremal_perturbation.steps=2"]
    status, _out, err = shell(
        "evaluate", "--limit", 20, "--methods", "all", "--set", *budgets, "--tile", 10, "--part", 10, "--out", "run"
    )
    assert status == 0, err
    rows = RunFolder(tmp_path / "run").rows()
    assert rows.groupby("method").size().to_dict() == dict.fromkeys((*EVERY, UNTRAINED), 20)
    assert np.isfinite(rows["F"]).mean() > 0.99
    summary = pd.read_csv(tmp_path / "run" / "summary.csv", index_col="method")
    for name, entry in EVERY.items():
        assert np.isfinite(summary.loc[name, "mean_rank"]) == (not entry.control), name
        if entry.class_blind:
            assert summary.loc[name, "F_median"] == 1, name
    assert np.isnan(summary.loc[UNTRAINED, "mean_rank"])
    np.testing.assert_allclose(summary.loc["exchanged", "F_median"], summary.loc["finer_cam", "F_median"])
    found = rows.pivot(index="image_id", columns="method", values="specificity")
    np.testing.assert_array_equal(found["exchanged"], -found["finer_cam"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Ranks" in page
    assert [entry.title for entry in EVERY.values() if html.escape(entry.title) not in page] == []

"""The experiments run, at their quick sizes."""

import pandas as pd
import pytest

from experiments import masking

pytestmark = pytest.mark.slow


def test_the_masking_table(tmp_path):
    masking.main(masking.Config(quick=True, runs=tmp_path / "runs", out=tmp_path / "out"))
    table = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert table["name"].tolist() == ["fixed, in", "contrastive", "fixed, both", "Grad-CAM"]
    assert table[["le", "F_median", "drop", "mass_own"]].notna().all(axis=None)
    assert (tmp_path / "out" / "few_shot.png").stat().st_size > 5000

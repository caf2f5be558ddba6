"""The report of a training, from made-up logs."""

import re

import pandas as pd
import pytest

from case_jax._checks import CaseJaxError
from case_jax.report import write_report
from case_jax.report.training import ends
from case_jax.results import RunFolder

LOG = pd.DataFrame(
    {"step": [50, 60], "images": [500, 600], "seconds": [1.0, 1.5], "loss": [2.0, -0.25], "mask_mean": [0.5, 0.1234]}
)
SESSION = {
    "command": ["case-jax", "train"],
    "versions": {"jax": "0"},
    "devices": ["cpu:0"],
    "machine": "m",
    "date": "d",
}


@pytest.fixture
def folder(tmp_path):
    def build(log=LOG, *, kind="masker", steps=60):
        found = RunFolder(tmp_path / "run")
        recipe, data = {"steps": steps, "batch": 10}, {"name": "<scenes>", "images": 1000}
        found.open({kind: {}, "model": {"name": "net"}, "data": data, "recipe": recipe}, SESSION)
        if log is not None:
            log.to_csv(found.path / "log.csv", index=False)
        return found.path

    return build


def test_the_page_has_the_answer_the_numbers_and_the_curves(folder):
    page = write_report(folder())
    text = page.read_text()
    assert "A masking model for net, after 60 steps of 10 images, drawn from 1,000 images of &lt;scenes&gt;" in text
    assert "loss −0.25 (at first 2)." in text
    cells = re.findall(r"<tr><th scope=\"row\">(.*?)</th><td>(.*?)</td><td>(.*?)</td></tr>", text)
    assert cells == [("loss", "2", "−0.25"), ("mask mean", "0.5", "0.1234")]
    assert "data:image/png;base64," in text
    assert "unfinished" not in text
    assert "case-jax train" in text
    assert {f.name for f in (page.parent / "figures").iterdir()} == {"curves.png", "curves.pdf"}
    assert "| mask mean | 0.5 | 0.1234 |" in (page.parent / "summary.md").read_text()


def test_what_could_not_be_read_is_named(folder):
    path = folder()
    assert "could not be read" not in write_report(path).read_text()
    RunFolder(path).write_unreadable({"<torn>.jpg": "not an image"})
    text = write_report(path).read_text()
    assert "1 of 1,000 images could not be read; others of their batches took their places." in text
    assert "<li>&lt;torn&gt;.jpg: not an image</li>" in text


def test_an_unfinished_training_says_so(folder):
    page = write_report(folder(steps=1000, kind="classifier"))
    assert "This training is unfinished: step 60 of 1,000 so far." in page.read_text()
    assert "A classifier for net" in page.read_text()


def test_a_log_of_one_line_has_one_column():
    assert ends(LOG[:1]) == (["", "50 steps"], [["loss", "2"], ["mask mean", "0.5"]])


@pytest.mark.parametrize("log", [None, LOG[[]]])
def test_nothing_logged_yet(folder, log):
    with pytest.raises(CaseJaxError, match=r"run: .*run the same command again until it has logged its first steps"):
        write_report(folder(log))

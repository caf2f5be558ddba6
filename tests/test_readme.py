import ast
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from case_jax.data import DigitScenes
from case_jax.guide import TOPICS, guide
from experiments.cited import with_numbers

README = Path(__file__).parents[1] / "README.md"
PAGES = {"README": README.read_text(), **{topic: guide(topic) for topic in TOPICS}}
WITH_CODE = [name for name, text in PAGES.items() if "```python" in text]


def test_the_readme_fits_on_two_screens():
    assert len(PAGES["README"].splitlines()) <= 150


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """An empty folder with the files that pages speak of; confusions are counted on few images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("case_jax.front.evaluating.IMAGES", 250)
    scenes = DigitScenes("test", 3)
    Image.fromarray(scenes[0].image).save("photo.png")
    Path("photos").mkdir()
    for number in range(2):
        Image.fromarray(np.asarray(scenes[number + 1].image)).save(f"photos/{number}.png")


def run_code(page):
    """Run the Python of a page; its names, and the values of statements that are expressions."""
    code, names, values = "\n".join(re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL)), {"__name__": page}, []
    for node in ast.parse(code, page).body:
        if isinstance(node, ast.Expr):
            values.append(eval(compile(ast.Expression(node.value), page, "eval"), names))
        else:
            exec(compile(ast.Module([node], []), page, "exec"), names)
    return names, values


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize("page", [page for page in WITH_CODE if page != "README"])
def test_the_python_of_every_guide_runs(page):
    run_code(page)


@pytest.mark.usefixtures("photos")
def test_the_six_lines_of_the_readme_run_as_they_are_written():
    names, (figure, overlap, folder) = run_code("README")
    maps = names["maps"]
    assert maps.shape == (2, 48, 48)
    assert 0 <= maps.min() < maps.max() <= 1
    assert isinstance(figure, Figure)
    assert 0 <= overlap <= 1
    assert folder.rows().groupby("method").size().to_dict() == {"grad_cam": 2, "case": 2}
    assert (folder.path / "report.html").stat().st_size > 10_000
    assert folder.config()["contrast"]["name"] == "confusion:5"  # as the command line


def test_the_numbers_in_the_readme_s_words_are_those_of_the_findings():
    said = set(re.findall(r"-?\d+\.\d\d \[-?\d+\.\d\d, -?\d+\.\d\d\]", PAGES["README"]))
    kept = README.parent / "experiments" / "results"
    findings = json.loads((kept / "specificity" / "findings.json").read_text())["findings"]
    known = " ".join(finding["words"] for finding in findings) + (kept / "photographs" / "pairs.md").read_text()
    assert len(said) == 3
    assert all(number in known for number in said)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", PAGES["README"]))))
def test_the_links_of_the_readme_lead_somewhere(target):
    assert (README.parent / target).exists()


def test_the_shell_prints_guides(shell):
    status, out, _ = shell("guide")
    assert status == 0
    assert all(topic in out for topic in TOPICS)
    assert shell("guide", "pods")[1].startswith("# Many devices")
    status, _, err = shell("guide", "pod")
    assert status == 2
    assert "Did you mean 'pods'" in err


def test_the_numbers_of_the_readme_are_those_that_experiments_kept():
    results = README.parent / "experiments" / "results"
    assert with_numbers(PAGES["README"], results) == PAGES["README"], "python -m experiments.all --index"


def test_a_number_of_the_readme_by_hand():
    """One cell, from its file without the code that writes the table."""
    rows = pd.read_csv(README.parent / "experiments" / "results" / "specificity" / "summary.csv")
    values = [
        rows[(rows["method"] == "Grad-CAM") & (rows["network"] == network)]["specificity"].mean()
        for network in ("ResNet", "VGG", "DenseNet", "ConvNeXt", "digit_resnet")
    ]
    cell = f"{sum(values) / 5:.1f} [{min(values):.1f}, {max(values):.1f}]"
    assert re.search(rf"^\| Grad-CAM \| {re.escape(cell)} \|", PAGES["README"], re.MULTILINE)

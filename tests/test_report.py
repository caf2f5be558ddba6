"""The report of run folders with made-up rows: its numbers, its words, and that the page shows what it should."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import browse, requested
from drawing import drawn

from case_jax import stats
from case_jax._checks import CaseJaxError
from case_jax.files import write_json
from case_jax.metric_column import MetricColumn
from case_jax.records import NOTHING
from case_jax.report import write_report
from case_jax.report.figures import cumulative, plain_style, rendered
from case_jax.report.gallery import evidence_masks, outlines, overlay
from case_jax.report.loading import Method, load_run, numbers_of
from case_jax.report.sentence import answer
from case_jax.report.tables import markdown, plain_table
from case_jax.results import RunFolder

HOSTILE = "<script>alert(1)</script>"
PERCENTS = (10.0, 50.0, 90.0)
TITLES = {"grad_cam": "Grad-CAM", "case": "CASE", "random": "random map"}
OVERLAP = {"grad_cam": 0.8, "case": 0.02, "random": 0.05}
LEFT = {"grad_cam": 0.1, "case": 0.05, "random": 0.5}
OWN = {"grad_cam": 0.15, "case": 0.4, "random": 0.04}


def columns(methods, images, *, overlap=OVERLAP, left=LEFT, own=OWN, labelled=True, evidence=True):
    """Rows of a run as columns; every tenth image is classified wrongly."""
    rng = np.random.default_rng(0)
    ids, which = np.repeat(np.arange(images), len(methods)), np.tile(np.asarray(methods, str), images)
    top1 = (ids % 3).astype(np.int32)

    def around(values):
        return np.clip([values[m] for m in which] + rng.normal(0, 0.01, len(which)), 0, 1).astype(np.float32)

    rows = {
        "image_id": ids,
        "name": np.array([f"image-{i}" for i in ids]),
        "label": np.where(ids % 10 == 9, (top1 + 1) % 3, top1).astype(np.int32) if labelled else np.full_like(top1, -1),
        "method": which,
        "top1": top1,
        "top2": ((top1 + 1) % 3).astype(np.int32),
        "p1": np.full(len(ids), 0.8, np.float32),
        "p2": np.full(len(ids), 0.15, np.float32),
        "degenerate_1": np.zeros(len(ids), bool),
        "degenerate_2": np.zeros(len(ids), bool),
        "F": around(overlap),
        "F_plus": around(overlap),
        "zeros_in_top": np.zeros(len(ids), bool),
        **{f"p_removed_{percent:g}": 0.8 * around(left) for percent in PERCENTS},
    }
    if evidence:
        rows |= {name: around(own) for name in ("mass_own", "top_own")}
        rows |= {
            name: around(dict.fromkeys(methods, 0.2))
            for name in ("mass_shared", "mass_other", "top_shared", "top_other")
        }
        rows |= {f"points_{i}": np.ones(len(ids), np.float32) for i in (1, 2)}
    return rows


def run_folder(
    path, rows, *, class_names=("zero", HOSTILE, "$5 two"), excluded=(), images=None, contrast=None, **facts_of_run
):
    """A finished run with these rows."""
    methods = list(dict.fromkeys(rows["method"].tolist()))
    facts = {
        m: {"title": TITLES.get(m, m), "control": m == "random", "contrastive": m == "case", "options": {}}
        for m in methods
    }
    if "case" in facts:
        facts["case"]["options"] = {"eps": 1e-8, "eps_relative": False}
    config = {
        "data": {"name": "made-up", "images": images or len(set(rows["image_id"].tolist())) + len(excluded)},
        "model": {"name": "net", "layer": "last"},
        "methods": facts,
        "study": "evaluate",
        "contrast": {"name": "confusion:1"},
        "metrics": {"sensitivity": {"percent": 5.0}, "fidelity": {"percents": PERCENTS}},
    }
    config = config | facts_of_run
    config["data"] |= {"unit": "handwritten strokes"} if "cluster_1" in rows else {}
    folder = RunFolder(path)
    session = {"command": ["case-jax", "evaluate", "--data", "folder:my photos"], "date": "2025-01-01T00:00:00+00:00"}
    folder.open(config, session | {"devices": ["cpu"], "machine": "x", "versions": {"jax": "1"}})
    folder.write_part(0, NOTHING.plus(rows, list(excluded)))
    table = {"name": "confusion:1", "source": "a split", "table": [[1], [2], [0]], "filled": [0, 0, 1]}
    names = list(class_names) if class_names else None
    write_json(folder.path / "contrast.json", {"class_names": names} | (contrast or table))
    return folder


def add_gallery(folder, methods, *, count=2, shape=(24, 32)):
    """Images with one region for the likeliest class, one for the other and one for both."""
    rng = np.random.default_rng(0)
    regions = np.zeros((count, 3, *shape), bool)
    regions[:, 0, 2:8, 2:8] = regions[:, 1, 2:8, 20:26] = regions[:, 2, 14:20, 8:16] = True
    degenerate = np.zeros((count, len(methods), 2), bool)
    degenerate[0, 0, 1] = True
    np.savez_compressed(
        folder.path / "gallery.npz",
        images=rng.integers(0, 256, (count, *shape, 3), dtype=np.uint8),
        maps=rng.random((count, len(methods), 2, *shape)).astype(np.float16),
        degenerate=degenerate,
        names=np.array([f"{HOSTILE}.png"] * count),
        labels=np.array([1, -1][:count]),
        targets=np.tile([1, 2], (count, 1)),
        probabilities=np.tile([0.7, 0.2], (count, 1)),
        regions=regions,
        region_classes=np.tile([1, 2, -1], (count, 1)),
        methods=np.array(methods),
    )


def sentence_of(page):
    """The answer on the page, as text."""
    found = re.findall(r'<p class="answer">(.*?)</p>', page.read_text(), re.DOTALL)
    assert 1 <= len(found) <= 3
    return " ".join(found).replace("&#39;", "'")


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    rows = columns(list(TITLES), 60)
    unreadable = {"image_id": 60, "name": f"{HOSTILE}.png", "reason": "truncated <file>"}
    folder = run_folder(tmp_path_factory.mktemp("runs") / "run", rows, excluded=[unreadable])
    add_gallery(folder, list(TITLES))
    with drawn(cheaply=False):
        return folder, write_report(folder.path)


def test_writes_every_file(reported):
    folder, page = reported
    assert page == folder.path / "report.html"
    names = {
        f"{name}.{kind}" for name in ("overview", "agreement", "drop", "sweep", "gallery") for kind in ("png", "pdf")
    }
    assert {file.name for file in (folder.path / "figures").iterdir()} == names
    assert not list(folder.path.rglob("*.partial"))


def test_tables_hold_the_statistics(reported):
    folder, page = reported
    table = stats.summarise(folder.rows()).table
    stored = pd.read_csv(folder.path / "summary.csv", index_col="method")
    assert list(stored.index) == list(TITLES)
    assert list(stored["title"]) == list(TITLES.values())
    np.testing.assert_allclose(stored["drop_mean"].astype(float), table["drop_mean"].astype(float), rtol=1e-12)
    text, markdown = page.read_text(), (folder.path / "summary.md").read_text()
    for name in TITLES:
        row = table.loc[name]
        numbers = f"{100 * row['F_median']:.1f}", f"[{100 * row['drop_low']:.1f}, {100 * row['drop_high']:.1f}]"
        assert all(number in text for number in numbers)
        assert f"{100 * row['F_median']:.0f}%" in markdown
    assert markdown.count("(control)") == 1


def test_sentence_names_who_passes_and_who_does_not(reported):
    said = sentence_of(reported[1])
    assert said.startswith(
        "Of 2 methods (and 1 control) on 60 images (the network is right on 90% of them), 1 is class-sensitive at θ = 0.5 (CASE); Grad-CAM is not"
    )
    assert "overlap by 80% (median)" in said
    assert "Most faithful is CASE: the class loses 9" in said
    assert "for the control random map" in said
    assert "CASE puts most, 40% of its mass, on its own class's evidence" in said


@pytest.mark.parametrize(
    ("overlap", "words"),
    [
        ({"grad_cam": 0.1, "case": 0.0}, "all are class-sensitive at θ = 0.5 (Grad-CAM and CASE)"),
        (
            {"grad_cam": 0.9, "case": 0.6},
            "none is shown to be class-sensitive at θ = 0.5; Grad-CAM and CASE are not: their",
        ),
    ],
)
def test_sentence_when_all_or_none_pass(tmp_path, overlap, words):
    rows = columns(list(overlap), 30, overlap=overlap)
    assert words in sentence_of(write_report(run_folder(tmp_path / "run", rows).path))


def test_sentence_does_not_call_an_open_test_a_refutation(tmp_path):
    rows = columns(["grad_cam", "case"], 4, overlap={"grad_cam": 0.4, "case": 0.3})
    said = sentence_of(write_report(run_folder(tmp_path / "run", rows).path))
    assert "for Grad-CAM (40%" in said
    assert "below that threshold, but not significantly" in said
    assert "not:" not in said


def test_sentence_of_one_method(tmp_path):
    rows = columns(["case"], 30, evidence=False)
    page = write_report(run_folder(tmp_path / "run", rows).path)
    assert sentence_of(page).startswith(
        "CASE on 30 images (the network is right on 90% of them): class-sensitive at θ = 0.5, the top 5% pixels"
    )
    assert "Fidelity against" not in page.read_text()
    assert "class pointing" not in page.read_text()


@pytest.mark.parametrize(
    ("overlap", "words"),
    [
        ({"grad_cam": 0.6, "case": 0.0}, "at θ = 0.7 all are (Grad-CAM and CASE)."),
        ({"grad_cam": 0.9, "case": 0.0}, "at θ = 0.7 the verdicts are the same."),
        ({"grad_cam": 0.6, "case": 0.8}, "at θ = 0.7 1 is (Grad-CAM)."),
        ({"case": 0.6}, "at θ = 0.7 it is class-sensitive."),
        ({"case": 0.1}, "at θ = 0.7 the verdict is the same."),
    ],
)
def test_the_sentence_speaks_of_both_thresholds(overlap, words):
    rows = pd.DataFrame(columns(list(overlap), 30, overlap=overlap))
    table = stats.summarise(rows, resamples=50).table
    methods = [Method(name, TITLES[name], False, False, {}) for name in overlap]
    said = answer(numbers_of(table), methods, {}, thetas=stats.THETAS, percent_of_pixels=5.0)
    assert words in said[0]


def test_a_median_below_with_an_interval_that_is_not_is_open():
    rows = pd.DataFrame(columns(["grad_cam", "case"], 30, overlap={"grad_cam": 0.3, "case": 0.1}))
    table = stats.summarise(rows, resamples=50).table
    table.loc["grad_cam", ["F_high", "sensitive_0.5"]] = [0.55, False]
    methods = [Method(name, TITLES[name], False, False, {}) for name in ("grad_cam", "case")]
    said = answer(numbers_of(table), methods, {}, thetas=stats.THETAS, percent_of_pixels=5.0)
    assert "for Grad-CAM (30%, p < 0.001, but the interval reaches 55%) the median overlap lies below" in said[0]


PAIR = [
    MetricColumn(name, name, f"how much of {name}", "high", maps="both", percent=False)._asdict()
    for name in ("specificity", "necessity")
]
SPECIFIC = {"grad_cam": (6.0, 4.0), "case": (9.9, 1.0), "random": (-0.04, 0.01)}


def with_pair(images=60, specific=SPECIFIC, methods=tuple(TITLES)):
    """Rows with the scores by intervention, and strokes that images share."""
    rows, rng = columns(list(methods), images), np.random.default_rng(1)
    for place, name in enumerate(("specificity", "necessity")):
        means = np.array([specific[m][place] for m in rows["method"]])
        rows[name] = (means + rng.normal(0, 0.3, len(means))).astype(np.float32)
    return rows | {"cluster_1": rows["image_id"] % 30, "cluster_2": 30 + rows["image_id"] % 23}


def described(name, rows):
    return run_folder(name, rows, metric_columns={"specificity": PAIR})


@pytest.fixture(scope="module")
def by_intervention(tmp_path_factory):
    folder = described(tmp_path_factory.mktemp("pair") / "run", with_pair())
    return folder, write_report(folder.path)


def test_the_first_picture_and_sentence_are_specificity_and_necessity(by_intervention):
    folder, page = by_intervention
    said, table = sentence_of(page), pd.read_csv(folder.path / "summary.csv", index_col="method")
    text = page.read_text()
    row = table.loc["case"]
    low, high = (f"{row[f'specificity_{end}']:.3g}" for end in ("low", "high"))
    assert said.startswith(
        "Of 2 methods (and 1 control) on 60 images (the network is right on 90% of them), most specific to its own class is"
    )
    assert f"own class is CASE: specificity {row['specificity_mean']:.3g} [{low}, {high}] and necessity" in said
    assert ". 1 is class-sensitive at θ = 0.5 (CASE); Grad-CAM is not" in said
    assert "Most faithful is CASE" in said
    assert "; CASE puts most, 40% of its mass, on its own class's evidence." in said
    assert f'alt="Specificity and necessity: Grad-CAM {table.loc["grad_cam", "specificity_mean"]:.2f} and' in text
    assert "random map −0." in text  # a typographic minus


def test_the_first_table_answers_every_question_in_a_hundred_columns(by_intervention):
    lines = (by_intervention[0].path / "summary.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("|")]
    heads = [head.strip() for head in table[0].strip("|").split("|")]
    assert heads == ["method", "at 0.5/0.7", "F", "specificity", "necessity", "drop", "own mass", "rank"]
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]}
    assert [rows[m][1] for m in ("CASE", "Grad-CAM", "random map (control)")] == ["yes/yes", "no/no", "yes/yes"]
    assert max(map(len, table)) <= 100 - len("centre Gaussian (control)") + len("random map (control)")


def test_a_wide_table_loses_its_spaces():
    cells = {"case": {f"number {i}": "1" for i in range(8)}}
    narrow, wide = (
        markdown(plain_table([Method("case", title, False, False, {})], cells, {})) for title in ("CASE", "C" * 20)
    )
    assert narrow.splitlines()[2].startswith("| CASE   | 1        |")
    assert wide.splitlines()[1].startswith(f"|{'-' * 20}|--------|")
    assert {len(line) for line in narrow.splitlines()} == {8 * 11 + 10}
    assert {len(line) for line in wide.splitlines()} == {8 * 9 + 22}


def test_the_unit_stands_under_each_table(by_intervention, reported):
    folder, page = by_intervention
    words = "Intervals and tests by handwritten stroke: 60 images share 53 handwritten strokes."
    assert page.read_text().count(words) == 5  # the first table, fidelity, the diagnostic, further scores, paired tests
    assert words in (folder.path / "summary.md").read_text()
    assert reported[1].read_text().count("Intervals and tests by image: 60 images, taken as independent.") == 4


def test_the_paper_s_diagnostic_has_a_table_of_its_own(by_intervention):
    folder, page = by_intervention
    section = page.read_text().split("<summary>The paper&#39;s diagnostic</summary>")[1].split("</details>")[0]
    table = stats.summarise(folder.rows(), controls=["random"]).table
    assert "Wilcoxon, θ = 0.5" in section
    assert "sensitive at θ = 0.7?" in section
    assert f"r = {table.loc['grad_cam', 'effect_0.5']:.2f}" in section
    assert "p is Holm-corrected over 2 methods: all that are no controls." in section
    assert "and so counted once" not in section


def test_methods_with_equal_maps_are_said_to_count_once(tmp_path):
    rows = columns(["grad_cam", "case", "random"], 30)
    rows["F"] = np.where(rows["method"] == "case", np.roll(rows["F"], 1), rows["F"])  # CASE has Grad-CAM's
    text = write_report(run_folder(tmp_path / "run", rows).path).read_text()
    assert "Holm-corrected over 1 method: all that are no controls." in text
    assert "The same F in every image, and so counted once: CASE and Grad-CAM." in text


@pytest.mark.parametrize(
    ("specific", "words"),
    [
        (
            SPECIFIC | {"random": (20.0, 0.0)},
            "none is more specific to its own class than the control random map (CASE: specificity",
        ),
        ({"grad_cam": (-3, 0), "case": (0, 0), "random": (-4, 0)}, "none is shown to be specific to its own class ("),
        (SPECIFIC | {"grad_cam": (9.9, 1.0)}, ", not clearly ahead of "),
    ],
)
def test_the_sentence_about_the_pair(specific, words):
    table = stats.summarise(
        pd.DataFrame(with_pair(specific=specific)),
        controls=["random"],
        columns=[MetricColumn(**facts) for facts in PAIR],
    ).table
    methods = [Method(name, title, name == "random", False, {}) for name, title in TITLES.items()]
    said = answer(numbers_of(table), methods, {}, thetas=stats.THETAS, percent_of_pixels=5.0)
    assert words in said[0]
    assert len(said) == 3


def test_a_control_that_wins_is_said_to_win(tmp_path):
    left, own = {"grad_cam": 0.5, "case": 0.6, "random": 0.1}, {"grad_cam": 0.1, "case": 0.1, "random": 0.3}
    rows = columns(list(TITLES), 30, left=left, own=own)
    said = sentence_of(write_report(run_folder(tmp_path / "run", rows).path))
    assert "No method is more faithful than the controls (Grad-CAM: the class loses" in said
    assert "No method puts more of its mass" in said


def test_only_controls(tmp_path):
    rows = columns(["random"], 10)
    said = sentence_of(write_report(run_folder(tmp_path / "run", rows).path))
    assert said == "This run holds only 1 control on 10 images, and so no method to judge."


def test_without_labels_names_contrast_table_or_gallery(tmp_path):
    rows = columns(["grad_cam", "case"], 20, labelled=False, evidence=False)
    chosen = {"name": "topk_logits:2", "source": None, "table": None, "filled": None}
    page = write_report(run_folder(tmp_path / "run", rows, class_names=None, contrast=chosen).path)
    text = page.read_text()
    assert "Most faithful is CASE" in sentence_of(page)
    assert "chosen for each image" in text
    assert "Examples" not in text
    assert not (page.parent / "figures" / "gallery.png").exists()


def test_degenerate_methods_are_named_and_never_win(tmp_path):
    rows = columns(["grad_cam", "case"], 20)
    dead = rows["method"] == "case"
    for name in ("degenerate_1", "degenerate_2"):
        rows[name] = dead
    for name in ("F", "F_plus", "mass_own", "points_1", "points_2"):
        rows[name] = np.where(dead, np.nan, rows[name]).astype(np.float32)
    page = write_report(run_folder(tmp_path / "run", rows).path)
    assert "CASE left no usable pair of maps to judge" in sentence_of(page)
    assert re.search(r"degenerate map of CASE</td><td>20<", page.read_text())
    assert "no usable maps" in page.read_text()


def test_nothing_usable_at_all(tmp_path):
    rows = columns(["grad_cam"], 5)
    rows["degenerate_1"] = rows["degenerate_2"] = np.ones(5, bool)
    said = sentence_of(write_report(run_folder(tmp_path / "run", rows).path))
    assert "Grad-CAM left no usable pair of maps to judge. Fidelity could not be measured on any image" in said


@pytest.mark.parametrize("prefix", ["F", "p_removed"])
def test_a_run_of_one_metric(tmp_path, prefix):
    rows = columns(["grad_cam", "case"], 20, evidence=False)
    kept = {
        name: v
        for name, v in rows.items()
        if not name.startswith(("F", "zeros", "p_removed")) or name.startswith(prefix)
    }
    page = write_report(run_folder(tmp_path / "run", kept | {"zeros_in_top": rows["zeros_in_top"]}).path)
    assert ("faithful" in sentence_of(page)) == (prefix == "p_removed")
    assert ("class-sensitive" in sentence_of(page)) == (prefix == "F")


def test_escapes_what_the_data_say(reported):
    text = reported[1].read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.png: truncated &lt;file&gt;" in text


def test_fetches_nothing(reported):
    text = reported[1].read_text()
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    sources = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']?([^"'\s>]+)""", text)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "url(" not in text
    assert "@import" not in text


def test_every_figure_has_words(reported):
    text = reported[1].read_text()
    assert len(re.findall(r'<img [^>]*alt="[^"]{20,}"', text)) == 5


def test_says_how_to_rerun_and_what_is_filled(reported):
    text = reported[1].read_text()
    assert "case-jax evaluate --data &#39;folder:my photos&#39;" in text
    assert "1 of 3 entries had no confusion" in text
    assert '<span class="filled">zero</span>' in text
    assert "ε is absolute" in text


def test_an_unfinished_run_says_so(tmp_path):
    page = write_report(run_folder(tmp_path / "run", columns(["case"], 10), images=25).path)
    assert "This run is unfinished: 10 of 25 images so far." in page.read_text()


def test_same_rows_same_files(reported, tmp_path):
    folder, _ = reported
    copy = tmp_path / "copy"
    shutil.copytree(folder.path, copy)
    with drawn(cheaply=False):
        write_report(copy)
    for file in folder.path.rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (copy / file.relative_to(folder.path)).read_bytes(), file.name


def test_errors_name_the_folder(tmp_path):
    with pytest.raises(CaseJaxError, match=r"no config\.json"):
        write_report(tmp_path)
    folder = run_folder(tmp_path / "run", columns(["case"], 5))
    (folder.path / "gallery.npz").write_bytes(b"PK damaged")
    with pytest.raises(CaseJaxError, match="cannot be read"):
        write_report(folder.path)


@pytest.mark.filterwarnings("error")
def test_names_in_any_script(tmp_path):
    folder = run_folder(tmp_path / "run", columns(["case"], 5), class_names=("a", "香蕉", "$\\frac"))
    add_gallery(folder, ["case"])
    assert "labelled 香蕉" in write_report(folder.path).read_text()


def test_many_methods_make_several_galleries(tmp_path):
    methods = [f"method {i}" for i in range(20)]
    same = dict.fromkeys(methods, 0.3)
    folder = run_folder(tmp_path / "run", columns(methods, 10, overlap=same, left=same, own=same))
    add_gallery(folder, methods, count=1)
    text = write_report(folder.path).read_text()
    assert "Examples (3 of 3)" in text
    assert (folder.path / "figures" / "gallery_3.pdf").exists()


def test_the_users_own_matplotlib_settings_are_left_alone():
    import matplotlib as mpl

    def settings():
        return {name: mpl.rcParams[name] for name in mpl.rcParams if name != "backend"}

    before = settings()
    with plain_style():
        assert mpl.rcParams["text.parse_math"] is False
    assert settings() == before


def test_cumulative_shares():
    np.testing.assert_allclose(
        cumulative(np.array([0.2, 0.8, 0.8, 1.0]), np.array([0.0, 0.2, 0.8, 1.0])), [0, 0.25, 0.75, 1]
    )


def test_outlines_run_along_the_region():
    from matplotlib.figure import Figure

    mask = np.zeros((6, 8), bool)
    mask[1:3, 4:7] = True
    (polygon,) = outlines(mask, Figure().add_subplot())
    np.testing.assert_allclose([polygon.min(0), polygon.max(0)], [(4, 1), (7, 3)])


def test_evidence_is_seen_from_the_target(reported):
    gallery = load_run(reported[0].path).gallery
    assert gallery is not None
    masks = evidence_masks(gallery, 0, 2)
    assert masks["own"][3, 21]
    assert masks["other"][3, 3]
    assert masks["shared"][15, 9]
    assert not (masks["own"] & masks["other"]).any()


def test_overlay_is_brightest_where_the_map_is_highest():
    saliency = np.zeros((4, 4), np.float16)
    saliency[1, 2] = 1
    shown = overlay(np.full((4, 4, 3), 60, np.uint8), saliency).sum(-1)
    assert np.unravel_index(shown.argmax(), shown.shape) == (1, 2)


def test_figures_are_images(reported):
    folder, _ = reported
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in folder.path.rglob("*.png"))
    assert all(file.read_bytes().startswith(b"%PDF") for file in folder.path.rglob("*.pdf"))
    assert all(b"CreationDate" not in file.read_bytes() for file in folder.path.rglob("*.pdf"))


def test_a_browser_shows_every_figure(reported, tmp_path):
    probe = (
        "<script>addEventListener('load', () => { document.body.dataset.widths = "
        "JSON.stringify([...document.images].map(i => i.naturalWidth)); });</script></body>"
    )
    open_page = re.sub(r"<meta http-equiv[^>]*>", "", reported[1].read_text()).replace("</body>", probe)
    copy = tmp_path / "open.html"
    copy.write_text(open_page)
    found = re.search(r'data-widths="\[([\d,]*)\]"', browse(copy.as_uri(), tmp_path, "--dump-dom"))
    assert found
    widths = [int(width) for width in found[1].split(",")]
    assert len(widths) == 5
    assert min(widths) > 300


def test_a_browser_fetches_nothing_from_outside(reported, tmp_path):
    leaky = tmp_path / "leaky.html"
    leaky.write_text('<!DOCTYPE html><title>leaky</title><img src="http://127.0.0.1:9/seen.png">')
    asked = {}
    for name, page in (("leaky", leaky), ("report", reported[1])):
        log = tmp_path / f"{name}.json"
        browse(page.as_uri(), tmp_path / name, "--dump-dom", f"--log-net-log={log}")
        asked[name] = requested(log)
    assert asked == {"leaky": ["http://127.0.0.1:9/seen.png"], "report": []}


def test_the_templates_are_part_of_the_package():
    import case_jax.report

    names = {file.name for file in Path(case_jax.report.__file__).parent.glob("*.html")}
    assert names == {
        *("base.html", "explorer.html", "heard.html", "listening.html", "page.html", "training.html", "unreadable.html")
    }


def test_rendered_without_a_date():
    from matplotlib.figure import Figure

    with plain_style(), drawn(cheaply=False):
        first, second = (rendered(Figure(figsize=(1, 1))) for _ in range(2))
    assert first == second

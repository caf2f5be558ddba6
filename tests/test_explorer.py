"""The page of all class maps: its numbers in a real browser against `explain`'s, its size, what it refuses."""

import base64
import io
import json
import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from browser import SLOW, browse, requested, seen_in_a_browser
from PIL import Image

import case_jax as cj
from case_jax.contrast import topk_logits
from case_jax.evaluation import explore as numbers
from case_jax.metrics.deletion_insertion import deletion_curve
from case_jax.report.explorer import LARGEST, RELATED, centred, inner_products, room_for

SIDE, CHANNELS, PAIRS = 28, 48, 20
METHODS = {"grad-cam": "grad_cam", "finer-cam": "finer_cam", "case": "case"}
"""By the ids of the page's pictures."""


def tapped(classes, *, linear=True, link=None, seed=0):
    """A convolution of 7×7 positions, its mean, and a head: linear and declared so, or behind a hidden layer."""
    rng = np.random.default_rng(seed)
    inner = CHANNELS if linear else 16
    params = {
        "kernel": jnp.asarray(rng.normal(0, 0.3, (5, 5, 3, CHANNELS)), jnp.float32),
        "hidden": jnp.asarray(rng.normal(0, 0.3, (CHANNELS, 16)), jnp.float32),
        "head": jnp.asarray(rng.normal(0, 1, (inner, classes)) + rng.normal(0, 1, (inner, 1)), jnp.float32),
    }

    def function(params, x):
        a = jax.lax.conv_general_dilated(
            x[None], params["kernel"], (4, 4), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        pooled = cj.tap.tag_head_input(cj.tag(jax.nn.relu(a[0]), "features").mean((0, 1)))
        return (pooled if linear else jnp.tanh(pooled @ params["hidden"])) @ params["head"]

    image = jnp.asarray(rng.normal(size=(SIDE, SIDE, 3)), jnp.float32)
    head = {"head_kernel": lambda p: p["head"]} if linear else {}
    return cj.tap_function(function, params, "features", image, link=link, **head), image


SHOWN = """
    const shown = [];
    for (const [target, rivals, size] of CASES) {
      change({target: rankOf.get(target), chosen: size === 0, rivals: rivals.map((c) => rankOf.get(c)), size: size || 1});
      shown.push(Object.fromEntries(Object.entries(maps).map(([name, map]) => [name, map && [...map].map((v) => Math.round(1e5 * v))])));
    }
    return shown;
"""


def asked_in_python(model, image, cases, method):
    """The same maps by `explain`, all cases of one kind in one call."""
    targets = [target for target, _, _ in cases]
    size = cases[0][2]
    if size:
        contrast = topk_logits(size, model.num_classes)
    else:
        own = np.arange(model.num_classes)[:, None]
        contrast = (own + np.arange(1, len(cases[0][1]) + 1)) % model.num_classes
        for target, rivals, _ in cases:
            contrast[target] = rivals
    return np.asarray(cj.explain(model, image, method, targets=targets, contrast=contrast))


def drawn_cases(classes, seed=0):
    """20 classes each: against another, against three others, against the 3 likeliest and all."""
    rng = np.random.default_rng(seed)
    targets = rng.permutation(classes)[:PAIRS].tolist()

    def rivals(target, count):
        return [int(c) for c in rng.permutation(classes) if c != target][:count]

    chosen = [[(t, rivals(t, count), 0) for t in targets] for count in (1, 3)]
    return [*chosen, *([(t, [], size) for t in targets] for size in (3, classes - 1))]


@pytest.mark.parametrize("kind", ["1000 classes", "no linear head", "independent labels", "two classes"])
def test_maps_in_a_browser_are_those_of_explain(kind, tmp_path):
    options = {"no linear head": {"linear": False}, "independent labels": {"link": "sigmoid"}}.get(kind, {})
    model, image = tapped({"1000 classes": 1000, "two classes": 2}.get(kind, 40), **options)
    page = cj.explore(model, image, out=tmp_path / "page.html")
    groups = drawn_cases(model.num_classes) if model.num_classes > 2 else [[(0, [1], 0), (1, [0], 0)]]
    groups = groups if kind == "1000 classes" else groups[-3:-1]
    flat = [case for group in groups for case in group]
    shown = seen_in_a_browser(page, f"const CASES = {json.dumps(flat)};{SHOWN}", tmp_path)
    for group in groups:
        found, shown = shown[: len(group)], shown[len(group) :]
        for name in ("finer-cam",) if kind == "independent labels" else METHODS:  # alone in asking for probabilities
            method = METHODS[name]
            for maps, expected in zip(found, asked_in_python(model, image, group, method), strict=True):
                assert (maps[name] is None) == (expected.max() == 0), (name, group[0])
                if maps[name] is not None:
                    np.testing.assert_allclose(np.reshape(maps[name], (SIDE, SIDE)) / 1e5, expected, atol=1e-3)


@pytest.fixture(scope="module")
def scene_page(tmp_path_factory):
    """The shipped classifier's page of a scene."""
    model = cj.load("digit_resnet")
    scene = cj.data.DigitScenes("test", 8)[7]
    folder = tmp_path_factory.mktemp("scene")
    return model, scene, cj.explore(model, model.read(scene.image), out=folder / "new" / "scene.html")


TYPED = """
    const keys = (field, ...names) => names.forEach((key) => field.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true})));
    const type = (field, text) => { field.focus(); field.value = text; field.dispatchEvent(new Event("input")); };
    const state = () => ({hash: location.hash, answer: at("answer").textContent, expanded: at("class").getAttribute("aria-expanded")});
    const seen = [state()];
    type(at("class"), "2·");
    const options = [...document.querySelectorAll("#class-list [role=option]")].map((option) => option.textContent);
    seen.push(state());
    keys(at("class"), "ArrowDown", "Enter");
    seen.push(state());
    type(at("rival"), "17"); keys(at("rival"), "Enter");
    seen.push(state());
    at("size").value = 0; at("size").dispatchEvent(new Event("input"));
    seen.push(state());
    type(at("class"), "nothing such"); keys(at("class"), "Enter", "Escape");
    seen.push(state());
    location.hash = "#class=3&against=4,5,99,4"; readAddress();
    seen.push(state());
    const pixel = at("grad-cam").getContext("2d").getImageData(0, 0, 48, 48).data;
    const unnamed = [...document.querySelectorAll("input, button, canvas, img")].filter(
      (e) => !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim() || e.alt || e.closest("[hidden]")));
    return {seen, options, drawn: [...pixel], map: [...maps["grad-cam"]], grey: [...grey], unnamed: unnamed.map((e) => e.outerHTML)};
"""


def test_the_page_is_used_with_the_keyboard(scene_page, tmp_path):
    model, _, page = scene_page
    found = seen_in_a_browser(page, TYPED, tmp_path)
    names = model.class_names
    first, typed, taken, against, likeliest, unknown, addressed = found["seen"]
    assert first["hash"].endswith("&k=5")
    assert typed["expanded"] == "true"
    assert {option.partition(" ")[0] for option in found["options"]} == {
        name for name in names if name.startswith("2·")
    }
    second = names.index(found["options"][1].partition(" ")[0])  # one step down
    assert taken["hash"] == f"#class={second}&k=5"
    assert taken["answer"].startswith(names[second])
    assert against["hash"] == f"#class={second}&against=17"
    assert against["answer"].endswith(f"against {names[17]}.")
    assert likeliest["hash"] == f"#class={second}&k=1"
    assert unknown == likeliest
    assert addressed["hash"] == "#class=3&against=4,5"
    assert found["unnamed"] == []
    colours = np.rint(255 * _inferno(np.rint(255 * np.asarray(found["map"])).astype(int)))
    blended = 0.4 * np.asarray(found["grey"])[:, None] + 0.6 * colours
    np.testing.assert_allclose(np.reshape(found["drawn"], (-1, 4))[:, :3], blended, atol=1)


def _inferno(indices):
    import matplotlib as mpl

    return mpl.colormaps["inferno"](indices)[:, :3]


def test_the_page_itself_runs_and_asks_no_address(scene_page, tmp_path):
    model, scene, page = scene_page
    log = tmp_path / "log.json"
    dom = browse(page.as_uri() + "#class=3&k=2", tmp_path, "--dump-dom", SLOW, f"--log-net-log={log}")
    answer = re.search(r'<p class="answer"[^>]*>(.*?)</p>', dom)[1]
    assert answer.startswith(f"{model.class_names[3]}, ")
    assert "the 2 likeliest others" in answer
    assert requested(log) == []
    view = model.view(model.params, model.read(scene.image))
    logits = np.asarray(view.logits)
    rows = re.findall(r"<tr class=[^>]*>(.*?)</tr>", dom)
    cells = [re.sub(r"<[^>]*>", " ", row).split() for row in rows]
    best = np.argsort(-logits)[:10]
    assert [row[1] for row in cells[:10]] == [model.class_names[c] for c in best]
    np.testing.assert_allclose([float(row[3].replace("−", "-")) for row in cells[:10]], logits[best], atol=0.0051)


def packed(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text())[1])


def test_curves_are_the_deletion_metrics(scene_page):
    model, scene, page = scene_page
    image, found = model.read(scene.image), packed(page)
    curves = np.asarray(found["curves"]["values"], float)
    assert curves.shape == (10, 3, numbers.STEPS + 1)
    view = model.view(model.params, image)
    target = found["classes"][1]
    saliency = cj.explain(model, image, "case", targets=target, contrast="topk_logits:5")
    expected = jax.jit(partial(deletion_curve, steps=numbers.STEPS))(view, saliency, jnp.asarray(target))
    np.testing.assert_allclose(curves[1, 2], expected, atol=2e-4)


def test_names_are_texts(tmp_path):
    model = cj.load("digit_resnet")
    hostile = "</script><script>document.title = 'taken'</script>"
    model = replace(model, class_names=(hostile, *model.class_names[1:]))
    page = cj.explore(model, model.read(np.zeros((48, 48, 3), np.uint8)), out=tmp_path / "a.html")
    assert hostile not in page.read_text()
    dom = browse(page.as_uri() + "#class=0", tmp_path, "--dump-dom", SLOW)
    assert "<title>taken" not in dom
    assert "&lt;/script&gt;" in dom


def test_a_thousand_classes_stay_below_two_megabytes():
    assert room_for(1000, 7 * 7) == (1000, 1000)
    for classes, positions in ((1000, 14 * 14), (1000, 56 * 56), (21843, 7 * 7), (2, 500 * 500), (25, 36)):
        kept, related = room_for(classes, positions)
        assert 2 <= related <= kept <= classes
        assert related == kept or related >= RELATED
        assert kept == 2 or (kept * positions + related * (related + 1) / 2) * 2 * 4 / 3 < 1_650_010


def test_a_page_of_real_size(tmp_path):
    model, image = tapped(1000)
    with pytest.warns(UserWarning, match="56×56×3, for a model that was tapped at 28×28×3"):
        page = cj.explore(model, jnp.tile(image, (2, 2, 1)), out=tmp_path / "large.html")
    found = packed(page)
    assert found["space"] == [14, 14]  # of this image
    assert (len(found["classes"]), found["inner"]["count"]) == room_for(1000, 14 * 14)
    assert 1_500_000 < page.stat().st_size < 2_000_000


def test_sixteen_bits_about_the_mean():
    rng = np.random.default_rng(0)
    rows = (1000 + rng.normal(size=(30, 7, 7))).astype(np.float32)  # nearly the same for all classes
    rows[3] = rows.mean(0)
    found = centred(rows)
    again = found.mean + found.scales[:, None, None] * (found.numbers / LARGEST)
    np.testing.assert_allclose(again, rows, atol=2e-4)
    weights = rows.reshape(30, -1)
    inner = inner_products(weights)
    i, j = np.tril_indices(30)
    about = inner.squared + inner.with_mean[i] + inner.with_mean[j]
    products = about + inner.lengths[i] * inner.lengths[j] * inner.cosines / LARGEST
    exact = weights.astype(float) @ weights.astype(float).T
    np.testing.assert_allclose(products, exact[i, j], atol=49 * 2e-4)


def test_what_is_too_much_is_left_out_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr("case_jax.front.exploring.room_for", lambda classes, positions: (12, 5))
    model, image = tapped(40)
    page = cj.explore(model, image, out=tmp_path / "few.html")
    logits = np.asarray(model.apply(model.params, image))
    assert packed(page)["classes"] == np.argsort(-logits)[:12].tolist()
    dom = browse(page.as_uri() + f"#class={np.argsort(-logits)[7]}&k=1", tmp_path, "--dump-dom", SLOW)
    assert "CASE is offered among the 5 likeliest classes" in dom
    assert "the 12 likeliest of 40" in dom


def test_refusals(tmp_path, toy, toy_images):
    fine, image = tapped(40)
    overflowing = replace(fine, params={**fine.params, "head": fine.params["head"] * 1e38})
    single, _ = tapped(1, link="identity")
    numbers_only, _ = tapped(3, link="identity")
    (tmp_path / "file").write_text("")
    for refused, words in (
        (lambda: cj.explore(single, image, out=tmp_path / "a.html"), "model: got a model of 1 class"),
        (lambda: cj.explore(numbers_only, image, out=tmp_path / "a.html"), "link='identity'"),
        (lambda: cj.explore(toy, toy_images, out=tmp_path / "a.html"), "image: got a batch of 4"),
        (lambda: cj.explore(toy, "photo.png", out=tmp_path / "a.html"), "image: got a str"),
        (lambda: cj.explore(toy.view, toy_images[0]), "model: got method"),
        (lambda: cj.explore(toy, toy_images[0], out=tmp_path), "out: got .*, a folder"),
        (lambda: cj.explore(toy, toy_images[0], out=tmp_path / "file" / "a.html"), "out: cannot write"),
        (lambda: cj.explore(toy, toy_images[0] * jnp.nan, out=tmp_path / "a.html"), "image: got values that are not"),
        (
            lambda: cj.explore(overflowing, image, out=tmp_path / "a.html"),
            "image: got logits or class maps that are not",
        ),
    ):
        with pytest.raises(cj.CaseJaxError, match=words):
            refused()
    assert not list(tmp_path.glob("*.html"))


def test_explore_from_the_shell(shell, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    status, out, err = shell("explain", "photo.png", "--model", "digit_resnet", "--explore", "--out", "pages")
    assert status == 0, err
    assert out.split() == ["pages/explore-photo.html"]
    assert "contrast:" not in err
    page = tmp_path / "pages" / "explore-photo.html"
    assert "photo.png: class maps of digit_resnet" in page.read_text()
    source = re.search(r'src="data:image/jpeg;base64,([^"]*)"', page.read_text())[1]
    with Image.open(io.BytesIO(base64.b64decode(source))) as photo:
        assert photo.size == (48, 48)

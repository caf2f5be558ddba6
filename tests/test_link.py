"""What outputs mean: every probability is that of the declared link, by hand, and what was not declared is refused."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from PIL import Image
from studies import evaluation

import case_jax as cj
from case_jax.contrast import operators, table
from case_jax.data import CachedCrops, ImageFolder
from case_jax.evaluation import Pixels, count_confusions
from case_jax.evaluation.kept_gallery import save_gallery
from case_jax.evaluation.studies.mosaics import confident_images
from case_jax.imageops import crop_resized
from case_jax.methods import meaningful_perturbation, rise
from case_jax.methods.meaningful_perturbation import IMAGE_BLUR, REFERENCE_SIDE, _blur
from case_jax.methods.rise import random_mask
from case_jax.metrics import (
    METRICS,
    deletion_curve,
    impute,
    imputed_probabilities,
    insertion_curve,
    removed_probabilities,
    shown_probability,
)
from case_jax.metrics.saliency_metric import saliency_metric
from case_jax.models import load_classifier, save_weights, with_new_head
from case_jax.report.loading import load_run
from case_jax.report.page import gallery_captions, link_words
from case_jax.results import RunFolder
from case_jax.source import Example
from case_jax.stats import correct_rows
from case_jax.training.examples import Examples

SIDE, CHANNELS, CLASSES, TARGET = 6, 4, 5, 1
RNG = np.random.default_rng(3)
FILTERS, HEAD = RNG.normal(size=(3, CHANNELS)), 2 * RNG.normal(size=(CHANNELS, CLASSES))
IMAGE = RNG.normal(size=(SIDE, SIDE, 3))
MAP = (np.arange(SIDE * SIDE)[::-1].reshape(SIDE, SIDE) * 7 % 36) / 35  # no two pixels alike
PIXELS = Pixels((0.5,) * 3, (0.25,) * 3)


def network(outputs=CLASSES, end=lambda y: y):
    def function(params, x):
        a = cj.tag(jax.nn.relu(x @ params[0]), "features")
        return end(a.mean((0, 1)) @ params[1][:, :outputs])

    return function, (jnp.asarray(FILTERS, jnp.float32), jnp.asarray(HEAD, jnp.float32))


def tapped(link=None, **kind):
    return cj.tap_function(*network(**kind), "features", jnp.asarray(IMAGE, jnp.float32), link=link)


def by_hand(kind, x):
    """Probabilities in NumPy."""
    y = np.maximum(x @ FILTERS, 0).mean((0, 1)) @ HEAD
    each = 1 / (1 + np.exp(-y))
    if kind == "one logit":
        return np.array([1 - each[0], each[0]])
    return each if kind == "sigmoid" else np.exp(y) / np.exp(y).sum()


KINDS = {
    "softmax": {},
    "sigmoid": {"link": "sigmoid"},
    "probabilities": {"link": "probabilities", "end": jax.nn.softmax},
    "one logit": {"outputs": 1},
}


@pytest.fixture(scope="module")
def imputed():
    """The image with half of its pixels imputed: the most, and the least relevant ones."""
    fill = jax.jit(impute)
    order = np.median(MAP) < MAP
    return [np.asarray(fill(jnp.asarray(IMAGE, jnp.float32), gone), np.float64) for gone in (order, ~order)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_of_probabilities_is_that_of_the_link(kind, imputed):
    model, half, box = tapped(**KINDS[kind]), (np.median(MAP) < MAP)[..., None], (1, 5, 0, 4)

    @jax.jit
    def found(x):
        view, saliency = model.view(model.params, x), jnp.asarray(MAP, jnp.float32)
        watched = (view, saliency, TARGET)
        metric = saliency_metric(view.predict, x, jnp.asarray(box), TARGET, link=view.link)
        return {
            "all": view.probabilities(),
            "removed": removed_probabilities(*watched, percents=(50,)),
            "deletion": deletion_curve(*watched, steps=2),
            "insertion": insertion_curve(*watched, steps=2, fill="mean"),
            "imputed": jnp.concatenate(imputed_probabilities(*watched, percents=(50,), noise=0.0)),
            "shown": shown_probability(*watched, steps=2),
            "cropped": metric.log_p,
        }

    p = partial(by_hand, kind)
    whole, kept, left, none = (p(x)[TARGET] for x in (IMAGE, IMAGE * half, IMAGE * ~half, 0 * IMAGE))
    crop = np.asarray(crop_resized(jnp.asarray(IMAGE, jnp.float32), jnp.asarray(box), (SIDE, SIDE)), np.float64)
    expected = {
        "all": p(IMAGE),
        "removed": left,
        "deletion": [whole, left, none],
        "insertion": [none, kept, whole],
        "imputed": [p(x)[TARGET] for x in imputed],
        "shown": (kept + whole) / 2,
        "cropped": np.log(p(crop)[TARGET]),
    }
    for name, value in found(jnp.asarray(IMAGE, jnp.float32)).items():
        np.testing.assert_allclose(np.squeeze(value), expected[name], rtol=2e-5, err_msg=name)


def perturbed_by_hand(kind, steps, rate=0.1):
    """Adam on p of the image blurred where d is, in float64, by central differences."""
    rows = _blur(SIDE, IMAGE_BLUR * SIDE / REFERENCE_SIDE)
    soft = np.einsum("Hh,Ww,hwd->HWd", rows, rows, IMAGE)
    d, mean, square, h = np.zeros((SIDE, SIDE)), 0.0, 0.0, 1e-4
    for t in range(1, steps + 1):
        slope = np.zeros_like(d)
        for place in np.ndindex(d.shape):
            step = np.zeros_like(d)
            step[place] = h
            up, down = (by_hand(kind, IMAGE + (soft - IMAGE) * e[..., None])[TARGET] for e in (d + step, d - step))
            slope[place] = (up - down) / (2 * h) + 1e-5  # the area's weight
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        d = np.clip(d - rate * mean / (1 - 0.9**t) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8), 0, 1)
    return d


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_of_probabilities_is_that_of_the_link(kind):
    model, key = tapped(**KINDS[kind]), jax.random.key(5)
    classes = model.num_classes
    others = np.array([[c for c in range(classes) if c != t][:2] for t in range(classes)])
    options = {"steps": 3, "jitter": 1, "area": 1e-5, "variation": 0.0}

    @jax.jit
    def found(x):
        view = model.view(model.params, x)
        query = cj.ask(view, np.array([TARGET]), table(others, classes), key=key)
        return {
            "rise": rise(view, query, masks=3, cells=2)[0],
            "finer_cam": operators.difference(view, query.targets, query.contrast)[0],
            "softmax_contrast": operators.softmax(view, query.targets)[0],
            "meaningful_perturbation": meaningful_perturbation(view, query, **options)[0],
        }

    p = by_hand(kind, IMAGE)
    alpha = (np.stack([-HEAD[:, 0], HEAD[:, 0]]) / 2 if kind == "one logit" else HEAD.T) / SIDE**2
    draw = partial(random_mask, shape=(SIDE, SIDE), cells=2, keep=0.5, dtype=jnp.float32)
    masks = [np.asarray(draw(jax.random.fold_in(key, n)), np.float64) for n in range(3)]
    some = others[TARGET]
    expected = {
        "rise": sum(m * by_hand(kind, IMAGE * m[..., None])[TARGET] for m in masks) / 1.5,
        "finer_cam": alpha[TARGET] - p[some] @ alpha[some] / p[some].sum(),
        "softmax_contrast": (1 - p[TARGET]) * alpha[TARGET] if kind == "sigmoid" else alpha[TARGET] - p @ alpha,
        "meaningful_perturbation": perturbed_by_hand(kind, options["steps"]),
    }
    for name, value in found(jnp.asarray(IMAGE, jnp.float32)).items():
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=2e-4 * scale, err_msg=name)


def test_without_probabilities_what_needs_them_refuses_and_the_rest_works():
    model = tapped("identity", outputs=1)
    assert (model.num_classes, model.link) == (1, "identity")
    image = jnp.asarray(IMAGE, jnp.float32)
    view = jax.jit(model.view)(model.params, image)
    np.testing.assert_allclose(view.class_weights(np.array([0]))[0], HEAD[:, 0] / SIDE**2, rtol=1e-5)
    assert cj.explain(model, image, "grad_cam").shape == (SIDE, SIDE)
    many = tapped("identity")
    view = jax.jit(many.view)(many.params, image)
    asked = {
        "saliency": lambda v: removed_probabilities(v, jnp.asarray(MAP), 0),
        "curve": lambda v: deletion_curve(v, jnp.asarray(MAP), 0),
        "box": lambda v: saliency_metric(v.predict, image, jnp.array([0, 2, 0, 2]), 0, link=v.link),
        "set": lambda v: operators.difference(v, np.array([0]), np.array([[1]])),
    }
    for ask in asked.values():
        with pytest.raises(cj.CaseJaxError, match="link='identity'"):
            ask(view)
    for name in ("rise", "softmax_contrast", "meaningful_perturbation", "finer_cam"):
        assert cj.METHODS[name].probability
        with pytest.raises(cj.CaseJaxError, match="link='identity'"):
            cj.explain(many, image, name)
    source = Seen([(0,)] * 2)
    with pytest.raises(cj.CaseJaxError, match=r"^metrics: fidelity, road of a model tapped with link='identity'"):
        evaluation(
            source, many, "all", pixels=PIXELS, methods=["grad_cam"], metrics=["sensitivity", "fidelity", "road"]
        )
    with pytest.raises(cj.CaseJaxError, match=r"^methods: finer_cam, softmax_contrast of a model"):
        evaluation(source, many, "all", pixels=PIXELS)
    with pytest.raises(cj.CaseJaxError, match=r"^model: confusions of a model"):
        count_confusions(source, many, PIXELS)
    assert {name for name, m in METRICS.items() if not m.probability} == {
        *(
            "sensitivity",
            "evidence",
            "similarity",
            "random_logit",
            "specificity",
            "specificity_insertion",
            "mask_complexity",
            "masked_accuracy",
        )
    }
    figure = cj.show(image, MAP, model=many, targets=0)
    assert figure.axes[1].get_title() == "class 0"


class Net(nnx.Module):
    """A network whose outputs go through `end`."""

    def __init__(self, outputs):
        rngs = nnx.Rngs(0)
        self.conv, self.head = nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.Linear(4, outputs, rngs=rngs)

    def __call__(self, x):
        return self.end(40 * self.head(nnx.relu(self.conv(x)).mean((1, 2))))


@cache
def built(outputs):
    return Net(outputs)


def net(outputs=5, end=lambda y: y):
    found = built(outputs)
    found.end = end
    return found


def seen(model):
    """Logits, probabilities and class weights of all classes, and the gradient of the last logit less the first."""

    @jax.jit
    def of(params, x):
        view = model.view(params, x)
        slope = jax.grad(lambda a: view.tail(a)[-1] - view.tail(a)[0])(view.activation).mean((0, 1))
        return view.logits, view.probabilities(), view.class_weights(jnp.arange(model.num_classes)), slope

    return of(model.params, X)


X = jax.random.normal(jax.random.key(0), (8, 8, 3))
ENDS = {
    "softmax": jax.nn.softmax,
    "jitted": jax.jit(lambda y: jax.nn.softmax(y)),
    "by hand": lambda y: jnp.exp(y) / jnp.exp(y).sum(-1, keepdims=True),
    "exp of log_softmax": lambda y: jnp.exp(jax.nn.log_softmax(y)),
    "rounded": lambda y: jax.nn.softmax(y).astype(jnp.float16),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_softmax_at_the_end_is_refused_undeclared_and_taken_off_declared(end):
    for link in (None, "softmax", "sigmoid"):
        with pytest.raises(
            cj.CaseJaxError, match=r"^link: .*ends in softmax.* accepted: link='probabilities'.*cut the network"
        ):
            cj.tap_nnx(net(end=ENDS[end]), "conv", X, link=link)
    model = cj.tap_nnx(net(end=ENDS[end]), "conv", X, link="probabilities")
    assert model.link == "softmax"
    logits, _, weights, _ = seen(model)
    expected, _, plain, _ = seen(cj.tap_nnx(net(), "conv", X))
    np.testing.assert_array_equal(logits, expected.astype(logits.dtype))
    np.testing.assert_allclose(weights, plain, rtol=2e-3 if end == "rounded" else 1e-6)


@pytest.mark.parametrize(
    ("end", "outputs", "link", "words"),
    [
        (
            lambda y: (jax.nn.softmax(y) + jax.nn.softmax(-y)) / 2,
            5,
            None,
            r"none is given, and the 5 outputs.*sum to one",
        ),
        (
            lambda y: (jax.nn.softmax(y) + jax.nn.softmax(-y)) / 2,
            5,
            "probabilities",
            "last operation is 'div'.*cut the network",
        ),
        (lambda y: y, 5, "probabilities", "a softmax of all outputs was not recognised"),
        (jax.nn.sigmoid, 5, None, "ends in sigmoid.*link='sigmoid', which takes those sigmoids off"),
        (jax.nn.sigmoid, 5, "probabilities", "ends in sigmoid.*link='sigmoid'"),
        (jax.nn.sigmoid, 1, None, "ends in sigmoid.*link='sigmoid'"),
        (jax.nn.softmax, 1, "probabilities", "the softmax of one output, which is always 1"),
        (partial(jax.nn.softmax, axis=0), 5, "probabilities", "probabilities differ by"),
        (lambda y: y, 5, "logistic", "'logistic' is unknown.*sigmoid, softmax"),
    ],
)
def test_what_is_declared_must_be_there_and_what_is_there_declared(end, outputs, link, words):
    with pytest.raises(cj.CaseJaxError, match=rf"^link: .*{words}"):
        cj.tap_nnx(
            net(outputs, end), "conv", X, link=link, check=False
        )  # a softmax over the batch has other faults, too


def test_a_sigmoid_is_taken_off_in_every_tap_and_a_declaration_wins():
    plain = cj.tap_nnx(net(), "conv", X, link="sigmoid")
    model = cj.tap_nnx(net(end=jax.nn.sigmoid), "conv", X, link="sigmoid")
    np.testing.assert_array_equal(model.apply(model.params, X), plain.apply(plain.params, X))
    network = linen.Sequential([linen.Conv(4, (3, 3)), lambda a: jax.nn.softmax(a.mean((1, 2)))])
    variables = network.init(jax.random.key(0), X[None])
    with pytest.raises(cj.CaseJaxError, match=r"^link: "):
        cj.tap_linen(network, variables, "layers_0", X)
    assert cj.tap_linen(network, variables, "layers_0", X, link="probabilities").link == "softmax"
    odd = cj.tap_nnx(
        net(end=lambda y: jnp.abs(y) / jnp.abs(y).sum(-1, keepdims=True)), "conv", X, link="softmax"
    )  # logits all the same
    assert odd.link == "softmax"
    assert odd.num_classes == 5


@pytest.mark.parametrize("declared", [{}, {"link": "sigmoid"}, {"link": "probabilities", "end": jax.nn.sigmoid}])
def test_one_logit_is_two_classes_with_exactly_its_sigmoid(declared):
    options = {name: value for name, value in declared.items() if name != "end"}
    z = net(1)(X[None])[0, 0]
    model = cj.tap_nnx(net(1, declared.get("end", lambda y: y)), "conv", X, **options)
    assert (model.num_classes, model.link, model.one_logit) == (2, "softmax", True)
    logits, p, weights, slope = seen(model)
    np.testing.assert_allclose(p, [jax.nn.sigmoid(-z), jax.nn.sigmoid(z)], rtol=1e-6)
    np.testing.assert_allclose(logits, [-z / 2, z / 2], rtol=1e-6)
    np.testing.assert_allclose(weights[1] - weights[0], slope, rtol=1e-5)


def test_a_declared_head_of_one_logit_has_its_closed_form():
    function, params = network(1)

    def marked(params, x):
        a = cj.tag(jax.nn.relu(x @ params[0]), "features")
        return cj.tap.tag_head_input(a.mean((0, 1))) @ params[1][:, :1]

    image = jnp.asarray(IMAGE, jnp.float32)
    model = cj.tap_function(marked, params, "features", image, head_kernel=lambda p: p[1][:, :1])
    view, pulled = (
        jax.jit(m.view)(params, image) for m in (model, cj.tap_function(function, params, "features", image))
    )
    assert view.head is not None
    assert pulled.head is None
    np.testing.assert_allclose(view.class_weights(np.arange(2)), pulled.class_weights(np.arange(2)), rtol=1e-5)


def test_a_class_that_does_not_exist_is_an_error_where_it_is_known_and_nan_where_it_is_traced(toy, toy_images):
    view, saliency = jax.jit(toy.view)(toy.params, toy_images[0]), jnp.ones((12, 12))
    for wrong in (5, -1, 99, np.int64(7), jnp.int32(9)):
        for asked in (
            lambda c: removed_probabilities(view, saliency, c),
            lambda c: deletion_curve(view, saliency, c),
            lambda c: saliency_metric(view.predict, view.image, jnp.array([0, 4, 0, 4]), c),
        ):
            with pytest.raises(cj.CaseJaxError, match=rf"^target: got \[{int(wrong)}\].*from 0 to 4"):
                asked(wrong)
        for targets in ([1, int(wrong)], jnp.array([1, int(wrong)])):
            with pytest.raises(cj.CaseJaxError, match=rf"^targets: got \[{int(wrong)}\].*from 0 to 4"):
                cj.ask(view, targets)
        with pytest.raises(cj.CaseJaxError, match=rf"^targets: got \[{int(wrong)}\]"):
            cj.explain(toy, toy_images[0], "grad_cam", targets=int(wrong))
    traced = jax.jit(lambda c: removed_probabilities(view, saliency, c, percents=(50,)))
    assert np.isfinite(traced(4)).all()
    assert np.isnan(traced(99)).all()
    assert np.isnan(traced(-1)).all()


class Seen:
    """Noise with these true labels."""

    name, class_names, fingerprint = "seen", None, "v1"

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = np.random.default_rng(index).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
        true = self.labels[index]
        return Example(index, f"image {index}", image, true[0], labels=true if len(true) > 1 else ())


def seen_by_hand(count):
    images = [(Seen([(0,)] * count)[i].image / 255 - 0.5) / 0.25 for i in range(count)]
    return np.stack([by_hand("sigmoid", x) for x in images])


def test_several_true_labels_count_in_confusions_rows_mosaics_and_pictures(tmp_path):
    model, p = tapped("sigmoid"), seen_by_hand(6)
    best, _second = np.argsort(-p, axis=1)[:, :2].T
    worst = p.argmin(1)
    true = [(int(worst[i]), int(best[i])) if i < 3 else (int(worst[i]),) for i in range(6)]
    source = Seen(true)
    counted = count_confusions(source, model, PIXELS)
    expected, sums = np.zeros((CLASSES, CLASSES), int), np.zeros((CLASSES, CLASSES))
    for i, labels in enumerate(true):
        for label in labels:
            seen = np.where(np.isin(np.arange(CLASSES), [c for c in labels if c != label]), 0.0, p[i])
            expected[label, seen.argmax()] += 1
            sums[label] += seen
    np.testing.assert_array_equal(counted.counts, expected)
    known = expected.sum(1) > 0
    np.testing.assert_allclose(
        counted.mean_probabilities[known], (sums / expected.sum(1, keepdims=True).clip(1))[known], rtol=1e-5
    )

    job = evaluation(
        source, model, "all", pixels=PIXELS, methods=["grad_cam"], metrics=["fidelity", "sensitivity"], tile=6
    )
    folder = cj.evaluation.run(job, RunFolder(tmp_path / "run"), progress=False)
    rows = folder.rows()
    assert rows["label"].tolist() == [*best[:3], *worst[3:]]
    assert correct_rows(rows).tolist()[3:] == [False] * 3
    np.testing.assert_allclose(rows["p1"], p.max(1), rtol=1e-5)
    assert (rows["p1"] + rows["p2"] > 1).any()  # no softmax
    save_gallery(job, folder)
    with np.load(folder.path / "gallery.npz") as kept:
        np.testing.assert_array_equal(kept["labels"], [[*labels, -1][:2] for labels in true])
        np.testing.assert_allclose(kept["probabilities"], np.sort(p)[:, :-3:-1], rtol=1e-5)
    found = load_run(folder.path)
    assert f"labelled class {worst[0]} and class {best[0]};" in gallery_captions(found)[0]
    assert "the sigmoid of the label's own logit" in link_words(found.config)

    source.labels[3] = (int(best[3]),)  # alone in the mosaics: the others show several classes, or another
    chosen = confident_images(source, model, PIXELS, confidence=1e-3, tile=6)
    assert chosen.indices.tolist() == [3]
    assert chosen.classes.tolist() == [best[3]]
    assert chosen.counts["images with several true labels"] == 3
    np.testing.assert_allclose(chosen.probabilities, p.max(1)[3:4], rtol=1e-5)


@pytest.mark.parametrize(("label", "labels"), [(0, (1, 2)), (1, (1, 1))])
def test_labels_that_contradict_each_other_are_named(label, labels):
    source = Seen([(0,), (0,)])
    wrong = Example(1, "image 1", source[1].image, label, labels=labels)
    source.__class__ = type("Wrong", (Seen,), {"__getitem__": lambda s, i: wrong if i else Seen.__getitem__(s, 0)})
    with pytest.raises(
        cj.CaseJaxError, match=r"image 'image 1': got label \d, labels .*; accepted: `label` among `labels`"
    ):
        count_confusions(source, tapped(), PIXELS)


@pytest.fixture(scope="module")
def one_output(tmp_path_factory):
    """The shipped network with a fresh head of one output, as a file."""
    classifier = with_new_head(load_classifier(), ["a seven"], seed=1)
    file = tmp_path_factory.mktemp("weights") / "one.safetensors"
    facts = {"class_names": ["a seven"], "preprocessing": classifier.preprocessing._asdict()}
    save_weights(file, classifier.module, metadata=facts)
    return file, classifier


def test_weights_of_one_output_are_two_named_classes_in_python_and_in_the_shell(one_output, images, shell, tmp_path):
    file, classifier = one_output
    assert classifier.class_names == ("not", "a seven")
    assert classifier.outputs == 1
    model = cj.load("digit_resnet", weights=file)
    assert model.class_names == ("not", "a seven")
    assert model.one_logit
    evaluated = nnx.clone(classifier.module)
    evaluated.eval()
    z = evaluated(images[:1])[0, 0]
    p = np.asarray(model.view(model.params, images[0]).probabilities())
    np.testing.assert_allclose(p, [jax.nn.sigmoid(-z), jax.nn.sigmoid(z)], rtol=1e-5)
    status, _out, err = shell(
        *(
            "explain",
            "digit_scenes:0",
            "--weights",
            file,
            "--contrast",
            "topk_logits:1",
            "--methods",
            "grad_cam",
            "--top",
            "2",
        )
    )
    assert status == 0, err
    assert "2 classes" in err
    assert (tmp_path / "explain-scene-000000.png").exists()
    status, _, err = shell("train", "masker", "--weights", file, "--out", tmp_path / "masker")
    assert status != 0
    assert "a network of one output" in err


def test_a_model_of_one_logit_is_evaluated_under_its_class_s_name(tmp_path):
    model, source = tapped(outputs=1), Seen([(0,), (1,), (1,), (0,)])
    options = {"pixels": PIXELS, "metrics": ["fidelity"], "tile": 4}
    job = evaluation(source, model, "all", methods=["grad_cam"], class_names=["cat"], **options)
    folder = cj.evaluation.run(job, RunFolder(tmp_path / "run"), progress=False)
    rows = folder.rows()
    p = np.stack([by_hand("one logit", (source[i].image / 255 - 0.5) / 0.25) for i in range(4)])
    np.testing.assert_allclose(rows["p1"], p.max(1), rtol=1e-5)
    assert rows["top1"].tolist() == p.argmax(1).tolist()
    assert [load_run(folder.path).class_name(c) for c in range(2)] == ["not", "cat"]
    p, figure = by_hand("one logit", IMAGE), cj.show(IMAGE.astype(np.float32), MAP, model=model, targets=0)
    assert figure.axes[1].get_title() == f"not, p = {p[0]:.2f}"
    with pytest.raises(cj.CaseJaxError, match="class_names: got 1 class names"):
        evaluation(source, tapped(), "all", methods=["grad_cam"], class_names=["cat"], **options)


def test_predictions_are_told_apart_where_their_probabilities_round_to_one():
    steep = [jnp.asarray(FILTERS, jnp.float32), jnp.asarray(1000 * np.abs(HEAD), jnp.float32)]
    model = cj.tap_function(network()[0], steep, "features", jnp.asarray(IMAGE, jnp.float32), link="sigmoid")
    source = Seen([(0,), (1,)])
    logits = [model.apply(steep, jnp.asarray((source[i].image / 255 - 0.5) / 0.25, jnp.float32)) for i in range(2)]
    assert all((np.asarray(jax.nn.sigmoid(y)) == 1).all() for y in logits)
    counted = count_confusions(source, model, PIXELS, tile=2, limit=5)
    for i, y in enumerate(logits):
        assert counted.counts[i].argmax() == int(y.argmax()) > 0
    chosen = confident_images(Seen([(int(y.argmax()),) for y in logits]), model, PIXELS, tile=2)
    assert chosen.indices.tolist() == [0, 1]


def test_a_folder_s_table_gives_images_several_labels(tmp_path):
    for name in ("a/1.png", "a/2.png", "b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    table, size = tmp_path / "labels.csv", {"resize": 8, "crop": 8}
    table.write_text("file,label\na/1.png,dog\na/1.png,cat\nb.png,dog\n")
    source = ImageFolder(tmp_path, None, **size)
    assert source.class_names == ("cat", "dog")
    examples = [source[i] for i in range(3)]
    assert [(e.label, e.labels) for e in examples] == [(1, (1, 0)), (-1, ()), (1, ())]
    assert [examples[0].label_for(c) for c in (0, 1, 5)] == [0, 1, 1]
    cached = CachedCrops(source, tmp_path.parent / "kept")
    assert [[cached[i].labels for i in range(3)] for _ in range(2)] == [
        [(1, 0), (), ()]
    ] * 2  # read, and from the cache
    before = source.fingerprint
    table.write_text("file,label\na/1.png,dog\nb.png,dog\n")
    alone = ImageFolder(tmp_path, ("dog", "cat"), **size)
    assert alone.labels_of(np.arange(3)).tolist() == [0, -1, 0]
    assert alone.fingerprint != before
    with pytest.raises(cj.CaseJaxError, match=r"^data: a/1.png has several labels"):
        Examples(source).read(0)
    for text, words in (
        ("file,label\nc.png,dog\n", "file of .*labels.csv: 'c.png' is unknown"),
        ("file,label\nb.png,cow\n", "label of .*labels.csv: 'cow' is unknown"),
        ("file,label\nb.png,dog\nb.png,dog\n", "'dog' twice"),
        ("name,label\n", "the columns name, label; accepted: a header with file,label"),
    ):
        table.write_text(text)
        with pytest.raises(cj.CaseJaxError, match=f"^data.*{words}"):
            ImageFolder(tmp_path, ("dog", "cat"), **size)

"""Contrast as an operator: what it equals for Grad-CAM, that it is exact for linear methods, and that it is the map of a difference for others."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from case_jax import CaseJaxError, ask, finer_cam, grad_cam, softmax_contrast, tag, tap_function, topk_logits
from case_jax.cli.named import map_function
from case_jax.contrast import against
from case_jax.contrast.sets import Query
from case_jax.methods import (
    ablation_cam,
    case,
    centre_gaussian,
    contrasted,
    contrastive_explanation,
    difference_of_maps,
    hires_cam,
    input_x_gradient,
    integrated_gradients,
    layer_cam,
    max_contrast,
    mean_contrast,
    occlusion,
    rise,
    saliency,
    score_cam,
    signed_maps,
    titles_of,
)
from case_jax.methods.contrasted import rival_shares

CLASSES = 5
TARGETS = jnp.asarray([3, 0, 2])
RNG = np.random.default_rng(0)
KERNEL = jnp.asarray(RNG.normal(0, 0.5, (3, 3, 3, 6)), jnp.float32)
HEAD = jnp.asarray(RNG.normal(0, 2, (6, CLASSES)), jnp.float32)
IMAGE = jnp.asarray(RNG.normal(size=(8, 8, 3)), jnp.float32)


def features(x):
    dimensions = ("NHWC", "HWIO", "NHWC")
    a = jax.lax.conv_general_dilated(x[None], KERNEL, (2, 2), "SAME", dimension_numbers=dimensions)[0]
    return tag(jax.nn.relu(a), "a")


def network(head, x):
    """Behind the tapped layer nothing is linear: tanh, mean, head."""
    return jnp.tanh(features(x)).mean((0, 1)) @ head


MODEL = tap_function(network, HEAD, "a", IMAGE)


@jax.jit
def every_map(image):
    """The maps of three targets by each of these, from one program."""
    view = MODEL.view(HEAD, image)
    query, one = ask(view, TARGETS, topk_logits(2, CLASSES)), ask(view, TARGETS, topk_logits(1, CLASSES))
    steps = partial(integrated_gradients, steps=3)
    return {
        "probabilities": view.probabilities(),
        "shares": {how: rival_shares(view, query, how, "all") for how in ("mean", "max", "weighted")},
        "shares of sets": {how: rival_shares(view, query, how, "set") for how in ("mean", "max", "weighted")},
        "mean": contrasted(grad_cam, "mean")(view, query),
        "max": contrasted(grad_cam, "max")(view, query),
        "weighted": contrasted(grad_cam)(view, query),
        "weighted set": contrasted(grad_cam, among="set")(view, query),
        "mean_contrast": mean_contrast(view, query),
        "max_contrast": max_contrast(view, query),
        "finer_cam of one": finer_cam(view, one),
        "finer_cam": finer_cam(view, query),
        "softmax_contrast": softmax_contrast(view, query),
        "linear": {
            f.__name__: [signed_maps(f, view, Query(jnp.arange(CLASSES))), signed_maps(contrasted(f), view, query)]
            for f in (grad_cam, hires_cam, input_x_gradient)
        },
        "integrated": [
            signed_maps(steps, view, Query(jnp.arange(CLASSES))),
            signed_maps(contrasted(steps), view, query),
        ],
    }


@pytest.fixture(scope="module")
def found():
    return jax.tree.map(np.asarray, every_map(IMAGE))


def close(first, second):
    scale = np.abs(second).max()
    assert scale > 0
    np.testing.assert_allclose(first, second, atol=2e-6 * scale, rtol=0)


def test_shares_of_rivals(found):
    p, shares = found["probabilities"], found["shares"]
    for i, c in enumerate(TARGETS.tolist()):
        others = np.delete(np.arange(CLASSES), c)
        ranked = others[np.argsort(-p[others])]
        expected = {
            "mean": np.where(np.arange(CLASSES) == c, 0, 1 / (CLASSES - 1)),
            "max": np.arange(CLASSES) == ranked[0],
            "weighted": np.where(np.arange(CLASSES) == c, 0, p / (1 - p[c])),
        }
        of_set = np.isin(np.arange(CLASSES), ranked[:2])
        expected_set = {
            "mean": of_set / 2,
            "max": np.arange(CLASSES) == ranked[0],
            "weighted": np.where(of_set, p, 0) / p[ranked[:2]].sum(),
        }
        for how in expected:
            np.testing.assert_allclose(shares[how][i], expected[how], atol=1e-6)
            np.testing.assert_allclose(found["shares of sets"][how][i], expected_set[how], atol=1e-6)


def test_a_target_is_none_of_its_rivals_and_without_one_there_is_no_share():
    model = tap_function(lambda p, x: tag(x, "a").mean((0, 1)) @ p, jnp.eye(3), "a", jnp.ones((2, 2, 3)))
    view = model.view(model.params, jnp.ones((2, 2, 3)))
    query = Query(jnp.asarray([0, 0]), jnp.asarray([[0, 1], [7, 9]]))
    for how in ("max", "mean", "weighted"):
        np.testing.assert_allclose(rival_shares(view, query, how, "set"), [[0, 1, 0], [np.nan] * 3])


def test_contrasts_of_grad_cam_are_the_contrastive_cams(found):
    close(found["mean"], found["mean_contrast"])
    close(found["max"], found["max_contrast"])
    close(found["max"], found["finer_cam of one"])
    close(found["weighted set"], found["finer_cam"])
    absent = 1 - found["probabilities"][TARGETS, None, None]
    close(found["weighted"] * absent, found["softmax_contrast"])


def test_of_linear_methods_it_is_the_difference_of_signed_maps(found):
    for of_classes, of_difference in [*found["linear"].values(), found["integrated"]]:
        others = np.tensordot(found["shares"]["weighted"], of_classes, 1)
        assert of_difference.min() < 0 < of_difference.max()
        close(of_difference, of_classes[TARGETS] - others)


@pytest.mark.parametrize("method", [layer_cam, occlusion, ablation_cam, score_cam, saliency])
def test_of_other_methods_it_is_the_map_of_the_difference(found, method):
    """That is the map by a network whose head gives the differences."""
    rows = jnp.eye(CLASSES)[TARGETS] - found["shares"]["max"]

    @jax.jit
    def run(image):
        view, of_difference = MODEL.view(HEAD, image), MODEL.view(HEAD @ rows.T, image)
        query = Query(TARGETS)
        maps = method(of_difference, Query(jnp.arange(3)))
        return maps, contrasted(method, "max")(view, query), difference_of_maps(method, "max")(view, query)

    expected, maps, of_maps = run(IMAGE)
    close(maps, expected)
    assert np.abs(of_maps - expected).max() > 1e-2 * np.abs(expected).max()


def test_a_difference_of_maps(found):
    def masks(view, query):
        """As a trained mask that looks at no logit."""
        return jnp.asarray(table)[query.targets]

    table = RNG.random((CLASSES, 8, 8)).astype(np.float32)

    @jax.jit
    def run(image):
        view, query, of_masks = MODEL.view(HEAD, image), Query(TARGETS), difference_of_maps(masks, "mean")
        return of_masks(view, query), of_masks(view, query, sign=-1), difference_of_maps(centre_gaussian)(view, query)

    signed = table[TARGETS] - np.tensordot(found["shares"]["mean"], table, 1)
    favouring, opposing, blind = run(IMAGE)
    close(favouring, np.maximum(signed, 0))
    close(opposing, np.maximum(-signed, 0))
    np.testing.assert_allclose(blind, 0, atol=1e-6)


def test_why_p_rather_than_q_is_what_speaks_against_q():
    @jax.jit
    def run(image):
        view = MODEL.view(HEAD, image)
        rather = contrastive_explanation(view, ask(view, jnp.asarray([3]), against(1, CLASSES)))
        return rather, softmax_contrast(view, Query(jnp.asarray([1])), sign=-1)

    close(*run(IMAGE))


def test_a_class_that_the_model_does_not_have_has_no_map():
    methods = (contrasted(grad_cam), contrasted(occlusion, "max"), difference_of_maps(layer_cam, "mean"))
    query = Query(jnp.asarray([1, CLASSES]))
    for maps in jax.jit(lambda x: [method(MODEL.view(HEAD, x), query) for method in methods])(IMAGE):
        assert np.isfinite(maps[0]).all()
        assert np.isnan(maps[1]).all()


def test_what_it_says_of_itself():
    methods = {"a": contrasted(partial(occlusion, stride=2), "max"), "b": difference_of_maps(layer_cam, among="set")}
    assert titles_of(methods) == {
        "a": "occlusion, max contrast",
        "b": "layer_cam, weighted difference of maps",
    }
    assert [m.contrastive for m in methods.values()] == [False, True]
    assert contrasted(case) == contrasted(case, "weighted")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda v: contrasted(grad_cam, "maximum"), r"how: 'maximum' is unknown\. Did you mean 'max'\?"),
        (lambda v: difference_of_maps(grad_cam, among="sets"), r"among: 'sets' is unknown\. Did you mean 'set'\?"),
        (lambda v: contrasted(grad_cam, among="set")(v, Query(TARGETS)), r"contrast: .* the query has none"),
        (lambda v: contrasted(occlusion)(v, Query(TARGETS), sign=-1), "sign: got -1; accepted: 1, as occlusion has no"),
        (lambda v: difference_of_maps(occlusion)(v, Query(TARGETS), sign=2), "sign: got 2"),
        (lambda v: contrasted(rise)(v, Query(TARGETS, key=jax.random.key(0))), "link='identity'"),
        (lambda v: contrasted(softmax_contrast)(v, Query(TARGETS)), "link='identity'"),
    ],
)
def test_what_cannot_be_contrasted_is_refused(call, words):
    with pytest.raises(CaseJaxError, match=words):
        call(MODEL.view(HEAD, IMAGE))


def test_from_the_shell_by_name():
    assert map_function("contrasted:integrated_gradients") == contrasted(integrated_gradients)
    for name in ("finer_cam", "rise", "eigen_cam", "random"):
        with pytest.raises(
            CaseJaxError, match=f"methods: got .*{name}.*; accepted: contrasted:NAME of a method that asks"
        ):
            map_function(f"contrasted:{name}")
    with pytest.raises(CaseJaxError, match=r"method: 'saliancy' is unknown\. Did you mean 'saliency'\?"):
        map_function("contrasted:saliancy")


def test_one_class_has_no_rival():
    model = tap_function(network, HEAD[:, :1], "a", IMAGE, link="identity")
    view = model.view(model.params, IMAGE)
    for method in (mean_contrast, contrasted(grad_cam, "mean")):
        with pytest.raises(CaseJaxError, match="targets: got a class of 1; accepted: a model of at least 2 classes"):
            method(view, Query(jnp.asarray([0])))

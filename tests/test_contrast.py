"""Contrast operators against hand formulas and the reference's CASE numbers; contrast sets against its class lists."""

import dataclasses
import functools
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from case_jax import (
    CaseJaxError,
    Query,
    all_class_maps,
    ask,
    case,
    confusion_sets,
    finer_cam,
    grad_cam,
    softmax_contrast,
    tag,
    tap_function,
    topk_logits,
)
from case_jax.contrast import all_sets, explicit, operators, orthogonal_to, orthogonal_to_span, random_sets, table
from case_jax.contrast.choice import Confusions, choose_contrast
from case_jax.imageops import finish_maps, is_degenerate
from case_jax.methods import METHODS, case_span, class_maps, contrastive_explanation, max_contrast, mean_contrast
from case_jax.tap import View

NETWORKS = ("resnet_bottleneck", "resnet_basic", "vgg_bn", "densenet", "convnext")
CLASSES, CHANNELS = 6, 9


# --- a network whose weights are known: A = features, spatial mean, linear ------------------------------------------------


def gap_linear(head, a):
    """The view of a network whose activation is its image, followed by a spatial mean and a linear head."""
    model = tap_function(lambda p, x: tag(x, "a").mean((0, 1)) @ p, head, "a", a)
    return model.view(model.params, a)


def known(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(CHANNELS, CLASSES)).astype(dtype), rng.normal(size=(4, 5, CHANNELS)).astype(dtype)


def hand_weights(name, alpha, p, c, others):
    """The effective weights of class c, written out in numpy."""
    mean = alpha[others].mean(0)
    return {
        "grad_cam": lambda: alpha[c],
        "case": lambda: alpha[c] - alpha[c] @ mean / (mean @ mean + 1e-8) * mean,
        "case_relative": lambda: alpha[c] - alpha[c] @ mean / (mean @ mean + 0.1 * alpha[c] @ alpha[c]) * mean,
        "case_span": lambda: alpha[c] - alpha[others].T @ np.linalg.lstsq(alpha[others].T, alpha[c], rcond=None)[0],
        "finer_cam": lambda: sum(p[j] * (alpha[c] - alpha[j]) for j in others) / sum(p[j] for j in others),
        "finer_cam_half": lambda: sum(p[j] * (alpha[c] - 0.5 * alpha[j]) for j in others) / sum(p[j] for j in others),
        "softmax_contrast": lambda: alpha[c] - p @ alpha,
        "mean_contrast": lambda: alpha[c] - np.delete(alpha, c, 0).mean(0),
        "max_contrast": lambda: alpha[c] - alpha[max(set(range(CLASSES)) - {c}, key=p.__getitem__)],
        "contrastive_explanation": lambda: p @ alpha - mean,
    }[name]()


HAND = {
    "grad_cam": grad_cam,
    "case": case,
    "case_relative": partial(case, eps=0.1, eps_relative=True),
    "case_span": case_span,
    "finer_cam": finer_cam,
    "finer_cam_half": partial(finer_cam, gamma=0.5),
    "softmax_contrast": softmax_contrast,
    "mean_contrast": mean_contrast,
    "max_contrast": max_contrast,
    "contrastive_explanation": contrastive_explanation,
}


@pytest.mark.parametrize("name", HAND)
def test_maps_equal_the_hand_formula_in_double_precision(name):
    head, a = known()
    others = np.asarray([[1, 4, 2], [0, 3, 5]])
    with jax.enable_x64(True):
        view = gap_linear(jnp.asarray(head), jnp.asarray(a))
        maps = np.asarray(HAND[name](view, Query(jnp.asarray([0, 2]), jnp.asarray(others))))
    alpha = head.T / 20
    exponentials = np.exp(a.mean((0, 1)) @ head)
    for i, c in enumerate([0, 2]):
        w = hand_weights(name, alpha, exponentials / exponentials.sum(), c, others[i])
        expected = np.maximum(a @ w, 0)
        assert expected.max() > 1e-3
        np.testing.assert_allclose(maps[i], expected, atol=1e-12, rtol=0)


# --- identities on the shipped classifier ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def view(tapped, images):
    return tapped.view(tapped.params, images[0])


@pytest.fixture(scope="module")
def every(view):
    return ask(view, jnp.arange(25), topk_logits(3, 25))


@pytest.mark.parametrize("name", ["case", "case_span"])  # all methods: tests/test_methods.py
def test_maps_of_all_classes_equal_those_of_each_class(tapped, images, view, name):
    contrast = topk_logits(3, 25)
    run = jax.jit(lambda x: all_class_maps(METHODS[name].maps, tapped, tapped.params, x, contrast=contrast))
    together = run(images[0])
    one = jax.jit(lambda c: METHODS[name].maps(view, ask(view, c[None], contrast))[0])
    for c in range(0, 25, 4):
        np.testing.assert_allclose(together[c], one(jnp.int32(c)), atol=1e-6)


def test_case_is_linear_in_the_class_maps(view, every):
    """`relu(S_c − β_c · mean_j S_j)`: CASE of all classes is one operator on the stack of class maps."""
    alpha = view.class_weights(jnp.arange(25))
    stack = class_maps(view.activation, alpha)
    mean = alpha[every.contrast].mean(1)
    beta = (alpha * mean).sum(1) / ((mean**2).sum(1) + 1e-8)
    expected = jax.nn.relu(stack - beta[:, None, None] * stack[every.contrast].mean(1))
    np.testing.assert_allclose(case(view, every), expected, atol=1e-5 * float(stack.max()), rtol=0)
    assert float(expected.max()) > 0


def test_softmax_contrast_is_the_gradient_of_the_log_probability(view):
    jacobian = jax.jacrev(lambda a: jax.nn.log_softmax(view.tail(a)))(view.activation).mean((1, 2))
    weights = operators.softmax(view, jnp.arange(25))
    np.testing.assert_allclose(weights, jacobian, atol=3e-6 * float(jnp.abs(jacobian).max()), rtol=0)
    expected = jax.nn.relu(jnp.einsum("hwk,ck->chw", view.activation, jacobian))
    np.testing.assert_allclose(softmax_contrast(view, Query(jnp.arange(25))), expected, atol=1e-5)


def test_span_weights_are_orthogonal_to_every_contrast_class(view, every):
    weights = operators.span_orthogonal(view, every.targets, every.contrast)
    others = view.class_weights(every.contrast.ravel()).reshape(25, 3, -1)
    cosines = jnp.einsum("ck,cjk->cj", weights, others) / (
        jnp.linalg.norm(weights, axis=-1)[:, None] * jnp.linalg.norm(others, axis=-1)
    )
    assert float(jnp.abs(cosines).max()) < 1e-6


CONTRASTS = {
    "topk": topk_logits(3, 5),
    "table": table(random_sets(2, 5), 5),
    "own function": lambda logits, targets: topk_logits(3, 5)(logits, targets),
}


@pytest.mark.parametrize("options", [{}, {"eps_relative": True, "eps": 1e-3}, {"eps": 0.5}], ids=str)
@pytest.mark.parametrize("contrast", CONTRASTS)
def test_in_the_space_of_classes_case_is_the_map_of_its_weights(toy, toy_images, contrast, options):
    """With a declared head no weights are formed; without it they are pulled back."""
    pulled = dataclasses.replace(toy, head_kernel=None)
    assert toy.view(toy.params, toy_images[0]).factors() is not None
    assert pulled.view(toy.params, toy_images[0]).factors() is None

    @functools.partial(jax.jit, static_argnums=0)
    def maps(declared, x, targets):
        view = (toy if declared else pulled).view(toy.params, x)
        return case(view, ask(view, targets, CONTRASTS[contrast]), **options)

    for targets in (jnp.arange(5), jnp.asarray([4, 0])):
        for x in toy_images:
            direct, by_weights = maps(True, x, targets), maps(False, x, targets)
            assert float(by_weights.max()) > 0
            np.testing.assert_allclose(direct, by_weights, atol=3e-6 * float(by_weights.max()))


def test_span_of_one_class_is_case_without_epsilon(view):
    query = ask(view, jnp.arange(25), topk_logits(1, 25))
    span, mean = case_span(view, query), case(view, query, eps=0.0)
    np.testing.assert_allclose(span, mean, atol=1e-5 * float(mean.max()), rtol=0)


# --- orthogonal_to ----------------------------------------------------------------------------------------------------------


def test_orthogonal_to_by_hand():
    # ⟨α, ᾱ⟩ = 11 and ‖ᾱ‖² = 25: with ε = 0 β is 0.44, and ε = 25 halves it
    alpha, mean = jnp.asarray([3.0, 0.5]), jnp.asarray([3.0, 4.0])
    np.testing.assert_allclose(orthogonal_to(alpha, mean, eps=0.0), [3 - 1.32, 0.5 - 1.76], rtol=1e-6)
    np.testing.assert_allclose(orthogonal_to(alpha, mean, eps=25.0), [3 - 0.66, 0.5 - 0.88], rtol=1e-6)


@pytest.mark.parametrize("eps_relative", [False, True])
@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_without_contrast_weights_the_class_weights_remain(eps, eps_relative):
    alpha, zero = jnp.asarray([1.0, -2.0]), jnp.zeros(2)
    np.testing.assert_array_equal(orthogonal_to(alpha, zero, eps=eps, eps_relative=eps_relative), alpha)
    np.testing.assert_array_equal(orthogonal_to(zero, zero, eps=eps, eps_relative=eps_relative), zero)
    gradient = jax.jacrev(partial(orthogonal_to, eps=eps, eps_relative=eps_relative), argnums=(0, 1))(alpha, zero)
    assert all(bool(jnp.isfinite(g).all()) for g in gradient)


@pytest.mark.parametrize(("eps_relative", "invariant"), [(True, True), (False, False)])
def test_only_the_relative_epsilon_ignores_the_scale_of_the_gradients(eps_relative, invariant):
    head, a = known(dtype=np.float32)
    query = Query(jnp.asarray([0]), jnp.asarray([[1, 4, 2]]))

    def scaled(factor):  # weights α of about 1e-4 at the smaller scale, so that ‖ᾱ‖² is near the absolute 1e-8
        view = gap_linear(jnp.asarray(head * factor), jnp.asarray(a))
        return np.asarray(case(view, query, eps_relative=eps_relative)) / factor

    difference = np.abs(scaled(1.0) - scaled(np.float32(2.0**-10))).max() / scaled(1.0).max()
    assert (difference < 1e-6) if invariant else (difference > 1e-2)


# --- orthogonal_to_span -----------------------------------------------------------------------------------------------------


def spans():
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(4, 20))
    return {
        "independent": basis,
        "duplicate": basis[[0, 1, 0, 2, 1]],
        "linearly dependent": np.vstack([basis, basis[0] - 2 * basis[1], 0.1 * basis.sum(0)]),
        "nearly dependent": np.vstack([basis[0], basis[0] + 1e-3 * basis[1], basis[0] - 1e-3 * basis[2]]),
        "with a zero": np.vstack([basis[0], 0 * basis[0], basis[1]]),
        "of very different lengths": basis * np.asarray([1e-6, 1, 1e4, 1e-3])[:, None],
    }


@pytest.mark.parametrize("kind", spans())
def test_projection_on_the_span(kind):
    others = spans()[kind].astype(np.float32)
    alpha = np.random.default_rng(1).normal(size=20).astype(np.float32)
    rest = np.asarray(project(alpha, others), np.float64)
    for other in others[np.abs(others).max(1) > 0].astype(np.float64):
        assert abs(rest @ other) <= 1e-6 * np.linalg.norm(alpha) * np.linalg.norm(other)
    u, s, _ = np.linalg.svd(others.T.astype(np.float64), full_matrices=False)
    u = u[:, s > 1e-7 * s.max()] if kind != "of very different lengths" else u
    tolerance = 1e-3 if kind == "nearly dependent" else 2e-6  # float32 turns that span by 1e-7 / 1e-3
    np.testing.assert_allclose(rest, alpha - u @ (u.T @ alpha), atol=tolerance)


@pytest.mark.parametrize("kind", ["as many as channels", "more than channels", "the class itself", "a multiple of it"])
def test_a_span_that_holds_the_class_leaves_exactly_nothing(kind):
    rng = np.random.default_rng(2)
    alpha = rng.normal(size=8)
    others = {
        "as many as channels": rng.normal(size=(8, 8)),
        "more than channels": rng.normal(size=(12, 8)),
        "the class itself": np.vstack([rng.normal(size=8), alpha]),
        "a multiple of it": -3 * alpha[None],
    }[kind]
    rest = project(jnp.asarray(alpha, jnp.float32), jnp.asarray(others, jnp.float32))
    np.testing.assert_array_equal(rest, 0.0)


project = jax.jit(orthogonal_to_span)


@jax.jit
def projection_gradient(alpha, others):
    return jax.grad(lambda *args: jnp.sin(orthogonal_to_span(*args)).sum(), argnums=(0, 1))(alpha, others)


@pytest.mark.parametrize("kind", spans())
def test_gradient_of_the_projection_is_finite(kind):
    others = jnp.asarray(spans()[kind], jnp.float32)
    for alpha in (jnp.arange(20.0), others[0], jnp.zeros(20)):
        assert all(bool(jnp.isfinite(g).all()) for g in projection_gradient(alpha, others))


def test_gradient_of_the_projection_is_the_projection():
    others = spans()["duplicate"].astype(np.float32)
    jacobian = jax.jacrev(orthogonal_to_span)(jnp.arange(20.0), jnp.asarray(others))
    q = np.linalg.qr(others[[0, 1, 3]].T.astype(np.float64))[0]
    np.testing.assert_allclose(jacobian, np.eye(20) - q @ q.T, atol=1e-5)


# --- the reference's CASE ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("network", NETWORKS)
def test_case_equals_the_reference(golden, network, k):
    """From its gradients, activation and contrast classes to its weights, low-resolution maps and finished maps."""
    stored = golden(f"{network}_case")

    @jax.jit
    @jax.vmap
    def run(alpha, activation, targets, contrast):
        view = View(None, None, activation, None, None, None, lambda classes: alpha[classes], head=None, chunk=64)
        weights = operators.mean_orthogonal(view, targets, contrast)
        return weights, class_maps(activation, weights), finish_maps(case(view, Query(targets, contrast)), (64, 64))

    weights, lowres, finished = run(
        stored["gradcam_weights"], stored["act"].transpose(0, 2, 3, 1), stored["targets"], stored[f"k{k}/contrast"]
    )
    relerr = max(2e-5, 20 * stored[f"k{k}/relerr"].max())
    for n in range(4):
        largest = np.abs(stored["gradcam_weights"][n]).max()
        np.testing.assert_allclose(weights[n], stored[f"k{k}/orth_weights"][n], atol=1e-5 * largest, rtol=0)
        expected = stored[f"k{k}/lowres"][n]
        np.testing.assert_allclose(lowres[n], expected, atol=relerr * np.abs(expected).max(), rtol=0)
        # no second scaling after the resize: the maximum may stay below 1
        np.testing.assert_allclose(finished[n], stored[f"k{k}/maps"][n], atol=5e-4, rtol=0)


# --- contrast sets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 5])
def test_confusion_sets_equal_the_reference(golden, k):
    metrics = golden("metrics")
    sets = confusion_sets(metrics["conf_matrix"], k)
    np.testing.assert_array_equal(sets.indices, metrics[f"contrast_k{k}"])
    np.testing.assert_array_equal(sets.filled, 0)
    rates = metrics["conf_matrix"] / metrics["conf_matrix"].sum(1, keepdims=True)
    np.testing.assert_array_equal(confusion_sets(rates, k).indices, sets.indices)


@pytest.mark.parametrize("network", NETWORKS)
def test_confusion_sets_of_the_networks_equal_the_reference(golden, network):
    stored = golden(f"{network}_case")
    for k in (1, 3, 5):
        sets = confusion_sets(stored["conf_matrix"], k)
        np.testing.assert_array_equal(sets.indices[stored["targets"]], stored[f"k{k}/contrast"])


@pytest.mark.parametrize("k", [1, 3, 5])
def test_sparse_confusion_sets_equal_the_reference_where_it_is_determined(golden, k):
    metrics = golden("metrics")
    sparse = metrics["conf_sparse"]
    sets = confusion_sets(sparse, k, mean_probabilities=np.full((10, 10), 0.1))
    off = np.where(np.eye(10, dtype=bool), 0, sparse)
    determined = np.minimum((off > 0).sum(1), k)
    for c in range(10):
        n = determined[c]
        assert len(set(off[c][off[c] > 0])) == (off[c] > 0).sum()  # no ties among the confused
        assert sets.indices[c, :n].tolist() == metrics[f"contrast_sparse_k{k}"][c, :n].tolist()
        assert c not in sets.indices[c]
        assert len(set(sets.indices[c].tolist())) == k
    np.testing.assert_array_equal(sets.filled, k - determined)
    assert determined.min() == 0


def test_filling_by_mean_probability_by_hand():
    confusion = [[9, 0, 2, 0, 0], [0, 9, 0, 0, 0], [1, 1, 9, 1, 1], [0, 0, 0, 9, 3], [0, 0, 2, 2, 9]]
    probability = [
        [0.6, 0.1, 0.1, 0.05, 0.15],  # 2 confused, then 4 (0.15), then 1
        [0.1, 0.5, 0.1, 0.2, 0.1],  # none confused: 3, then the lowest index of equals
        [0.1, 0.1, 0.5, 0.2, 0.1],  # equal counts: 3 by probability, then the lowest indices
        [0.0, 0.0, 0.0, 1.0, 0.0],  # 4 confused, then the lowest indices although all have probability 0
        [0.3, 0.3, 0.1, 0.2, 0.1],  # equal counts: 3 before 2 by probability, then 0
    ]
    sets = confusion_sets(confusion, 3, mean_probabilities=probability)
    assert sets.indices.tolist() == [[2, 4, 1], [3, 0, 2], [3, 0, 1], [4, 0, 1], [3, 2, 0]]
    assert sets.filled.tolist() == [2, 3, 0, 2, 1]


def test_rows_without_confusion_need_mean_probabilities():
    with pytest.raises(CaseJaxError, match="mean_probabilities: 2 of 3 rows have fewer than k = 1"):
        confusion_sets([[5, 0, 0], [1, 4, 0], [0, 0, 5]], 1)


@pytest.mark.parametrize(
    ("matrix", "k", "message"),
    [
        (np.ones((3, 4)), 1, "confusion"),
        (-np.ones((3, 3)), 1, "negative or non-finite"),
        (np.full((3, 3), np.nan), 1, "negative or non-finite"),
        (np.ones((3, 3)), 0, "k: got 0"),
        (np.ones((3, 3)), 3, r"k: got 3; accepted: a contrast-set size from 1 to 2"),
    ],
)
def test_bad_confusion_matrices_are_refused(matrix, k, message):
    with pytest.raises(CaseJaxError, match=message):
        confusion_sets(matrix, k)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_topk_logits_are_the_highest_others(k):
    logits = jnp.asarray(np.random.default_rng(0).normal(size=6), jnp.float32)
    sets = np.asarray(jax.jit(topk_logits(k, 6))(logits, jnp.arange(6)))
    order = np.argsort(-np.asarray(logits))
    for c in range(6):
        assert sets[c].tolist() == [j for j in order if j != c][:k]


def test_topk_logits_exclude_the_target_even_when_it_towers_or_is_minus_infinity():
    logits = jnp.asarray([1e30, -jnp.inf, -jnp.inf, 0.0])
    assert topk_logits(3, 4)(logits, jnp.asarray([0])).tolist() == [[3, 1, 2]]
    assert 1 not in topk_logits(2, 4)(logits, jnp.asarray([1]))[0].tolist()


@pytest.mark.parametrize("k", [1, 4, 9])
def test_random_sets_are_reproducible_and_never_the_target(k):
    first, again, other = (random_sets(k, 10, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first != np.arange(10)[:, None]).all()
    assert all(len(set(row)) == k for row in first.tolist())
    assert first.min() >= 0
    assert first.max() <= 9


def test_random_sets_are_uniform():
    drawn = np.stack([random_sets(1, 5, seed=s)[:, 0] for s in range(400)])
    shares = np.stack([(drawn == j).mean(0) for j in range(5)], axis=1)
    # each off-diagonal share is 1/4 with a standard error of 0.022
    np.testing.assert_allclose(shares, (1 - np.eye(5)) / 4, atol=0.1)


def test_all_sets():
    assert all_sets(4).tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    with pytest.raises(CaseJaxError, match="at least 2 classes"):
        all_sets(1)


def test_a_table_looks_up_the_row_of_each_target():
    sets = table([[1, 2], [2, 0], [0, 1]], 3)
    assert jax.jit(sets)(jnp.zeros(3), jnp.asarray([2, 0])).tolist() == [[0, 1], [1, 2]]


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([[1], [0]], r"shape \(2, 1\).*\(3, k\)"),
        ([[1.0], [0.0], [0.0]], "type float64"),
        ([[1], [3], [0]], "row 1 names class 3; the model has classes 0 to 2"),
        ([[1], [-1], [0]], "row 1 names class -1"),
        ([[1], [1], [0]], "the set of class 1 contains the class itself"),
        ([[1, 1], [0, 2], [0, 1]], r"the set of class 0 lists a class twice: \[1, 1\]"),
        ([[], [], []], "shape"),
    ],
)
def test_tables_that_do_not_fit_are_refused(indices, message):
    with pytest.raises(CaseJaxError, match=f"^contrast: .*{message}"):
        table(indices, 3)


def test_explicit_rows_of_different_lengths_are_refused():
    with pytest.raises(CaseJaxError, match=r"rows of \[1, 2\] classes"):
        explicit([[1, 2], [0], [0]], 3)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.contrastive])
def test_contrastive_methods_ask_for_contrast_sets(view, name):
    with pytest.raises(CaseJaxError, match=r"contrast: .* topk_logits\(5, C\)"):
        METHODS[name].maps(view, ask(view, jnp.arange(2)))


# --- sets by name -----------------------------------------------------------------------------------------------------------


def test_sets_by_name(tmp_path):
    logits, targets = jnp.asarray([0.3, 0.1, 0.9]), jnp.arange(3)
    file = tmp_path / "sets.json"
    file.write_text(json.dumps([[2], [2], [1]]))

    def counted():
        return Confusions(np.asarray([[3, 1, 0], [0, 3, 0], [2, 1, 3]]), np.full((3, 3), 1 / 3), "a split", "digest")

    expected = {
        "confusion:1": [[1], [0], [0]],
        "topk_logits:1": [[2], [2], [0]],
        "all": all_sets(3).tolist(),
        "random:1": random_sets(1, 3, seed=7).tolist(),
        f"explicit:{file}": [[2], [2], [1]],
    }
    for name, sets in expected.items():
        choice = choose_contrast(name, 3, confusions=counted, seed=7)
        assert choice.sets(logits, targets).tolist() == sets
        assert choice.name == name
        if not name.startswith("topk"):
            assert choice.table.tolist() == sets
    choice = choose_contrast("confusion:1", 3, confusions=counted)
    assert (choice.filled.tolist(), choice.source) == ([0, 1, 0], "a split")


TABLE = random_sets(2, 5)
FORMS = {
    "a name": ("random:2", "random:2", TABLE),
    "an array": (TABLE, "table", TABLE),
    "an array of JAX's": (jnp.asarray(TABLE), "table", TABLE),
    "lists": (TABLE.tolist(), "table", TABLE),
    "all_sets": (all_sets(5), "table", all_sets(5)),
    "table": (table(TABLE, 5), "table", TABLE),
    "explicit": (explicit(TABLE.tolist(), 5), "table", TABLE),
    "confusion_sets": (confusion_sets(np.ones((5, 5)), 1), "confusion:1", [[1], [0], [0], [0], [0]]),
    "a choice": (choose_contrast("all", 5), "all", all_sets(5)),
    "topk_logits": (topk_logits(2, 5), "topk_logits:2", None),
}


@pytest.mark.parametrize("form", FORMS)
def test_contrast_sets_are_accepted_in_every_form(toy, toy_images, form):
    given, name, rows = FORMS[form]
    choice, view = choose_contrast(given, 5), toy.view(toy.params, toy_images[0])
    assert choice.name == name
    expected = topk_logits(2, 5)(view.logits, jnp.arange(5)) if rows is None else rows
    assert (choice.table is None) == (rows is None)
    np.testing.assert_array_equal(ask(view, jnp.arange(5), given).contrast, expected)
    np.testing.assert_array_equal(ask(view, jnp.asarray([3]), given).contrast, np.asarray(expected)[[3]])


def test_a_function_and_a_traced_table_are_accepted(toy, toy_images):
    view, targets = toy.view(toy.params, toy_images[0]), jnp.asarray([4, 1])
    query = ask(view, targets, lambda logits, targets: (targets[:, None] + 1) % 5)
    assert query.contrast.tolist() == [[0], [2]]
    assert choose_contrast(lambda logits, targets: targets[:, None], 5).table is None
    traced = jax.jit(lambda rows: ask(view, targets, rows).contrast)(TABLE)
    np.testing.assert_array_equal(traced, TABLE[[4, 1]])


@pytest.mark.parametrize("given", [5, 0.5, [1, 2], [], object(), {}])
def test_what_is_no_contrast_is_refused(given):
    with pytest.raises(
        CaseJaxError, match=r'contrast: got .*; accepted: a name such as "topk_logits:5", a table of shape'
    ):
        choose_contrast(given, 5)


def never_count():
    raise AssertionError("counted although the size is impossible")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("confusions:5", r"unknown\. Did you mean 'confusion'"),
        ("confusion", "write for example confusion:5"),
        ("topk_logits:x", "write for example topk_logits:5"),
        ("confusion:3", "k: got 3"),
        ("random:0", "k: got 0"),
        ("explicit:no-such-file.json", "cannot read 'no-such-file.json'"),
    ],
)
def test_names_that_do_not_fit_are_refused(name, message):
    with pytest.raises(CaseJaxError, match=message):
        choose_contrast(name, 3, confusions=never_count)


def test_confusion_without_data_is_refused():
    with pytest.raises(CaseJaxError, match="needs labelled images"):
        choose_contrast("confusion:1", 3)


@pytest.mark.parametrize("content", ["{}", "[]", "[1, 2, 3]", "not json"])
def test_explicit_files_of_another_form_are_refused(tmp_path, content):
    file = tmp_path / "sets.json"
    file.write_text(content)
    with pytest.raises(CaseJaxError, match=r"give (explicit:FILE\.json with )?one list of class indices per class"):
        choose_contrast(f"explicit:{file}", 3)


@pytest.mark.parametrize("head", ["closed form", "pullback"])
@pytest.mark.parametrize("scale", [1.0, 5.0, 15.0])
def test_softmax_contrast_does_not_cancel_when_the_model_is_certain(toy, toy_images, head, scale):
    # in double precision the definition itself is exact enough: 1 − p goes down to 1e-24
    certain = jax.tree.map(lambda a: a, toy.params) | {"head": toy.params["head"] * scale}
    model = toy if head == "closed form" else dataclasses.replace(toy, head_kernel=None)
    view = model.view(certain, toy_images[0])
    every = jnp.arange(5)
    found = np.asarray(operators.softmax(view, every), np.float64)
    alpha = np.asarray(view.class_weights(every), np.float64)
    logits = np.asarray(view.logits, np.float64)
    p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    differences = alpha[:, None, :] - alpha[None, :, :]
    expected = np.einsum("j,cjk->ck", p, differences)
    for c in range(5):
        np.testing.assert_allclose(found[c], expected[c], rtol=2e-4, atol=2e-4 * np.abs(expected[c]).max())


@pytest.mark.parametrize("targets", [3, [[1, 2]], [1.0, 2.0], [], [0, 5], [-1]])
def test_targets_that_the_model_does_not_have_are_refused(toy, toy_images, targets):
    with pytest.raises(CaseJaxError, match=r"^targets: got"):
        ask(toy.view(toy.params, toy_images[0]), jnp.asarray(targets))


def test_known_targets_are_checked_inside_a_trace_too(toy, toy_images):
    maps = jax.jit(
        lambda x, wrong: grad_cam(view := toy.view(toy.params, x), ask(view, np.array([1, wrong]))), static_argnums=1
    )
    assert maps(toy_images[0], 2).shape[0] == 2
    with pytest.raises(CaseJaxError, match=r"^targets: got \[9\]"):
        maps(toy_images[0], 9)


@pytest.mark.parametrize("route", ["view", "view_all"])
@pytest.mark.parametrize("head", [True, False])
def test_inside_a_trace_an_unknown_target_has_no_map_instead_of_another_class_s(toy, toy_images, route, head):
    model = toy if head else dataclasses.replace(toy, head_kernel=None)
    maps = jax.jit(lambda t: grad_cam((view := getattr(model, route)(toy.params, toy_images[0])), ask(view, t)))
    found = maps(jnp.asarray([1, 47]))
    assert np.isfinite(found[0]).all()
    assert is_degenerate(found).tolist() == [False, True]


def test_classes_without_images_have_no_made_up_contrasts():
    counts = np.diag([5, 5, 0])
    probabilities = np.asarray([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.0, 0.0, 0.0]])
    with pytest.raises(CaseJaxError, match=r"confusion: 1 of 3 classes \(the first: 2\) have no images"):
        confusion_sets(counts, 1, mean_probabilities=probabilities)


@pytest.mark.parametrize("sets", [explicit([[1], [0]], 2), topk_logits(1, 7)])
def test_sets_for_another_number_of_classes_are_refused(toy, toy_images, sets):
    with pytest.raises(
        CaseJaxError, match=r"contrast: got sets for [27] classes; accepted: sets for the model's 5 classes"
    ):
        ask(toy.view(toy.params, toy_images[0]), jnp.arange(2), sets)

"""Why a map shows nothing: a code in the rows, words on pages and in figures; each reason by a network made to have it."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from studies import evaluation

from case_jax import METHODS, grad_cam, tag, tap_function
from case_jax.evaluation import Pixels, run
from case_jax.evaluation.explain import explain_images
from case_jax.evaluation.maps import Question, maps_and_reasons
from case_jax.evaluation.why import Why
from case_jax.reasons import Reason
from case_jax.report import explanation
from case_jax.report.evaluate import _degenerate
from case_jax.report.loading import Method
from case_jax.results import RunFolder
from case_jax.source import Example

HALF = Pixels((0.5,) * 3, (0.5,) * 3)
CLASSES = ("own", "against", "saturated", "severed")


def constant(view, query):
    return jnp.ones((len(query.targets), 4, 4))


METHODS_ASKED = {
    "grad_cam": grad_cam,
    "saliency": METHODS["saliency"].maps,
    "guided_backprop": METHODS["guided_backprop"].maps,
    "constant": constant,
    "broken": lambda view, query: jnp.full((len(query.targets), 4, 4), jnp.nan),
}
EXPECTED = {
    "grad_cam": [Reason.NONE, Reason.NOT_POSITIVE, Reason.NO_GRADIENT, Reason.NO_PATH, Reason.NO_CLASS],
    "saliency": [Reason.NONE, Reason.NONE, Reason.NO_GRADIENT, Reason.NONE, Reason.NO_CLASS],
    "guided_backprop": [*[Reason.NO_RELU] * 4, Reason.NO_CLASS],
    "constant": [*[Reason.CONSTANT] * 4, Reason.NO_CLASS],
    "broken": [*[Reason.NOT_FINITE] * 4, Reason.NO_CLASS],
}


class Blots:
    """Two images of noise."""

    name, class_names, fingerprint, truths = "blots", CLASSES, "v1", ()

    def __len__(self):
        return 2

    def __getitem__(self, index):
        image = np.random.default_rng(index).integers(1, 255, (8, 8, 3)).astype(np.uint8)
        return Example(index, f"blot {index}", image, 0)


@pytest.fixture(scope="module")
def model():
    """Class 0 grows with the layer, 1 falls; 2 is the top of a clipped logit; 3 depends on the image alone."""

    def function(params, x):
        a = tag(params * jnp.exp(x[::2, ::2]), "a")
        total = a.mean()
        return jnp.stack([9 + total, -total, jnp.minimum(5 + total, 5.0), jax.nn.sigmoid(x[0]).mean()])

    return tap_function(function, jnp.ones(3), "a", jnp.zeros((8, 8, 3)))


def test_each_reason_has_its_code(model):
    question, why = Question(METHODS_ASKED, None, HALF), Why(model, METHODS_ASKED, HALF)
    example, targets = Blots()[0], np.array([0, 1, 2, 3, 4])

    @jax.jit
    def asked(params, image):
        view = model.view(params, (image / 255 - 0.5) / 0.5)
        return maps_and_reasons(question, view, jnp.asarray(targets), jax.random.key(0))[1:]

    degenerate, told = asked(model.params, jnp.asarray(example.image, jnp.float32))
    found = why(example.image, targets, np.asarray(told))
    np.testing.assert_array_equal(found, np.array(list(EXPECTED.values())))
    np.testing.assert_array_equal(np.asarray(degenerate), found != Reason.NONE)


def test_rows_pages_and_figures_say_why(model, tmp_path):
    methods = {name: METHODS_ASKED[name] for name in ("grad_cam", "guided_backprop")}
    job = evaluation(Blots(), model, "topk_logits:2", pixels=HALF, methods=methods, metrics=("sensitivity",), tile=2)
    rows = run(job, RunFolder(tmp_path / "run"), progress=False).rows().set_index("method")
    assert (rows.loc["grad_cam", ["top1", "top2"]] == [0, 2]).all(axis=None)
    assert (rows.loc["grad_cam", ["reason_1", "reason_2"]] == [0, Reason.NO_GRADIENT]).all(axis=None)
    assert (rows.loc["guided_backprop", ["reason_1", "reason_2"]] == Reason.NO_RELU).all(axis=None)

    numbers = {"grad_cam": {"degenerate": 2}, "guided_backprop": {"degenerate": 2}}
    known = [Method(name, METHODS[name].title, False, False, {}) for name in methods]
    counts = _degenerate(numbers, pd.DataFrame(rows.reset_index()), known)
    assert counts["maps of Grad-CAM: gradient zero (saturated)"] == 2
    assert counts["maps of guided backprop: no ReLU in the network"] == 4

    contrast = job.contrast.sets
    found = next(explain_images([Blots()[0]], model, methods, contrast=lambda: contrast, pixels=HALF, top=2))
    texts = [t.get_text() for panel in explanation.grid(found, list(methods), CLASSES).axes for t in panel.texts]
    assert texts == ["degenerate:\n" + reason.words for reason in (Reason.NO_RELU, Reason.NO_GRADIENT, Reason.NO_RELU)]

"""Controls of contrast: what they are, and that every evaluation has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from studies import evaluation

import case_jax as cj
from case_jax import CaseJaxError, ask, finer_cam, topk_logits
from case_jax.contrast import choose_contrast
from case_jax.data import DigitScenes
from case_jax.evaluation import Evaluate, Pixels, Subject, run
from case_jax.evaluation.default_methods import default_methods, untrained_of, with_untrained
from case_jax.front.evaluating import _methods
from case_jax.methods import METHODS, UNTRAINED, described, exchanged, noise_contrast, untrained_contrast, usual
from case_jax.models.initial import drawn_params, initial_params
from case_jax.results import RunFolder

CONTRAST = topk_logits(2, 5)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def model():
    return cj.load("digit_resnet")


def asked(toy, image, targets):
    view = toy.view(toy.params, image)
    return view, ask(view, jnp.asarray(targets), CONTRAST, key=KEY)


def test_exchanged_maps_are_finer_cam_s_of_the_other_class(toy, toy_images):
    view, query = asked(toy, toy_images[0], [3, 0, 1])
    np.testing.assert_array_equal(exchanged(view, query), finer_cam(view, query)[jnp.asarray([1, 0, 2])])


def test_a_contrast_of_noise_shares_no_pixel_and_depends_on_key_and_classes(toy, toy_images):
    view, query = asked(toy, toy_images[0], [3, 0, 1])
    first, second, third = noise_contrast(view, query)
    assert not bool(((first > 0) & (second > 0)).any())
    assert float(first.max()) > 0
    assert float(second.max()) > 0
    back = noise_contrast(view, query._replace(targets=jnp.asarray([0, 3, 1])))
    np.testing.assert_array_equal(back[:2], jnp.stack([second, first]))
    assert not np.allclose(third, back[2])  # whose rival is the first
    other = noise_contrast(view, query._replace(key=jax.random.key(1)))
    assert not np.allclose(first, other[0])


@pytest.mark.parametrize("control", [exchanged, noise_contrast])
def test_a_single_class_has_no_rival(toy, toy_images, control):
    with pytest.raises(CaseJaxError, match=r"targets: got 1 for the control .* at least two"):
        control(*asked(toy, toy_images[0], [3]))


def test_noise_needs_a_key(toy, toy_images):
    view, query = asked(toy, toy_images[0], [3, 0])
    with pytest.raises(CaseJaxError, match=r"key: noise_contrast .* key=jax\.random\.key\(0\)"):
        noise_contrast(view, query._replace(key=None))


def test_the_untrained_control_is_finer_cam_of_the_other_parameters(toy, toy_images):
    other = jax.tree.map(lambda p: p[..., ::-1] + 0.1, toy.params)
    view, query = asked(toy, toy_images[0], [3, 0])
    control = untrained_contrast(toy, other, seed=4)
    found = jax.jit(lambda control, view: control(view, query))(control, view)
    np.testing.assert_allclose(found, finer_cam(toy.view(other, toy_images[0]), query), atol=1e-6)
    known = described(UNTRAINED, control)
    assert (known.control, known.contrastive, known.mask) == (True, True, False)
    assert "seed 4" in control.digest
    assert control.digest != untrained_contrast(toy, toy.params, seed=4).digest
    with pytest.raises(CaseJaxError, match="untrained: "):
        untrained_contrast(toy, {"other": jnp.ones(3)})


def test_a_loaded_model_has_the_parameters_that_its_sanity_checks_start_from(model, classifier, toy):
    own, drawn = untrained_of(model, seed=3), initial_params(classifier, seed=3)
    for a, b in zip(jax.tree.leaves(own.model.params), jax.tree.leaves(drawn), strict=True):
        np.testing.assert_array_equal(a, b)
    assert own.digest != untrained_of(model, seed=0).digest
    assert untrained_of(toy, seed=0) is None
    with pytest.raises(CaseJaxError, match=r"^methods: got untrained_contrast; accepted: other methods"):
        with_untrained({}, toy, named=True, seed=0)
    with pytest.warns(match="untrained_contrast is left out"):
        assert with_untrained({}, toy, named=False, seed=0) == {}


def test_controls_run_unnamed_and_a_model_without_a_beginning_says_that_it_has_none(model, toy):
    pairs = {name for name, entry in METHODS.items() if entry.pair}
    assert pairs == {"exchanged", "noise_contrast"}
    assert not pairs & set(usual())
    assert all(METHODS[name].control for name in pairs)
    assert _methods(None, model, 0) is None  # the study decides
    assert list(default_methods(model, scored=True, seed=0)) == [*usual(pair=True), UNTRAINED]
    assert tuple(default_methods(model, scored=False, seed=0)) == usual()
    assert list(_methods(["case", UNTRAINED], model, 0)) == ["case", UNTRAINED]
    assert _methods(["case"], model, 0) == ["case"]
    with pytest.warns(UserWarning, match="untrained_contrast is left out"):
        assert list(default_methods(toy, scored=True, seed=0)) == [*usual(pair=True)]
    with pytest.raises(CaseJaxError, match="methods: got untrained_contrast; accepted: other methods"):
        _methods([UNTRAINED], toy, 0)


def test_a_study_that_scores_pairs_runs_all_controls_where_no_methods_are_named(model):
    """One rule for the command, the front door and `prepare`; other studies run what is usual."""
    facts = model.preprocessing
    subject = Subject(DigitScenes("test", 2), model, CONTRAST, Pixels(facts.mean, facts.std))
    assert list(subject.of_study(scored=Evaluate.scored).functions) == [*usual(pair=True), UNTRAINED]
    assert tuple(subject.of_study(scored=False).functions) == usual()
    assert subject._replace(methods=["case"]).of_study(scored=True).methods == ["case"]


def test_rows_of_a_run_with_controls(model, tmp_path):
    facts = model.preprocessing
    settings = {"pixels": Pixels(facts.mean, facts.std), "tile": 4, "part": 4, "limit": 4}
    settings["metrics"] = ["sensitivity", "specificity"]
    contrast = choose_contrast("topk_logits:5", model.num_classes)

    def planned(seed):
        methods = {name: METHODS[name].maps for name in ("finer_cam", "exchanged", "noise_contrast")}
        methods[UNTRAINED] = untrained_contrast(model, drawn_params(cj.models.MODELS["digit_resnet"], 25), seed=seed)
        return evaluation(DigitScenes("test", 4), model, contrast, methods=methods, **settings)

    folder = run(planned(0), RunFolder(tmp_path), progress=False)
    rows = folder.rows().set_index(["method", "image_id"])
    finer, other = rows.loc["finer_cam"], rows.loc["exchanged"]
    np.testing.assert_array_equal(finer["F"], other["F"])
    for column in ("specificity", "specificity_2", "specificity_20"):
        np.testing.assert_array_equal(finer[column], -other[column])
    np.testing.assert_array_equal(finer["specificity_oracle"], rows.loc[UNTRAINED]["specificity_oracle"])
    assert finer["specificity"].mean() > 5
    assert abs(rows.loc[UNTRAINED]["specificity"].mean()) < 3
    facts = folder.config()["methods"]
    assert [facts[name]["control"] for name in facts] == [False, True, True, True]
    assert "seed 0" in facts[UNTRAINED]["source"]
    with pytest.raises(CaseJaxError, match="source"):
        run(planned(1), RunFolder(tmp_path), progress=False)

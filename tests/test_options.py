"""Options of methods and metrics as the shell gives them."""

import pytest

from case_jax import METHODS, CaseJaxError
from case_jax.cli.options import keywords, options_of, with_options


def example(view, query, *, masks=4000, keep=0.5, flag=False, percents=(20, 40), align="corners", batch=None):
    """Nothing but options."""
    return masks, keep, flag, percents, align, batch


KNOWN = {"example": example, "case": METHODS["case"].maps}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("masks=500", 500),
        ("keep=1", 1.0),
        ("keep=0.25", 0.25),
        ("flag=true", True),
        ("flag=False", False),
        ("percents=5,10", (5, 10)),
        ("percents=5", (5,)),
        ("align=half-pixel", "half-pixel"),
        ("batch=8", 8),
    ],
)
def test_a_value_has_the_type_of_the_default(text, value):
    option = text.partition("=")[0]
    found = options_of([f"example.{text}"], KNOWN)["example"][option]
    assert (found, type(found)) == (value, type(value))
    assert value in with_options(KNOWN, {"example": {option: value}})["example"](None, None)


def test_options_of_several_are_kept_apart():
    found = options_of(["example.masks=5", "case.eps_relative=true", "example.keep=0.1"], KNOWN)
    assert found == {"example": {"masks": 5, "keep": 0.1}, "case": {"eps_relative": True}}
    assert options_of([], KNOWN) == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["example"], r"set: got 'example'; accepted: NAME\.OPTION=VALUE"),
        (["example.masks"], "accepted: NAME"),
        (["=3"], "accepted: NAME"),
        (["exmaple.masks=3"], "set: 'exmaple' is unknown. Did you mean 'example'"),
        (["example.maks=3"], "set, option of example: 'maks' is unknown. Did you mean 'masks'"),
        (["example.query=3"], "option of example: 'query' is unknown"),
        (["example.masks=many"], "set: got 'example.masks=many'; accepted: a whole number, as its default 4000"),
        (["example.masks=0.5"], "accepted: a whole number"),
        (["example.masks=true"], "accepted: a whole number"),
        (["example.flag=1"], "accepted: true or false"),
        (["example.percents=a,b"], "accepted: numbers separated by commas"),
        (["example.masks=1", "example.masks=2"], "example.masks is given twice"),
    ],
)
def test_what_cannot_be_set_is_refused(words, message):
    with pytest.raises(CaseJaxError, match=message):
        options_of(words, KNOWN)


@pytest.mark.parametrize("name", METHODS)
def test_every_option_of_every_method_has_a_default(name):
    for option, parameter in keywords(METHODS[name].maps).items():
        assert parameter.default is None or isinstance(parameter.default, bool | int | float | str | tuple), option


@pytest.mark.parametrize(
    ("word", "accepted"),
    [
        ("rise.batch=x", "a whole number"),
        ("rise.batch=1.5", "a whole number"),
        ("occlusion.window=5.5", "a whole number or numbers separated by commas"),
        ("occlusion.window=1,2.5", "a whole number or numbers separated by commas"),
        ("extremal_perturbation.spacing=1.5", "a whole number"),
        ("extremal_perturbation.sigma=wide", "a number"),
    ],
)
def test_values_of_options_without_a_default_have_the_annotated_type(word, accepted):
    with pytest.raises(CaseJaxError, match=rf"set: got '{word}'; accepted: {accepted}\."):
        options_of([word], {name: entry.maps for name, entry in METHODS.items()})


def test_options_without_a_default_take_what_is_annotated():
    words = ["rise.batch=3", "occlusion.window=4,6", "occlusion.stride=2", "extremal_perturbation.sigma=3"]
    found = options_of(words, {name: entry.maps for name, entry in METHODS.items()})
    assert found["rise"] == {"batch": 3}
    assert found["occlusion"] == {"window": (4, 6), "stride": 2}
    assert found["extremal_perturbation"] == {"sigma": 3}

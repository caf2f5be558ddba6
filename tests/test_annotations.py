"""The hook that checks annotations, without which a wrong one stays unseen."""

import importlib

import annotations
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from case_jax import CaseJaxError
from case_jax.metrics import area_under, coherency, completeness

pytestmark = pytest.mark.skipif(not annotations.ON, reason="needs beartype")


@pytest.mark.parametrize("name", annotations.CHECKED)
def test_every_file_that_should_be_is_checked(name):
    values = vars(importlib.import_module(f"case_jax.{name}")).values()
    functions = [*values, *(method for value in values if isinstance(value, type) for method in vars(value).values())]
    assert any(hasattr(function, "__wrapped__") for function in functions)


def test_a_wrong_shape_and_a_wrong_type_are_refused():
    with pytest.raises(TypeCheckError, match=r"area_under[\s\S]*f32\[3,3\]"):
        area_under(jnp.ones((3, 3)))
    with pytest.raises(TypeCheckError, match="area_under"):
        area_under(jnp.ones(3, int))
    assert area_under(np.ones(3, np.float32)) == area_under(jnp.ones(3)) == 1


def test_axes_of_one_name_have_one_size_while_a_program_is_traced():
    shown, probability = jax.ShapeDtypeStruct((4, 3), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.float32)
    assert jax.eval_shape(jax.vmap(completeness), shown, shown).shape == (4, 3)
    with pytest.raises(TypeCheckError, match="completeness"):
        jax.eval_shape(jax.vmap(completeness), shown, probability)


def test_errors_of_our_own_come_first():
    with pytest.raises(CaseJaxError, match="shapes"):
        coherency(jnp.ones((3, 3)), jnp.ones((4, 4)))

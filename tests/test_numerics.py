"""Numbers that JAX gets wrong: found, refused by every command that computes, and not looked for again where there are none."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from case_jax import canaries, cli, parallel
from case_jax._checks import CaseJaxError
from case_jax.canaries import CANARIES, Canary, errors, wrong
from case_jax.cli import numerics
from case_jax.cli.numerics import FLAG, avoid_wrong_fusions, require_right_numbers

ONE = CANARIES[5]
"""Quick to compile."""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and one expression that is compared."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(canaries, "CANARIES", (ONE,))
    return tmp_path / "case_jax"


@pytest.fixture
def compiled(monkeypatch):
    """Programs as they are compiled; each result times `factor`, as a broken compiler might give it."""
    compile_, programs = parallel.on_one_device, []

    def on_one_device(function, factor):
        programs.append(function)
        return lambda *args: jax.tree.map(lambda a: a * np.float32(factor), compile_(function)(*args))

    def broken(factor):
        monkeypatch.setattr(canaries.parallel, "on_one_device", lambda function: on_one_device(function, factor))
        return programs

    return broken


@pytest.mark.parametrize("canary", CANARIES, ids=lambda c: c.words)
def test_an_expression_agrees_with_numpy_op_by_op(canary, monkeypatch):
    """Both sides say the same; what a compiler makes of it is another question."""
    monkeypatch.setattr(parallel, "on_one_device", lambda function: function)
    monkeypatch.setattr(canaries, "CANARIES", (canary,))
    assert wrong(errors()) == {}


def test_a_wrong_number_is_found_wherever_it_is(monkeypatch):
    def of_two(x):
        return x + 1, x.at[3].add(0.01)

    pair = Canary("two results", ((8,),), of_two, lambda x: (x + 1, x))
    nan = Canary("a result that is none", ((8,),), lambda x: x.at[0].set(jnp.nan), lambda x: x)
    monkeypatch.setattr(canaries, "CANARIES", (ONE, pair, nan))
    found = wrong(errors())
    assert list(found) == ["two results", "a result that is none"]
    assert 1e-3 < found["two results"] < 0.1
    assert np.isnan(found["a result that is none"])


def test_a_wrong_value_is_refused_and_what_helps_is_named(cache, compiled):
    compiled(1.001)
    with pytest.raises(CaseJaxError) as refused:
        require_right_numbers()
    words = str(refused.value)
    assert f"jax {jax.__version__}" in words
    assert (
        f"1 of 1 small expressions are not what NumPy gives; {ONE.words} is off by 0.001 of its largest value" in words
    )
    assert f"Set XLA_FLAGS={FLAG} in the environment" in words
    assert "0.10.0 and 0.10.1 are right" in words
    assert not cache.exists()  # what is wrong is asked again


def test_flags_that_are_set_are_kept_in_the_advice(cache, compiled, monkeypatch):
    compiled(2.0)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    with pytest.raises(CaseJaxError, match=f"XLA_FLAGS='--xla_force_host_platform_device_count=2 {FLAG}'"):
        require_right_numbers()
    monkeypatch.setenv("XLA_FLAGS", FLAG)
    with pytest.raises(CaseJaxError, match=f"XLA_FLAGS='{FLAG}' does not help"):
        require_right_numbers()
    compiled(float("nan"))
    with pytest.raises(CaseJaxError, match=f"{ONE.words} is not a number"):
        require_right_numbers()
    monkeypatch.setattr(parallel, "device_names", lambda: ["gpu:NVIDIA H200"])
    with pytest.raises(CaseJaxError, match=r"on this machine \(gpu:NVIDIA H200\)") as refused:
        require_right_numbers()
    assert FLAG not in str(refused.value)  # a flag of CPUs


def test_what_is_right_is_not_asked_twice_but_for_another_version(cache, compiled, monkeypatch):
    programs = compiled(1.0)
    for _ in range(2):
        require_right_numbers()
    assert len(programs) == 1
    (file,) = cache.iterdir()
    assert json.loads(file.read_text())["jax"] == jax.__version__
    monkeypatch.setattr(jax, "__version__", "99.0.0")
    require_right_numbers()
    assert len(programs) == 2
    assert len(list(cache.iterdir())) == 2
    compiled(2.0)  # remembered, so nothing is computed
    require_right_numbers()


@pytest.mark.parametrize("changed", ["jaxlib", "device", "processor", "xla_flags", "expressions"])
def test_right_numbers_are_those_of_one_machine(cache, compiled, monkeypatch, changed):
    programs, facts = compiled(1.0), numerics.circumstances()
    require_right_numbers()
    monkeypatch.setattr(numerics, "circumstances", lambda: facts | {changed: "another"})
    require_right_numbers()
    assert len(programs) == 2


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]", b'{"jax": "1"}'])
def test_a_damaged_memory_is_found_out_anew(cache, compiled, damage):
    programs = compiled(1.0)
    require_right_numbers()
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage)
    require_right_numbers()
    assert len(programs) == 2
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_no_error(cache, compiled):
    cache.write_text("a file where the folder should be")
    programs = compiled(1.0)
    for _ in range(2):
        require_right_numbers()
    assert len(programs) == 2


@pytest.mark.parametrize(
    ("version", "before", "after"),
    [
        ((0, 10, 1), "", ""),
        ((0, 10, 2), "", FLAG),
        ((0, 12, 0, 1), "--xla_a=1", f"--xla_a=1 {FLAG}"),
        ((0, 12, 0), f"{FLAG}reduce", f"{FLAG}reduce"),  # the user knows better, or finds out
        ((0, 12, 1), "", ""),
    ],
)
def test_versions_that_are_known_to_need_the_flag_get_it(monkeypatch, version, before, after):
    monkeypatch.setattr(jax, "__version_info__", version)
    monkeypatch.setenv("XLA_FLAGS", before)
    avoid_wrong_fusions()
    assert os.environ["XLA_FLAGS"] == after


COMPUTING = [
    ("evaluate",), ("pairs",), ("grid-pointing",), ("localise",), ("sanity",), ("explain", "digit_scenes:1"),
    ("train", "masker"), ("train", "classifier"), ("train", "infiller"),
]  # fmt: skip


@pytest.mark.parametrize("words", COMPUTING, ids=" ".join)
def test_a_command_that_computes_refuses_before_it_does_anything(shell, words, tmp_path, monkeypatch):
    monkeypatch.setattr(numerics, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(cli, "avoid_wrong_fusions", lambda: None)
    monkeypatch.setattr(canaries, "errors", lambda: {"1 + 1": 0.5})
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    status, out, err = shell(*words)
    assert (status, out) == (2, "")
    assert err.startswith("case-jax: error: numerics: ")
    assert f"XLA_FLAGS={FLAG}" in err
    assert [path for path in tmp_path.iterdir() if path.name != "cache"] == []  # matplotlib keeps its fonts there


@pytest.mark.parametrize(
    "words",
    [("list", "methods"), ("report", "nowhere"), ("prepare", "cifar100", "--tar", "no.tar"), ("evaluate", "--help")],
)
def test_a_command_that_computes_nothing_does_not_ask(shell, words, monkeypatch):
    monkeypatch.setattr(canaries, "errors", lambda: pytest.fail("asked"))
    assert "numerics" not in shell(*words)[2]

"""Steps on devices: two ways there and the same bits, one compilation, and no gathering of what one device has."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import COMMANDS, cpu_environment, on_devices

from case_jax import CaseJaxError, parallel
from case_jax.parallel import MAPPERS

EIGHT = """
import sys
import jax, jax.numpy as jnp, numpy as np
from case_jax import parallel
from case_jax.parallel.grid import Grid

rng = np.random.default_rng(0)
x = rng.normal(size=(8, 5, 4)).astype(np.float32)
weights, table = (rng.normal(size=(4, n)).astype(np.float32) for n in (3, 6))

def trained(state, x, number):
    gradient = jax.grad(lambda w: jnp.tanh(x @ w).sum() * (number + parallel.device_index()))(state["w"])
    gradient, loss = parallel.average((gradient, (x @ state["w"]).mean()))
    return {"w": state["w"] - 0.1 * gradient, "steps": state["steps"] + 1}, loss

def counted(state, params, batch, *, share):
    size = 6 // share.of
    own = jax.lax.dynamic_slice_in_dim(jnp.tanh(batch @ params), share.index * size, size, 1)
    whole = share.gather(own, 1)
    return state + whole.sum(0), whole.max()

found = {}
for mapper in parallel.MAPPERS:
    with parallel.mapped_by(mapper):
        step = parallel.over_devices(trained, donate=True)
    state = parallel.replicate({"w": weights, "steps": np.int32(0)})
    for number in range(3):
        given = state
        state, loss = step(given, parallel.shard(x), parallel.shard(np.full(8, number, np.float32)))
        assert given["w"].is_deleted(), "the first argument's memory is reused"
    found[f"{mapper} w"], found[f"{mapper} loss"] = np.asarray(state["w"]), np.asarray(loss)
    assert parallel.first_of(state)["steps"] == 3
    for columns in (1, 2):
        with parallel.mapped_by(mapper):
            grid = Grid(columns)
            step = grid.step(counted)
        state, params = grid.zeros(jax.ShapeDtypeStruct((6,), jnp.float32)), grid.replicate(table)
        state, _ = step(state, params, grid.shard(x[: grid.rows]))
        found[f"{mapper} sums {columns}"] = np.stack([a for _, a in grid.by_device(state)])
np.savez(sys.argv[1], **found)
"""


def test_both_mappers_give_the_same_bits_on_eight_devices(tmp_path):
    """Averages, the device's number, donated memory, and tables of devices with one column and two."""
    environment = on_devices(cpu_environment(tmp_path / "xla"), 8)
    subprocess.run([sys.executable, "-c", EIGHT, tmp_path / "found.npz"], env=environment, timeout=120, check=True)
    with np.load(tmp_path / "found.npz") as found:
        for name in ("w", "loss", "sums 1", "sums 2"):
            np.testing.assert_array_equal(found[f"pmap {name}"], found[f"shard_map {name}"])
        assert (found["pmap w"] == found["pmap w"][0]).all()  # averaged: the same everywhere
        assert len(found["pmap loss"]) == len(found["pmap sums 1"]) == 8
        assert len(np.unique(found["pmap sums 1"], axis=0)) == 8  # each its own


def test_another_mapper_is_refused_by_name():
    with (
        pytest.raises(CaseJaxError, match=r"mapper: 'map' is unknown\. Did you mean 'pmap'"),
        parallel.mapped_by("map"),
    ):
        pass


@pytest.mark.parametrize("command", [c if c == "pairs" else pytest.param(c, marks=pytest.mark.slow) for c in COMMANDS])
def test_no_command_needs_pmap(shell, monkeypatch, command):
    monkeypatch.delattr(jax, "pmap")
    status, _, err = shell(*COMMANDS[command], "--mapper", "shard_map", "--out", "run")
    assert status == 0, err
    with pytest.raises(AttributeError, match="pmap"):
        shell(*COMMANDS[command], "--out", "other")


@pytest.fixture
def compiled():
    """How long each compilation took, while the test runs."""

    def note(event, seconds, **_):
        if "backend_compile" in event:
            found.append(seconds)

    found = []
    jax.monitoring.register_event_duration_secs_listener(note)
    yield found
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.mark.parametrize("mapper", MAPPERS)
def test_a_step_is_traced_and_compiled_once(compiled, mapper):
    traces = []

    def cubed(params, x):
        traces.append(parallel.compiling())
        return params * x**3

    with parallel.mapped_by(mapper):
        step = parallel.over_devices(cubed)
    params, x = np.float32(2), np.arange(5, dtype=np.float32)
    parallel.trace(step, params, x)
    assert not compiled
    given = parallel.replicate(params), parallel.replicate(x)
    for _ in range(3):
        np.testing.assert_array_equal(parallel.first_of(step(*given)), 2 * x**3)
    assert len(compiled) == 1
    assert traces == [False]
    assert not parallel.compiling()


@pytest.mark.parametrize("mapper", MAPPERS)
def test_a_step_can_be_looked_into_before_it_has_run(mapper):
    with parallel.mapped_by(mapper):
        step = parallel.over_devices(jnp.sin)
    assert "sin" in str(jax.make_jaxpr(step)(parallel.replicate(np.ones(3, np.float32))))


def test_a_step_that_does_not_compile_says_why_and_is_not_compiling_any_more():
    def refused(x):
        raise ValueError("no such layer")

    step = parallel.over_devices(refused)
    with pytest.raises(ValueError, match="no such layer"):
        step(parallel.replicate(np.ones(3, np.float32)))
    assert not parallel.compiling()

"""Weight files: every key accounted for, every kind of number, every kind of damage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file
from torch_files import mapping, plain, write_state

from case_jax import CaseJaxError
from case_jax.models import load_weights, save_weights
from case_jax.models.weights import abstract, flat_state, read_weight_file


class Small(nnx.Module):
    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.blocks = nnx.List([nnx.Linear(2, 3, rngs=rngs), nnx.Linear(3, 3, rngs=rngs)])
        self.bn = nnx.BatchNorm(3, rngs=rngs)


@pytest.fixture
def saved(tmp_path):
    """A weights file of a small module, and its arrays."""
    path = tmp_path / "small.safetensors"
    save_weights(path, Small(), metadata={"answer": 42, "names": ["a", "b"]})
    return path, load_file(path)


def test_saved_weights_come_back_exactly_with_their_metadata(saved):
    path, arrays = saved
    other = Small(seed=1)
    before = {name: np.asarray(v[...]) for name, v in flat_state(other).items()}
    assert load_weights(path, other) == {"answer": 42, "names": ["a", "b"]}
    assert (
        set(arrays)
        == set(before)
        == {f"blocks.{i}.{k}" for i in (0, 1) for k in ("kernel", "bias")}
        | {f"bn.{k}" for k in ("scale", "bias", "mean", "var")}
    )
    for name, value in flat_state(other).items():
        np.testing.assert_array_equal(value[...], arrays[name])
    assert (before["blocks.1.kernel"] != arrays["blocks.1.kernel"]).any()
    np.testing.assert_array_equal(other.blocks[1].kernel[...], arrays["blocks.1.kernel"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("bn.mean"), r"in the file only \(0\): –\n  in the model only \(1\): bn\.mean\n"),
        (lambda a: a.update(fc=np.zeros(2)), r"in the file only \(1\): fc\n  in the model only \(0\): –\n"),
        (lambda a: a.update({"bn.var": np.ones(4)}), r"other shape \(1\): bn\.var: file \(4,\), model \(3,\)"),
        (
            lambda a: a.update({"bn.moving_mean": a.pop("bn.mean")}),
            r"\(1\): bn\.moving_mean\n  in the model only \(1\): bn\.mean",
        ),
    ],
)
def test_weights_that_do_not_fit_exactly_are_refused_by_key(saved, change, message):
    path, arrays = saved
    change(arrays)
    save_file(arrays, path)
    untouched = Small(seed=1)
    before = {name: np.asarray(v[...]) for name, v in flat_state(untouched).items()}
    with pytest.raises(CaseJaxError, match=message):
        load_weights(path, untouched)
    for name, value in flat_state(untouched).items():
        np.testing.assert_array_equal(value[...], before[name])


def test_no_more_than_ten_keys_of_each_side_are_named(saved):
    path, arrays = saved
    save_file(arrays | {f"extra.{i:02d}": np.zeros(1) for i in range(30)}, path)
    with pytest.raises(CaseJaxError, match=r"in the file only \(30\): extra\.00, .*extra\.09\n"):
        load_weights(path, Small())


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"\xff" * 64])
def test_damaged_files_are_refused(saved, damage):
    path, _ = saved
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CaseJaxError, match=r"weights: .* is not a readable safetensors file"):
        load_weights(path, Small())


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_numbers_of_sixteen_bits_become_float32(saved, dtype):
    path, arrays = saved
    save_file({name: a.astype(dtype) for name, a in arrays.items()}, path)
    module = Small(seed=1)
    load_weights(path, module)
    for name, value in flat_state(module).items():
        assert value[...].dtype == jnp.float32
        np.testing.assert_array_equal(value[...], arrays[name].astype(dtype).astype(np.float32))


def test_float64_is_kept_where_jax_has_it_and_refused_where_not(saved):
    path, arrays = saved
    doubles = {name: a.astype(np.float64) + 1e-12 for name, a in arrays.items()}
    save_file(doubles, path)
    with pytest.raises(CaseJaxError, match=r"float64 numbers in .*convert the file to float32, or set jax_enable_x64"):
        load_weights(path, Small())
    with jax.enable_x64(True):
        module = Small(seed=1)
        load_weights(path, module)
        for name, value in flat_state(module).items():
            np.testing.assert_array_equal(value[...], doubles[name])


@pytest.mark.parametrize("bad", [np.nan, np.inf, np.array([1, 2, 3])])
def test_values_that_are_no_finite_numbers_are_refused_by_key(saved, bad):
    path, arrays = saved
    save_file(arrays | {"bn.mean": bad if np.ndim(bad) else np.full(3, bad, np.float32)}, path)
    module = Small(seed=1)
    before = {name: np.asarray(v[...]) for name, v in flat_state(module).items()}
    with pytest.raises(CaseJaxError, match=r"no finite floating-point numbers in bn\.mean\."):
        load_weights(path, module)
    for name, value in flat_state(module).items():
        np.testing.assert_array_equal(value[...], before[name])


def test_numbers_of_eight_bits_are_refused(saved):
    path, arrays = saved
    save_file(arrays | {"bn.mean": np.zeros(3, jnp.float8_e4m3fn)}, path)
    with pytest.raises(CaseJaxError, match=r"bn\.mean \(F8_E4M3\)"):
        load_weights(path, Small())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_prefixes_of_wrapped_modules_are_taken_off(saved, prefix):
    path, arrays = saved
    save_file({prefix + name: a for name, a in arrays.items()}, path)
    module = Small(seed=1)
    load_weights(path, module)
    np.testing.assert_array_equal(module.blocks[1].kernel[...], arrays["blocks.1.kernel"])
    save_file({(prefix if name.startswith("bn") else "") + name: a for name, a in arrays.items()}, path)
    with pytest.raises(CaseJaxError, match="does not fit"):
        load_weights(path, Small())


def test_an_empty_array_and_a_scalar_are_read(tmp_path):
    arrays = {"none": np.zeros((0, 3), np.float32), "one": np.array(7, np.int64), "some": np.arange(3.0)}
    save_file(arrays, tmp_path / "x.safetensors")
    file = read_weight_file(tmp_path / "x.safetensors")
    assert file.shapes == {"none": (0, 3), "one": (), "some": (3,)}
    for name, array in arrays.items():
        np.testing.assert_array_equal(file.read(name), array)


def test_a_folder_names_the_files_inside(saved):
    path, _ = saved
    with pytest.raises(CaseJaxError, match=r"is a folder; give the file itself \(small\.safetensors\)"):
        read_weight_file(path.parent)


def test_an_abstract_network_has_the_shapes_and_draws_nothing():
    built = abstract(lambda classes, *, rngs: nnx.Linear(3, classes, rngs=rngs), 4)
    state = flat_state(built)
    assert {name: v.shape for name, v in state.items()} == {"kernel": (3, 4), "bias": (4,)}
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(built)))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: mapping(state_dict=state, epoch=plain(3)),
        lambda state: mapping(model=state, optimizer=plain({})),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoints_of_pytorch_are_unwrapped(saved, tmp_path, wrap, prefix):
    _, arrays = saved
    kept = {prefix + name: a.astype(jnp.bfloat16) if a.ndim == 2 else a for name, a in arrays.items()}
    module = Small(seed=1)
    load_weights(write_state(tmp_path / "x.pth", kept, wrap), module)
    kernel = arrays["blocks.1.kernel"].astype(jnp.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(module.blocks[1].kernel[...], kernel)
    np.testing.assert_array_equal(module.bn.var[...], arrays["bn.var"])


def test_a_checkpoint_of_another_network_is_refused_by_key(saved, tmp_path):
    _, arrays = saved
    with pytest.raises(CaseJaxError, match=r"in the file only \(1\): fc\n  in the model only \(1\): bn\.mean"):
        load_weights(
            write_state(tmp_path / "x.pth", {"fc" if k == "bn.mean" else k: a for k, a in arrays.items()}), Small()
        )

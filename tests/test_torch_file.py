"""Files of torch.save without PyTorch: its own files, hand-made wrong ones, and ten thousand damaged ones."""

import os
import pickle
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from torch_files import call, mapping, named, plain, storage, tensor, whole, write_legacy, write_zip

from case_jax import CaseJaxError
from case_jax.models.torch_file import open_torch_file

GOLDENS = Path(__file__).parent / "goldens"
REAL = ("torch_zip", "torch_legacy", "torch_zip_protocol_4")
SIX = np.arange(6, dtype="<f4")
GOOD = tensor(storage("0", 6), (2, 3), (3, 1))


@pytest.mark.parametrize("name", REAL)
def test_pytorch_s_own_files_hold_its_own_numbers(golden, name):
    """Transposed and permuted strides, shared storages, offsets, expansion, 16 bits, parameters, integers, scalars, no numbers at all."""
    file, stored = open_torch_file(GOLDENS / f"{name}.pth"), golden("torch_files")
    assert list(file.arrays) == list(stored)
    for key, array in stored.items():
        found = file.read(key)
        assert file.shapes[key] == found.shape == array.shape
        assert found.dtype.name == ("bfloat16" if key == "bfloat16" else array.dtype.name)
        np.testing.assert_array_equal(found.astype(array.dtype), array)
    shared = [file.arrays[f"shared.{which}"].storage for which in ("first", "every_third")]
    assert shared[0] == shared[1]


def both(folder, operations, storages):
    """The same content in both formats."""
    return write_zip(folder / "zip.pth", operations, storages), write_legacy(
        folder / "legacy.pth", operations, storages
    )


def assert_refused(folder, operations, *words, storages=None):
    for path in both(folder, operations, {"0": SIX.tobytes()} if storages is None else storages):
        with pytest.raises(CaseJaxError) as caught:
            open_torch_file(path)
        for word in (str(path), *words):
            assert word in str(caught.value)


def test_hand_made_files_are_read(tmp_path):
    for path in both(tmp_path, mapping(a=GOOD), {"0": SIX.tobytes()}):
        np.testing.assert_array_equal(open_torch_file(path).read("a"), SIX.reshape(2, 3))


def test_numbers_of_a_big_endian_machine_are_turned(tmp_path):
    turned = SIX.astype(">f4").tobytes()
    path = write_zip(tmp_path / "x.pth", mapping(a=GOOD), {"0": turned}, byteorder=b"big")
    np.testing.assert_array_equal(open_torch_file(path).read("a"), SIX.reshape(2, 3))
    with zipfile.ZipFile(GOLDENS / "torch_zip.pth") as archive:
        assert archive.read("torch_zip/byteorder") == b"little"


class Harmful:
    """What runs a command when Python's own pickle reads it."""

    def __reduce__(self):
        return os.system, ("touch harmed",)


def test_a_pickle_that_executes_code_is_refused_by_name_and_executes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    harmful = pickle.dumps({"a": Harmful()}, 2)[2:-1]
    pickle.loads(whole(harmful))
    assert Path("harmed").exists(), "it is harmful"
    Path("harmed").unlink()
    assert_refused(
        tmp_path, harmful, "the name 'posix.system'", "Nothing of it was run", "torch.save(model.state_dict(), FILE)"
    )
    assert_refused(tmp_path, mapping(a=GOOD, b=call("builtins.eval", plain("1"))), "the name 'builtins.eval'")
    assert not Path("harmed").exists()


@pytest.mark.parametrize(
    ("operations", "words"),
    {
        "a module": (call("torchvision.models.resnet.ResNet"), "'torchvision.models.resnet.ResNet'"),
        "an array of numpy's": (mapping(a=call("numpy.core.multiarray._reconstruct")), "'numpy.core.multiarray._reconstruct'"),
        "another type": (mapping(a=tensor(storage("0", 6, "ComplexFloatStorage"), (6,), (1,))), "'torch.ComplexFloatStorage'"),
        "a type called": (call("torch.FloatStorage", plain(10**12)), "a call of torch.FloatStorage"),
        "an old operation": (b"(lp0\n", "operation b'l'"),
        "attributes of a tensor": (mapping(a=GOOD + plain({}) + b"b"), "a StoredArray in place of a dict"),
        "nested keys": (b"}" + plain((1, 2)) + plain(1) + b"s", "a tuple as a key"),
        "equal hashes": (b"}" + plain((2**61 - 1) * 9) + plain(1) + b"s", "a int as a key"),
        "no such number": (mapping(a=b"j\xff\xff\xff\x7f"), "make no sense"),
        "a text beyond the end": (mapping(a=b"X\xff\xff\xff\x7fabc"), "2,147,483,647 bytes, of which"),
        "negative": (mapping(a=tensor(storage("0", 6), (2, -3), (3, 1))), "a tensor without"),
        "beyond the storage": (mapping(a=tensor(storage("0", 6), (2, 3), (3, 1), 1)), "6 elements in a storage of 6"),
        "far strides": (mapping(a=tensor(storage("0", 6), (2, 2), (2**62, 1))), "in a storage of 6"),
        "a storage twice": (mapping(a=GOOD, b=tensor(storage("0", 7), (7,), (1,))), "the storage '0' twice"),
        "no tensors": (mapping(epoch=plain(3)), "holds no state dict of tensors, neither bare nor under 'state_dict' or 'model'"),
        "some other things": (mapping(a=GOOD, epoch=plain(3)), "'epoch' is int"),
        "nothing": (mapping(), "holds no state dict"),
        "a list": (plain([1, 2]), "holds no state dict"),
    }.values(),
)  # fmt: skip
def test_anything_but_arrays_is_refused_by_name(tmp_path, operations, words):
    assert_refused(tmp_path, operations, words, storages={"0": SIX.tobytes()} if b"storage" in operations else {})


@pytest.mark.parametrize(
    "operations",
    [
        mapping(a=tensor(storage("0", 10**12), (10**12,), (1,))),
        mapping(a=tensor(storage("0", 6), (10**12, 2), (0, 1))),
        mapping(a=tensor(storage("0", 6), (2**62, 2**62), (0, 0))),
    ],
)
def test_a_file_that_claims_more_numbers_than_it_holds_allocates_nothing(tmp_path, operations):
    tracemalloc.start()
    try:
        assert_refused(tmp_path, operations)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_a_storage_that_is_shorter_than_its_tensors_say_is_refused(tmp_path):
    assert_refused(tmp_path, mapping(a=GOOD), "the storage '0'", "Fetch it again", storages={"0": SIX[:5].tobytes()})
    assert_refused(tmp_path, mapping(a=GOOD), "missing", storages={})


@pytest.mark.parametrize("name", REAL)
def test_a_file_cut_short_anywhere_is_refused(tmp_path, name):
    raw, path = (GOLDENS / f"{name}.pth").read_bytes(), tmp_path / "cut.pth"
    for length in range(0, len(raw), 41):
        path.write_bytes(raw[:length])
        with pytest.raises(CaseJaxError, match=r"weights: .*cut\.pth"):
            open_torch_file(path)


def test_other_archives_are_told_apart(tmp_path):
    script = write_zip(
        tmp_path / "script.pt", mapping(a=GOOD), {"0": SIX.tobytes()}, **{"constants.pkl": whole(plain(()))}
    )
    with pytest.raises(CaseJaxError, match="TorchScript"):
        open_torch_file(script)
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CaseJaxError, match="another zip archive"):
        open_torch_file(tmp_path / "other.pth")
    with zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + b"N" * 10**6 + b".")
    with pytest.raises(CaseJaxError, match="damaged or compressed"):
        open_torch_file(tmp_path / "small.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(CaseJaxError, match=r"no file of torch\.save"):
        open_torch_file(tmp_path / "text.pth")


def mutated(raw, rng):
    """A file with a few bytes changed, extreme numbers put in, a piece taken out, doubled or exchanged, or its end cut off."""
    raw = bytearray(raw)
    kind, at = rng.integers(6), int(rng.integers(len(raw)))
    length = int(rng.integers(1, 40))
    if kind == 0:
        for place in rng.integers(len(raw), size=rng.integers(1, 9)):
            raw[place] = rng.integers(256)
    elif kind == 1:
        width = int(rng.choice([2, 4, 8]))
        raw[at : at + width] = bytes.fromhex(str(rng.choice(["ff" * 8, "00" * 8, "ffffff7fffffff7f"])))[:width]
    elif kind == 2:
        del raw[at : at + length]
    elif kind == 3:
        raw[at:at] = raw[at : at + length]
    elif kind == 4:
        other = int(rng.integers(len(raw)))
        raw[at : at + length] = raw[other : other + length]
    else:
        del raw[at:]
    return bytes(raw)


OPERATIONS = [
    b"N", b"}", b"]", b")", b"(", b"t", b"R", b"b", b"Q", b"a", b"e", b"s", b"u", b"q\0", b"h\0", b"\x94", b"\x85", b"\x86", b"\x87",
    b"K\x06", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"X\1\0\0\0a", b"\x93", GOOD, storage("0", 6), named("torch.Size"),
    named("collections.OrderedDict"), named("torch._utils._rebuild_parameter"), named("torch._utils._rebuild_tensor_v2"), plain((2, 3)),
]  # fmt: skip


def random_operations(rng):
    """A pickle of allowed operations in any order."""
    return (
        b"}"
        + plain("a")
        + b"".join(OPERATIONS[i] for i in rng.integers(len(OPERATIONS), size=rng.integers(1, 30)))
        + b"su"
    )


EXECUTING = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "pickle.find_class",
    "exec",
    "compile",
    "import",
)
_watching, _met = [], []
sys.addaudithook(lambda event, _: _watching and event.startswith(EXECUTING) and _met.append(event))


def assert_only_refusals(folder, number, seed):
    """Read so many damaged files: each is read or refused, within a megabyte, and none imports, compiles or starts anything."""
    rng, path = np.random.default_rng(seed), folder / "x.pth"
    seeds = [(GOLDENS / f"{name}.pth").read_bytes() for name in REAL]
    read, words = 0, set()
    tracemalloc.start()
    _watching.append(True)
    try:
        for count in range(number):
            if count % 4 < 3:
                path.write_bytes(mutated(seeds[count % 4], rng))
            elif count % 8 == 3:
                write_zip(path, random_operations(rng), {"0": SIX.tobytes()})
            else:
                write_legacy(path, random_operations(rng), {"0": SIX.tobytes()})
            try:
                file = open_torch_file(path)
                for key in file.arrays:
                    file.read(key)
                read += 1
            except CaseJaxError as error:
                words.add(str(error).partition("x.pth")[0])
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        _watching.clear()
        tracemalloc.stop()
    assert not _met
    assert words == {f"weights: {folder}/"}
    assert 0.1 * number < read < 0.9 * number, "some damage is in the numbers alone, most is not"


def test_damaged_files_are_read_or_refused(tmp_path):
    assert_only_refusals(tmp_path, 300, seed=0)


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_read_or_refused(tmp_path):
    assert_only_refusals(tmp_path, 10_000, seed=1)

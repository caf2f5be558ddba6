"""What several test files share: strict settings, reference numbers, the shipped classifier, a toy classifier."""

import atexit
import gc
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

import annotations  # before case_jax, whose imports it hooks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from case_jax import cli, tag, tap_function
from case_jax.cli.numerics import avoid_wrong_fusions
from case_jax.data import DigitScenes
from case_jax.imageops import normalise_image
from case_jax.models import load_classifier, tap_classifier
from case_jax.tap import tag_head_input

avoid_wrong_fusions()  # as every command does


def _compile_in_half_the_time():
    """XLA's older way to compile fusions, in one piece; it reads its flags once, so processes that tests start have none of this."""
    before = os.environ.get("XLA_FLAGS")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1")
        if before:
            patch.setenv("XLA_FLAGS", before, prepend=" ")
        jax.devices()


if jax.__version_info__ < (0, 11):  # later ones end a process that gives them the first of these flags
    _compile_in_half_the_time()
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Compiling is most of the time: what one test has compiled, all that follow, other workers' and processes' too, read back.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="case_jax-xla-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
if (
    jax.default_backend() != "cpu"
):  # whose own float32 products have 10 bits; on CPU tests read who asks for a precision
    jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_disable_most_optimizations", True)  # processes that tests start optimise as users' do
gc.disable()  # a tenth of the time: traced programs are millions of objects; collected below
sys.path.append(str(Path(__file__).parents[1]))  # for experiments/; last: the installed case_jax is what is tested

LONGEST = (
    "test_evaluation", "test_cli", "test_masks_methods", "test_training", "test_train_command", "test_methods", "test_studies",
    "test_cam_methods", "test_parameters", "test_models", "test_confusions", "test_metrics", "test_contrast", "test_front",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Long files first, so that none of them is left to one process at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def pytest_report_header():
    return f"annotations: {'checked' if annotations.ON else 'not checked, which needs beartype'}"


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error:::case_jax")  # whatever our own modules warn about is a failure


GROWTH = 3 * 2**29
_held = {"bytes": 0}


def _resident():
    """Bytes of memory that this process holds; without end where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return np.inf


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs():
    """Gigabytes, over all files; to find and forget them takes seconds, so not after every file."""
    yield
    if _resident() >= _held["bytes"] + GROWTH:
        jax.clear_caches()
        gc.collect()
        _held["bytes"] = _resident()


@pytest.fixture(scope="session", autouse=True)
def _cheap_figures():
    from drawing import drawn

    with drawn(cheaply=True):
        yield


@cache
def _golden(name):
    with np.load(Path(__file__).parent / "goldens" / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="session")
def golden():
    """Reference arrays by file name; see goldens/README.md."""
    return _golden


@pytest.fixture(scope="session")
def classifier():
    """The shipped digit-scene classifier."""
    return load_classifier()


@pytest.fixture(scope="session")
def scenes():
    """Eight test scenes as examples with evidence."""
    source = DigitScenes("test", 8)
    return [source[i] for i in range(8)]


@pytest.fixture(scope="session")
def images(classifier, scenes):
    """The same scenes, normalised: (8, 48, 48, 3)."""
    facts = classifier.preprocessing
    return jnp.stack([normalise_image(jnp.asarray(s.image), facts.mean, facts.std) for s in scenes])


@pytest.fixture(scope="session")
def tapped(classifier, images):
    """The shipped classifier tapped at its default layer, in closed form."""
    return tap_classifier(classifier, images[0])


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory):
    """What commands need not find out again is kept here, and not where users keep it."""
    return tmp_path_factory.mktemp("cache")


_default_classifier = cache(load_classifier)


@cache
def _tapped_default(layer, link):
    return tap_classifier(_default_classifier(), jnp.zeros((48, 48, 3)), layer=layer, link=link)


def _load_once(name, *, weights=None):
    """Loading and tapping are a quarter of a second, in hundreds of commands: once for the default classifier, which none of them changes."""
    return (
        _default_classifier() if (name, weights) == ("digit_resnet", None) else load_classifier(name, weights=weights)
    )


def _tap_once(classifier, image, *, layer=None, link=None, **others):
    if classifier is _default_classifier() and image.shape == (48, 48, 3) and not others:
        return _tapped_default(layer, link)
    return tap_classifier(classifier, image, layer=layer, link=link, **others)


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path, cache_folder):
    """Run `case-jax ARGS` in an empty folder; returns exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cli, "keep_compilations", lambda: None)
    monkeypatch.setattr(cli.numerics, "cache_folder", lambda: cache_folder)
    monkeypatch.setattr("case_jax.cli.setup.load_classifier", _load_once)
    monkeypatch.setattr("case_jax.cli.setup.tap_classifier", _tap_once)

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["case-jax", *map(str, args)])
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


TOY_CLASSES, TOY_CHANNELS = 5, 7


@pytest.fixture(scope="session")
def toy():
    """A small tapped function: 12×12×3 image, one strided convolution, relu, spatial mean, five classes."""
    rng = np.random.default_rng(0)
    params = {
        "kernel": jnp.asarray(rng.normal(0, 0.5, (3, 3, 3, TOY_CHANNELS)), jnp.float32),
        "head": jnp.asarray(rng.normal(0, 1, (TOY_CHANNELS, TOY_CLASSES)), jnp.float32),
    }

    def function(params, x):
        a = jax.lax.conv_general_dilated(
            x[None], params["kernel"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        a = tag(jax.nn.relu(a[0]), "features")
        return tag_head_input(a.mean((0, 1))) @ params["head"]

    image = jnp.asarray(rng.normal(size=(12, 12, 3)), jnp.float32)
    return tap_function(function, params, "features", image, head_kernel=lambda p: p["head"], layers=["features"])


@pytest.fixture(scope="session")
def toy_images():
    """Four random images for the toy."""
    return jnp.asarray(np.random.default_rng(1).normal(size=(4, 12, 12, 3)), jnp.float32)


@pytest.fixture(scope="session")
def stored_maps(golden):
    """The reference's final maps of one network, (12 methods, 4 images, 3 targets, 64, 64), in the order of its tables."""

    def load(network):
        maps, case = golden(f"{network}_maps"), golden(f"{network}_case")
        named = [
            case[f"{name.removeprefix('case_')}/maps"] if name.startswith("case_") else maps[f"final/{name}"]
            for name in golden(f"{network}_eval")["methods"].tolist()
        ]
        return np.maximum(np.nan_to_num(np.stack(named)), 0)

    return load


@pytest.fixture
def promotion_as_users_have_it():
    """For other people's models: strict promotion is a rule of our own tests; flax's average pool itself divides a float by an integer."""
    with jax.numpy_dtype_promotion("standard"):
        yield

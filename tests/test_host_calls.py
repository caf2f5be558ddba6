"""No step calls LAPACK: on CPU such a call waits, in a thread that runs a step, for the others, and where all of them wait nothing ends."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import cpu_environment, on_devices
from studies import count_pairs, evaluation, localise, play, sanity

from case_jax import METHODS, METRICS, tag, tap_function
from case_jax.contrast.choice import choose_contrast
from case_jax.data import DigitScenes
from case_jax.evaluation import Pixels
from case_jax.evaluation.studies.mosaics import Confident
from case_jax.results import RunFolder
from case_jax.tap import tag_head_input
from case_jax.tap.split import inner_jaxprs
from experiments import seeds

SCENES, CLASSES, PIXELS = DigitScenes("test", 4), 25, Pixels((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
CONTRAST = choose_contrast("topk_logits:2", CLASSES)
DECOMPOSITIONS = {
    *("cholesky", "cholesky_update", "eig", "eigh", "geqp3", "geqrf", "hessenberg", "householder_product", "lu"),
    *("ormqr", "qr", "schur", "svd", "triangular_solve", "tridiagonal", "tridiagonal_solve"),
}
"""JAX's primitives for which a CPU calls LAPACK."""


def logits_of(params, x):
    """One convolution, a mean and a linear head."""
    dimensions = ("NHWC", "HWIO", "NHWC")
    a = jax.lax.conv_general_dilated(x[None], params["kernel"], (8, 8), "SAME", dimension_numbers=dimensions)[0]
    return tag_head_input(tag(jax.nn.relu(a), "features").mean((0, 1))) @ params["head"]


def drawn(seed):
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (3, 3, 3, 6), "head": (6, CLASSES)}
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def tap(image):
    return tap_function(
        logits_of, drawn(0), "features", image, head_kernel=lambda params: params["head"], layers=["features"]
    )


@pytest.fixture(scope="module")
def model():
    return tap(jnp.zeros((48, 48, 3)))


def primitives(jaxpr):
    """The names of all primitives of a traced program."""
    inside = [primitives(inner) for eqn in jaxpr.eqns for inner, _ in inner_jaxprs(eqn)]
    return {eqn.primitive.name for eqn in jaxpr.eqns}.union(*inside)


def host_calls(traced):
    """What a traced program would ask of LAPACK: decompositions in it, and calls of the library in its text for the CPU."""
    called = re.findall(r"custom_call @(\w+)", traced.lower(lowering_platforms=("cpu",)).as_text())
    return DECOMPOSITIONS & primitives(traced.jaxpr.jaxpr), {target for target in called if "lapack" in target}


LIBRARY = {
    **{name: getattr(jnp.linalg, name) for name in ("eigh", "eig", "svd", "qr", "cholesky", "inv", "slogdet", "pinv")},
    **{name: getattr(jax.scipy.linalg, name) for name in ("schur", "lu", "hessenberg")},
    "triangular": lambda a: jax.scipy.linalg.solve_triangular(a, a),
    "lstsq": lambda a: jnp.linalg.lstsq(a, a)[0],
}


@pytest.mark.parametrize("name", LIBRARY)
def test_a_call_inside_a_loop_is_found_in_both_ways(name):
    looped = jax.jit(lambda matrices: jax.lax.map(jax.jit(LIBRARY[name]), matrices))
    assert all(host_calls(looped.trace(jnp.zeros((2, 3, 3)))))


class Program:
    """Stands for a program under `jax.pmap`: it is traced for one device and kept, and does not run; its results are zeros."""

    def __init__(self, function, kept):
        self.function, self.kept, self.results = jax.jit(function), kept, None

    def lower(self, *arguments):
        if self.results is None:
            one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), arguments)
            self.kept.append(self.function.trace(*one))
            self.results = self.kept[-1].out_info
        return self

    def compile(self):
        return self

    def __call__(self, *arguments):
        if self.results is None:
            self.lower(*arguments)
        return jax.tree.map(lambda s: jax.device_put(np.zeros((1, *s.shape), s.dtype)), self.results)


@pytest.fixture
def kept(monkeypatch):
    """The programs that go to the devices while a test runs, traced."""
    programs = []
    monkeypatch.setattr(jax, "pmap", lambda function, **_: Program(function, programs))
    return programs


EVERY = {name: entry.maps for name, entry in METHODS.items() if not entry.attention}
SOME = {name: EVERY[name] for name in ("case", "eigen_cam", "eigen_grad_cam", "ablation_cam", "random")}


def evaluate_with_all_methods(model, _):
    evaluation(SCENES, model, CONTRAST, pixels=PIXELS, methods=EVERY, metrics=("sensitivity",), tile=1, part=1)


def evaluate_with_all_metrics(model, _):
    own = {"channels": seeds.SCORES["channels"]}  # an experiment's
    evaluation(SCENES, model, CONTRAST, pixels=PIXELS, methods=("grad_cam",), metrics=METRICS | own, tile=1, part=1)


def localise_some(model, folder):
    localise(SCENES, model, CONTRAST, SOME, folder.path, pixels=PIXELS, tile=1)


def sanity_some(model, folder):
    sanity(SCENES, model, CONTRAST, SOME, folder.path, pixels=PIXELS, untrained=drawn(1), tile=1)


def sweep_some(model, _):
    count_pairs(SCENES, model, CONTRAST, SOME, pixels=PIXELS, tile=1)


def grid_pointing_some(model, folder):
    play(SCENES, tap, model, SOME, folder.path, pixels=PIXELS, mosaics=1, tile=1, part=1)


COMMANDS = {
    evaluate_with_all_methods: 1,
    evaluate_with_all_metrics: 1,
    localise_some: 2,
    sanity_some: 3,
    sweep_some: 1,
    grid_pointing_some: 1,
}
"""And how many programs each sends to the devices. A method is the same function in all of them, so the long list is traced once."""


@pytest.mark.parametrize("command", COMMANDS)
def test_no_step_of_a_command_calls_lapack(model, kept, command, monkeypatch, tmp_path):
    chosen = Confident(np.arange(4), np.arange(4), np.ones(4), {}, 0.9, 1.0)  # four classes for a mosaic
    monkeypatch.setattr("case_jax.evaluation.studies.grid_pointing.confident_images", lambda *_, **__: chosen)
    command(model, RunFolder(tmp_path / "run"))
    assert len(kept) == COMMANDS[command]
    assert [host_calls(program) for program in kept] == [(set(), set())] * len(kept)


def test_a_method_that_calls_lapack_is_found_in_the_step(model, kept):
    def by_decomposition(view, query):
        rows = view.activation.reshape(-1, view.activation.shape[-1])
        projection = rows @ jnp.linalg.eigh(rows.T @ rows)[1][:, -1]
        return jnp.broadcast_to(projection.reshape(view.activation.shape[:2]), (len(query.targets), 6, 6))

    evaluation(
        SCENES, model, CONTRAST, pixels=PIXELS, methods={"own": by_decomposition}, metrics=("sensitivity",), tile=1
    )
    assert [host_calls(program) for program in kept] == [({"eigh"}, {"lapack_ssyevd_ffi"})]


def test_eigen_cam_ends_on_eight_devices(tmp_path):
    """The smallest batches, eight images a device, on which a decomposition always stood still."""
    words = "evaluate --limit 64 --tile 8 --part 8 --methods eigen_cam --metrics sensitivity --contrast all --out run"
    environment = on_devices(cpu_environment(tmp_path / "xla"), 8) | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    subprocess.run(
        [sys.executable, "-m", "case_jax.cli", *words.split()], cwd=tmp_path, env=environment, timeout=240, check=True
    )
    assert len(RunFolder(tmp_path / "run").rows()) == 64

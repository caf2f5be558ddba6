"""Every program that a command compiles says in which precision its products are; read off the programs themselves."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from studies import count_pairs, evaluation, localise, play, sanity

from case_jax import METHODS, METRICS, case, grad_cam, parallel, tap_nnx
from case_jax.contrast.choice import choose_contrast
from case_jax.evaluation import Pixels, run
from case_jax.evaluation.confusion import count_confusions
from case_jax.evaluation.explain import explain_images
from case_jax.evaluation.kept_gallery import save_gallery
from case_jax.evaluation.studies.mosaics import confident_images
from case_jax.methods import saliency
from case_jax.parallel.grid import Grid
from case_jax.results import RunFolder
from case_jax.source import Example, Truth
from case_jax.tap.parameters import permuted
from case_jax.training import Examples, Recipe, train
from case_jax.training.classifier import adamw, classifier_task

CORNERS = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1], [-1, -1, -1]], np.float32)
CLASSES, SIDE = len(CORNERS), 16
HALF = Pixels((0.5,) * 3, (0.5,) * 3)
TOPK = choose_contrast("topk_logits:2", CLASSES)
QUIET = {"pixels": HALF}
FEW = {"Grad-CAM": grad_cam, "CASE": case, "saliency": saliency}


class Plates:
    """Plates of one of five colours, at the corners of the colour cube; the object is the whole plate."""

    name, class_names, fingerprint = "plates", tuple("wrgbk"), "v1"
    truths = ("plate",)

    def __len__(self):
        return 20

    def __getitem__(self, index):
        image = np.broadcast_to(np.uint8(255 * (CORNERS[index % CLASSES] > 0)), (SIDE, SIDE, 3))
        return Example(index, f"plate {index}", image, index % CLASSES)

    def truth(self, index, kind):
        return Truth(np.array([[0, SIDE, 0, SIDE]]), np.ones((SIDE, SIDE), bool))


class Detectors(nnx.Module):
    """A convolution with a filter for each colour, a pooling, a linear head: right for every plate."""

    def __init__(self, *, rngs):
        self.conv = nnx.Conv(3, CLASSES, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(CLASSES, CLASSES, rngs=rngs)
        self.conv.kernel[...] = jnp.zeros((3, 3, 3, CLASSES)).at[1, 1].set(CORNERS.T / 3)
        self.conv.bias[...] = jnp.full(CLASSES, -0.5)
        self.head.kernel[...] = 16 * jnp.eye(CLASSES)

    def __call__(self, x):
        return self.head(nnx.relu(self.conv(x)).mean((1, 2)))


def network():
    return Detectors(rngs=nnx.Rngs(0))


def tap(image):
    return tap_nnx(network(), "conv", image, linear_head="head", layers=["conv"])


def tapped():
    return tap(jnp.zeros((SIDE, SIDE, 3)))


def planned(methods, metrics):
    return evaluation(Plates(), tapped(), TOPK, pixels=HALF, methods=methods, metrics=metrics, tile=4, part=4)


def evaluated(out):
    planned(
        tuple(n for n in METHODS if not METHODS[n].attention), ("sensitivity",)
    )  # a plan traces its step and lowers it
    planned(("grad_cam",), tuple(METRICS))


def run_evaluation(out):
    done = planned(("grad_cam", "case"), ("sensitivity",))
    save_gallery(done, run(done, RunFolder(out), progress=False), count=2)


def swept(out):
    count_pairs(Plates(), tapped(), TOPK, FEW, limit=4, tile=4, **QUIET)


def swept_over_a_grid(out):
    grid = Grid()
    step = grid.step(lambda state, params, batch, *, share: (state, params @ batch))
    grid.trace(step, jnp.zeros(1), jnp.zeros((2, 2)), jnp.zeros((2, 2)))


def localised(out):
    localise(Plates(), tapped(), TOPK, FEW, out, limit=4, tile=4, **QUIET)


def sane(out):
    model = tapped()
    sanity(Plates(), model, TOPK, FEW, out, untrained=permuted(model.params), limit=4, tile=4, **QUIET)


def pointed(out):
    play(Plates(), tap, tapped(), FEW, out, mosaics=2, tile=2, part=2, **QUIET)


def chosen_for_mosaics(out):
    confident_images(Plates(), tapped(), HALF)


def confused(out):
    count_confusions(Plates(), tapped(), HALF, tile=10)


def explained(out):
    list(explain_images([Plates()[1]], tapped(), FEW, contrast=lambda: TOPK.sets, pixels=HALF))


def trained(out):
    task = classifier_task(network(), mean=HALF.mean, std=HALF.std, optimiser=adamw(1, rate=1e-3))
    train(task, Examples(Plates()), Recipe(1, 4), RunFolder(out), config={}, facts={}, progress=False)


COMMANDS = (
    evaluated, run_evaluation, swept, swept_over_a_grid, localised, sane, pointed, chosen_for_mosaics, confused, explained, trained,
)  # fmt: skip


@pytest.fixture
def products(tmp_path):
    """Call a command; the precisions of the products in all programs that JAX is given to compile, loops and branches included."""
    programs = tmp_path / "programs"
    jax.clear_caches()

    def run(command):
        jax.config.update("jax_dump_ir_to", str(programs))
        jax.config.update("jax_dump_ir_modes", "jaxpr")
        command(tmp_path / command.__name__)
        return [p for file in sorted(programs.glob("*.jaxpr.txt")) for p in precisions(file.read_text())]

    yield run
    jax.config.update("jax_dump_ir_to", "")


def precisions(text):
    """What each product in the text of a program says; None for one that says nothing."""
    for product in re.finditer(r"\b(?:dot_general|conv_general_dilated)\[(?:[^][]|\[[^][]*\])*\]", text):
        said = re.search(r"\bprecision=(?:\(Precision\.(\w+), Precision\.\1\)|Precision\.(\w+))", product[0])
        yield said and (said[1] or said[2])


def test_the_reader_finds_products_in_loops_branches_and_custom_rules(products):
    @jax.custom_vjp
    def square(x):
        return x @ x

    square.defvjp(lambda x: (x @ x, x), lambda x, g: (2 * g @ x.T,))

    def looped(x):
        kernel, numbers = jnp.ones((3, 3, 1, 1)), ("NHWC", "HWIO", "NHWC")
        out = jax.lax.conv_general_dilated(x[None, :, :, None], kernel, (1, 1), "SAME", dimension_numbers=numbers)
        found = jax.lax.fori_loop(0, 3, lambda _, v: jnp.matmul(v, x, precision="highest"), x)
        return jax.lax.cond(x[0, 0] > 0, square, lambda v: v, found).sum() + out.sum()

    found = products(lambda out: jax.jit(jax.value_and_grad(looped))(jnp.eye(4)))
    assert found.count("HIGHEST") == 3  # the loop, and its gradient's two
    assert found.count(None) == 4  # the convolution and its gradient, the square and its rule


@pytest.mark.parametrize(("commands", "precision"), [(COMMANDS[:-1], "HIGHEST"), ([trained], "HIGH")])
def test_every_product_of_a_command_says_its_precision(products, commands, precision):
    """Of a command's programs, those that no command before it has compiled."""
    before = 0
    for command in commands:
        found = products(command)
        assert len(found) > before, command
        assert set(found) == {precision}, command
        before = len(found)


@pytest.mark.parametrize("command", [swept_over_a_grid, confused, explained, trained])
def test_a_forgotten_precision_would_be_found(products, command, monkeypatch):
    """One of each way to compile, without the place that decides it."""
    monkeypatch.setattr(parallel, "with_precision", lambda function, precision=None: function)
    assert None in products(command)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from studies import evaluation

from case_jax import METHODS
from case_jax._checks import CaseJaxError
from case_jax.contrast.choice import choose_contrast
from case_jax.data import DigitScenes
from case_jax.evaluation import Pixels
from case_jax.evaluation.batches import template
from case_jax.evaluation.cost import Cost, flops, measure
from case_jax.evaluation.memory import largest_tile, temporary_bytes


def of(function, *arguments):
    return flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def conv(x, kernel, stride):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "VALID", dimension_numbers=numbers)


def test_operations_of_products_follow_their_formula():
    a, b = jnp.zeros((3, 5, 7)), jnp.zeros((3, 7, 11))
    assert of(jnp.matmul, a, b) == 2 * 3 * 5 * 7 * 11
    x, kernel = jnp.zeros((2, 9, 9, 4)), jnp.zeros((3, 3, 4, 6))
    assert of(lambda x, k: conv(x, k, 1), x, kernel) == 2 * (2 * 7 * 7 * 6) * (3 * 3 * 4)


def test_loops_count_as_often_as_they_run_and_calls_as_what_is_in_them():
    a = jnp.zeros((4, 4))
    once = of(jnp.matmul, a, a)
    assert of(lambda a: jax.lax.fori_loop(0, 6, lambda _, v: v @ v, a), a) == 6 * once
    assert of(lambda a: jax.lax.map(lambda _: a @ a, jnp.arange(5)), a) == 5 * once
    assert of(jax.jit(lambda a: jax.checkpoint(jnp.matmul)(a, a)), a) == once
    assert of(lambda a: jax.lax.cond(a[0, 0] > 0, lambda v: v @ v @ v, lambda v: v, a), a) == 2 * once


@pytest.mark.parametrize("stride", [1, 2])
def test_the_gradient_of_a_convolution_costs_no_more_for_its_stride(stride):
    x, kernel = jnp.zeros((1, 9, 9, 4)), jnp.zeros((3, 3, 4, 6))
    forward = of(lambda x: conv(x, kernel, stride), x)
    backward = of(lambda x: jax.vjp(lambda v: conv(v, kernel, stride), x)[1](conv(x, kernel, stride)), x) - 2 * forward
    assert backward <= 2 * forward  # without the correction it were `stride²` times that


@pytest.fixture(scope="module")
def prepared(tapped, classifier):
    facts = classifier.preprocessing
    names = ("grad_cam", "ablation_cam")

    def build(**changes):
        settings = {"methods": names, "metrics": ("sensitivity",), "tile": 4, "part": 16}
        return evaluation(
            DigitScenes("test", 30),
            tapped,
            choose_contrast("topk_logits:3", 25),
            pixels=Pixels(facts.mean, facts.std),
            **(settings | changes),
        )

    return build


def test_a_plan_is_measured(prepared):
    planned = prepared()
    cost = measure(planned, steps=1)
    assert (cost.images, cost.tile) == (30, 4)
    assert 1 <= cost.forward_passes() < 3  # the tail alone is run again
    assert cost.image_bytes >= 48 * 48 * 3
    assert min(cost.device_rate, cost.host_rate, cost.compile_seconds) > 0


COST = Cost(
    images=1000, tile=10, forward_flops=1.0, step_flops=5.0, image_bytes=1, step_bytes=None,
    compile_seconds=7.0, device_rate=20.0, host_rate=100.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("chips", "hosts", "seconds", "bound"),
    [
        (1, 1, 7 + 1000 / 20, "devices"),
        (4, 1, 7 + 250 / 20, "devices"),
        (8, 1, 7 + 130 / 12.5, "reading"),  # 13 steps of 10; 100 images/s for 8 chips
        (8, 2, 7 + 130 / 20, "devices"),
        (100, 100, 7 + 10 / 20, "one step holds all images"),
    ],
)
def test_the_prediction_is_its_formula(chips, hosts, seconds, bound):
    assert COST.seconds(chips, hosts) == (pytest.approx(seconds), bound)


def test_the_tile_is_as_large_as_memory_allows(prepared):
    planned = prepared()
    (step, arguments, _), images, params = planned.program.compiled[0], planned.images, planned.model.params

    def calls(size):
        return [(step, arguments(template(images.source, images.indices, size)))]

    weights = sum(np.asarray(a).nbytes for a in jax.tree.leaves(params))
    one = temporary_bytes(calls(1))
    sizes = [largest_tile(calls, params, memory=weights + room, most=16) for room in (one, 5 * one, 10**12)]
    assert sizes == sorted(sizes)
    assert sizes[0] <= 2
    assert sizes[1] in (2, 4, 8)
    assert sizes[2] == 16
    with pytest.raises(CaseJaxError, match=r"memory: got 1,000 bytes; accepted: at least [\d,]+, what the parameters"):
        largest_tile(calls, params, memory=1000, most=16)


def test_a_tile_found_is_part_of_the_run(prepared):
    planned = prepared(tile="auto", part=24)
    assert planned.tile == 16
    assert planned.part == 16
    assert planned.config["tile"] == 16
    with pytest.raises(CaseJaxError, match="memory: got 5"):
        prepared(memory=5)


def test_sets_are_looked_for_after_everything_else_was_checked(prepared, tapped):
    def never():
        raise AssertionError("long work")

    for changes, words in (
        ({"fill": "wood"}, "fill"),
        ({"part": 10}, "part"),
        ({"limit": 31}, "limit"),
        ({"agreement_percent": 0.0}, "agreement_percent"),
    ):
        with pytest.raises(CaseJaxError, match=words):
            evaluation(
                DigitScenes("test", 30),
                tapped,
                never,
                pixels=Pixels((0.0,) * 3, (1.0,) * 3),
                methods=tuple(METHODS)[:1],
                **({"tile": 4, "part": 8} | changes),
            )

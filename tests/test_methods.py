"""The contract every saliency method keeps, and what is special about some."""

from functools import cache, partial
from inspect import signature

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from case_jax import METHODS, CaseJaxError, all_class_maps, ask, case, tag, tap_function, topk_logits
from case_jax.imageops import is_degenerate
from case_jax.methods import centre_gaussian, method, random_map, titles_of, top_class_maps

CLASSES = 5
CONTRAST = topk_logits(2, CLASSES)
OF_ALL_NETWORKS = {name: entry for name, entry in METHODS.items() if not entry.attention}
EACH = pytest.mark.parametrize("name", OF_ALL_NETWORKS)
ALONE = pytest.mark.parametrize("name", [name for name, entry in OF_ALL_NETWORKS.items() if not entry.pair])


# The contract is about form; what more passes bring is tested beside each method.
BUDGETS = {"steps": 8, "samples": 3, "masks": 24}


def quick(name):
    """The method, with a small number of passes where it lets one choose."""
    maps = METHODS[name].maps
    return partial(maps, **{k: v for k, v in BUDGETS.items() if k in signature(maps).parameters})


def close(name, first, second):
    """Equal but for rounding, of which Adam makes more: it divides small gradients by their own size."""
    np.testing.assert_allclose(first, second, atol=1e-5 if METHODS[name].slow else 1e-6)


def maps_of(name, model):
    """Maps of chosen classes of one image as a plain function of arrays."""

    def run(params, image, targets, key):
        view = model.view(params, image)
        return quick(name)(view, ask(view, targets, CONTRAST, key=key))

    return run


@pytest.fixture(scope="module")
def compiled(toy):
    """The same, compiled once for two targets; `traces` counts how often it was traced."""

    def build(name):
        def counted(*args):
            run.traces += 1
            return maps_of(name, toy)(*args)

        program = jax.jit(counted)

        def run(*args):
            return program(*args)

        run.traces = 0
        return run

    return cache(build)


@EACH
def test_shape_type_range_and_jit(toy, toy_images, compiled, name):
    args = (toy.params, toy_images[0], jnp.asarray([3, 0]), jax.random.key(0))
    maps = compiled(name)(*args)
    assert (len(maps), maps.dtype) == (2, jnp.float32)
    assert maps.shape[1:] in (toy.image_shape[:2], toy.activation_shape[:2])
    assert bool(jnp.isfinite(maps).all())
    assert float(maps.min()) >= 0
    assert float(maps.max()) > 0
    if not METHODS[name].by_name:  # operation by operation is most of the time
        close(name, maps_of(name, toy)(*args), maps)


@EACH
def test_vmap_over_images_equals_the_loop(toy, toy_images, compiled, name):
    keys, targets = jax.random.split(jax.random.key(0), 4), jnp.asarray([3, 0])
    batched = jax.jit(jax.vmap(maps_of(name, toy), (None, 0, None, 0)))(toy.params, toy_images, targets, keys)
    for i in range(4):
        close(name, batched[i], compiled(name)(toy.params, toy_images[i], targets, keys[i]))
    # the toy's one layer passes nothing of the image to what is rectified on the way back
    if name not in ("centre_gaussian", "whole_image", "deconvolution"):
        assert not np.allclose(batched[0], batched[1])


@ALONE
def test_maps_of_all_classes_hold_the_map_of_each(toy, toy_images, compiled, name):
    run = jax.jit(lambda x, key: all_class_maps(quick(name), toy, toy.params, x, contrast=CONTRAST, key=key))
    key = jax.random.key(0)
    together = run(toy_images[0], key)
    assert len(together) == CLASSES
    for c in range(CLASSES):
        pair = jnp.asarray([c, (c + 1) % CLASSES])
        close(name, together[pair], compiled(name)(toy.params, toy_images[0], pair, key))


@EACH
def test_maps_of_the_likeliest_classes(toy, toy_images, compiled, name):
    run = jax.jit(lambda x, key: top_class_maps(quick(name), toy, toy.params, x, contrast=CONTRAST, key=key))
    key = jax.random.key(0)
    top = run(toy_images[0], key)
    order = jnp.argsort(-toy.apply(toy.params, toy_images[0]))
    close(name, top, compiled(name)(toy.params, toy_images[0], order[:2], key))
    assert bool((top[0] == top[1]).all()) == METHODS[name].class_blind


@EACH
def test_one_compilation_serves_other_images_classes_and_parameters(toy, toy_images, compiled, name):
    run = compiled(name)
    other = jax.tree.map(lambda p: p[..., ::-1], toy.params)
    first = run(toy.params, toy_images[0], jnp.asarray([0, 1]), jax.random.key(0))
    changed = run(other, toy_images[0], jnp.asarray([0, 1]), jax.random.key(0))
    run(other, toy_images[1], jnp.asarray([3, 2]), jax.random.key(1))
    assert run.traces == 1
    ignores = METHODS[name].control and not METHODS[name].pair
    assert ignores == np.array_equal(first, changed)


def test_the_class_blind_control_is_the_same_for_every_class_and_image(toy, toy_images):
    maps = [all_class_maps(centre_gaussian, toy, toy.params, x) for x in toy_images]
    for m in jnp.concatenate(maps):
        np.testing.assert_array_equal(m, maps[0][0])
    peak = np.asarray(maps[0][0])
    np.testing.assert_allclose(peak, peak[::-1, ::-1].T, atol=1e-6)
    # pixel (5, 5) of 12 lies half a pixel from the centre: 1/24 of the side, at a width of 0.25
    assert peak[5, 5] == pytest.approx(np.exp(-((1 / 24 / 0.25) ** 2)), rel=1e-6)
    assert peak.max() == peak[5, 5]


def test_the_random_control_depends_on_key_and_class_alone(toy, toy_images):
    def run(key, image, targets):
        view = toy.view(toy.params, image)
        return np.asarray(random_map(view, ask(view, jnp.asarray(targets), key=jax.random.key(key))))

    first = run(0, toy_images[0], [1, 2])
    np.testing.assert_array_equal(first, run(0, toy_images[1], [1, 2]))
    np.testing.assert_array_equal(first[::-1], run(0, toy_images[0], [2, 1]))
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first, run(1, toy_images[0], [1, 2]))
    assert abs(first.mean() - 0.5) < 0.1  # 288 uniform numbers: six standard errors


def test_the_random_control_asks_for_a_key(toy, toy_images):
    view = toy.view(toy.params, toy_images[0])
    with pytest.raises(CaseJaxError, match=r"key: .* key=jax\.random\.key\(0\)"):
        random_map(view, ask(view, jnp.asarray([0])))


@pytest.mark.parametrize("name", [n for n, m in OF_ALL_NETWORKS.items() if not m.control])
def test_a_network_that_sees_nothing_gives_zero_maps_not_nan(name):
    model = tap_function(
        lambda p, x: jnp.sin(tag(x * 0, "a").mean((0, 1))) @ p,
        jnp.ones((3, 4)),
        "a",
        jnp.ones((4, 4, 3)),
        layers=["a"],
    )
    contrast, key = topk_logits(2, 4), jax.random.key(0)
    run = jax.jit(lambda x: all_class_maps(quick(name), model, model.params, x, contrast=contrast, key=key))
    maps = run(jnp.ones((4, 4, 3)))
    np.testing.assert_array_equal(maps, 0.0)


@EACH
def test_every_method_has_a_title_and_a_source(name):
    assert method(name) is METHODS[name]
    assert METHODS[name].title
    assert "Returns:" in METHODS[name].maps.__doc__


def test_titles_are_unique():
    assert len({m.title for m in METHODS.values()}) == len(METHODS)


def test_an_unknown_method_suggests_the_nearest():
    with pytest.raises(CaseJaxError, match=r"method: 'gradcam' is unknown\. Did you mean 'grad_cam'\?"):
        method("gradcam")


@pytest.mark.parametrize("top", [0, CLASSES + 1])
def test_an_impossible_number_of_top_classes_is_refused(toy, toy_images, top):
    with pytest.raises(CaseJaxError, match=f"top: got {top}; accepted: a number of classes from 1 to 5"):
        top_class_maps(case, toy, toy.params, toy_images[0], top=top, contrast=CONTRAST)


@EACH
def test_a_class_that_the_model_does_not_have_has_no_map_in_a_trace(toy, toy_images, compiled, name):
    """Never another class's in silence; controls look at no class."""
    if METHODS[name].control:
        return
    found = compiled(name)(toy.params, toy_images[0], jnp.asarray([1, CLASSES]), jax.random.key(0))
    assert is_degenerate(found).tolist() == [False, True]


def test_equal_titles_in_one_table_come_with_their_names():
    def of_one_kind(view, query):
        return case(view, query)

    of_one_kind.title = "masker, fixed"
    found = titles_of({"case": case, "masker:a": of_one_kind, "masker:b": partial(of_one_kind)})
    assert found == {
        "case": "CASE",
        "masker:a": "masker, fixed (masker:a)",
        "masker:b": "masker, fixed (masker:b)",
    }

"""The one tie rule: value descending, flat index ascending, against numpy's stable sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from case_jax import CaseJaxError
from case_jax.ranking import pack, pixel_count, shared_pixels, top_mask, top_words, unpack

NETWORKS = ("resnet_bottleneck", "resnet_basic", "vgg_bn", "densenet", "convnext")


def stable_top(saliency, count):
    order = np.argsort(-saliency.ravel(), kind="stable")[:count]
    mask = np.zeros(saliency.size, bool)
    mask[order] = True
    return mask.reshape(saliency.shape)


def random_maps():
    rng = np.random.default_rng(0)
    maps = {
        "no ties": rng.normal(size=(9, 11)),
        "many ties": rng.integers(-2, 3, (9, 11)),
        "negative": -rng.exponential(size=(9, 11)),
        "mostly zero": np.where(rng.random((9, 11)) < 0.1, rng.random((9, 11)), 0.0),
        "both zeros": np.where(rng.random((9, 11)) < 0.5, 0.0, -0.0),
        "infinities": rng.choice([-np.inf, np.inf, 0.0, -0.0, 1.0, -1.0], (9, 11)),
        "neighbouring floats": 1 + rng.integers(0, 3, (9, 11)) * np.finfo(np.float32).eps,
        "huge and tiny": rng.choice([-3e38, 3e38, 1.2e-38, -1.2e-38, 0.0], (9, 11)),
        "constant": np.full((9, 11), -2.0),
    }
    return {name: m.astype(np.float32) for name, m in maps.items()}


top = jax.jit(top_mask)


@pytest.mark.parametrize("kind", random_maps())
def test_equals_the_stable_sort_at_every_count(kind):
    saliency = random_maps()[kind]
    counts = np.arange(saliency.size + 1)
    masks = np.asarray(jax.vmap(top_mask, (None, 0))(saliency, counts))
    np.testing.assert_array_equal(masks, np.stack([stable_top(saliency, n) for n in counts]))
    np.testing.assert_array_equal(masks.sum((1, 2)), counts)


@pytest.mark.parametrize("shape", [(1, 1), (4, 8), (16, 24), (7, 130)])
def test_ties_are_cut_in_the_right_place_inside_and_between_words(shape):
    rng = np.random.default_rng(1)
    for saliency in (np.zeros(shape, np.float32), rng.integers(0, 2, shape).astype(np.float32)):
        counts = np.unique(np.linspace(0, saliency.size, 70).astype(int))
        masks = np.asarray(jax.jit(jax.vmap(top_mask, (None, 0)))(saliency, counts))
        np.testing.assert_array_equal(masks, np.stack([stable_top(saliency, n) for n in counts]))


def test_packed_tops_hold_the_mask_bit_by_bit():
    saliency = random_maps()["many ties"]
    mask = stable_top(saliency, 40).ravel()
    words = np.asarray(jax.jit(top_words)(saliency, 40))
    assert words.dtype == np.uint32
    expected = np.packbits(np.pad(mask, (0, 29)), bitorder="little").view("<u4")  # 99 pixels in 4 words
    np.testing.assert_array_equal(words, expected)
    np.testing.assert_array_equal(pack(mask), expected)
    np.testing.assert_array_equal(unpack(words), np.pad(mask, (0, 29)))


@pytest.mark.parametrize("words", [1, 128, 131])
def test_shared_pixels_are_the_bits_that_two_masks_have_in_common(words):
    rng = np.random.default_rng(2)
    rows, columns = (rng.integers(0, 2**32, (n, words), np.uint32) for n in (3, 5))
    rows[0] = 0
    columns[0] = 2**32 - 1
    expected = [[int(np.unpackbits((a & b).view(np.uint8)).sum()) for b in columns] for a in rows]
    found = jax.jit(shared_pixels)(rows, columns)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, expected)


def test_count_may_be_traced_with_the_map_under_vmap():
    maps = np.stack(list(random_maps().values()))
    counts = np.arange(len(maps)) * 11
    masks = jax.jit(jax.vmap(top_mask))(maps, counts)
    np.testing.assert_array_equal(masks, np.stack([stable_top(m, n) for m, n in zip(maps, counts, strict=True)]))


def test_static_and_traced_counts_agree():
    saliency = random_maps()["many ties"]
    np.testing.assert_array_equal(top_mask(saliency, 17), top(saliency, jnp.int32(17)))


def test_bfloat16_maps_are_ranked_too():
    saliency = jnp.asarray(random_maps()["no ties"], jnp.bfloat16)
    np.testing.assert_array_equal(top(saliency, 20), stable_top(np.asarray(saliency, np.float32), 20))


@pytest.mark.parametrize(
    ("percent", "shape", "count"),
    [
        (5, (64, 64), 204),
        (50, (64, 64), 2048),
        (5, (224, 224), 2508),
        (100, (3, 5), 15),
        (47, (10, 10), 47),
        (47, (20, 20), 188),
    ],
)
def test_pixel_count_rounds_down(percent, shape, count):
    assert pixel_count(percent, shape) == count


def test_pixel_count_is_that_of_the_reference(golden):
    metrics = golden("metrics")
    assert [pixel_count(float(p), (64, 64)) for p in metrics["agree_percent"]] == metrics["agree_npix"].tolist()


@pytest.mark.parametrize("percent", [0, -5, 100.5, float("nan")])
def test_impossible_percentages_are_refused(percent):
    with pytest.raises(CaseJaxError, match="percent"):
        pixel_count(percent, (8, 8))


@pytest.mark.parametrize("network", NETWORKS)
def test_regions_are_those_of_the_reference(golden, stored_maps, network):
    expected = np.unpackbits(golden(f"{network}_eval")["top50_mask_first"], axis=-1).astype(bool)
    maps = stored_maps(network)
    found = jax.vmap(lambda m: top_mask(m, 2048))(maps.reshape(-1, 64, 64))
    np.testing.assert_array_equal(np.asarray(found).reshape(expected.shape), expected)


@pytest.mark.parametrize("percent", [0, -1, 101, 1])
def test_a_percentage_that_is_no_pixel_is_refused(percent):
    with pytest.raises(CaseJaxError, match=rf"percent: got {percent}"):
        pixel_count(percent, (7, 7))

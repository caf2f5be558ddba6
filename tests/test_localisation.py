"""Where maps lie: reference numbers, shapes whose scores are known, and brute force on tiny maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from case_jax._checks import CaseJaxError
from case_jax.data import CachedCrops, DigitScenes
from case_jax.imageops import crop_resized
from case_jax.metrics.localisation import (
    binarise,
    box_area,
    box_iou,
    box_of_map,
    box_scores,
    components,
    largest_component,
    soft_f1,
    tight_box,
)
from case_jax.metrics.localisation_curves import (
    ANY,
    DELTAS,
    LARGEST,
    max_box_acc,
    max_box_acc_v2,
    pixel_average_precision,
    pixel_counts,
    threshold_hits,
)
from case_jax.metrics.mask_statistics import mask_statistics
from case_jax.metrics.saliency_metric import saliency_metric
from case_jax.report.localise import summarise
from experiments.parity import goldens

OURS = [2, 3, 0, 1]
"""From the reference's (xmin, xmax, ymin, ymax)."""


def square(size, top, bottom, left, right, value=1.0):
    mask = np.zeros((size, size), np.float32)
    mask[top:bottom, left:right] = value
    return mask


@pytest.fixture(scope="module")
def stored(golden):
    return golden("localisation")


@pytest.fixture(scope="module")
def masks(stored):
    return stored["mask_u8"][:, 0].astype(np.float32) / 256


def test_masks_components_and_boxes_are_the_reference_s_exactly(stored, masks):
    for i, mask in enumerate(masks):
        above = binarise(mask)
        largest = largest_component(above, empty_is_whole=True)
        np.testing.assert_array_equal(np.packbits(above.ravel()), stored["binary"][i])
        np.testing.assert_array_equal(np.packbits(largest.ravel()), stored["largest"][i])
        np.testing.assert_array_equal(tight_box(largest), stored["mask_to_bbox"][i][OURS])
        box = box_of_map(mask, reference_box=True)
        np.testing.assert_array_equal(box, stored["box"][i][OURS])
        assert box_area(box) == stored["box_area"][i] == stored["box_mask_sum"][i]


def test_scores_are_the_reference_s(stored, masks):
    boxes = stored["gt_box"][:, OURS]
    for i, mask in enumerate(masks):
        box = box_of_map(mask, reference_box=True)
        found = box_scores(mask, box, boxes, correct=bool(stored["correct"][i]))
        np.testing.assert_allclose(box_iou(box, boxes), stored["iou"][i], rtol=0, atol=1e-12)
        np.testing.assert_array_equal(box_iou(box, boxes) > 0.5, stored["hit"][i])
        np.testing.assert_allclose(soft_f1(mask, boxes), stored["f1"][i], rtol=0, atol=1e-7)
        assert found.f1 == pytest.approx(stored["f1_max"][i], abs=1e-7)
        assert found.f1a == pytest.approx(stored["f1_mean"][i], abs=1e-7)
        assert (found.le, found.om) == (stored["le"][i], stored["om"][i])


def test_the_saliency_metric_is_the_reference_s(stored, golden):
    network = goldens.network("resnet_bottleneck", golden("resnet_bottleneck"))
    images = jnp.asarray(((stored["sm_image_u8"].astype(np.float32) - 128) / 64).transpose(0, 2, 3, 1))
    boxes, targets = (jnp.asarray(a, jnp.int32) for a in (stored["sm_box"][:, OURS], stored["sm_target"]))
    model = network.tap(images[0])

    @jax.jit
    @jax.vmap
    def look(image, box, target):
        crop = crop_resized(image, box, (224, 224))
        found = saliency_metric(lambda x: model.apply(model.params, x), image, box, target)
        return crop, model.apply(model.params, crop), found, found.value

    crops, logits, found, value = look(images, boxes, targets)
    np.testing.assert_allclose(crops[:, ::8, ::8], stored["sm_resized_sub"].transpose(0, 2, 3, 1), atol=1e-5)
    np.testing.assert_allclose(logits, stored["sm_logits"], atol=2e-5 * np.abs(stored["sm_logits"]).max())
    np.testing.assert_allclose(found.log_area, stored["sm_term1"], rtol=1e-6)
    np.testing.assert_allclose(found.log_p, stored["sm_term2"], atol=2e-4)
    np.testing.assert_allclose(value, stored["sm"], atol=2e-4)
    assert 100 * (logits.argmax(-1) == targets).mean() == stored["sm_acc"]
    np.testing.assert_array_equal(crops[3], 0.0)  # the box of area 0


def test_a_crop_of_the_whole_image_at_its_own_size_is_the_image():
    image = jnp.asarray(np.random.default_rng(0).normal(size=(9, 7, 3)), jnp.float32)
    np.testing.assert_array_equal(crop_resized(image, jnp.array([0, 9, 0, 7]), (9, 7)), image)
    np.testing.assert_array_equal(crop_resized(image, jnp.array([2, 6, 1, 4]), (4, 3)), image[2:6, 1:4])


@pytest.mark.parametrize(("start", "stop"), [(0, 5), (2, 9), (3, 4), (8, 9)])
def test_crops_are_enlarged_by_the_kernel_as_it_is_written(start, stop):
    """Position by position, in float64, from Keys' definition."""

    def kernel(d):
        d, a = abs(d), -0.75
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0

    line = np.random.default_rng(1).normal(size=9)
    crop, size = line[start:stop], 12
    expected = []
    for i in range(size):
        at = (i + 0.5) * len(crop) / size - 0.5
        near = range(int(np.floor(at)) - 1, int(np.floor(at)) + 3)
        expected.append(sum(kernel(at - j) * crop[min(max(j, 0), len(crop) - 1)] for j in near))
    image = jnp.asarray(np.broadcast_to(line[:, None, None], (9, 4, 1)), jnp.float32)
    found = crop_resized(image, jnp.array([start, stop, 0, 4]), (size, 4))
    np.testing.assert_allclose(found[:, 2, 0], expected, atol=2e-6)


def test_a_square_on_a_square():
    """Ten by ten pixels of value 1, a true box that holds the upper half of them and as much again above."""
    mask, boxes = square(40, 10, 20, 10, 20), np.array([[5, 15, 10, 20]])
    np.testing.assert_array_equal(box_of_map(mask), [10, 20, 10, 20])
    np.testing.assert_array_equal(box_of_map(mask, reference_box=True), [10, 19, 10, 19])
    found = box_scores(mask, box_of_map(mask), boxes, correct=True)
    assert found.iou == 50 / 150
    assert found.f1 == pytest.approx(0.5, abs=1e-5)  # precision and recall are ½
    assert (found.le, found.om) == (1.0, 1.0)
    exact = box_scores(mask, box_of_map(mask), np.array([[10, 20, 10, 20], [0, 5, 0, 5]]), correct=False)
    assert exact.iou == 1.0
    assert exact.f1 == pytest.approx(1.0, abs=1e-5)
    assert exact.f1a == pytest.approx(0.5, abs=1e-5)
    assert (exact.le, exact.om) == (0.0, 1.0)
    assert np.isnan(box_scores(mask, box_of_map(mask), boxes, correct=None).om)


def test_an_iou_of_a_half_is_no_hit():
    mask = square(20, 0, 10, 0, 10)
    assert box_scores(mask, box_of_map(mask), np.array([[0, 10, 0, 20]]), correct=True).le == 1.0
    assert box_scores(mask, box_of_map(mask), np.array([[0, 10, 0, 19]]), correct=True).le == 0.0


def test_of_two_far_squares_the_larger_counts_and_of_equal_ones_the_first():
    larger = square(40, 2, 6, 30, 34) + square(40, 20, 25, 3, 8)
    np.testing.assert_array_equal(box_of_map(larger), [20, 25, 3, 8])
    equal = square(40, 2, 6, 30, 34) + square(40, 20, 24, 3, 7)
    np.testing.assert_array_equal(box_of_map(equal), [2, 6, 30, 34])


def test_corners_connect_only_where_asked():
    mask = (square(9, 0, 3, 0, 3) + square(9, 3, 6, 3, 6)) > 0
    assert components(mask)[1] == 2
    assert components(mask, corners=True)[1] == 1
    numbers, count = components(np.stack([mask, mask]), corners=True)
    assert (count, numbers[0, 0, 0], numbers[1, 0, 0]) == (2, 1, 2)


def test_constant_and_empty_maps_have_no_box():
    for value in (0.0, 0.3, 1.0):
        flat = np.full((8, 8), value, np.float32)
        np.testing.assert_array_equal(box_of_map(flat), [0, 0, 0, 0])
        np.testing.assert_array_equal(box_of_map(flat, reference_box=True), [0, 7, 0, 7])  # the whole, by its own rule
        found = box_scores(flat, box_of_map(flat), np.array([[0, 8, 0, 8]]), correct=True)
        assert (found.iou, found.le) == (0.0, 1.0)
    assert not largest_component(np.zeros((4, 4), bool)).any()
    assert largest_component(np.zeros((4, 4), bool), empty_is_whole=True).all()
    np.testing.assert_array_equal(tight_box(np.zeros((4, 4), bool)), np.zeros(4))


def test_what_lies_outside_the_image_counts_in_the_true_box():
    mask = square(10, 0, 5, 0, 10)
    boxes = np.array([[-5, 5, 0, 10]])
    assert box_iou(box_of_map(mask), boxes).tolist() == [0.5]
    assert soft_f1(mask, boxes)[0] == pytest.approx(2 / 3, abs=1e-5)  # precision 1, recall ½


def by_hand(maps, masks):
    """Precision and recall at every threshold, pixel by pixel."""
    scores, own = np.concatenate([m.ravel() for m in maps]).astype(float), np.concatenate([m.ravel() for m in masks])
    area, before = 0.0, 0.0
    for level in range(1000, -1, -1):
        taken = scores >= level / 1000
        if taken.any():
            recall = (taken & own).sum() / own.sum()
            area += (taken & own).sum() / taken.sum() * (recall - before)
            before = recall
    return area


def test_pxap_is_the_area_under_the_curve_of_all_pixels_and_counts_add_up():
    rng = np.random.default_rng(0)
    maps = [np.round(rng.random((7, 5)), 3).astype(np.float32) for _ in range(4)]
    maps[0][0, :2] = 0.0, 1.0
    masks = [rng.random((7, 5)) < share for share in (0.1, 0.5, 0.0, 0.9)]
    each = [pixel_counts(m, mask) for m, mask in zip(maps, masks, strict=True)]
    assert sum(each).sum() == 4 * 35
    assert pixel_average_precision(sum(each)) == pytest.approx(by_hand(maps, masks), abs=1e-12)
    together = pixel_counts(np.concatenate(maps), np.concatenate(masks))
    np.testing.assert_array_equal(sum(each), together)


def test_pxap_of_the_perfect_map_is_one_and_of_a_constant_one_the_objects_share():
    mask = np.random.default_rng(1).random((9, 9)) < 0.3
    assert pixel_average_precision(pixel_counts(mask.astype(np.float32), mask)) == 1.0
    assert pixel_average_precision(pixel_counts(np.full((9, 9), 0.4), mask)) == pytest.approx(mask.mean())
    assert np.isnan(pixel_average_precision(pixel_counts(np.full((9, 9), 0.4), np.zeros((9, 9), bool))))
    better = pixel_average_precision(pixel_counts(0.2 + 0.5 * mask, mask))
    assert better == 1.0  # whatever the values: the order counts


def regions_by_hand(mask):
    """The pixels of the 8-connected components, by walking."""
    left = {tuple(p) for p in np.argwhere(mask)}
    while left:
        heap, found = [min(left)], []
        left.remove(heap[0])
        while heap:
            y, x = heap.pop()
            found.append((y, x))
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            heap += near
        yield np.array(found)


def hits_by_hand(saliency, boxes, thresholds):
    def iou(region):
        (top, left), (bottom, right) = region.min(0), region.max(0) + 1
        own = {(y, x) for y in range(top, bottom) for x in range(left, right)}
        them = [{(y, x) for y in range(t, b) for x in range(i, r)} for t, b, i, r in boxes]
        return max(len(own & them) / len(own | them) for them in them)

    hits = np.zeros((2, thresholds, 3), bool)
    for level in range(thresholds):
        found = list(regions_by_hand(saliency.astype(float) >= level / thresholds))
        if found:
            hits[LARGEST, level] = iou(max(found, key=len)) >= np.array(DELTAS)
            hits[ANY, level] = max(map(iou, found)) >= np.array(DELTAS)
    return hits


@pytest.mark.parametrize("seed", range(4))
def test_hits_at_every_threshold_are_those_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    saliency = np.kron(rng.random((4, 5)), np.ones((2, 2))).astype(np.float32)
    boxes = np.array([[0, 4, 0, 4], [3, 8, 5, 10]])
    hits = threshold_hits(saliency, boxes, thresholds=20)
    np.testing.assert_array_equal(hits, hits_by_hand(saliency, boxes, 20))
    assert hits.any()
    assert not hits.all()


def test_max_box_acc_takes_one_threshold_for_all_images():
    """Two images, each with its box at other thresholds: at no threshold do both hit."""
    low = square(12, 2, 8, 2, 8, 0.3) + square(12, 2, 4, 2, 4, 0.5)
    high = np.maximum(square(12, 0, 12, 0, 12, 0.6), square(12, 5, 11, 5, 11, 0.9))
    boxes = [np.array([[2, 8, 2, 8]]), np.array([[5, 11, 5, 11]])]
    hits = [threshold_hits(m, b, thresholds=10) for m, b in zip((low, high), boxes, strict=True)]
    total = sum(h.astype(int) for h in hits)
    assert [max_box_acc(h.astype(int), 1) for h in hits] == [1.0, 1.0]
    assert max_box_acc(total, 2) == max_box_acc_v2(total, 2) == 0.5
    assert np.isnan(max_box_acc(total, 0))
    assert np.isnan(max_box_acc_v2(total, 0))


def test_v2_looks_at_all_components_and_v1_at_the_largest():
    two = square(20, 0, 9, 0, 9) + square(20, 12, 18, 12, 18)
    hits = threshold_hits(two, np.array([[12, 18, 12, 18]])).astype(int)
    assert max_box_acc(hits, 1) == 0.0
    assert max_box_acc_v2(hits, 1) == 1.0
    near = threshold_hits(two, np.array([[12, 18, 12, 21]])).astype(int)  # IoU ⅔: two of the three bounds
    assert max_box_acc_v2(near, 1) == pytest.approx(2 / 3)


def test_statistics_of_known_masks():
    half = mask_statistics(np.full((6, 4), 0.5, np.float32))
    assert half == (0.5, 0.0, 1.0, 0.0)
    binary = mask_statistics(square(4, 0, 4, 0, 2))  # one step in each row
    assert (binary.mean, binary.sd, binary.entropy) == (0.5, 0.5, 0.0)
    assert binary.tv == pytest.approx(4 / 12)
    line = mask_statistics(np.array([[0.0, 1.0, 0.0]], np.float32))
    assert line.tv == 1.0
    quarter = mask_statistics(np.full((3, 3), 0.25, np.float64))
    assert quarter.entropy == pytest.approx(0.811278, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: box_of_map(np.full((4, 4), np.nan)), ["saliency", "nan", "finished map"]),
        (lambda: box_of_map(np.full((4, 4), 1.5)), ["saliency", "1.5"]),
        (lambda: box_of_map(np.zeros((1, 4, 4))), ["saliency", "(1, 4, 4)"]),
        (lambda: box_scores(np.zeros((4, 4)), np.zeros(4, int), np.zeros((0, 4), int), correct=True), ["boxes", "(0, 4)"]),
        (lambda: threshold_hits(np.zeros((4, 4)), np.zeros((1, 4))), ["boxes", "float64"]),
        (lambda: threshold_hits(np.zeros((4, 4)), np.zeros((1, 4), int), thresholds=0), ["thresholds: got 0"]),
        (lambda: pixel_counts(np.zeros((4, 4)), np.zeros((4, 5), bool)), ["pixels", "(4, 5)"]),
        (lambda: pixel_counts(np.zeros((4, 4)), np.zeros((4, 4))), ["pixels", "float64"]),
        (lambda: mask_statistics(np.full((4, 4), -0.1)), ["saliency", "-0.1"]),
        (lambda: DigitScenes("test", 1).truth(0, "digit"), ["truth: 'digit'", "union"]),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name(call, words):
    with pytest.raises(CaseJaxError) as caught:
        call()
    assert all(word in str(caught.value) for word in words)


def test_the_truth_of_a_scene_is_the_ink_of_what_was_asked_for():
    source = DigitScenes("test", 3)
    for index in range(3):
        scene = source.scene(index)
        for kind, regions in (("union", [0, 1]), ("body", [0]), ("marker", [1])):
            found = source.truth(index, kind)
            np.testing.assert_array_equal(found.pixels, scene.masks[regions].any(0))
            np.testing.assert_array_equal(found.boxes, [tight_box(found.pixels)])
    assert source.truths[0] == "union"


def test_a_cache_of_crops_knows_what_its_source_knows(tmp_path):
    source = DigitScenes("test", 2)
    cached = CachedCrops(source, tmp_path)
    assert cached.truths == source.truths
    np.testing.assert_array_equal(cached.truth(1, "body").boxes, source.truth(1, "body").boxes)


def test_tables_leave_out_what_has_no_number():
    rows = pd.DataFrame(
        {
            "image_id": [0, 0, 1, 1, 2, 2],
            "method": ["a", "b"] * 3,
            "degenerate": [False, True] * 3,
            **{name: [0.5, np.nan] * 3 for name in ("iou", "f1", "f1a", "le", "om", "sm", "sm_log_area", "sm_log_p")},
            **{name: [0.25, np.nan] * 3 for name in ("mean", "sd", "entropy", "tv")},
        }
    )
    overall = pd.DataFrame(
        {"images": [3, 0], "pxap": [np.nan] * 2, "max_box_acc": [1.0, np.nan], "max_box_acc_v2": [0.9, np.nan]},
        index=["a", "b"],
    )
    summary = summarise(rows, overall).set_index("method")
    assert summary.loc["a", "images"] == 3
    assert summary.loc["b", "degenerate"] == 3
    assert summary.loc["a", ["le", "le_low", "le_high"]].tolist() == [0.5] * 3
    assert summary.loc["b", ["le", "om", "f1", "f1a", "sm", "pxap", "max_box_acc", "mean"]].isna().all()

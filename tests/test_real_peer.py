"""Our half of the comparison on a trained network: the crops that both sides read, and the numbers of the two tests."""

import jax
import numpy as np
from PIL import Image

import case_jax as cj
from case_jax.metrics import PERCENTS, agreement
from experiments.benchmarks import real_peer


def test_crops_are_the_same_each_time(tmp_path):
    for folder in ("a", "b"):
        real_peer.write_crops(tmp_path / folder, 11, side=16)
    first, second = ([np.asarray(Image.open(file)) for file in sorted((tmp_path / f).iterdir())] for f in ("a", "b"))
    assert len(first) == 11
    np.testing.assert_array_equal(first, second)
    assert (first[0] != first[10]).any()  # the first photograph again, in another view


def test_the_two_tests_are_those_of_explained_maps(toy, toy_images):
    names, image = ("grad_cam", "finer_cam"), toy_images[2]
    F, left = jax.jit(lambda params, x: real_peer.tested(toy, names, params, x))(toy.params, image)
    logits = np.asarray(toy.apply(toy.params, image))
    pair = np.argsort(-logits, kind="stable")[:2]
    for place, name in enumerate(names):
        maps = np.asarray(cj.explain(toy, image, name, targets=pair, contrast="topk_logits:1" if place else None))
        assert F[place] == agreement(*maps).F
        order = np.argsort(-maps[0].ravel(), kind="stable")
        for number, percent in enumerate(PERCENTS):
            removed = np.array(image)
            removed.reshape(-1, 3)[order[: int(percent / 100 * order.size)]] = 0
            p = jax.nn.softmax(toy.apply(toy.params, removed))[pair[0]]
            np.testing.assert_allclose(left[place, number], p, rtol=1e-5)

"""The experiment on recursive masks: what it concludes from rows whose answer is known."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import nnx

from case_jax.models.vgg import VGG
from experiments import families, recursive
from experiments.kept import Numbers


def made(network, method, biases, seed, share_wrong):
    """Twenty images: the label is always named in the end where there are no biases, a wrong class in this share, the prediction always."""
    images = np.arange(20)
    scores = {}
    for i in range(recursive.ROUNDS + 1):
        after = i > 0
        told = after and biases == recursive.FREE and method == recursive.SIGN
        scores[f"mia_label_{i}"] = np.where(images < (20 if told else 16 + seed % 2), 1.0, 0.0)
        scores[f"mia_predicted_{i}"] = np.ones(20)
        scores[f"mia_wrong_{i}"] = np.where(images < 20 * share_wrong * (i / recursive.ROUNDS), 1.0, 0.0)
    return pd.DataFrame(
        {
            "image_id": images, "method": method, "network": network, "biases": biases, "seed": seed, "label": 3, "top1": 3,
            "average_drop": 0.1, "average_gain": 0.2, "average_increase": 0.5, "mask_mean": 0.4, **scores,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [((0.9, 0.8), "reproduced"), ((0.2, 0.3), "contradicted"), ((0.9, 0.2), "not reproduced")],
)
def test_a_wrong_class_decides_what_the_score_is_worth(shares, verdict):
    """Every family is one comparison: one where the mask does not talk the classifier into it refutes the claim about all."""
    named = dict(zip(("ResNet", "VGG"), shares, strict=True))
    cases = itertools.product(named, recursive.TESTED, (recursive.BIASED, recursive.FREE), range(3))
    frames = [made(n, m, b, s, named[n] if m == recursive.SIGN else 0.0) for n, m, b, s in cases]
    answer = recursive.concluded(Numbers({"rows": pd.concat(frames, ignore_index=True)}, {}), recursive.Config())
    found = {finding.claim: finding for finding in answer.findings}
    assert [f.verdict for f in answer.findings[:4]] == ["reproduced"] * 4
    asked = next(f for claim, f in found.items() if "most images" in claim)
    assert asked.verdict == verdict
    first, second = (f"{100 * share:.0f}%" for share in shares)
    assert f"without biases 100% and {first} (ResNet), 100% and {second} (VGG); with biases" in asked.note
    assert answer.findings[-1].verdict == "reproduced"
    shown: Any = answer.tables["accuracy"].shown
    shown = shown.set_index("method")
    assert shown.loc[recursive.SIGN, "VGG without biases"] == f"100% / 100% / {second}"
    assert shown.loc["the whole image (accuracy)", "ResNet with biases"] == "82%"
    drops: Any = answer.tables["confidence"].shown
    assert drops.set_index("method").loc[recursive.SIGN, "VGG without biases"] == "10% / 20% / 50% / 40%"
    assert len(answer.figures["rounds"].axes) == 6


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(ValueError, match="seeds: got 0"):
        recursive.measured(recursive.Config(seeds=0))
    elsewhere = recursive.Config(where=recursive.Where(data="folder:photos"))
    with pytest.raises(ValueError, match="data"):
        recursive.measured(elsewhere)


def test_centred_kernels_keep_images_apart_and_scale_nothing():
    """The last map of the images is less alike than with the usual kernels; y(2x) = 2 y(x) with both."""
    images = jax.random.uniform(jax.random.key(0), (4, 32, 32, 3))
    alike = {}
    for centred in (False, True):
        net: Any = families._bias_free(
            lambda n, rngs: VGG(((8,), (8,), (8,)), hidden=(6, 6), num_classes=n, rngs=rngs),
            5,
            centred=centred,
            rngs=nnx.Rngs(0),
        )
        net.features(images)  # in training: running variances move
        net.eval()
        found = net.features(images).reshape(4, -1)
        found /= jnp.linalg.norm(found, axis=1, keepdims=True)
        alike[centred] = float((found @ found.T).mean())
        first = net.features[0].kernel[...]
        assert (np.abs(first.mean((0, 1, 2))).max() < 1e-6) == centred
        np.testing.assert_allclose(net(2 * images), 2 * net(images), rtol=1e-4, atol=1e-6)
    assert alike[True] < alike[False]


def test_only_families_that_need_it_are_trained_otherwise_without_biases():
    changed = {
        name
        for name in families.CONVOLUTIONAL
        if families.training_of(name, quick=False, biases=False) != families.training_of(name, quick=False)
    }
    assert changed == set(families.BIAS_FREE) == {"VGG", "DenseNet"}
    assert families.training_of("VGG", quick=True, biases=False).steps < 100

"""Studies of images that are no RGB: one channel, and eleven. Every row is there, and the page can be written."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import studies

from case_jax import tag, tap_function
from case_jax.contrast import choose_contrast
from case_jax.evaluation import Pixels
from case_jax.evaluation.kept_gallery import REGIONS, save_gallery
from case_jax.imageops import normalise_image
from case_jax.report import write_report
from case_jax.source import Example, Truth

SIDE, CLASSES, IMAGES = 12, 4, 4
METHODS = ["grad_cam", "input_x_gradient", "sobel"]


def logits(params, x):
    kernel, head = params
    a = jax.lax.conv_general_dilated(x[None], kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]
    return jax.nn.relu(tag(a, "a")).mean((0, 1)) @ head


class Spectra:
    """Images of so many channels, each of a class of its own kind; where the object is, is known."""

    name, fingerprint, class_names, truths = "spectra", "0", tuple("abcd"), ("boxes",)

    def __init__(self, depth):
        self.depth = depth

    def __len__(self):
        return IMAGES

    def __getitem__(self, index):
        if index >= IMAGES:
            raise IndexError(index)
        pixels = np.random.default_rng(index).integers(0, 256, (SIDE, SIDE, self.depth), np.uint8)
        return Example(index, f"image {index}", pixels, -1)

    def labels_of(self, indices):
        return np.full(len(indices), -1)

    def truth(self, index, kind):
        return Truth(np.array([[2, 8, 3, 9]]))


def tap(depth, image):
    """A classifier that calls every image of the source by its number."""
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, depth, 6)), jnp.float32)
    shown = jnp.stack([normalise_image(example.image, *pixels_of(depth)) for example in Spectra(depth)])
    features = jax.vmap(partial(logits, (kernel, jnp.eye(6))))(shown)
    head = 9 * np.linalg.pinv(np.asarray(features, np.float64))
    return tap_function(logits, (kernel, jnp.asarray(head, jnp.float32)), "a", image)


def pixels_of(depth):
    return Pixels((0.5,) * depth, (0.25,) * depth)


@pytest.mark.parametrize("depth", [pytest.param(1, marks=pytest.mark.slow), 11])
def test_studies_take_images_of_any_number_of_channels(depth, tmp_path):
    source, of_depth = Spectra(depth), partial(tap, depth)
    model = of_depth(jnp.zeros((SIDE, SIDE, depth)))
    contrast = choose_contrast("topk_logits:2", CLASSES)
    asked = {"pixels": pixels_of(depth), "tile": 4, "part": 4}

    found = studies.localise(source, model, contrast, METHODS, tmp_path / "l", target="predicted", **asked)
    assert found.rows["method"].nunique() == len(METHODS) + 4
    assert found.rows.loc[found.rows["method"].isin(METHODS), "iou"].notna().all()

    untrained = jax.tree.map(lambda p: -p, model.params)
    folder = studies.sanity(source, model, contrast, METHODS, tmp_path / "s", untrained=untrained, **asked)
    assert set(folder.rows()["image_id"]) == set(range(IMAGES))
    write_report(folder.path)

    job, folder = studies.play(source, of_depth, model, METHODS, tmp_path / "g", mosaics=1, confidence=0.5, **asked)
    rows = folder.rows()
    assert rows["score"].between(0, 1).all()
    assert len(rows) == 2 * len(METHODS) * 4
    save_gallery(job, folder, of=REGIONS)
    write_report(folder.path)

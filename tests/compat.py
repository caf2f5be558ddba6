"""What the tests of other people's models share: networks cut in two by hand, and a run of four images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import cam_and_case
from studies import sanity

from case_jax import METHODS, CaseJaxError, all_class_maps, evaluate, grad_cam, topk_logits
from case_jax.contrast.choice import choose_contrast
from case_jax.contrast.sets import Query
from case_jax.evaluation import Pixels
from case_jax.source import Example
from case_jax.tap.parameters import parameter_layers, permuted

CLASSES, RIVALS = 7, 3
EXTRA = "pip install 'case-jax[compat]'"
PIXELS = Pixels((0.5,) * 3, (0.25,) * 3)


def image_of(*sides):
    return jnp.asarray(np.random.default_rng(0).normal(size=(*sides, 3)), jnp.float32)


def compare(model, image, activation, gradients, logits, *, within=1e-5, cancelling=False):
    """Both maps of every class, within this share of the largest value; of the largest sum of terms without their signs where they cancel."""
    classes = len(logits)
    assert model.num_classes == classes

    def maps(image):
        of = {name: METHODS[name].maps for name in ("grad_cam", "case")}
        contrast = topk_logits(RIVALS, classes)
        return {name: all_class_maps(f, model, model.params, image, contrast=contrast) for name, f in of.items()}

    found, expected = jax.jit(maps)(image), cam_and_case(activation, gradients, logits, rivals=RIVALS)
    flat = np.abs(np.asarray(activation).reshape(-1, np.shape(activation)[-1]))
    weights = np.asarray(gradients).reshape(classes, *flat.shape).mean(1)
    terms = (flat @ np.abs(weights).T).max()
    for name, by_hand in expected.items():
        assert by_hand.max() > 0
        largest = terms if cancelling else by_hand.max()
        np.testing.assert_allclose(
            found[name], by_hand.reshape(found[name].shape), rtol=0, atol=within * largest, err_msg=name
        )


def by_hand(front, tail, image):
    """A layer's output, all logits' gradients in it, and the logits, from a network cut in two there."""

    @jax.jit
    def everything(image):
        kept, a = front(image)
        return a, jax.jacrev(lambda a: tail(kept, a))(a), tail(kept, a)

    return everything(image)


def several(tap, layers, image):
    """Layers tapped together, the last of them the tapped one, against each tapped alone; what `tap(layer, layers=…)` must do."""
    query, model, alone = Query(jnp.arange(CLASSES)), tap(layers[-1], layers=list(layers)), [tap(one) for one in layers]

    @jax.jit
    def run(image):
        view, singles = model.view(model.params, image), [one.view(one.params, image) for one in alone]
        together = [
            (v.activation, a, grad_cam(v, query)) for v, a in zip(view.views(), view.activations(), strict=True)
        ]
        return together, [(v.activation, v.activation, grad_cam(v, query)) for v in singles]

    for found, expected in zip(*run(image), strict=True):
        for a, b in zip(found, expected, strict=True):
            assert float(jnp.abs(b).max()) > 0
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * float(jnp.abs(b).max()))
    with pytest.raises(CaseJaxError, match=r"layers: got .*; accepted: paths of layers, in a list, each once"):
        tap(layers[-1], layers=layers[0])


class Noise:
    """Four smooth random images."""

    name, class_names, fingerprint = "noise", None, "v1"

    def __init__(self, height, width):
        self.sides = height, width

    def __len__(self):
        return 4

    def __getitem__(self, index):
        height, width = self.sides
        coarse = np.random.default_rng(index).integers(0, 256, (height // 4, width // 4, 3))
        return Example(index, f"noise {index}", coarse.repeat(4, 0).repeat(4, 1).astype(np.uint8), index % 3)


def evaluated(model, path):
    """Class sensitivity and cascading sanity checks of four images: a row each for images and methods, and layers changed."""
    source = Noise(*model.image_shape[:2])
    methods = ("grad_cam", "case")
    run = {"contrast": "topk_logits:2", "tile": 4, "metrics": ["sensitivity"], "out": path / "run"}
    folder = evaluate(source, model, methods=methods, pixels=PIXELS, **run)
    rows = folder.rows()
    assert len(rows) == 4 * len(methods)
    assert set(rows["method"]) == set(methods)
    assert (folder.path / "report.html").stat().st_size > 0

    contrast = choose_contrast("topk_logits:2", num_classes=model.num_classes)
    checked = sanity(
        source,
        model,
        contrast,
        ("grad_cam",),
        path / "sanity",
        pixels=PIXELS,
        untrained=permuted(model.params),
        kinds=("cascading",),
    )
    assert set(checked.rows()["layer"]) >= set(parameter_layers(model).names)

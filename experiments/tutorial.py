"""Bring your own Flax model: tap it, maps of all classes, the class-sensitivity diagnostic, a report.

Question   How does a model of one's own get through all of this?
Command    python -m experiments.tutorial (or cell by cell, in an editor that knows `# %%`)
Cost       about a minute on 2 CPU cores
Expected   a classifier that is right on nine in ten handwritten digits, and the path of a report
"""

# %% Your model, your data. Nothing here knows of case_jax: a small network on scikit-learn's handwritten digits.
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

digits: Any = load_digits()
pixels = np.kron(digits.images, np.ones((4, 4)))[..., None].repeat(3, -1)  # 8×8 to 32×32, three channels
pixels = (pixels * 255 / 16).astype(np.uint8)
train, test = slice(0, 1400), slice(1400, None)


class Net(nnx.Module):
    """Two convolutions, a mean and a linear layer."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(3, 32, (5, 5), strides=2, rngs=rngs)
        self.conv2 = nnx.Conv(32, 64, (5, 5), strides=2, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits."""
        x = nnx.relu(self.conv2(nnx.relu(self.conv1(x))))
        return self.head(x.mean(axis=(1, 2)))


def normalised(images: np.ndarray) -> jax.Array:
    """Pixels as the network is fed."""
    return (jnp.asarray(images, jnp.float32) / 255 - 0.3) / 0.35


net = Net(rngs=nnx.Rngs(0))
optimiser = nnx.Optimizer(net, optax.adam(3e-3), wrt=nnx.Param)


@nnx.jit
def learn(net: Net, optimiser: nnx.Optimizer, x: jax.Array, y: jax.Array) -> None:
    """One step."""

    def loss_of(net: Net) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(net(x), y).mean()

    optimiser.update(net, nnx.grad(loss_of)(net))


for epoch in range(16):
    order = np.random.default_rng(epoch).permutation(1400)
    for at in range(0, 1400, 100):
        some = order[at : at + 100]
        learn(net, optimiser, normalised(pixels[some]), jnp.asarray(digits.target[some]))
right = float((net(normalised(pixels[test])).argmax(-1) == digits.target[test]).mean())
print(f"right on {right:.0%} of the test images")

# %% Tap it: the classifier becomes a function and its parameters, split at a layer.
import case_jax  # noqa: E402

image = normalised(pixels[1400])
model = case_jax.tap_nnx(net, "conv2", image, linear_head="head")
print(f"layer {model.layer}: map of {model.activation_shape}, {model.num_classes} classes")

# %% Maps of all classes of an image at once, each contrasted with the three likeliest others.
contrast = case_jax.topk_logits(3, model.num_classes)


@jax.jit
def explain(params: object, image: jax.Array) -> jax.Array:
    """CASE of every class."""
    return case_jax.all_class_maps(case_jax.case, model, params, image, contrast=contrast)


maps = jax.vmap(explain, in_axes=(None, 0))(model.params, normalised(pixels[1400:1408]))
print(f"maps of 8 images: {maps.shape}")

# %% One number for one image: do the maps of the two likeliest classes mark the same pixels?
finished = case_jax.finish_maps(maps[0], (32, 32))
first, second = jax.lax.top_k(net(image[None])[0], 2)[1]
print(
    f"classes {first} and {second} share {float(case_jax.agreement(finished[first], finished[second]).F):.0%} of their top 5%"
)

# %% The diagnostic and the fidelity test over a data set. A source is anything with a length whose items are images with stable ids.
import tempfile  # noqa: E402

from case_jax.contrast.choice import choose_contrast  # noqa: E402
from case_jax.evaluation import Evaluate, Pixels, Subject, prepare, run  # noqa: E402
from case_jax.report import write_report  # noqa: E402
from case_jax.results import RunFolder  # noqa: E402
from case_jax.source import Example  # noqa: E402


class TestDigits:
    """The images that were not trained on."""

    name, fingerprint = "handwritten digits", "scikit-learn, from 1400"
    class_names = tuple("0123456789")

    def __len__(self) -> int:
        """Number of images."""
        return 100

    def __getitem__(self, i: int) -> Example:
        """One image."""
        number = 1400 + i
        return Example(number, f"digit {number}", pixels[number], int(digits.target[number]))


subject = Subject(
    TestDigits(),
    model,
    choose_contrast("topk_logits:3", model.num_classes),
    Pixels((0.3, 0.3, 0.3), (0.35, 0.35, 0.35)),
    methods=("grad_cam", "case", "finer_cam", "layer_cam", "random"),
    model_name="my network",
)
job = prepare(Evaluate(), subject, tile=20, part=20)
folder = run(job, RunFolder(tempfile.mkdtemp(prefix="case_jax-tutorial-")), progress=False)

# %% The report, and the rows behind it.
print(folder.rows().groupby("method", sort=False)[["F", "p_removed_50"]].median())
print(write_report(folder.path))

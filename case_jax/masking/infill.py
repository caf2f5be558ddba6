"""What is put where the mask hides the image.

An infiller is any function `(images, hidden, key) → images`: normalised images (B, H, W, D), how far each pixel is hidden (B, H, W; 1 is
hidden), a random key; it returns what the hidden parts are replaced by, for whole images. It must be pure.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Key

from case_jax import parallel
from case_jax._checks import require, unknown
from case_jax.imageops import blur, normalise_image, resize_map
from case_jax.models.layers import MaxPool
from case_jax.training import Batch, Keys, Network, Task, Variables
from case_jax.training.optimise import updated

Images = Float[Array, "B H W D"]
Masks = Float[Array, "B H W"]
Infiller = Callable[[Images, Masks, Key[Array, ""]], Images]

SIGMA = 20 / 224
"""The paper's blur, σ = 20 pixels of 224, as a share of the longer side."""
WIDTHS = (32, 64, 128, 256)


def masked_in(images: Images, mask: Masks, infill: Images | None = None) -> Images:
    """What the mask shows: `m ⊙ x`, and `+ (1 − m) ⊙ infill`; normalised zeros are the data set's mean."""
    shown = mask[..., None] * images
    return shown if infill is None else shown + (1 - mask[..., None]) * infill


def masked_out(images: Images, mask: Masks, infill: Images | None = None) -> Images:
    """What the mask leaves: `(1 − m) ⊙ x`, and `+ m ⊙ infill`."""
    return masked_in(images, 1 - mask, infill)


def blurred(images: Images, hidden: Masks, key: Key[Array, ""]) -> Images:
    """The image itself, blurred (σ 20 of 224 pixels)."""
    return jax.vmap(lambda image: blur(image, SIGMA * max(image.shape[:2])))(images)


def mean_colour(images: Images, hidden: Masks, key: Key[Array, ""]) -> Images:
    """The mean colour of the visible pixels; of all pixels where none is visible."""
    seen = (1 - hidden)[..., None]
    total = seen.sum((1, 2), keepdims=True)
    visible = (seen * images).sum((1, 2), keepdims=True) / jnp.maximum(total, 1e-6)
    colour = jnp.where(total > 1e-6, visible, images.mean((1, 2), keepdims=True))
    return jnp.broadcast_to(colour, images.shape)


def noise(images: Images, hidden: Masks, key: Key[Array, ""]) -> Images:
    """Standard normal noise: the data set's mean and deviation."""
    return jax.random.normal(key, images.shape, images.dtype)


INFILLERS: dict[str, Infiller | None] = {"none": None, "blur": blurred, "mean": mean_colour, "noise": noise}
"""By name, but for the convolutional one, which is trained."""


def infiller(name: str) -> Infiller | None:
    """The infiller of this name; None puts nothing there, which is the data set's mean.

    Raises:
        CaseJaxError: for an unknown name; lists those that exist.
    """
    if name not in INFILLERS:
        raise unknown("infill", name, (*INFILLERS, "a folder of `case-jax train infiller`"))
    return INFILLERS[name]


class InfillNet(nnx.Module):
    """A convolutional infiller: 3×3 convolutions and pools down, interpolations and shortcuts up; the paper's widths 32-64-128-256.

    Images keep their size, which must be a multiple of 2 to the number of widths.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS, *, rngs: nnx.Rngs):
        def conv(inputs: int, outputs: int) -> nnx.Conv:
            xavier = nnx.initializers.xavier_uniform()
            return nnx.Conv(inputs, outputs, (3, 3), kernel_init=xavier, rngs=rngs)

        self.widths = widths
        self.down = nnx.List([conv(i, o) for i, o in zip((4, *widths[:-1]), widths, strict=True)])
        ups = [conv(widths[-1], widths[-2])]
        ups += [conv(2 * widths[i], widths[i - 1]) for i in range(len(widths) - 2, 0, -1)]
        self.up = nnx.List([*ups, conv(2 * widths[0], 3)])
        self.pool = MaxPool(2, stride=2)

    def __call__(self, images: Images, hidden: Masks) -> Images:
        """Images for the hidden parts, from the visible ones and where they are."""
        step = 2 ** len(self.widths)
        accepted = f"a height and width that are multiples of {step}"
        require(images.shape[1] % step == images.shape[2] % step == 0, "images", f"shape {images.shape}", accepted)
        x = jnp.concatenate([images * (1 - hidden[..., None]), hidden[..., None]], -1)
        kept = []
        for down in self.down:
            x = self.pool(jax.nn.relu(down(x)))
            kept.append(x)
        for up, shortcut in zip(self.up[:-1], reversed(kept[:-1]), strict=True):
            x = jnp.concatenate([_doubled(jax.nn.relu(up(x))), shortcut], -1)
        return _doubled(self.up[-1](x))


def _doubled(x: Float[Array, "B h w K"]) -> Float[Array, "B H W K"]:
    shape = (2 * x.shape[1], 2 * x.shape[2])
    return jnp.moveaxis(resize_map(jnp.moveaxis(x, -1, 1), shape), 1, -1)


def as_infiller(net: InfillNet) -> Infiller:
    """A trained network as an infiller."""
    graph, state = nnx.split(net)

    def fill(images: Images, hidden: Masks, key: Key[Array, ""]) -> Images:
        trained: Any = nnx.merge(graph, jax.lax.stop_gradient(state))
        return trained(images, jax.lax.stop_gradient(hidden))

    return fill


def infill_task(net: InfillNet, *, mean: tuple[float, ...], std: tuple[float, ...], rate: float = 1e-3) -> Task:
    """Training of a convolutional infiller: the mean absolute error of the hidden pixels behind random holes, by Adam.

    Args:
        net: fresh; left untouched.
        mean: of the pixels, as the classifier wants them.
        std: the same.
        rate: learning rate.
    """
    network, optimiser = Network(net), optax.adam(rate)

    def step(state: tuple[Variables, Any], batch: Batch, keys: Keys) -> tuple[Any, dict[str, Array]]:
        variables, memory = state
        images = normalise_image(batch.images, mean, std)
        height, width = images.shape[1:3]
        hidden = random_holes(keys.own, len(images), (height, width))

        def loss_of(params: Any) -> Array:
            made = network(Variables(params, variables.stats), images, hidden, train=True)[0]
            error = jnp.abs(made - images).mean(-1)
            return (error * hidden).sum() / jnp.maximum(hidden.sum(), 1.0)

        loss, gradient = parallel.average(jax.value_and_grad(loss_of)(variables.params))
        params, memory = updated(optimiser, gradient, memory, variables.params)
        return (Variables(params, variables.stats), memory), {"loss": loss}

    return Task((network.variables, optimiser.init(network.variables.params)), step)


def random_holes(key: Key[Array, ""], count: int, shape: tuple[int, int], *, most: int = 4) -> Masks:
    """Hidden regions to train an infiller on: up to `most` rectangles of a tenth to three fifths of each side; half of them inverted."""
    sides = jnp.array(shape, jnp.float32)
    rows, columns = (jnp.arange(n, dtype=jnp.float32) for n in shape)
    rows, columns = rows[:, None], columns[None]

    def one(key: Key[Array, ""]) -> Float[Array, "H W"]:
        sizes, places, number, inverted = jax.random.split(key, 4)
        extent = jax.random.uniform(sizes, (most, 2), minval=0.1, maxval=0.6) * sides
        start = jax.random.uniform(places, (most, 2)) * (sides - extent)
        inside = (
            (rows >= start[:, 0, None, None])
            & (rows < (start + extent)[:, 0, None, None])
            & (columns >= start[:, 1, None, None])
            & (columns < (start + extent)[:, 1, None, None])
        )
        there = jnp.arange(most) < jax.random.randint(number, (), 1, most + 1)
        holes = (inside & there[:, None, None]).any(0)
        return jnp.where(jax.random.bernoulli(inverted), ~holes, holes).astype(jnp.float32)

    return jax.vmap(one)(jax.random.split(key, count))

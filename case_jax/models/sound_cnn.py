"""The default classifier of sounds: a small residual network for the spectrograms of sound scenes."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from case_jax.audio import Stft, mel_filterbank
from case_jax.audio.mel import mel
from case_jax.data.sound_scenes import SOUND
from case_jax.models.digit_resnet import ResidualBlock

LEAST = -0.5
"""Of a mel band's magnitude. No sound has one below 0; images with noise have, and from −1 on they would have no logarithm."""


class SoundCNN(nnx.Module):
    """Mel bands, then as `DigitResNet`: stem, three residual blocks, global average pool and a linear head.

    The image is the logarithmic magnitude `X = log(1 + P)` on linear frequencies, so that maps and masks lie where they can be heard. The first
    operation hears it in mel bands, `log(1 + expm1(X) B)`, and lays these out at equal steps in hertz: on a mel axis a feature map could not be
    enlarged to the spectrogram, whose frequencies it would not be in line with.

    Args:
        num_classes: number of logits.
        how: of the spectrogram.
        filters: number of mel bands.
        columns: how many equal steps the bands are laid out at.
        widths: channels of the three blocks.
        rngs: for the initial parameters.
    """

    def __init__(
        self,
        num_classes: int = 25,
        *,
        how: Stft = SOUND,
        filters: int = 40,
        columns: int = 64,
        widths: tuple[int, int, int] = (16, 32, 48),
        rngs: nnx.Rngs,
    ):
        first, second, third = widths
        self.how, self.filters, self.columns = how, filters, columns
        self.stem = nnx.Conv(1, first, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(first, momentum=0.9, rngs=rngs)
        self.blocks = nnx.List(
            [
                ResidualBlock(first, first, stride=2, rngs=rngs),
                ResidualBlock(first, second, rngs=rngs),
                ResidualBlock(second, third, rngs=rngs),
            ]
        )
        self.head = nnx.Linear(third, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "B T F 1"]) -> Float[Array, "B C"]:
        """Logits of a batch of spectrograms."""
        bank, layout = bands_and_layout(self.how, self.filters, self.columns)
        heard = jnp.maximum(jnp.expm1(x[..., 0]) @ jnp.asarray(bank, x.dtype), LEAST)
        bands = jnp.log1p(heard) @ jnp.asarray(layout, x.dtype)
        y = jax.nn.relu(self.bn(self.stem(bands[..., None])))
        for block in self.blocks:
            y = block(y)
        return self.head(y.mean(axis=(1, 2)))


@lru_cache
def bands_and_layout(
    how: Stft, filters: int, columns: int
) -> tuple[Float[np.ndarray, "F n"], Float[np.ndarray, "n m"]]:
    """The mel filterbank, and the matrix that interpolates between its centres at the middles of equal steps in hertz.

    Args:
        how: of the spectrogram of F frequencies.
        filters: number n of mel bands.
        columns: number m of steps.
    """
    bank = mel_filterbank(filters, how)
    places = (np.arange(columns) + 0.5) * how.bins / columns - 0.5  # the middles of the steps, in bins
    share = mel(places * how.rate / how.n_fft) / mel(how.rate / 2)
    nearest = np.clip(share * (filters + 1) - 1, 0, filters - 1)  # as a number of a filter, 0 the first
    layout = np.maximum(0.0, 1 - np.abs(nearest - np.arange(filters)[:, None]))
    return bank, layout.astype(np.float32)

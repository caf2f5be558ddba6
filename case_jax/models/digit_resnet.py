"""The default classifier: a small residual network for 48×48 digit scenes."""

import jax
from flax import nnx
from jaxtyping import Array, Float


class ResidualBlock(nnx.Module):
    """Two 3×3 convolutions with batch normalisation and a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(inputs, outputs, (3, 3), strides=stride, use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(outputs, outputs, (3, 3), use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
        if stride != 1 or inputs != outputs:
            self.shortcut = nnx.Conv(inputs, outputs, (1, 1), strides=stride, use_bias=False, rngs=rngs)
        else:
            self.shortcut = nnx.identity

    def __call__(self, x: Float[Array, "B h w i"]) -> Float[Array, "B H W o"]:
        """The block's post-activation output."""
        y = jax.nn.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return jax.nn.relu(y + self.shortcut(x))


class DigitResNet(nnx.Module):
    """Stem, three residual blocks, global average pool and a linear head.

    Everything after the last block's last convolution acts on each channel alone up to the head, so all class weights have
    a closed form there.
    """

    def __init__(self, num_classes: int = 25, widths: tuple[int, int, int] = (16, 32, 48), *, rngs: nnx.Rngs):
        first, second, third = widths
        self.stem = nnx.Conv(3, first, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(first, momentum=0.9, rngs=rngs)
        self.blocks = nnx.List(
            [
                ResidualBlock(first, first, rngs=rngs),
                ResidualBlock(first, second, stride=2, rngs=rngs),
                ResidualBlock(second, third, rngs=rngs),
            ]
        )
        self.head = nnx.Linear(third, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B C"]:
        """Logits of a batch of normalised images."""
        x = jax.nn.relu(self.bn(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)))

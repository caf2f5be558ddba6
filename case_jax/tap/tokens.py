"""Tokens of a transformer as a map: which of them lie where in the image."""

from collections.abc import Sequence
from dataclasses import dataclass

from case_jax._checks import CaseJaxError, require

PREFIXES = 9
"""Most tokens that a suggestion takes to stand in front of the grid: a class token and eight registers."""


@dataclass(frozen=True)
class Tokens:
    """A grid of rows and columns, in row order, behind tokens that belong to no place."""

    grid: tuple[int, int]
    prefix: int
    check: bool = True
    """Whether the grid must have the image's aspect ratio."""

    def require_fit(self, output: Sequence[int], image: Sequence[int], layer: str) -> None:
        """Raise unless the grid takes all of a layer's tokens and, to within a token, has the image's aspect ratio.

        Args:
            output: shape of the layer's output for one image, (1, prefix + rows · columns, channels).
            image: shape of the image.
            layer: its path.

        Raises:
            CaseJaxError: when it does not; the grids that do are shown.
        """
        height, width = self.grid
        given = f"{height}×{width} with prefix_tokens={self.prefix} for the output {tuple(output)} of layer {layer!r}"
        require(
            len(output) == 3 and height >= 1 and width >= 1 and self.prefix >= 0,
            "token_grid",
            given,
            "as many rows and columns as the layer has tokens of image patches, its output being (batch, tokens, channels)",
        )
        fits = output[1] == self.prefix + height * width
        apart = self.check and (height, width) not in grids(output[1] - self.prefix, image) if fits else False
        if not fits or apart:
            wrong = f"and an image of {image[0]}×{image[1]}" if fits else f"of {output[1]} tokens"
            more = " (patches that are not square: check=False)" if fits else ""
            raise CaseJaxError(f"token_grid: got {given} {wrong}; accepted: {suggested(output[1], image)}{more}.")


def grids(tokens: int, image: Sequence[int]) -> list[tuple[int, int]]:
    """The grid of that many equal square patches that has an image's aspect ratio to within a token; two where they fit equally, or none."""
    height, width = image[:2]
    pairs = [(h, tokens // h) for h in range(1, tokens + 1) if tokens % h == 0]
    near = [(h, w) for h, w in pairs if (h - 1) * width < (w + 1) * height and (w - 1) * height < (h + 1) * width]

    def apart(pair: tuple[int, int]) -> float:
        wide, high = pair[1] * height, pair[0] * width
        return max(wide, high) / min(wide, high)

    return [pair for pair in near if apart(pair) <= min(map(apart, near))]


def suggested(tokens: int, image: Sequence[int]) -> str:
    """The grids that fit a number of tokens and an image, in words."""
    fitting = [(grid, prefix) for prefix in range(min(PREFIXES + 1, tokens)) for grid in grids(tokens - prefix, image)]
    ratio = image[0] / image[1]
    fitting.sort(
        key=lambda item: abs(item[0][0] / item[0][1] / ratio - 1) > 0.02
    )  # exact ones first, few tokens in front
    words = [f"token_grid={grid}" + (f", prefix_tokens={prefix}" if prefix else "") for grid, prefix in fitting[:3]]
    return (
        " or ".join(words)
        or "a layer whose tokens are the patches of the image in row order; none of its grids fits here"
    )


def require_no_tokens(output: Sequence[int], image: Sequence[int], layer: str) -> None:
    """Raise for the tokens of a picture, (1, tokens, channels), without a grid."""
    if len(image) == 3 and len(output) == 3:
        raise CaseJaxError(
            f"layer: {layer!r} returns {tuple(output)} for one image, tokens rather than a map; say how they lie: "
            f"{suggested(output[1], image)}."
        )

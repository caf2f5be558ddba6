"""Tokens of a transformer as a map: which of them lie where in the image."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from case_jax._checks import CaseJaxError, require

PREFIXES = 9
"""Most tokens that a suggestion takes to stand in front of the grid: a class token and eight registers."""
EXACT = 1.02
"""Most by which the sides of a patch differ that is as good as square."""


@dataclass(frozen=True)
class Tokens:
    """A grid of rows and columns, or of as many axes as the image has, in row order, behind tokens that belong to no place."""

    grid: tuple[int, ...]
    prefix: int
    check: bool = True
    """Whether the grid of a picture must have its aspect ratio."""

    def require_fit(self, output: Sequence[int], image: Sequence[int], layer: str) -> None:
        """Raise unless the grid takes all of a layer's tokens and, in pictures to within a token, has the image's aspect ratio.

        Patches of signals, volumes and films may have any sides.

        Args:
            output: shape of the layer's output for one image, (1, prefix + rows · columns, channels).
            image: shape of the image.
            layer: its path.

        Raises:
            CaseJaxError: when it does not; the grids that do are shown.
        """
        given = (
            f"{_sides(self.grid)} with prefix_tokens={self.prefix} for the output {tuple(output)} of layer {layer!r}"
        )
        require(
            len(output) == 3 and min(self.grid, default=0) >= 1 and self.prefix >= 0,
            "token_grid",
            given,
            "as many rows and columns as the layer has tokens of image patches, its output being (batch, tokens, channels)",
        )
        axes = len(image) - 1
        fits = output[1] == self.prefix + math.prod(self.grid) and len(self.grid) == axes
        asked = fits and self.check and axes == 2
        if not fits or (asked and tuple(self.grid) not in grids(output[1] - self.prefix, image[:-1])):
            wrong = (
                f"and an image of {_sides(image[:-1])}" if fits or len(self.grid) != axes else f"of {output[1]} tokens"
            )
            more = " (patches that are not square: check=False)" if fits else ""
            raise CaseJaxError(f"token_grid: got {given} {wrong}; accepted: {suggested(output[1], image)}{more}.")


def _sides(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))


def _factorised(number: int, axes: int) -> Iterator[tuple[int, ...]]:
    """All ways to write a number as a product of so many, in order."""
    if axes == 1:
        yield (number,)
        return
    for first in range(1, number + 1):
        if number % first == 0:
            yield from ((first, *rest) for rest in _factorised(number // first, axes - 1))


def _apart(grid: Sequence[int], sides: Sequence[int]) -> float:
    """The longest side of a patch over its shortest; 1 for square patches."""
    whole = math.prod(sides)
    counts = [count * (whole // side) for count, side in zip(grid, sides, strict=True)]
    return max(counts) / min(counts)


def grids(tokens: int, sides: Sequence[int]) -> list[tuple[int, ...]]:
    """The grid of that many equal square patches that has an image's aspect ratio to within a token; several where they fit equally, or none."""

    def is_near(grid: Sequence[int]) -> bool:
        along = list(zip(grid, sides, strict=True))
        return all(
            (a - 1) * n < (b + 1) * m for i, (a, m) in enumerate(along) for j, (b, n) in enumerate(along) if i != j
        )

    near = [grid for grid in _factorised(tokens, len(sides)) if is_near(grid)]
    least = min((_apart(grid, sides) for grid in near), default=1.0)
    return [grid for grid in near if _apart(grid, sides) <= least]


def suggested(tokens: int, image: Sequence[int]) -> str:
    """The grids that fit a number of tokens and an image, in words."""
    sides = image[:-1]
    fitting = [(grid, prefix) for prefix in range(min(PREFIXES + 1, tokens)) for grid in grids(tokens - prefix, sides)]
    fitting.sort(key=lambda item: _apart(item[0], sides) > EXACT)  # exact ones first, few tokens in front
    words = [f"token_grid={grid}" + (f", prefix_tokens={prefix}" if prefix else "") for grid, prefix in fitting[:3]]
    return (
        " or ".join(words)
        or "a layer whose tokens are the patches of the image in row order; none of its grids fits here"
    )


def require_no_tokens(output: Sequence[int], image: Sequence[int], layer: str) -> None:
    """Raise for the tokens of a picture or volume, (1, tokens, channels), without a grid."""
    if len(image) > 2 and len(output) == 3:
        raise CaseJaxError(
            f"layer: {layer!r} returns {tuple(output)} for one image, tokens rather than a map; say how they lie: "
            f"{suggested(output[1], image)}."
        )

"""A trained stream: its file, and its attention as the map of an ordinary saliency method."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from case_jax._checks import require
from case_jax.contrast.sets import Query
from case_jax.models.trained_file import digest, load_trained
from case_jax.models.weights import save_weights
from case_jax.stream.module import Stream
from case_jax.tap.view import View

FILE = "stream.safetensors"


def save_stream(path: Path, stream: Stream, *, classifier: str) -> None:
    """Write a stream with what it takes to use it.

    Args:
        path: the file.
        stream: trained.
        classifier: the `digest` of the classifier whose maps it pools.
    """
    sizes = {"channels": list(stream.channels), "heads": stream.heads}
    save_weights(path, stream, metadata={"stream": sizes, "classifier": classifier})


@dataclass(frozen=True)
class TrainedStream:
    """A stream as a class-blind saliency method: call it as `(view, query)`."""

    stream: Stream
    classifier: str
    """The digest of the classifier that it was trained with."""
    digest: str = ""
    """Of its own variables."""
    title = "CA-Stream"
    class_blind = True

    def __call__(self, view: View, query: Query, *, stage: int = -1) -> Float[Array, "T *space"]:
        """The attention of the token before its softmax, `F_l q_l / √d_l`, less its minimum; the mean over heads where there are several.

        It depends on the network's maps alone, so that it is the same whether the network pools by the stream or by its average.

        Args:
            view: of a model tapped with its stages, `layers=…`.
            query: targets (T,), of which only the number is used.
            stage: which of the maps that the token visits; the last by default.

        Returns:
            The same map for every target at that stage's resolution, ≥ 0; all zero for a map without variation.

        Raises:
            CaseJaxError: when the view has no stage maps, or others than the stream was trained on; a stage that the stream does not visit.

        Torres, Zhang, Sicre, Ayache, Avrithis, arXiv 2404.14996.
        """
        count = len(self.stream.channels)
        require(-count <= stage < count, "stage", stage, f"one of {count} visited maps, {-count} to {count - 1}")
        scores = self.stream.visits(view.activations()[-count:])[stage].scores.mean(-1)
        return jnp.broadcast_to(scores - scores.min(), (len(query.targets), *scores.shape))


def load_stream(run: str | Path) -> TrainedStream:
    """The stream of a run of `case-jax train stream`, or of its file.

    Raises:
        CaseJaxError: when there is none, the training has not ended, or the file is another one.
    """

    def build(sizes: Any, rngs: nnx.Rngs) -> Stream:
        return Stream(sizes["channels"], heads=sizes["heads"], rngs=rngs)

    stream, known = load_trained(run, FILE, build, facts=("classifier",))
    return TrainedStream(stream, known["classifier"], digest(stream))

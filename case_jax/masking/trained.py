"""A trained masker: its file, and its masks as maps of an ordinary saliency method."""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from case_jax._checks import CaseJaxError, require, require_number
from case_jax.contrast.sets import Query
from case_jax.imageops import require_pictures
from case_jax.masking.masker import Masker, to_image
from case_jax.models.trained_file import digest, load_trained
from case_jax.models.weights import save_weights
from case_jax.tap.view import View

FILE, CLASSIFIER = "masker.safetensors", "classifier.safetensors"
SIZE = 0.5


def save_masker(path: Path, masker: Masker, *, gumbel: bool, classifier: str, words: str) -> None:
    """Write a masker with what it takes to use it.

    Args:
        path: the file.
        masker: trained.
        gumbel: whether its masks are cut at ½.
        classifier: the `digest` of the classifier whose maps it reads.
        words: how it was trained, for tables.
    """
    facts = {
        "masker": {
            "channels": masker.channels,
            "stages": masker.stages,
            "width": masker.width,
            "num_classes": masker.num_classes,
            "size_conditional": masker.size_conditional,
        },
        "gumbel": gumbel,
        "classifier": classifier,
        "words": words,
    }
    save_weights(path, masker, metadata=facts)


@dataclass(frozen=True)
class TrainedMasker:
    """A masker as a saliency method: call it as `(view, query)`."""

    masker: Masker
    gumbel: bool
    classifier: str
    """The digest of the classifier that it was trained with."""
    words: str
    digest: str = ""
    """Of its own variables."""
    mask = True
    """Its values are not to be rescaled."""

    @property
    def title(self) -> str:
        """Its name in tables."""
        return f"masker, {self.words}"

    @property
    def class_blind(self) -> bool:
        """Whether its masks are the same for every class."""
        return self.masker.num_classes is None

    def __call__(self, view: View, query: Query, *, size: float = SIZE) -> Float[Array, "T H W"]:
        """The masks of one image, one a target, in blocks of pixels at the image's resolution.

        Values in [0, 1]; 0 or 1 for a masker of binary masks, whose ranks are therefore ties.

        Args:
            view: of a model tapped with its stages, `layers=…`.
            query: targets.
            size: the wanted mean of the mask, for a size-conditional masker.

        Raises:
            CaseJaxError: when the view has no stage maps, or others than the masker was trained on.

        Phang, Park, Geras, arXiv 2010.09750.
        """
        require_pictures("a masker", view.image.ndim - 1)
        if not view.layers:
            raise CaseJaxError(
                "model: a masker reads several layers; tap the model with layers=, as tap_classifier does."
            )
        require_number("size", size, least=0)
        require(size <= 1, "size", size, "a share of the image of at most 1")
        usual = self.masker.size_conditional or size == SIZE
        require(usual, "size", size, "no size, as this masker was not trained with --size-conditional")
        maps, count = view.activations(), len(query.targets)
        given = tuple(m.shape[-1] for m in maps)
        require(
            given == self.masker.channels,
            "layers",
            f"maps of {given} channels",
            f"those of its training: {self.masker.channels}",
        )
        conditional = self.masker.num_classes is not None
        copies = count if conditional else 1
        batch = tuple(jnp.broadcast_to(m.astype(jnp.float32), (copies, *m.shape)) for m in maps)
        sizes = jnp.full(copies, size) if self.masker.size_conditional else None
        logits = self.masker(batch, labels=query.targets if conditional else None, sizes=sizes)
        mask = (logits > 0).astype(jnp.float32) if self.gumbel else jax.nn.sigmoid(logits)
        return jnp.broadcast_to(to_image(mask, view.image.shape[:2]), (count, *view.image.shape[:2]))


def still(masker: Masker) -> Masker:
    """The masker in evaluation: normalised by its running statistics."""
    return nnx.view(masker, use_running_average=True)


def learning(masker: Masker) -> Masker:
    """The masker as a further training takes it: normalised by each batch."""
    return nnx.view(masker, use_running_average=False)


def load_masker(run: str | Path) -> TrainedMasker:
    """The masker of a run of `case-jax train masker`, or of its file.

    Raises:
        CaseJaxError: when there is none, the training has not ended, or the file is another one.
    """
    facts = ("gumbel", "classifier", "words")
    masker, known = load_trained(run, FILE, lambda sizes, rngs: Masker(**sizes, rngs=rngs), facts=facts)
    gumbel, classifier, words = (known[fact] for fact in facts)
    return TrainedMasker(still(masker), gumbel, classifier, words, digest(masker))

"""What a masker is made of, and which of it goes together.

Phang, Park, Geras, arXiv 2010.09750, section 3; Paissan, Ravanelli, Subakan, L-MAC, arXiv 2403.13086.
"""

from typing import Any, Literal, NamedTuple, get_args

from case_jax._checks import require, require_number, unknown
from case_jax.masking.losses import TV_WEIGHT, Direction, Objective
from case_jax.masking.masker import WIDTH

ClassifierMode = Literal["fixed", "alongside", "history", "history-reference"]
CLASSIFIER_MODES: tuple[ClassifierMode, ...] = get_args(ClassifierMode)
Targets = Literal["label", "two", "predicted"]


class Side(NamedTuple):
    """What the classifier should make of one of the two masked images."""

    objective: Objective
    direction: Direction
    size_weight: float
    """λ of the reward for small masks."""
    weight: float = 1.0
    most: float | None = None
    """Nats of cross-entropy above which a classification that is minimised gains nothing more."""


IN, OUT = Side("classification", "maximise", 1.0), Side("entropy", "maximise", 10.0)
OUT_TRAINED = OUT._replace(size_weight=15.0)
"""The paper's where the classifier learns, too."""
CONTRAST_IN, CONTRAST_OUT = Side("contrast", "maximise", 1.0), Side("contrast", "minimise", 1.0)
LMAC_IN, LMAC_OUT = Side("classification", "maximise", 0.0, 4.0), Side("classification", "minimise", 0.0, 0.2, 20.0)
"""L-MAC's; the limit of 20 nats is ours."""
LMAC_SIZE = 6.4
"""L-MAC's weight of the mask's mean, as its recipe has it at 16 sounds a batch: 0.4 a sound, summed over the batch."""


class Ingredients(NamedTuple):
    """What a masker is made of; the defaults are the paper's simplest model: both objectives, a fixed classifier, nothing filled in."""

    masked_in: Side | None = IN
    masked_out: Side | None = OUT
    classifier: ClassifierMode = "fixed"
    """`fixed`; `alongside`: it is trained on clean and on masked images; `history`: as that, but with probability ½ the masked images
    go to one of up to 30 past classifiers; `history-reference`: as the public code, which then takes the current one and leaves it as it is."""
    infill: str = "none"
    """A name in `INFILLERS`, or a folder of `case-jax train infiller`."""
    gumbel: bool = False
    """Masks of 0 and 1, drawn by the relaxed Bernoulli distribution in training and cut at ½ afterwards."""
    temperature: float = 0.1
    stages: tuple[int, ...] | None = None
    """Which stage maps are read; None: the last two."""
    width: int = WIDTH
    class_conditional: bool = False
    targets: Targets = "label"
    """Which class a masked image is about: its label, the class that the classifier predicts, or one of its two likeliest classes at random,
    for class-conditional maskers."""
    size_conditional: bool = False
    size_penalty: float = 0.0
    """Weight of the mask's mean, whatever the classifier answers, beside the sides' rewards for small masks."""
    guidance: float = 0.0
    """Weight of guidance by the clean sound, for sources that have one (see `masking.guidance`); guided masks pay no size penalty."""
    tv_weight: float = TV_WEIGHT
    tv_per_side: bool = False
    """Add total variation once per side, as the public code does, instead of once."""
    masker_rate: float = 1e-3
    classifier_rate: float = 1e-3
    decay_every: int | None = None
    """Steps after which both learning rates fall to a tenth, again and again; None: never."""
    history_size: int = 30
    history_every: int = 100


LMAC = Ingredients(LMAC_IN, LMAC_OUT, targets="predicted", size_penalty=LMAC_SIZE, tv_weight=0.0)
"""L-MAC on this package's masker: the classifier's own prediction is kept by what is masked in and lost by what is masked out, right or wrong."""
LMAC_CONTRASTIVE = Ingredients(
    CONTRAST_IN._replace(size_weight=0.0, weight=4.0), CONTRAST_OUT._replace(size_weight=0.0, weight=4.0),
    class_conditional=True, targets="two", size_penalty=1.0, tv_weight=0.0,
)  # fmt: skip
"""Its contrast (ours): both sides weigh alike, and size costs less, as the contrast of a mask of nothing, `log 2`, is all that a mask can better."""


def check(made_of: Ingredients) -> None:
    """Raise for ingredients that do not go together, before anything is loaded.

    Raises:
        CaseJaxError: names the ingredient.
    """
    sides = [side for side in (made_of.masked_in, made_of.masked_out) if side is not None]
    require(sides, "masked_in, masked_out", "neither", "at least one of the two objectives")
    if made_of.classifier not in CLASSIFIER_MODES:
        raise unknown("classifier", made_of.classifier, CLASSIFIER_MODES)
    if made_of.targets not in get_args(Targets):
        raise unknown("targets", made_of.targets, get_args(Targets))
    wanted = "--class-conditional, without which every class has the same mask"
    contrasts = any(side.objective == "contrast" for side in sides) or made_of.targets == "two"
    require(made_of.class_conditional or not contrasts, "class_conditional", False, wanted)
    for name, side in (("in", made_of.masked_in), ("out", made_of.masked_out)):
        if side is not None:
            require_number(f"lambda_{name}", side.size_weight, least=0)
            require_number(f"weight_{name}", side.weight, least=0)
            require(side.most is None or side.most > 0, f"most_{name}", side.most, "nats above 0, or None")
    for name in ("tv_weight", "size_penalty", "guidance"):
        require_number(name, getattr(made_of, name), least=0)
    for name in ("temperature", "masker_rate", "classifier_rate"):
        require_number(name, getattr(made_of, name), above=0)
    require(made_of.history_size >= 1, "history_size", made_of.history_size, "at least 1")
    require(made_of.history_every >= 1, "history_every", made_of.history_every, "at least 1")


def described(made_of: Ingredients) -> dict[str, Any]:
    """The ingredients as plain values, for configurations."""
    plain = made_of._asdict()
    for side in ("masked_in", "masked_out"):
        plain[side] = None if plain[side] is None else plain[side]._asdict()
    return plain | {"stages": None if made_of.stages is None else list(made_of.stages)}

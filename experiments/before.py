"""The verdicts of the first round, which rested on intervals over images or on none, and why they are what they are now."""

from typing import NamedTuple


class Before(NamedTuple):
    """A claim as it was judged, and the reason for what became of it."""

    experiment: str
    claim: str
    verdict: str
    now: str
    """The claim as it is worded now."""
    reason: str


STRICT = "every comparison is corrected for their number (Holm)"
BEFORE = (
    Before(
        "sensitivity", "Most class activation maps are not class-sensitive.", "in part",
        "Most class activation maps are not class-sensitive, at 0.5 and at 0.7 (CASE paper, RQ1).",
        "A share of maps was compared with two thirds without an interval. The unit is the network, and of those there are five; 0.7 is asked as well.",
    ),
    Before(
        "sensitivity", "CASE is class-sensitive on every network.", "reproduced",
        "CASE is class-sensitive at 0.5 on every network (CASE paper, RQ1; k = 1 as in its runs).",
        "Wilcoxon's test is one of symmetric differences, and called a median with an interval that holds 50% significantly below it; intervals over images that "
        "share strokes are too narrow. It holds all the same on the networks trained since, whose rows are kept.",
    ),
    Before(
        "seeds", "(not asked over trainings)", "–", "CASE is class-sensitive at 0.5 on every architecture (CASE paper, RQ1; k = 1 as in its runs).",
        "New: the same over trainings, which is what \"every architecture\" is about.",
    ),
    Before(
        "fidelity", "CASE is at least as faithful as other class activation maps.", "in part",
        "CASE is at least as faithful as other class activation maps at 50% removed (CASE paper, RQ2).",
        f"The same margin of 2 points; {STRICT}. At 50% the test is at its ceiling, which is said with it.",
    ),
    Before(
        "fidelity", "(not asked where methods differ)", "–", "CASE is at least as faithful as other class activation maps at 5% and 20% removed.",
        "New: where a random map loses next to nothing, the test tells methods apart.",
    ),
    Before(
        "fidelity", "Does removing half of the pixels tell methods apart?", "answered", "Does removing 50% of the pixels tell methods from a random map?",
        "The best method on ConvNeXt was a control; controls are left out now.",
    ),
    Before(
        "seeds", "DenseNet separates the maps of classes more than other architectures.", "in part",
        "DenseNet separates the maps of classes more than other architectures (CASE paper).",
        "It does more than ResNet and VGG, but a claim about all others does not hold in part where one of them, ConvNeXt, is ahead of DenseNet.",
    ),
    Before(
        "seeds", "Its classes share fewest channels.", "in part", "Its classes share fewest channels (CASE paper).",
        "DenseNet's classes share more channels than those of two of the three others.",
    ),
    Before(
        "masking", "A masker needs both objectives.", "in part", "A masker needs both objectives (masking paper).",
        f"{STRICT.capitalize()}; three seeds show little of eighteen.",
    ),
    Before(
        "masking", "Training the classifier alongside helps.", "in part", "Training the classifier alongside helps (masking paper).",
        f"{STRICT.capitalize()}.",
    ),
    Before(
        "masking", "Infilling adds nothing.", "reproduced", "Infilling adds nothing (masking paper).",
        "\"Not ahead beyond its interval\" is no evidence of nothing. As a claim of equivalence it fails: filled masks localise worse by more than the margin, while "
        "mass on own evidence rises.",
    ),
    Before(
        "masking", "Making masks binary (Gumbel) adds nothing.", "reproduced", "Making masks binary (Gumbel) adds nothing (masking paper).",
        "As above: three seeds cannot show that a difference is within 2 points.",
    ),
    Before(
        "masking", "Ten images a class lose next to nothing.", "reproduced", "Ten images a class lose next to nothing (masking paper: 0.7 points of LE).",
        "One image loses as little: the data have no room for the claim to fail.",
    ),
    Before(
        "masking", "Can a masker be made class-sensitive?", "answered", "A masker can be made class-sensitive at 0.5.",
        "Now a claim that there is one; the three seeds of the contrastive masker do not agree.",
    ),
    Before(
        "sanity", "Guided backprop depends less on what was learnt than gradients and Grad-CAM do.", "reproduced",
        "Guided backprop depends less on what was learnt than gradients and Grad-CAM do (Adebayo et al.).",
        "Differences have intervals now, and hold all the same.",
    ),
    Before(
        "sanity", "Contrastive maps notice when only the classes are forgotten.", "answered", "Do maps notice when only the classes are forgotten?",
        "Worded as the question that it is.",
    ),
    Before(
        "sanity", "Maps of a classifier of shuffled labels are others.", "in part",
        "Maps of a classifier of shuffled labels are others (Adebayo et al., data randomisation).",
        "No control with true labels and as few scenes, and one training of each: another training alone makes other maps.",
    ),
    Before(
        "crossover", "Do the tests agree about which methods are good?", "answered",
        "Do the tests agree with class sensitivity about which methods are good?",
        "Three methods that draw one map counted three times.",
    ),
    Before(
        "crossover", "Is a contrastive masker the most class-sensitive faithful method?", "answered",
        "Is a contrastive masker the most class-sensitive faithful method?", "One seed.",
    ),
    Before(
        "crossover", "Hundreds of passes an image buy little.", "(in the notes)", "Do methods that need hundreds of passes an image buy much by them?",
        "Four to twenty images.",
    ),
    Before(
        "peers", "Pixel flipping ranks methods alike here and in Quantus.", "reproduced",
        "Pixel flipping ranks methods alike here and in Quantus (τ above 0.5).",
        "The interval spoke of other images; the question is about methods, of which six differ. Even the same order of all six leaves τ below 0.5 possible.",
    ),
    Before(
        "peers", "The random-logit test ranks methods alike here and in Quantus.", "reproduced",
        "The random-logit test ranks methods alike here and in Quantus (τ above 0.5).", "The unit is the method, as above.",
    ),
)  # fmt: skip

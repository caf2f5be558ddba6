"""Guides, written to be read in a terminal or on a forge; their code is run by the tests."""

from importlib.resources import files

from case_jax._checks import unknown

TOPICS = {
    "own_model": "tapping your own model, and the functions behind `explain`",
    "methods": "methods and contrasts: which there are, which to take",
    "tests": "the studies: what they ask, how to read them, how to write one",
    "masking": "masking models",
    "sound": "sounds: spectrograms, made scenes, WAV files, listening to maps",
    "imagenet": "photographs, weights and ImageNet",
    "pods": "many devices and many processes",
    "papers": "reproducing the papers",
    "troubleshooting": "when something looks wrong",
}


def guide(topic: str) -> str:
    """The text of a guide.

    Raises:
        CaseJaxError: for an unknown topic; lists those that exist.
    """
    if topic not in TOPICS:
        raise unknown("topic", topic, TOPICS)
    return (files("case_jax.guide") / f"{topic}.md").read_text()

"""What a set of digit scenes may have beside the usual, and how that is written in a source's name."""

from typing import Any, Literal, NamedTuple, get_args

from case_jax._checks import CaseJaxError, require, unknown

Background = Literal["plain", "texture"]
BACKGROUNDS: tuple[Background, ...] = get_args(Background)
SIDE, LARGEST_SIDE, MOST_DISTRACTORS = 48, 224, 4
FORM = "digit_scenes:SPLIT,OPTION=VALUE,… for example digit_scenes:test,background=texture,side=96"
_FLAG = "true or false"


class SceneOptions(NamedTuple):
    """The options of `DigitScenes` that decide what a scene looks like; as they are here, the usual scenes."""

    hard_labels: bool = False
    second_body: bool = False
    dim_marker: bool = True
    third_marker: bool = False
    body_decides: bool = False
    background: Background = "plain"
    distractors: int = 0
    elastic: bool = False
    side: int = SIDE

    @property
    def changed(self) -> dict[str, Any]:
        """Those that are not as usual."""
        usual = SceneOptions()._asdict()
        return {name: value for name, value in self._asdict().items() if value != usual[name]}

    def check(self) -> None:
        """Raise for values of the wrong kind, and for options that do not go together."""
        for name, value in self._asdict().items():
            require(_is_accepted(name, value), name, repr(value), ACCEPTED[name])
        alone = {"third_marker": self.third_marker, "second_body": self.second_body, "dim_marker": not self.dim_marker}
        others = [f"{name}={_word(getattr(self, name))}" for name, given in alone.items() if given]
        why = "body_decides, whose scenes have two bodies and one marker, without third_marker, second_body and dim_marker"
        require(not (self.body_decides and others), "body_decides", f"true with {' and '.join(others)}", why)
        why = "third_marker with a dim marker and without a second body, for which there is no room"
        require(not self.third_marker or len(others) == 1, "third_marker", f"true with {' and '.join(others[1:])}", why)

    def __str__(self) -> str:
        """What is not as usual, as it is written in a source's name."""
        return ",".join(f"{name}={_word(value)}" for name, value in self.changed.items())


ACCEPTED = dict.fromkeys(SceneOptions._fields, _FLAG) | {
    "background": " or ".join(BACKGROUNDS),
    "distractors": f"an integer from 0 to {MOST_DISTRACTORS}",
    "side": f"an integer from {SIDE} to {LARGEST_SIDE}",
}


def _is_accepted(name: str, value: Any) -> bool:
    if name == "background":
        return value in BACKGROUNDS
    least, most = {"distractors": (0, MOST_DISTRACTORS), "side": (SIDE, LARGEST_SIDE)}.get(name, (None, None))
    if least is None or most is None:
        return isinstance(value, bool)
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _word(value: Any) -> str:
    return str(value).lower()


def options_of(words: str) -> dict[str, Any]:
    """The options that `OPTION=VALUE,OPTION=VALUE` names, for `DigitScenes`, which checks their values.

    Raises:
        CaseJaxError: for another form, an unknown option (those that exist are listed, nearest first), or one given twice.
    """
    found: dict[str, Any] = {}
    for word in words.split(",") if words else ():
        name, equals, text = word.partition("=")
        require(equals and name and text, "data", repr(word), FORM)
        if name not in SceneOptions._fields:
            raise unknown("data, option of digit_scenes", name, SceneOptions._fields)
        if name in found:
            raise CaseJaxError(f"data: the option {name} is given twice; give it once.")
        found[name] = {"true": True, "false": False}.get(text, int(text) if _is_integer(text) else text)
    return found


def _is_integer(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdigit() and len(text) < 10

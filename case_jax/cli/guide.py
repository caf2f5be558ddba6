"""`case-jax guide`: the guides in the terminal."""

from typing import Annotated

import tyro

from case_jax.guide import TOPICS
from case_jax.guide import guide as text_of


def guide(topic: Annotated[str | None, tyro.conf.Positional] = None) -> None:
    """Print a guide, or the list of guides.

    For example:

        case-jax guide

        case-jax guide own_model

    Args:
        topic: one of the guides' names; without it they are listed.
    """
    if topic is None:
        width = max(map(len, TOPICS))
        print("\n".join(f"{name:<{width}}  {words}" for name, words in TOPICS.items()))
    else:
        print(text_of(topic))

"""Is what is known of digit scenes true? Parts are taken out of scenes, and the logits say for which class they spoke.

The scene is made again without the part, with the same background and noise: the intervention is exact, and no fill stands in the part's place.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax import nnx
from jaxtyping import Float, UInt8

from case_jax.data import NOBODY, SHARED, DigitScenes
from case_jax.imageops import normalise_image
from case_jax.models import Classifier
from case_jax.stats import mean_interval
from case_jax.stats.estimates import clusters_in

BATCH = 100
KINDS = {SHARED: "all candidates", NOBODY: "no class"}


def logits_of(classifier: Classifier, images: Sequence[UInt8[np.ndarray, "S S 3"]]) -> Float[np.ndarray, "N C"]:
    """The classifier's answers."""
    facts = classifier.preprocessing

    @nnx.jit
    def answer(module, batch):
        return module(normalise_image(batch, facts.mean, facts.std))

    missing = -len(images) % BATCH
    padded = np.stack([*images, *[images[0]] * missing])
    found = [answer(classifier.module, jnp.asarray(padded[i : i + BATCH])) for i in range(0, len(padded), BATCH)]
    return np.concatenate(found)[: len(images)].astype(np.float64)


def falls_of(
    before: Float[np.ndarray, " C"], after: Float[np.ndarray, " C"], candidates: Sequence[int], speaks_for: int
) -> dict[str, float | bool]:
    """What the loss of a part did to the logits z of one scene.

    Args:
        before: logits of the whole scene.
        after: logits without the part.
        candidates: the scene's candidate classes.
        speaks_for: one of them, `SHARED` or `NOBODY`.

    Returns:
        `own`: fall of the class that the part is said to speak for (mean over all candidates where it is not one of them); `rivals`: mean
        fall of the other candidates (NaN where there are none); `others`: of all other classes; `over_rivals` and `over_others`: the
        differences. `holds`: whether a class's own part lowers it more than every rival and than the mean of the others; a shared part lowers
        every candidate more than the mean of the others; a part that speaks for nobody leaves the likeliest class.
    """
    fall = before - after
    own = [speaks_for] if speaks_for >= 0 else list(candidates)
    rivals = [c for c in candidates if c not in own]
    others = float(np.delete(fall, list(candidates)).mean())
    means = {
        "own": float(fall[own].mean()),
        "rivals": float(fall[rivals].mean()) if rivals else np.nan,
        "others": others,
    }
    holds = bool(fall[own].min() > max([others, *fall[rivals]]))
    if speaks_for == NOBODY:
        holds = bool(before.argmax() == after.argmax())
    differences = {"over_rivals": means["own"] - means["rivals"], "over_others": means["own"] - others}
    return means | differences | {"holds": holds}


def deletions(classifier: Classifier, scenes: DigitScenes) -> pd.DataFrame:
    """One row per scene and part that is there: `image_id`, `part`, `speaks_for` (in words), what `falls_of` says, and the strokes of the scene as `cluster_i`."""
    names, images, taken = scenes.regions, [], []
    for index in range(len(scenes)):
        scene, whole = scenes.scene(index), len(images)
        images.append(scene.image)
        for region in np.flatnonzero(scene.masks.any((1, 2))).tolist():
            images.append(scenes.without(index, region))
            taken.append((index, region, scene, whole, len(images) - 1))
    logits = logits_of(classifier, images)
    rows = []
    for index, region, scene, whole, without in taken:
        speaks_for = int(scene.classes[region])
        candidates = scene.classes[scene.classes >= 0].tolist()
        falls = falls_of(logits[whole], logits[without], candidates, speaks_for)
        shared = {f"cluster_{i}": stroke for i, stroke in enumerate(scene.strokes.tolist(), 1)}
        kind = KINDS.get(speaks_for, "its own class")
        rows.append({"image_id": index, "part": names[region], "speaks_for": kind, **falls, **shared})
    return pd.DataFrame(rows)


def summed_up(rows: pd.DataFrame) -> pd.DataFrame:
    """For each part the means of all that `deletions` measures, with 95% intervals by stroke."""
    found = []
    for (part, kind), group in rows.groupby(["part", "speaks_for"], sort=False, observed=True):
        row = {"part": part, "speaks_for": kind, "scenes": group["image_id"].nunique()}
        for column in ("holds", "own", "rivals", "others", "over_rivals", "over_others"):
            known = group[group[column].notna()]
            value = mean_interval(known[column].to_numpy(np.float64), clusters_in(known))
            low, high = np.clip((value.low, value.high), 0, 1) if column == "holds" else (value.low, value.high)
            row |= {column: value.value, f"{column}_low": low, f"{column}_high": high}
        found.append(row)
    return pd.DataFrame(found)

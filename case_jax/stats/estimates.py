"""How numbers of a run's rows are estimated: by cluster where rows name clusters, else by the bootstrap over images (no JAX here)."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from case_jax.stats.intervals import INTERVALS, Interval, standard_error
from case_jax.stats.sharing import Sharing, independent, sharing_of


def cluster_names(rows: pd.DataFrame) -> list[str]:
    """The columns that hold what images share: `cluster_1`, …; none where images are independent."""
    return [name for name in rows.columns if name.removeprefix("cluster_").isdigit()]


def clusters_in(rows: pd.DataFrame) -> Int[np.ndarray, "n c"]:
    """The ids in those columns, −1 where a row has none, as where sources with fewer were joined."""
    return rows[cluster_names(rows)].fillna(-1).to_numpy(np.int64)


class Estimates(NamedTuple):
    """Which images share something, found once for all statistics of a run, and how intervals are made; see `estimates_of`."""

    images: pd.Index
    """Ids of the images, in the order of `sharing`."""
    sharing: Sharing | None
    resamples: int

    def among(self, image_ids: pd.Series | pd.Index) -> Sharing | None:
        """What these images share; None where images are independent."""
        return None if self.sharing is None else self.sharing.take(self.images.get_indexer(pd.Index(image_ids)))

    def interval(self, rows: pd.DataFrame, values: Float[np.ndarray, " n"], statistic: str = "mean") -> Interval:
        """The mean or median of a value of each of these rows, one row an image, with its 95% interval."""
        return INTERVALS[statistic](values, self.among(rows["image_id"]), resamples=self.resamples)

    def mean(self, image_ids: pd.Series, values: Float[np.ndarray, " n"]) -> tuple[float, float]:
        """The mean of a value of each of these images, and its standard error; NaN for fewer than two clusters."""
        mean = float(values.mean())
        return mean, standard_error(values - mean, self.among(image_ids) or independent(len(values)))

    @property
    def clusters(self) -> int:
        """How many different things the images share; 0 where they are independent."""
        return 0 if self.sharing is None else len(self.sharing.known())


def estimates_of(rows: pd.DataFrame, *, resamples: int = 2000) -> Estimates:
    """Find what the images of these rows share.

    Args:
        rows: with `image_id` and, where images share something, `cluster_1`, …
        resamples: bootstrap samples per interval, where they share nothing.
    """
    images = rows.drop_duplicates("image_id")
    sharing = sharing_of(clusters_in(images)) if cluster_names(rows) else None
    return Estimates(pd.Index(images["image_id"]), sharing, resamples)

"""Controls of contrast: maps that differ between two classes as the maps of a contrastive method do, and know no class, or the wrong one."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax.tree_util import register_dataclass
from jaxtyping import Array, Float, Int

from case_jax._checks import CaseJaxError, require
from case_jax.contrast.sets import Query
from case_jax.methods.cam import positive_maps
from case_jax.methods.finer_cam import finer_cam
from case_jax.tap.parameters import fitted
from case_jax.tap.view import Params, TappedModel, View

UNTRAINED = "untrained_contrast"
"""The name under which an `UntrainedContrast` runs."""


def exchanged(view: View, query: Query, *, gamma: float = 1.0) -> Float[Array, "T *space"]:
    """Finer-CAM's maps of the first two targets, exchanged: the same pixels, each held up for the other class.

    Every score of two maps that does not ask which is whose (F, Spearman's ρ, SSIM) is Finer-CAM's own; class-specific deletion has the
    opposite sign. Finer-CAM, because it comes first by that score, so that what is negated is the strongest claim there is.

    Args:
        view: one image's view.
        query: at least two targets, and their contrast sets; maps of further targets are Finer-CAM's own.
        gamma: as `finer_cam`.

    Returns:
        As `finer_cam`.

    Raises:
        CaseJaxError: as `finer_cam`, and for a single target.
    """
    maps = finer_cam(view, query, gamma=gamma)
    _require_pair("exchanged", query)
    return jnp.concatenate([maps[1::-1], maps[2:]])


def noise_contrast(view: View, query: Query) -> Float[Array, "T *space"]:
    """The contrast of random channel weights: two maps that share no pixel, of noise.

    `relu(Σ_k (r_c − r_rival)[k] A[..,k])`, r_c ~ N(0, I) for every image and class; the rival of the first target is the second, that of
    all others the first. So the maps of the first two are `relu(M)` and `relu(−M)`, as those of a contrastive method with the rival as
    its contrast are.

    Args:
        view: one image's view, of which only the activation is used.
        query: at least two targets, and the image's key.

    Returns:
        One map per target at the layer's resolution, ≥ 0.

    Raises:
        CaseJaxError: when the query has no key, or a single target.
    """
    key = query.key
    if key is None:
        raise CaseJaxError(
            "key: noise_contrast needs this image's key; build the query with ask(..., key=jax.random.key(0))."
        )
    _require_pair("noise_contrast", query)
    channels = view.activation.shape[-1]

    def drawn(target: Int[Array, ""]) -> Float[Array, " K"]:
        return jax.random.normal(jax.random.fold_in(key, target), (channels,))

    weights = jax.vmap(drawn)(query.targets)
    rivals = weights[jnp.where(jnp.arange(len(weights)) == 0, 1, 0)]
    return positive_maps(view.activation, weights - rivals)


def _require_pair(name: str, query: Query) -> None:
    count = len(query.targets)
    accepted = "at least two, for example explain(..., targets=[3, 7]): its map of a class depends on the other"
    require(count >= 2, "targets", f"{count} for the control {name}", accepted)


@partial(register_dataclass, data_fields=("model",), meta_fields=("digest",))
@dataclass(frozen=True, eq=False)
class UntrainedContrast:
    """Finer-CAM on the same network before training, as a map function; from `untrained_contrast`.

    A pytree, so that its parameters enter a compiled step as arguments.
    """

    model: TappedModel
    """The classifier, with the other parameters."""
    digest: str
    """What tells it from another: the parameters' seed and their fingerprint."""
    title = "Finer-CAM, untrained network"
    control = True
    contrastive = True

    def __call__(self, view: View, query: Query) -> Float[Array, "T *space"]:
        """Maps of the view's image and the query's classes and contrast sets, as the untrained network has them; as `finer_cam`."""
        return finer_cam(self.model.view(self.model.params, view.image), query)


def untrained_contrast(model: TappedModel, untrained: Params, *, seed: int | None = None) -> UntrainedContrast:
    """The control that knows the architecture, the image and the contrast, and nothing that was learnt.

    Args:
        model: the trained classifier.
        untrained: parameters of the same network before training, for example `models.initial.initial_params`.
        seed: with which they were drawn, for the run's configuration.

    Raises:
        CaseJaxError: for parameters of another network.
    """
    from case_jax.results import fingerprint  # it reads tables, which `import case_jax` must not wait for

    params = fitted(model.params, untrained, "untrained")
    digest = f"{'parameters' if seed is None else f'seed {seed},'} {fingerprint(jax.tree.leaves(params))}"
    return UntrainedContrast(replace(model, params=params), digest)

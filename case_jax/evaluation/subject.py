"""What a study examines: images, a classifier, methods and their contrast, checked before any long work."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from case_jax._checks import require, require_seed
from case_jax.contrast.choice import AnyContrast, ContrastChoice, choose_contrast
from case_jax.evaluation.default_methods import default_methods
from case_jax.evaluation.identity import function_digest, numerics
from case_jax.evaluation.maps import Pixels
from case_jax.methods import METHODS, MapFunction, described, method, titles_of, usual
from case_jax.results import fingerprint
from case_jax.source import Source, stft_of, unit_of
from case_jax.tap.link import one_logit_names, require_probabilities
from case_jax.tap.tapping import check_closed_form
from case_jax.tap.view import TappedModel


class Subject(NamedTuple):
    """What a study examines."""

    source: Source
    model: TappedModel
    contrast: AnyContrast | Callable[[], ContrastChoice]
    """The contrast sets of the contrastive methods, in any form; or a function without arguments that finds them, called when all else has
    been checked."""
    pixels: Pixels
    """How the source's images become the classifier's input."""
    methods: Sequence[str] | Mapping[str, MapFunction] | None = None
    """Names in `METHODS`, or functions of one's own by name; by default what `default_methods` says of the study."""
    seed: int = 0
    """For the drawing of images, and for random methods."""
    model_name: str = "custom"
    """How folders and tables name the classifier."""
    class_names: Sequence[str] | None = None
    """How tables name its classes; by default as the source does. Of a model of one logit the class's name alone will do."""

    @property
    def functions(self) -> dict[str, MapFunction]:
        """The map functions by name."""
        if isinstance(self.methods, Mapping):
            return dict(self.methods)
        return {name: method(name).maps for name in (usual() if self.methods is None else self.methods)}

    def of_study(self, *, scored: bool) -> "Subject":
        """The subject with methods: where none are named, those that a study runs then, see `default_methods`."""
        if self.methods is not None:
            return self
        return self._replace(methods=default_methods(self.model, scored=scored, seed=self.seed))

    def names(self) -> tuple[str, ...] | None:
        """The names of the classes, where they are known."""
        if self.model.one_logit and self.class_names is not None and len(self.class_names) == 1:
            return one_logit_names(*self.class_names)
        names = self.source.class_names if self.class_names is None else self.class_names
        return None if names is None else tuple(names)

    def check(self) -> None:
        """Raise unless images, classifier, methods and names belong together.

        Raises:
            CaseJaxError: says what does not fit.
        """
        require(not isinstance(self.methods, str), "methods", repr(self.methods), "a list of names")
        given = self.functions if self.methods is None else self.methods
        require(len(given) >= 1, "methods", "none", f"at least one of {', '.join(METHODS)}")
        require(len(self.functions) == len(given), "methods", f"{list(given)}", "every method once")
        require_seed(self.seed)
        named = self.names() if self.class_names is not None else None
        require_fitting(self.source, self.model, self.pixels, named)
        needing = [name for name, function in self.functions.items() if described(name, function).probability]
        if needing:
            require_probabilities(self.model.link, argument="methods", asked=", ".join(needing))

    def settled(self, image: Array) -> ContrastChoice:
        """The contrast sets, found when all else has been checked; the closed form of the class weights, on this image, before them.

        Raises:
            CaseJaxError: for a closed form that does not hold, or sets that do not fit.
        """
        if self.model.head_kernel is not None:
            check_closed_form(self.model, image)
        found: Any = self.contrast() if _finds(self.contrast) else self.contrast  # type: ignore[operator]
        contrast = choose_contrast(found, self.model.num_classes, seed=self.seed)
        require_other_images(self.source, contrast.fingerprint, contrast.source)
        if contrast.table is not None:
            rows, accepted = len(contrast.table), f"sets for the model's {self.model.num_classes} classes"
            require(rows == self.model.num_classes, "contrast", f"sets for {rows} classes", accepted)
        return contrast

    def configuration(self, indices: np.ndarray, contrast: ContrastChoice) -> dict[str, Any]:
        """Everything about the subject that decides rows, as JSON values."""
        model, table, functions = self.model, contrast.table, self.functions
        return {
            "data": {
                "name": self.source.name,
                "fingerprint": self.source.fingerprint,
                "images": len(indices),
                "selection": fingerprint([indices]),
                "unit": unit_of(self.source),
                **({} if (heard := stft_of(self.source)) is None else {"stft": heard._asdict()}),
            },
            "model": {
                "weights": fingerprint(jax.tree.leaves(model.params)),
                "layer": model.layer,
                "layers": list(model.layers),
                "classes": model.num_classes,
                "activation": list(model.activation_shape),
                "precision": model.precision,
                "link": model.link,
                "class_weights": "pullback" if model.head_kernel is None else "closed form",
                "name": self.model_name,
            },
            "pixels": self.pixels._asdict(),
            "methods": {
                name: _method_facts(name, functions[name], title) for name, title in titles_of(functions).items()
            },
            "contrast": {
                "name": contrast.name,
                "table": None if table is None else fingerprint([np.asarray(table, np.int64)]),
            },
            "seed": self.seed,
            "numerics": numerics(),
        }


def require_fitting(source: Source, model: TappedModel, pixels: Pixels, names: Sequence[str] | None = None) -> None:
    """Raise unless images, classifier and the names of its classes belong together."""
    classes = model.num_classes
    require(classes >= 2, "model", f"{classes} class", "a classifier of at least 2 classes")
    for argument, given in (("source", source.class_names), ("class_names", names)):
        if given is not None:
            accepted = f"as many as the classifier has, {classes}"
            require(len(given) == classes, argument, f"{len(given)} class names", accepted)
    finite = np.isfinite([*pixels.mean, *pixels.std]).all() and min(pixels.std) > 0
    require(finite, "pixels", pixels, "finite means and deviations above 0, one per channel")
    depth = model.image_shape[-1]
    fits = len(pixels.mean) == len(pixels.std) == depth
    require(fits, "pixels", pixels, f"a mean and a deviation for each of the classifier's channels, {depth}")


def _finds(contrast: Any) -> bool:
    """Whether this is no contrast, but a function that finds one: it can be called without arguments."""
    if not callable(contrast) or isinstance(contrast, ContrastChoice):
        return False
    needed = [p for p in inspect.signature(contrast).parameters.values() if p.default is p.empty]
    return not [p for p in needed if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def require_other_images(evaluated: Source, fingerprint: str | None, name: str | None) -> None:
    """Raise when confusions are counted on the images that are evaluated: the contrast would know the answers."""
    require(
        fingerprint != evaluated.fingerprint,
        "contrast_data",
        f"{name}, which is the evaluation data",
        "another labelled split to count confusions on, or --contrast topk_logits:5, which needs none",
    )


def _method_facts(name: str, function: MapFunction, title: str) -> dict[str, Any]:
    """Title and options of a method; a function of one's own also with a digest, so that two are told apart."""
    found = described(name, function)
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    facts = {
        "title": title,
        "control": found.control,
        "contrastive": found.contrastive,
        "class_blind": found.class_blind,
        "options": {k: v if isinstance(v, bool | int | float | str | None) else repr(v) for k, v in defaults.items()},
    }
    own = found is not METHODS.get(name)
    return facts | {"source": function_digest(function, f"method {name!r}")} if own else facts

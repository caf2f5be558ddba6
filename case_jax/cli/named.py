"""Methods and metrics by the names that the shell takes: those of the tables, what was trained, and methods made of methods."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from case_jax._checks import CaseJaxError, require
from case_jax.cli.options import options_of, with_options
from case_jax.masking.trained import load_masker
from case_jax.methods import METHODS, MapFunction, contrasted, method, recursive, usual
from case_jax.metrics import METRICS, metric, quick
from case_jax.stream import load_stream

MASKER, STREAM, CONTRASTED, RECURSIVE = "masker:", "stream:", "contrasted:", "recursive:"
"""In front of a run's folder, or of a method's name."""
ALL = "all"
"""Instead of names: every method or metric, the slow ones too; not the methods that need a transformer's attention."""


def map_function(name: str) -> MapFunction:
    """The method of this name; the masker or stream of a run, `masker:RUN` or `stream:RUN`; the weighted contrast of a method, `contrasted:NAME`; or a
    method as a mask, three rounds of it, `recursive:NAME`."""
    if name.startswith(MASKER):
        return load_masker(name.removeprefix(MASKER))
    if name.startswith(STREAM):
        return load_stream(name.removeprefix(STREAM))
    if name.startswith(RECURSIVE):
        within = method(name.removeprefix(RECURSIVE))
        require(not within.pair, "methods", name, "recursive:NAME of a method that can be asked about one class alone")
        return recursive(within.maps)
    entry = method(name.removeprefix(CONTRASTED))
    if not name.startswith(CONTRASTED):
        return entry.maps
    able = not (entry.contrastive or entry.control or entry.class_blind or entry.probability)
    require(
        able,
        "methods",
        name,
        "contrasted:NAME of a method that asks about single logits, such as integrated_gradients or layer_cam",
    )
    return contrasted(entry.maps)


def chosen_methods(names: Sequence[str], settings: Sequence[str], *, scored: bool = False) -> dict[str, MapFunction]:
    """Map functions by name, with the options of `settings` bound: those named, all of them, or by default all but the slow ones.

    Only where they are `scored` afterwards, by two classes an image, those that need a pair are among them unnamed, and options of
    metrics accepted.
    """
    every = tuple(n for n, entry in METHODS.items() if (scored or not entry.pair) and not entry.attention)
    wanted = _wanted("methods", names, every, usual(pair=scored))
    chosen = {name: map_function(name) for name in wanted}
    options = _options(settings, chosen)
    _require_used(options, METHODS, chosen, "methods")
    if not scored:
        _require_used(options, METRICS, (), "metrics")
    return with_options(chosen, {name: found for name, found in options.items() if name in chosen})


def chosen_metrics(
    names: Sequence[str], settings: Sequence[str], methods: Mapping[str, MapFunction]
) -> dict[str, dict[str, Any]]:
    """Options by metric: of those named, of all of them, or by default of all but the slow ones; `methods` have been chosen."""
    chosen = _wanted("metrics", names, tuple(METRICS), quick())
    for name in chosen:
        metric(name)
    options = _options(settings, methods)
    _require_used(options, METRICS, chosen, "metrics")
    return {name: options.get(name, {}) for name in chosen}


def _wanted(kind: str, names: Sequence[str], every: Sequence[str], usual: Sequence[str]) -> Sequence[str]:
    require(ALL not in names or len(names) == 1, kind, " ".join(names), f"{ALL!r} alone, or names")
    if len(set(names)) < len(names):
        raise CaseJaxError(f"{kind}: {' '.join(names)} names a {kind.removesuffix('s')} twice; name each once.")
    return every if ALL in names else names or usual


def _options(settings: Sequence[str], chosen: Mapping[str, MapFunction]) -> dict[str, dict[str, Any]]:
    known = {name: m.maps for name, m in METHODS.items()} | {name: m.columns for name, m in METRICS.items()}
    return options_of(settings, {**known, **chosen})


def _require_used(options: Collection[str], table: Collection[str], chosen: Collection[str], kind: str) -> None:
    unused = [name for name in options if name in table and name not in chosen]
    accepted = f"options of {kind} that run: {', '.join(chosen) or 'none in this command'}"
    require(not unused, "set", f"options of {', '.join(unused)}", accepted)

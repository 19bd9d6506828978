"""The options of pruning, in one place for arrays, files and modules."""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Optional, Union

from ._coppice import Error, Options

Patterns = Union[str, Iterable[str], None]


def _patterns(option: str, value: Patterns) -> list[str]:
    if value is None:
        return []
    patterns = [value] if isinstance(value, str) else list(value)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise Error(f"{option} holds a {type(pattern).__name__}; expected regular expressions on tensor names")
    return patterns


def make_options(
    *,
    criterion: Optional[str],
    sparsity: Optional[float],
    percentile: Optional[float],
    scope: Optional[str],
    pattern: Optional[str],
    reduce: Optional[str],
    min_density: Optional[float],
    min_density_scope: Optional[str],
    include: Patterns,
    exclude: Patterns,
    keep_diagonal: Patterns,
    gates: Optional[Mapping[str, int]],
    seed: int,
    threads: int,
    dry_run: bool,
    has_masks: bool,
    device: Optional[str] = None,
) -> Options:
    """Settles what depends on each other; single values are checked by the engine, in its words."""
    options = Options()
    options.dry_run = bool(dry_run)
    settings: dict[str, Any] = {"seed": seed, "threads": threads}
    if device is not None:
        settings["device"] = device
    if criterion is None:
        if not has_masks:
            raise Error("criterion is missing; expected one of coppice.criteria() or 'wanda', or masks to apply")
        if sparsity is not None or percentile is not None:
            raise Error("criterion is missing; expected one beside sparsity or percentile")
        options.masks_only = True
    elif (sparsity is None) == (percentile is None):
        raise Error(f"expected one of sparsity and percentile, found {'none' if sparsity is None else 'both'}")
    if criterion == "wanda" and scope is None:
        scope = "row"
    pruning = {
        "criterion": criterion, "sparsity": sparsity, "percentile": percentile, "scope": scope, "pattern": pattern,
        "reduce": reduce, "min_density": min_density, "min_density_scope": min_density_scope,
    }  # fmt: skip
    settings.update({f"prune.{key}": value for key, value in pruning.items() if value is not None})
    options.settings = [
        f"{key}={float(value)!r}" if isinstance(value, float) else f"{key}={value}" for key, value in settings.items()
    ]
    options.include = _patterns("include", include)
    options.exclude = _patterns("exclude", exclude)
    options.keep_diagonal = _patterns("keep_diagonal", keep_diagonal)
    options.gates = list((gates or {}).items())
    return options

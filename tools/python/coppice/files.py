"""What the program does with files, and reading and writing tensors."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional, Sequence, Union

import numpy as np

from . import _coppice
from ._coppice import Error
from .arrays import from_bytes, view
from .options import Patterns, make_options
from .report import PruneReport

Path = Union[str, os.PathLike]


def _paths(value: Union[Path, Sequence[Path], None]) -> list[str]:
    if value is None:
        return []
    return [os.fspath(p) for p in ([value] if isinstance(value, (str, os.PathLike)) else value)]


def prune_file(
    weights: Path,
    output: Optional[Path] = None,
    *,
    gradients: Union[Path, Sequence[Path], None] = None,
    activations: Optional[Path] = None,
    masks: Optional[Path] = None,
    criterion: Optional[str] = None,
    sparsity: Optional[float] = None,
    percentile: Optional[float] = None,
    scope: Optional[str] = None,
    pattern: Optional[str] = None,
    reduce: Optional[str] = None,
    min_density: Optional[float] = None,
    min_density_scope: Optional[str] = None,
    include: Patterns = None,
    exclude: Patterns = None,
    keep_diagonal: Patterns = None,
    gates: Optional[Mapping[str, int]] = None,
    seed: int = 1,
    threads: int = 0,
    device: str = "auto",
    memory: Union[int, str] = 0,
    sparse_encoding: bool = False,
    dry_run: bool = False,
    force: bool = False,
) -> PruneReport:
    """`coppice prune`: cuts a file of weights (safetensors, a shard index, npz) or a model's folder of any size, which
    is streamed through buffers of `memory` bytes (or "256MiB"). A file gives `output`, output.masks.safetensors and
    output.report.json; a sharded checkpoint a folder of the same shards, masks.safetensors and report.json. The options
    are those of `coppice.prune`. An existing output is refused without `force`. On any error, and on Ctrl-C, nothing is
    left behind."""
    options = make_options(
        criterion=criterion, sparsity=sparsity, percentile=percentile, scope=scope, pattern=pattern, reduce=reduce,
        min_density=min_density, min_density_scope=min_density_scope, include=include, exclude=exclude,
        keep_diagonal=keep_diagonal, gates=gates, seed=seed, threads=threads, dry_run=dry_run,
        has_masks=masks is not None, device=device,
    )  # fmt: skip
    if output is None and not dry_run:
        raise Error("output is missing; expected a file or folder to write, or dry_run=True")
    report = _coppice.prune_file(
        os.fspath(weights),
        _paths(gradients),
        "" if activations is None else os.fspath(activations),
        "" if masks is None else os.fspath(masks),
        options,
        sparse_encoding,
        str(memory) if memory else "",
        "" if output is None else os.fspath(output),
        force,
    )
    return PruneReport.from_json(report)


@dataclass
class ConvertReport:
    bytes_before: int
    bytes_after: int
    files: int
    """Written."""


def convert(input: Path, output: Path, *, to: str, force: bool = False) -> ConvertReport:
    """`coppice convert`: writes weights in the sparse encoding (to="sparse") or plain again (to="dense"), every bit
    kept."""
    return ConvertReport(*_coppice.convert(os.fspath(input), to, os.fspath(output), force))


def inspect(path: Path) -> dict[str, Any]:
    """`coppice inspect --json` of weights or a model: path, format, bytes, metadata, tensors (name, type, shape, zeros,
    sparsity, not_finite, gates)."""
    return json.loads(_coppice.inspect(os.fspath(path)))


def run(recipe: Path, output: Path, settings: Optional[Mapping[str, Any]] = None, *, force: bool = False) -> dict:
    """`coppice run`: the whole job of a recipe, into the folder `output`; gives report.json. `settings` override its
    keys ({"train.epochs": 3}). Ctrl-C saves a checkpoint, from which `coppice resume` goes on."""
    overrides = [f"{key}={value}" for key, value in (settings or {}).items()]
    return json.loads(_coppice.run_recipe(os.fspath(recipe), os.fspath(output), overrides, force))


def load(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file (safetensors, plain or in the sparse encoding, a shard index, npz), by name. bfloat16 needs
    the package ml_dtypes."""
    tensors, _ = _coppice.read_weights(os.fspath(path))
    return {name: from_bytes(dtype, shape, data) for name, dtype, shape, data in tensors}


def save(
    path: Path, tensors: Mapping[str, Any], metadata: Optional[Mapping[str, str]] = None, *, force: bool = False
) -> None:
    """Writes arrays as safetensors (or .npz by that name), whole or not at all; an existing file is refused without
    `force`."""
    arrays = [view(name, value).item() for name, value in tensors.items()]
    _coppice.write_weights(os.fspath(path), arrays, dict(metadata or {}), force)


class GradientStatistics(dict):
    """"NAME.sum" (of g), "NAME.absolute" (of |g|), "NAME.squared" (of g^2) to array, summed over `count` gradients."""

    def __init__(self, arrays: Mapping[str, Any], count: int):
        super().__init__(arrays)
        self.count = count


def load_gradients(path: Path) -> GradientStatistics:
    """Reads statistics as `coppice gradients`, `save_gradients` or a record of `coppice.torch` wrote them; a file of
    one batch's plain gradients has count 1."""
    tensors, metadata = _coppice.read_weights(os.fspath(path))
    arrays = {name: from_bytes(dtype, shape, data) for name, dtype, shape, data in tensors}
    return GradientStatistics(arrays, int(metadata.get("count", "1")))


def save_gradients(path: Path, statistics: Mapping[str, Any], *, force: bool = False) -> None:
    """Writes statistics for `coppice prune --gradients`."""
    count = getattr(statistics, "count", None)
    save(path, statistics, None if count is None else {"count": str(count)}, force=force)

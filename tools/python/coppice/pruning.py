"""Pruning arrays in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional, Union

import numpy as np

from . import _coppice
from ._coppice import Error
from .arrays import copy, view
from .masks import Masks
from .options import Patterns, make_options
from .report import PruneReport

Path = Union[str, os.PathLike]


@dataclass
class PruneResult:
    """Pruned tensors, in the form in which they came; their masks; and what was done."""

    tensors: Any
    masks: Masks
    report: PruneReport

    @property
    def mask(self) -> np.ndarray:
        """The mask where there is one tensor: True where kept."""
        if len(self.masks) != 1:
            raise Error(f"there are {len(self.masks)} masks; expected one tensor, or use masks['NAME']")
        return next(iter(self.masks.values()))


def criteria() -> dict[str, str]:
    """Name to formula of every criterion; 'wanda' (|w| * ||x||, of activations) comes beside them."""
    return {name: formula for name, formula, _ in _coppice.criteria()}


def statistic_of(criterion: str) -> str:
    """What the criterion reads of the gradient: 'sum', 'absolute', 'squared', or '' for nothing."""
    return next((statistic for name, _, statistic in _coppice.criteria() if name == criterion), "")


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _named(value: Any, what: str) -> dict[str, Any]:
    """The arrays of a mapping, a sequence or one array, by names whose byte order is the sequence's."""
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise Error(f"{what} have a key of type {type(name).__name__}; expected names")
        return dict(value)
    if isinstance(value, (list, tuple)):
        width = len(str(max(0, len(value) - 1)))
        return {f"{i:0{width}}": item for i, item in enumerate(value)}
    return {"0": value}


def _input(value: Any, what: str) -> Any:
    """A file's name, or arrays, as the extension takes them."""
    if _is_path(value):
        return os.fspath(value)
    return [view(name, array).item() for name, array in _named(value, what).items()]


def gradient_inputs(value: Any) -> list[Any]:
    """One set of gradients or several, which are added up: a list whose items are files, mappings or statistics."""
    if value is None:
        return []
    if hasattr(value, "statistics"):  # a record of coppice.torch
        value = value.statistics()
    several = isinstance(value, (list, tuple)) and any(
        _is_path(v) or isinstance(v, Mapping) or hasattr(v, "statistics") for v in value
    )
    if not several:
        return [_input(value, "gradients")]
    return [_input(v.statistics() if hasattr(v, "statistics") else v, "gradients") for v in value]


def mask_input(value: Any) -> Any:
    if value is None:
        return None
    if _is_path(value):
        return os.fspath(value)
    if not isinstance(value, Masks):
        value = Masks.from_arrays(_named(value, "masks"))
    return value.arrays()


def prune(
    tensors: Any,
    gradients: Any = None,
    *,
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
    activations: Any = None,
    masks: Any = None,
    seed: int = 1,
    threads: int = 0,
    in_place: bool = False,
    dry_run: bool = False,
) -> PruneResult:
    """Cuts the least important weights of arrays: exactly round-half-even(sparsity * n), +0 where cut, every other bit
    as it was; ties by name (byte order), then row-major index. The same bits as `coppice prune` of a file.

    tensors: name to array, a list of arrays, or one; NumPy arrays, PyTorch tensors (on the host, or copied there and
        back), or anything with DLPack; f64, f32, f16 or bf16, row-major [out, in]. Nothing is copied in place, unless
        it is not contiguous. Of named tensors those take part that `coppice prune` would choose in a file: matrices of
        recurrent layers where there are some, else projections; `include` names others. Of a list, or one, all do.
    gradients: for the criteria that need them: arrays in the same form (g of one batch), sums as "NAME.sum",
        "NAME.absolute", "NAME.squared" (`coppice.load_gradients`, a `coppice.torch` record), a file, or a list of such,
        which are added up.
    criterion: a name of `coppice.criteria()`, or "wanda" (|w| * ||x||, which takes `activations`: by weight's name the
        norm of each of its inputs, or a file; scope "row" unless another is named).
    sparsity: the share that is cut; or percentile: cut where score < percentile(score, p).
    scope: "global" (the default), "tensor", "gate" or "row": what competes for one threshold.
    pattern: "element" (the default), "row", "column", ...: what is cut as one unit, scored by `reduce` ("sum", "mean",
        "max", "l2", "product") of its elements.
    min_density: the share of every tensor (min_density_scope="gate": of every gate) that is never cut.
    include, exclude: regular expressions (RE2) on whole names.
    keep_diagonal: such expressions of matrices whose diagonal, each gate's own, is never cut.
    gates: expression to number of gates: these tensors' rows lie in so many blocks of equal height.
    masks: made earlier (`Masks`, a file, or booleans by name): their zeros stay and count; without a criterion they are
        applied alone.
    seed: of the criterion "random". threads: 0 for all cores.
    in_place: cut the arrays that were passed; else copies, which the result holds. On any error, and on Ctrl-C, arrays
        are as they were.
    dry_run: cut nothing; the report says what would be.

    Raises coppice.Error with one sentence that names the tensor or option, what was expected and what was found.
    """
    options = make_options(
        criterion=criterion, sparsity=sparsity, percentile=percentile, scope=scope, pattern=pattern, reduce=reduce,
        min_density=min_density, min_density_scope=min_density_scope, include=include, exclude=exclude,
        keep_diagonal=keep_diagonal, gates=gates, seed=seed, threads=threads, dry_run=dry_run,
        has_masks=masks is not None,
    )  # fmt: skip
    named = _named(tensors, "tensors")
    if not isinstance(tensors, Mapping) and not options.include:
        options.include = [".*"]
    if not in_place and not dry_run:
        named = {name: copy(name, value) for name, value in named.items()}
    views = [view(name, value, writable=not dry_run) for name, value in named.items()]
    report, bits = _coppice.prune_arrays(
        [v.item() for v in views],
        gradient_inputs(gradients),
        None if activations is None else _input(activations, "activations"),
        mask_input(masks),
        options,
    )
    for v in views:
        if v.write_back is not None:
            v.write_back()
    if isinstance(tensors, Mapping):
        result: Any = named
    elif isinstance(tensors, (list, tuple)):
        result = list(named.values())
    else:
        result = named["0"]
    return PruneResult(result, Masks(bits, {v.name: v.shape for v in views}), PruneReport.from_json(report))

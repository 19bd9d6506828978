"""Pruning a module in place."""

from __future__ import annotations

from typing import Any

import torch

from ..masks import Masks
from ..pruning import PruneResult, prune
from .masks import masks_of, register_masks


def changed_in_place(parameter: torch.Tensor) -> None:
    """Tells autograd, which has not seen it, so that a graph that still needs the old values says so."""
    increment = getattr(torch.autograd.graph, "increment_version", None)
    if increment is not None:
        increment(parameter.detach())


def prune_(
    module: torch.nn.Module, gradients: Any = None, *, buffers: bool = False, activations: Any = None, **options: Any
) -> PruneResult:
    """Prunes a module's parameters in place: `coppice.prune` of them, by their names; the options are the same.

    gradients: a record of this package, or what `coppice.prune` takes. A record with norms of inputs is the
        `activations` of criterion "wanda" as well.
    buffers: keep the masks as buffers too (`register_masks`).

    Masks that the module keeps as buffers hold unless `masks` says otherwise: what they cut stays cut and counts.
    The result's `tensors` are the parameters themselves; pass its `masks` to `MaskedOptimizer` before training on.
    """
    parameters = dict(module.named_parameters())
    if options.get("criterion") == "wanda" and activations is None and hasattr(gradients, "norms"):
        gradients, activations = None, gradients.norms()
    if "masks" not in options:
        kept: Masks = masks_of(module)
        if len(kept):
            options["masks"] = kept
    result = prune(parameters, gradients, activations=activations, in_place=True, **options)
    if not options.get("dry_run"):
        for name in result.masks:
            changed_in_place(parameters[name])
        if buffers:
            register_masks(module, result.masks)
    return result

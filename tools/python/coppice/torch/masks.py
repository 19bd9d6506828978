"""Masks on modules: applied to parameters, kept as buffers, and found again."""

from __future__ import annotations

from typing import Iterator

import torch

from .._coppice import Error
from ..masks import Masks

_SUFFIX = "_mask"


def parameters_of(module: torch.nn.Module, masks: Masks) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """The masked parameters. Raises coppice.Error naming the mask that fits none."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name in masks:
        if name not in parameters:
            raise Error(f"there is a mask of '{name}', which is no parameter of the {type(module).__name__}")
        if masks.shape(name) != tuple(parameters[name].shape):
            raise Error(f"the mask of '{name}' is of shape {masks.shape(name)}; expected that of the parameter, "
                        f"{tuple(parameters[name].shape)}")  # fmt: skip
        yield name, parameters[name]


def cut_bits(masks: Masks, name: str, parameter: torch.Tensor) -> torch.Tensor:
    """Where `name` is cut, on the parameter's device."""
    return torch.from_numpy(~masks[name]).to(parameter.device)


@torch.no_grad()
def apply_masks_(module: torch.nn.Module, masks: Masks) -> None:
    """Sets what the masks cut to +0, in place."""
    for name, parameter in list(parameters_of(module, masks)):
        parameter.masked_fill_(cut_bits(masks, name, parameter), 0)


def _owner(module: torch.nn.Module, name: str) -> tuple[torch.nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf + _SUFFIX


def register_masks(module: torch.nn.Module, masks: Masks, *, persistent: bool = True) -> None:
    """Keeps the masks as boolean buffers, "weight_mask" beside "weight": they move, are copied and, where
    `persistent`, are saved with the module. A buffer of the name is overwritten."""
    for name, parameter in list(parameters_of(module, masks)):
        owner, leaf = _owner(module, name)
        owner.register_buffer(leaf, ~cut_bits(masks, name, parameter), persistent=persistent)


def remove_masks(module: torch.nn.Module) -> None:
    """Takes such buffers off again; the weights stay as they are."""
    for name in list(masks_of(module)):
        owner, leaf = _owner(module, name)
        delattr(owner, leaf)


def masks_of(module: torch.nn.Module) -> Masks:
    """The masks that the module keeps as buffers."""
    buffers = dict(module.named_buffers())
    found = {}
    for name, _ in module.named_parameters():
        mask = buffers.get(name + _SUFFIX)
        if mask is not None and mask.dtype == torch.bool:
            found[name] = mask.cpu().numpy()
    return Masks.from_arrays(found)

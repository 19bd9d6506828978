"""An optimizer that keeps pruned weights, and its own state there, at zero."""

from __future__ import annotations

from typing import Any, Callable, Optional

import torch

from ..masks import Masks
from .masks import cut_bits, parameters_of


class MaskedOptimizer(torch.optim.Optimizer):
    """Wraps an optimizer: after every step what the masks cut is +0, weights and state (momentum, Adam's moments and all
    else of a weight's shape) alike, so that neither momentum nor decay revives it. Gradients are zeroed there before.

    Stepping the wrapped optimizer does the same. Schedulers and GradScaler take either; `state_dict` is the wrapped
    one's, so that it goes into a plain optimizer and back (masks are saved apart: `Masks.save`, or as buffers).
    State of another shape (LBFGS's history, factored moments) is left alone.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, module: torch.nn.Module, masks: Optional[Masks] = None):
        # Not initialised as an optimizer: all that one has is the wrapped one's.
        self.__dict__["optimizer"] = optimizer
        self.__dict__["_module"] = module
        self.__dict__["_masks"] = Masks({}, {})
        self.__dict__["_cut"] = []  # (parameter, where it is cut)
        self.__dict__["_hooks"] = [
            optimizer.register_step_pre_hook(lambda *_: self._zero_gradients()),
            optimizer.register_step_post_hook(lambda *_: self._zero()),
        ]
        if masks is not None:
            self.set_masks(masks)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["optimizer"], name)

    @property
    def masks(self) -> Masks:
        return self.__dict__["_masks"]

    def set_masks(self, masks: Masks) -> None:
        """Holds other masks from here on; weights and state are cut at once. Raises coppice.Error naming the mask that
        fits no parameter of the module."""
        cut = [(parameter, cut_bits(masks, name, parameter)) for name, parameter in parameters_of(self._module, masks)]
        self.__dict__["_masks"], self.__dict__["_cut"] = masks, cut
        self._zero()

    def detach(self) -> torch.optim.Optimizer:
        """Lets go; gives the wrapped optimizer."""
        for hook in self._hooks:
            hook.remove()
        return self.optimizer

    @torch.no_grad()
    def _zero_gradients(self) -> None:
        for parameter, cut in self._cut:
            if parameter.grad is not None and not parameter.grad.is_sparse:
                parameter.grad.masked_fill_(cut, 0)

    @torch.no_grad()
    def _zero(self) -> None:
        for parameter, cut in self._cut:
            parameter.masked_fill_(cut, 0)
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if key != "step" and isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    value.masked_fill_(cut, 0)

    # What an optimizer is asked for.

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        return self.optimizer.defaults

    def step(self, closure: Optional[Callable[[], Any]] = None) -> Any:  # type: ignore[override]
        return self.optimizer.step() if closure is None else self.optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state_dict)
        self._zero()

    def register_step_pre_hook(self, hook: Any) -> Any:
        return self.optimizer.register_step_pre_hook(hook)

    def register_step_post_hook(self, hook: Any) -> Any:
        return self.optimizer.register_step_post_hook(hook)

    def __repr__(self) -> str:
        return f"MaskedOptimizer({self.optimizer!r}, {self.masks!r})"

    def __reduce__(self) -> Any:
        raise TypeError("a MaskedOptimizer can't be pickled; save its state_dict() and its masks")

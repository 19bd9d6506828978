"""Pruning while training: a few more weights every so many steps."""

from __future__ import annotations

from typing import Any, Optional

import torch

from .._coppice import Error
from ..masks import Masks
from ..pruning import statistic_of
from ..report import PruneReport
from ..schedule import CubicSchedule
from .optimizer import MaskedOptimizer
from .pruning import prune_
from .record import Record


class GradualPruning:
    """Zhu & Gupta's schedule (arXiv 1710.01878) as a callback: call `step()` after every step of the optimizer.

        pruning = coppice.torch.GradualPruning(model, optimizer, criterion="taylor", sparsity=0.9, end_step=1000)
        for x, y in batches:
            optimizer.zero_grad(); loss(model(x), y).backward(); optimizer.step()
            pruning.step()

    Whenever the `schedule` (`coppice.CubicSchedule`) says so, weights are scored by the gradients of the steps since the
    last cut, and more of them are cut. What is cut stays cut: the optimizer is masked. The other options are those of
    `coppice.prune`.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        criterion: str,
        sparsity: float,
        end_step: int,
        begin_step: int = 0,
        frequency: int = 100,
        initial_sparsity: float = 0.0,
        **options: Any,
    ):
        self.schedule = CubicSchedule(sparsity, end_step, begin_step=begin_step, frequency=frequency,
                                      initial_sparsity=initial_sparsity)  # fmt: skip
        if options.get("percentile") is not None or criterion == "wanda":
            raise Error("a gradual schedule scores by weights and gradients; expected neither a percentile nor wanda")
        statistic = statistic_of(criterion)
        self.module = module
        self.optimizer = optimizer if isinstance(optimizer, MaskedOptimizer) else MaskedOptimizer(optimizer, module)
        self.steps = 0
        self.sparsity = 0.0
        """As of the last cut."""
        self.complete = False
        """The cut at `end_step` is done."""
        self._criterion, self._options = criterion, options
        self._record: Optional[Record] = None
        if statistic:
            self._record = Record(module, None, statistics=[statistic])
            self._hook = self.optimizer.register_step_pre_hook(lambda *_: self._observe())
        # A wrong option is to be known before the first step.
        if not statistic:
            prune_(module, criterion=criterion, sparsity=sparsity, dry_run=True, **options)

    @property
    def masks(self) -> Masks:
        """What is held at present."""
        return self.optimizer.masks

    def _observe(self) -> None:
        # The window before the first cut is as long as those between the cuts.
        first = self.schedule.begin_step - self.schedule.frequency
        if self._record is not None and not self.complete and self.steps + 1 > first:
            self._record.step()

    def step(self) -> Optional[PruneReport]:
        """Call after every step of the optimizer; gives a report where weights were cut."""
        self.steps += 1
        if self.complete or not self.schedule.is_due(self.steps):
            return None
        target = max(self.sparsity, self.schedule.sparsity(self.steps))
        options = dict(self._options)
        if len(self.masks):
            options["masks"] = self.masks
        result = prune_(self.module, self._record, criterion=self._criterion, sparsity=target, **options)
        self.optimizer.set_masks(result.masks)
        self.sparsity = target
        self.complete = self.steps >= self.schedule.end_step
        if self._record is not None:
            self._record.reset()
            if self.complete:
                self._hook.remove()
        return result.report

    def state_dict(self) -> dict[str, Any]:
        """All that goes on: steps, sparsity, masks and the gradients in flight; tensors and numbers only."""
        masks = {n: (torch.from_numpy(self.masks.bits(n).copy()), list(self.masks.shape(n))) for n in self.masks}
        state: dict[str, Any] = {"steps": self.steps, "sparsity": self.sparsity, "complete": self.complete,
                                 "masks": masks}  # fmt: skip
        if self._record is not None:
            state["gradients"] = {name: total.clone() for name, total in self._record._sums.items()}
            state["gradient_count"] = self._record.count
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there; weights and optimizer state are cut by the masks at once."""
        self.steps, self.sparsity, self.complete = state["steps"], state["sparsity"], state["complete"]
        bits = {name: packed.numpy() for name, (packed, _) in state["masks"].items()}
        self.optimizer.set_masks(Masks(bits, {name: tuple(shape) for name, (_, shape) in state["masks"].items()}))
        if self._record is not None:
            self._record._sums = {name: total.clone() for name, total in state["gradients"].items()}
            self._record.count = state["gradient_count"]

"""How much is to be cut when."""

from __future__ import annotations

from dataclasses import dataclass

from ._coppice import Error, cubic_sparsity


@dataclass
class CubicSchedule:
    """Zhu & Gupta (arXiv 1710.01878): after t steps s_f + (s_i − s_f)(1 − (t − begin)/(end − begin))³ is cut.

    Cuts are due every `frequency` steps from `begin_step` on, and at `end_step`; the keys are those of recipes. Steps
    are counted from 1. The numbers are the engine's own. Raises coppice.Error naming the key that doesn't fit.
    """

    final_sparsity: float
    end_step: int
    begin_step: int = 0
    frequency: int = 100
    initial_sparsity: float = 0.0

    def __post_init__(self) -> None:
        if self.frequency < 1:
            raise Error(f"frequency is {self.frequency}; expected at least 1")
        if not 0 <= self.begin_step < self.end_step:
            raise Error(f"begin_step is {self.begin_step}; expected 0 or more and less than end_step, which is "
                        f"{self.end_step}")  # fmt: skip
        if not 0.0 <= self.initial_sparsity <= self.final_sparsity <= 1.0:
            raise Error(f"initial_sparsity is {self.initial_sparsity}; expected between 0 and the final sparsity, which is "
                        f"{self.final_sparsity}")  # fmt: skip

    def sparsity(self, step: int) -> float:
        """The share that is to be cut after `step` steps."""
        return cubic_sparsity(self.initial_sparsity, self.final_sparsity, self.begin_step, self.end_step, step)

    def is_due(self, step: int) -> bool:
        """Whether something is cut after `step` steps, of which the last is `end_step`."""
        if step >= self.end_step or step < self.begin_step:
            return step == self.end_step
        return self.sparsity(step) > 0.0 and (step - self.begin_step) % self.frequency == 0

"""What pruning did."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Optional


@dataclass
class GroupReport:
    """What competed for one threshold: "all", a tensor, or "tensor:gate"."""

    name: str
    units: int
    cut: int
    threshold: Optional[float]
    """Score of the last unit that was cut, or the percentile; None: nothing was, or no float holds it."""
    threshold_text: str


@dataclass
class TensorReport:
    name: str
    shape: tuple[int, ...]
    pruned: bool
    """Took part."""
    size: int
    kept: int
    sparsity: float


@dataclass
class GateReport:
    """One gate of a recurrent layer's matrix."""

    name: str
    tensor: str
    gate: str
    shape: tuple[int, ...]
    size: int
    kept: int
    sparsity: float


@dataclass
class CarriedTensor:
    """A tensor that was left alone, and why in a word."""

    name: str
    reason: str


@dataclass
class PruneReport:
    """What `coppice prune --json` prints, as an object; README.md documents the fields."""

    criterion: str
    formula: str
    scope: str
    pattern: str
    sparsity: Optional[float]
    """As asked for; `achieved` says what became of it."""
    percentile: Optional[float]
    seed: int
    total: int
    """Elements of all tensors."""
    prunable: int
    """Elements that took part."""
    kept: int
    """Of those."""
    tensors: list[TensorReport]
    gates: list[GateReport]
    groups: list[GroupReport]
    carried: list[CarriedTensor]
    tied: list[list[str]]
    """Names of the same weights, pruned once."""
    bytes_before: int
    bytes_after: int
    bytes_sparse: int
    """In the sparse encoding, at most."""
    passes: int
    """How often the weights were read."""
    bracket_misses: int
    weights: str
    output: str
    json: dict[str, Any] = field(repr=False)
    """All of it, as the program says it."""

    @property
    def achieved(self) -> float:
        """Share of zeros in what took part."""
        return 1.0 - self.kept / self.prunable if self.prunable else 0.0

    @classmethod
    def from_json(cls, text: str) -> PruneReport:
        found = json.loads(text)

        def shaped(item: dict[str, Any]) -> dict[str, Any]:
            return {**item, "shape": tuple(item["shape"])}

        same = ("criterion", "formula", "scope", "pattern", "sparsity", "percentile", "seed", "tied", "passes",
                "bracket_misses", "weights", "output")  # fmt: skip
        return cls(
            **{key: found[key] for key in same},
            **{key: found["parameters"][key] for key in ("total", "prunable", "kept")},
            tensors=[TensorReport(**shaped(item)) for item in found["tensors"]],
            gates=[GateReport(**shaped(item)) for item in found["gates"]],
            groups=[GroupReport(**item) for item in found["groups"]],
            carried=[CarriedTensor(**item) for item in found["carried"]],
            bytes_before=found["bytes"]["before"],
            bytes_after=found["bytes"]["after"],
            bytes_sparse=found["bytes"]["sparse"],
            json=found,
        )

"""ONNX models to tensors in PyTorch's names and orders, and back.

    coppice.onnx.to_safetensors("model.onnx", "model.safetensors")
    coppice.prune_file("model.safetensors", "pruned.safetensors", criterion="magnitude", sparsity=0.9)
    coppice.onnx.from_safetensors("pruned.safetensors", "model.onnx", "pruned.onnx")

Of nodes LSTM, GRU and RNN the initialisers W, R and B become NODE.weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0 (and
..._reverse): an LSTM's gates are i, o, f, c there and i, f, g, o here, a GRU's z, r, h and r, z, n. A PyTorch layer with
these tensors computes the same, but for a GRU with linear_before_reset = 0, which PyTorch does not have: its tensors are
for pruning and the way back. Matrices of Gemm and MatMul are [out, in] here. Every other initialiser keeps its name and
axes. Subgraphs (of If, Loop, Scan) and constants that are no initialisers are left alone.
"""

from __future__ import annotations

import os
import warnings
from typing import Any, Callable, Mapping, Union

import numpy as np
import onnx
from onnx import numpy_helper

from ._coppice import Error
from .files import load, save
from .recurrent import reorder

Path = Union[str, os.PathLike]
_CELLS = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn"}


class _Walk:
    """Every initialiser of a model once: its tensors, and how they go back."""

    def __init__(self, model: Any):
        graph = model.graph
        self.tensors: dict[str, np.ndarray] = {}
        self.back: list[Callable[[Mapping[str, np.ndarray]], None]] = []
        self._initialisers = {item.name: item for item in graph.initializer}
        self._left = dict.fromkeys(self._initialisers)
        uses: dict[str, int] = {}
        for node in graph.node:
            for name in node.input:
                uses[name] = uses.get(name, 0) + 1
        for node in graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type in _CELLS:
                self._recurrent(node, attributes)
            elif node.op_type in ("Gemm", "MatMul") and len(node.input) > 1:
                name = node.input[1]
                matrix = name in self._left and len(self._initialisers[name].dims) == 2 and uses[name] == 1
                if matrix and not attributes.get("transB", 0):
                    self._plain(name, transposed=True)
        for name in list(self._left):
            self._plain(name)

    def _take(self, name: str) -> np.ndarray:
        del self._left[name]
        return numpy_helper.to_array(self._initialisers[name])

    def _put(self, name: str, value: np.ndarray) -> None:
        if name in self.tensors:
            raise Error(f"two tensors of the model are called '{name}'; expected names of their own")
        self.tensors[name] = np.ascontiguousarray(value).reshape(value.shape)

    def _set(self, name: str, value: np.ndarray) -> None:
        whole = np.ascontiguousarray(value).reshape(value.shape)
        self._initialisers[name].CopyFrom(numpy_helper.from_array(whole, name))

    def _plain(self, name: str, transposed: bool = False) -> None:
        value = self._take(name)
        self._put(name, value.T if transposed else value)
        self.back.append(lambda tensors: self._set(name, tensors[name].T if transposed else tensors[name]))

    def _recurrent(self, node: Any, attributes: Mapping[str, Any]) -> None:
        kind = _CELLS[node.op_type]
        prefix = (node.name or node.output[0]).strip("/").replace("/", ".")
        if kind == "gru" and not attributes.get("linear_before_reset", 0):
            warnings.warn(f"'{prefix}' is a GRU with linear_before_reset = 0, which PyTorch does not have: its tensors can "
                          "be pruned and come back, but a PyTorch layer computes something else with them", stacklevel=4)  # fmt: skip
        reverse = attributes.get("direction", b"forward") == b"reverse"
        ends = ["_l0_reverse"] if reverse else ["_l0", "_l0_reverse"]
        for what, name in zip(("weight_ih", "weight_hh"), node.input[1:3]):
            if name in self._left:
                self._stacked(name, kind, [[f"{prefix}.{what}{end}"] for end in ends])
        if len(node.input) > 3 and node.input[3] in self._left:
            self._stacked(node.input[3], kind, [[f"{prefix}.bias_{b}{end}" for b in ("ih", "hh")] for end in ends])

    def _stacked(self, initialiser: str, kind: str, names: list[list[str]]) -> None:
        """An initialiser [directions, parts * gates * hidden, ...]."""
        value = self._take(initialiser)
        names = names[: value.shape[0]]
        for direction, parts in zip(value, names):
            for part, name in zip(np.split(direction, len(parts)), parts):
                self._put(name, reorder(part, kind, "onnx", "pytorch"))

        def back(tensors: Mapping[str, np.ndarray]) -> None:
            directions = [[reorder(tensors[name], kind, "pytorch", "onnx") for name in parts] for parts in names]
            self._set(initialiser, np.stack([np.concatenate(parts) for parts in directions]))

        self.back.append(back)


def tensors_of(model: Any) -> dict[str, np.ndarray]:
    """Every initialiser of a model (an `onnx.ModelProto`), by name."""
    return _Walk(model).tensors


def assign(model: Any, tensors: Mapping[str, Any]) -> None:
    """Sets a model's initialisers to such tensors; all or none. Raises coppice.Error naming the tensor that is missing
    or of another shape or type."""
    walk = _Walk(model)
    found = {}
    for name, value in walk.tensors.items():
        if name not in tensors:
            raise Error(f"there is no tensor '{name}', which the model has")
        found[name] = np.asarray(tensors[name])
        if (found[name].shape, found[name].dtype) != (value.shape, value.dtype):
            raise Error(f"tensor '{name}' is {found[name].dtype} of shape {found[name].shape}; expected {value.dtype} of "
                        f"shape {value.shape}, as the model has it")  # fmt: skip
    for back in walk.back:
        back(found)


def to_safetensors(model: Path, path: Path, *, force: bool = False) -> None:
    """Writes a model's weights for `coppice prune`."""
    save(path, tensors_of(onnx.load(os.fspath(model))), {"framework": "onnx"}, force=force)


def from_safetensors(path: Path, model: Path, output: Path, *, force: bool = False) -> None:
    """Writes the model `model` with the weights of `path`, pruned or not, as `output`; an existing one is refused without
    `force`. Models of 2 GB and more lie beside it in OUTPUT.data."""
    output = os.fspath(output)
    if os.path.exists(output) and not force:
        raise Error(f"{output} exists; pass force=True to replace it")
    proto = onnx.load(os.fspath(model))
    assign(proto, load(path))
    partial = f"{output}.partial-{os.getpid()}"
    try:
        if proto.ByteSize() < 2**31 - 1:
            onnx.save(proto, partial)
        else:
            beside = os.path.basename(output) + ".data"
            if os.path.exists(output + ".data"):
                os.remove(output + ".data")
            onnx.save(proto, partial, save_as_external_data=True, location=beside)
        os.replace(partial, output)
    finally:
        if os.path.exists(partial):
            os.remove(partial)

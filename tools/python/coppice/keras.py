"""Keras (3) models to tensors in PyTorch's names and orders, and back.

    coppice.keras.to_safetensors(model, "model.safetensors")
    coppice.prune_file("model.safetensors", "pruned.safetensors", criterion="magnitude", sparsity=0.9)
    coppice.keras.from_safetensors("pruned.safetensors", model)

Keras holds kernels as [in, out]; here a weight is [out, in]. An LSTM's gates are in the same order in both, a GRU's are
z, r, h there and r, z, n here. One bias of Keras is `bias_ih`, and `bias_hh` is 0; the two of a GRU with `reset_after` are
both. A PyTorch layer with these tensors computes the same, but for a GRU without `reset_after`, which PyTorch does not
have: its tensors are for pruning and the way back. Layers that are not Dense, Embedding or recurrent keep Keras's names
and axes.
"""

from __future__ import annotations

import os
import warnings
from typing import Any, Callable, Mapping, Union

import keras
import numpy as np

from ._coppice import Error
from .files import load, save
from .masks import Masks
from .recurrent import reorder

Set = Callable[[Any, np.ndarray], None]  # a variable, and what it is to be


def _without_model(path: str, name: str) -> str:
    """Where something stands, without the model's own name, which Keras counts up from model to model."""
    return ".".join(path.split("/")[1:] or [name])


class _Walk:
    """Every weight of a model once: its tensors, and how they go back."""

    def __init__(self, model: Any):
        self.tensors: dict[str, np.ndarray] = {}
        self.back: list[Callable[[Mapping[str, np.ndarray], Set], None]] = []
        self._seen: set[int] = set()
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.Bidirectional):
                name = self._name(layer)
                self._recurrent(layer.forward_layer, name, "_l0")
                self._recurrent(layer.backward_layer, name, "_l0_reverse")
            elif isinstance(layer, keras.layers.RNN):
                self._recurrent(layer, self._name(layer), "_l0")
            elif isinstance(layer, keras.layers.Dense):
                name = self._name(layer)
                self._plain(f"{name}.weight", layer.kernel, transposed=True)
                if layer.use_bias:
                    self._plain(f"{name}.bias", layer.bias)
            elif isinstance(layer, keras.layers.Embedding):
                self._plain(f"{self._name(layer)}.weight", layer.embeddings)
        for variable in model.weights:
            self._plain(_without_model(variable.path, variable.name), variable)

    def _name(self, layer: Any) -> str:
        return _without_model(getattr(layer, "path", None) or layer.name, layer.name)

    def _put(self, name: str, value: np.ndarray) -> None:
        if name in self.tensors:
            raise Error(f"two layers of the model are called '{name.rpartition('.')[0]}'; expected names of their own")
        self.tensors[name] = np.ascontiguousarray(value)

    def _take(self, variable: Any) -> bool:
        """Whether it has not been seen yet."""
        new = id(variable) not in self._seen
        self._seen.add(id(variable))
        return new

    def _plain(self, name: str, variable: Any, transposed: bool = False) -> None:
        if not self._take(variable):
            return
        value = np.asarray(keras.ops.convert_to_numpy(variable))
        self._put(name, value.T if transposed else value)

        def back(tensors: Mapping[str, np.ndarray], put: Set) -> None:
            found = tensors[name]
            put(variable, found.T if transposed else found)

        self.back.append(back)

    def _recurrent(self, layer: Any, name: str, end: str) -> None:
        cell = layer.cell
        kind = next(
            (kind for kind, type_ in (("lstm", keras.layers.LSTMCell), ("gru", keras.layers.GRUCell),
                                      ("rnn", keras.layers.SimpleRNNCell)) if isinstance(cell, type_)),
            None,
        )  # fmt: skip
        if kind is None:
            return  # a cell of somebody's own: its weights keep their names
        pairs = [("weight_ih", cell.kernel), ("weight_hh", cell.recurrent_kernel)]
        for what, variable in pairs:
            if not self._take(variable):
                return

            def back(
                tensors: Mapping[str, np.ndarray], put: Set, key: str = f"{name}.{what}{end}", to: Any = variable
            ) -> None:
                put(to, reorder(tensors[key], kind, "pytorch", "keras").T)

            value = np.asarray(keras.ops.convert_to_numpy(variable)).T
            self._put(f"{name}.{what}{end}", reorder(value, kind, "keras", "pytorch"))
            self.back.append(back)
        if kind == "gru" and not cell.reset_after:
            warnings.warn(f"'{name}' is a GRU without reset_after, which PyTorch does not have: its tensors can be "
                          "pruned and come back, but a PyTorch layer computes something else with them", stacklevel=4)  # fmt: skip
        if not cell.use_bias:
            return
        bias = cell.bias
        self._take(bias)
        value = np.asarray(keras.ops.convert_to_numpy(bias))
        two = value.ndim == 2
        first, second = (value[0], value[1]) if two else (value, np.zeros_like(value))
        input_name, hidden_name = f"{name}.bias_ih{end}", f"{name}.bias_hh{end}"
        self._put(input_name, reorder(first, kind, "keras", "pytorch"))
        self._put(hidden_name, reorder(second, kind, "keras", "pytorch"))

        def back_bias(tensors: Mapping[str, np.ndarray], put: Set) -> None:
            b_ih = reorder(tensors[input_name], kind, "pytorch", "keras")
            b_hh = reorder(tensors[hidden_name], kind, "pytorch", "keras")
            put(bias, np.stack([b_ih, b_hh]) if two else np.where(b_hh == 0, b_ih, b_ih + b_hh))

        self.back.append(back_bias)


def tensors_of(model: Any) -> dict[str, np.ndarray]:
    """Every weight of a built Keras model, by name."""
    return _Walk(model).tensors


def assign(model: Any, tensors: Mapping[str, Any]) -> None:
    """Sets a model's weights to such tensors; all or none. Raises coppice.Error naming the tensor that is missing or of
    another shape."""
    walk = _Walk(model)
    found = {}
    for name, value in walk.tensors.items():
        if name not in tensors:
            raise Error(f"there is no tensor '{name}', which the model '{model.name}' has")
        found[name] = np.asarray(tensors[name])
        if found[name].shape != value.shape:
            raise Error(f"tensor '{name}' is of shape {found[name].shape}; expected {value.shape}, as the model "
                        f"'{model.name}' has it")  # fmt: skip
    for back in walk.back:
        back(found, lambda variable, value: variable.assign(value))


def to_safetensors(model: Any, path: Union[str, os.PathLike], *, force: bool = False) -> None:
    """Writes a model's weights for `coppice prune`."""
    save(path, tensors_of(model), {"framework": "keras"}, force=force)


def from_safetensors(path: Union[str, os.PathLike], model: Any) -> None:
    """Reads weights, pruned or not, back into the model."""
    assign(model, load(path))


class KeepPruned(keras.callbacks.Callback):
    """A callback of `fit` that keeps pruned weights at zero, after every batch.

        coppice.keras.from_safetensors("pruned.safetensors", model)
        masks = coppice.Masks.load("pruned.safetensors.masks.safetensors")
        model.fit(x, y, callbacks=[coppice.keras.KeepPruned(model, masks)])

    The optimizer's own state is left alone: it moves what is cut for the length of one batch at most. Raises
    coppice.Error naming the mask that fits no weight of the model.
    """

    def __init__(self, model: Any, masks: Masks):
        super().__init__()
        walk = _Walk(model)
        kept = {name: np.ones(value.shape, bool) for name, value in walk.tensors.items()}
        for name in masks:
            if name not in kept or masks.shape(name) != kept[name].shape:
                raise Error(f"the mask of '{name}' is that of no weight of the model '{model.name}'")
            kept[name] = masks[name]
        self._kept: list[tuple[Any, Any]] = []

        def put(variable: Any, mask: np.ndarray) -> None:
            if not mask.all():
                self._kept.append((variable, keras.ops.convert_to_tensor(np.ascontiguousarray(mask))))

        for back in walk.back:
            back(kept, put)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        for variable, kept in self._kept:
            variable.assign(keras.ops.where(kept, variable, keras.ops.zeros_like(variable)))

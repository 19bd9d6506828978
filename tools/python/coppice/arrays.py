"""Arrays of any library as bytes of the same memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Optional

import numpy as np

from ._coppice import Error

_TYPES = {
    "float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16",
    "int64": "i64", "int32": "i32", "int16": "i16", "int8": "i8",
    "uint64": "u64", "uint32": "u32", "uint16": "u16", "uint8": "u8", "bool": "bool",
}  # fmt: skip
_NUMPY_TYPES = {ours: theirs for theirs, ours in _TYPES.items()}


def is_torch(value: Any) -> bool:
    """Whether it is a PyTorch tensor; without importing PyTorch."""
    return any(t.__module__ == "torch" and t.__name__ == "Tensor" for t in type(value).__mro__)


def numpy_type(dtype: str) -> np.dtype:
    """NumPy's type for a file's; bfloat16 is that of ml_dtypes."""
    if dtype != "bf16":
        return np.dtype(_NUMPY_TYPES[dtype])
    try:
        import ml_dtypes
    except ImportError:
        raise Error("NumPy has no bfloat16; expected the package ml_dtypes to be installed, found none") from None
    return np.dtype(ml_dtypes.bfloat16)


@dataclass
class View:
    """One array: its type and shape, and its elements, row-major, as flat bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray
    """uint8 [bytes]: the array's own memory, or a copy where that is not contiguous or not the host's."""
    write_back: Optional[Callable[[], None]] = None
    """Of a copy: takes what was changed back into the array."""

    def item(self) -> tuple[str, str, list[int], np.ndarray]:
        return (self.name, self.dtype, list(self.shape), self.data)


def _as_numpy(name: str, value: Any) -> tuple[np.ndarray, str, Optional[Callable[[np.ndarray], None]]]:
    """A NumPy array of the same memory, its type, and, where it had to be a copy, how to write it back."""
    if is_torch(value):
        import torch

        tensor = value.detach()
        if tensor.layout != torch.strided:
            raise Error(f"'{name}' is a {tensor.layout} tensor; expected a dense one")
        write_back = None
        if tensor.device.type != "cpu":
            target, tensor = tensor, tensor.cpu()
            host = tensor

            def write_back(_: np.ndarray) -> None:
                target.copy_(host)

        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy(), "bf16", write_back
        array = tensor.numpy()
    elif isinstance(value, np.ndarray):
        array, write_back = value, None
    elif hasattr(value, "__dlpack__"):
        try:
            array, write_back = np.from_dlpack(value), None
        except (BufferError, TypeError, RuntimeError, ValueError) as error:
            raise Error(f"'{name}': its memory can't be had through DLPack: {error}") from None
    else:
        raise Error(
            f"'{name}' is a {type(value).__name__}; expected a NumPy array, a PyTorch tensor or anything with DLPack"
        )
    dtype = _TYPES.get(array.dtype.name)
    if dtype is None or not array.dtype.isnative:
        raise Error(f"'{name}' is of type {array.dtype}; expected one of {', '.join(_TYPES)}, in this machine's order")
    return array, dtype, write_back


def view(name: str, value: Any, *, writable: bool = False) -> View:
    """The memory of an array, to be read, or to be cut in place. Raises coppice.Error that names it."""
    array, dtype, write_back = _as_numpy(name, value)
    if writable and not array.flags.writeable:
        raise Error(f"'{name}' is read-only; expected an array that can be cut in place, or in_place=False")
    shape = tuple(int(d) for d in array.shape)
    whole = np.ascontiguousarray(array).reshape(shape)
    back: Optional[Callable[[], None]] = None
    if not np.shares_memory(whole, array) and array.size:
        inner = write_back

        def back() -> None:
            array[...] = whole
            if inner is not None:
                inner(array)

    elif write_back is not None:
        inner = write_back

        def back() -> None:
            inner(array)

    data = whole.reshape(-1).view(np.uint8)
    return View(name, dtype, shape, data, back if writable else None)


def copy(name: str, value: Any) -> Any:
    """A copy of the same kind, contiguous, on the host's memory or where a PyTorch tensor was."""
    if is_torch(value):
        import torch

        return value.detach().clone(memory_format=torch.contiguous_format)
    array, _, _ = _as_numpy(name, value)
    return np.array(array, order="C", copy=True)


def from_bytes(dtype: str, shape: list[int], data: np.ndarray) -> np.ndarray:
    """Flat bytes as the array that they are; no copy."""
    return data.view(numpy_type(dtype)).reshape(shape)

"""Masks: bits by tensor names, 1 where a weight is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Union

import numpy as np

from . import _coppice
from ._coppice import Error
from .arrays import view


class Masks(Mapping):
    """Name to boolean array, True where kept, in the weight's shape.

    Held as bits, an eighth of a byte a weight; an array is made each time that one is asked for. Tensors without a
    mask are whole. `save` and `load` use the file that `coppice prune` writes and reads.
    """

    def __init__(self, bits: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]):
        """`bits`: uint8 [⌈size/8⌉], element i (row-major) is bit i % 8 of byte i // 8, bits past the end 1."""
        self._bits = dict(bits)
        self._shapes = {name: tuple(shapes[name]) for name in self._bits}
        for name, packed in self._bits.items():
            size = self.size(name)
            if packed.dtype != np.uint8 or packed.shape != ((size + 7) // 8,):
                raise Error(f"the mask of '{name}' has shape {packed.shape} of {packed.dtype}; expected "
                            f"{(size + 7) // 8} bytes for its {size} weights")  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Masks:
        """From arrays of booleans, or of numbers that are 0 where cut."""
        bits, shapes = {}, {}
        for name, value in arrays.items():
            found = view(name, value)
            flat = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value).reshape(-1) != 0
            packed = np.packbits(flat, bitorder="little")
            if flat.size % 8:
                packed[-1] |= 0xFF << (flat.size % 8) & 0xFF
            bits[name], shapes[name] = packed, found.shape
        return cls(bits, shapes)

    @classmethod
    def load(cls, path: Union[str, os.PathLike]) -> Masks:
        """Reads masks.safetensors. Raises coppice.Error naming the file and the tensor."""
        tensors, metadata = _coppice.read_weights(os.fspath(path))
        bits, shapes = {}, {}
        for name, dtype, shape, data in tensors:
            text = metadata.get(f"shape:{name}")
            if dtype != "u8" or len(shape) != 1 or text is None:
                raise Error(f"{os.fspath(path)}: tensor \"{name}\" is {dtype} of shape {shape}; expected bits of a "
                            f"mask, and its weight's shape as \"shape:{name}\" in the metadata")  # fmt: skip
            bits[name], shapes[name] = data, tuple(int(d) for d in text.split(",") if d)
        return cls(bits, shapes)

    def save(self, path: Union[str, os.PathLike], *, force: bool = False) -> None:
        """Writes masks.safetensors, as `coppice prune --masks` reads it; an existing file is refused without force."""
        arrays = [(name, "u8", [bits.size], bits) for name, bits in self._bits.items()]
        metadata = {f"shape:{name}": ",".join(map(str, shape)) for name, shape in self._shapes.items()}
        _coppice.write_weights(os.fspath(path), arrays, metadata, force)

    def __getitem__(self, name: str) -> np.ndarray:
        flat = np.unpackbits(self._bits[name], count=self.size(name), bitorder="little")
        return flat.view(np.bool_).reshape(self._shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._bits)

    def __len__(self) -> int:
        return len(self._bits)

    def __repr__(self) -> str:
        total = sum(self.size(name) for name in self)
        kept = sum(self.kept(name) for name in self)
        return f"Masks({len(self)} tensors, {kept} of {total} weights kept)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Masks):
            return NotImplemented
        return self._shapes == other._shapes and all(np.array_equal(self._bits[n], other._bits[n]) for n in self)

    __hash__ = None  # type: ignore[assignment]

    def bits(self, name: str) -> np.ndarray:
        """uint8 [⌈size/8⌉], as masks.safetensors holds them."""
        return self._bits[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def size(self, name: str) -> int:
        """How many weights."""
        return int(np.prod(self._shapes[name], dtype=np.int64))

    def kept(self, name: str) -> int:
        """How many are kept."""
        return self.size(name) - int(np.count_nonzero(np.unpackbits(self._bits[name]) == 0))

    def arrays(self) -> list[tuple[str, str, list[int], np.ndarray]]:
        """As the extension takes them."""
        return [(name, "u8", [bits.size], bits) for name, bits in self._bits.items()]

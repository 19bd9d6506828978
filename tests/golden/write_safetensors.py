"""Writes NumPy float32 and int32 arrays as a safetensors file: eight bytes of length, a JSON header, the data."""

import json
import struct

import numpy as np


def write_safetensors(path, tensors, metadata):
    header = {"__metadata__": metadata}
    offset = 0
    arrays = {}
    for name, array in sorted(tensors.items()):
        array = np.ascontiguousarray(array, dtype=np.int32 if np.asarray(array).dtype.kind == "i" else np.float32)
        arrays[name] = array
        header[name] = {
            "dtype": "I32" if array.dtype == np.int32 else "F32",
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(array.tobytes())

"""Writes the small weight files in files/ that tests/files and tests/data read: by NumPy, zipfile and the safetensors
package, so that our readers are held against files of others. Needs numpy, torch and safetensors.

Element i of an array is ((37 i) mod 101) - 50, divided by 8 in floating-point arrays, made absolute in unsigned ones,
and compared with 0 in boolean ones: exact in every type, and easy to write again in the tests.
"""
import io
import json
import pathlib
import struct
import zipfile

import numpy
import safetensors.numpy
import safetensors.torch
import torch

folder = pathlib.Path(__file__).parent / "files"
folder.mkdir(exist_ok=True)
TYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"]


def values(shape, code):
    n = int(numpy.prod(shape, dtype=int))
    v = (37 * numpy.arange(n, dtype=numpy.int64)) % 101 - 50
    v = {"f": v / 8, "i": v, "u": abs(v), "b": v > 0}[code[0]]
    return v.astype("<" + code if code[1] != "1" else code).reshape(shape)


arrays = {f"{code} matrix": values((3, 5), code) for code in TYPES}
arrays |= {"scalar": values((), "f4"), "empty": values((2, 0), "f4"), "vector": values((257,), "f4"),
           "cube": values((2, 3, 4), "f8"), "ünïcode": values((1,), "i8")}
fortran = {name: numpy.asfortranarray(a) for name, a in arrays.items() if a.ndim > 1}

# NumPy's own archives. A file that can't seek makes zipfile put the sizes behind the data.
numpy.savez(folder / "numpy_stored.npz", **arrays)
numpy.savez_compressed(folder / "numpy_deflated.npz", **arrays, large=values((70, 100), "f4"))
numpy.savez(folder / "numpy_fortran.npz", **fortran)
numpy.savez_compressed(folder / "numpy_fortran_deflated.npz", **fortran)


class Pipe(io.RawIOBase):
    def __init__(self):
        self.bytes = b""

    def writable(self):
        return True

    def write(self, data):
        self.bytes += bytes(data)
        return len(data)


pipe = Pipe()
with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
    for name in ("vector", "cube"):
        with archive.open(name + ".npy", "w", force_zip64=True) as member:
            numpy.lib.format.write_array(member, arrays[name])
    archive.comment = b"a comment behind the directory"
(folder / "numpy_streamed.npz").write_bytes(pipe.bytes)

numpy.save(folder / "single.npy", arrays["cube"])
for version in (1, 2, 3):
    with open(folder / f"format_{version}.npy", "wb") as file:
        numpy.lib.format.write_array(file, fortran["cube"], version=(version, 0))

# The safetensors package: NumPy's types, and bf16 through PyTorch.
safetensors.numpy.save_file(arrays, folder / "package.safetensors", metadata={"format": "np", "author": "Ünïcode"})
safetensors.torch.save_file({"bf16 matrix": torch.from_numpy(values((3, 5), "f4").copy()).to(torch.bfloat16),
                             "f4 matrix": torch.from_numpy(values((3, 5), "f4").copy())},
                            folder / "package_bf16.safetensors", metadata={"format": "pt"})


# The sparse encoding, written from its description in engine/files/sparse_encoding.hpp.
def encode(name, dense, encoding, tensors, described):
    flat = dense.reshape(-1)
    bits = flat.view(numpy.uint8).reshape(len(flat), -1).any(axis=1)
    described[name] = {"encoding": encoding, "dtype": {"f4": "F32", "f2": "F16"}[dense.dtype.str[1:]],
                       "shape": list(dense.shape)}
    tensors[name + ".sparse_values"] = flat[bits]
    if encoding == "bitmap":
        tensors[name + ".sparse_bitmap"] = numpy.packbits(bits, bitorder="little")
        return
    deltas, position = [], 0
    for i in numpy.flatnonzero(bits):
        deltas += [255] * ((i - position) // 255) + [(i - position) % 255]
        position = i + 1
    deltas += [255] * ((len(flat) - position) // 255)
    tensors[name + ".sparse_deltas"] = numpy.array(deltas, numpy.uint8)


tensors, described = {"dense": values((3, 5), "f4")}, {}
half = values((33, 31), "f2")
half[abs(half) < 4] = 0
half[3, 3] = -0.0
encode("half", half, "bitmap", tensors, described)
gaps = numpy.zeros((4, 500), numpy.float32)
gaps.reshape(-1)[[0, 255, 511, 767, 768, 1500]] = [1, -0.0, 3, numpy.nan, 1e-45, 6]
encode("gaps", gaps, "deltas", tensors, described)
safetensors.numpy.save_file(tensors, folder / "sparse.safetensors",
                            metadata={"sparse_encoding": json.dumps({"schema": 1, "tensors": described})})

# A data set of padded sequences, as a user of Keras would save one.
numpy.savez_compressed(folder / "sequences.npz",
                       x_train=values((5, 3, 2), "f4"), y_train=numpy.array([[1], [0], [1], [1], [0]], numpy.float32),
                       lengths_train=numpy.array([3, 1, 2, 3, 3]),
                       x_valid=values((2, 3, 2), "f8"), y_valid=numpy.array([0, 1], numpy.int64))

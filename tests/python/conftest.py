"""What the suites share: a reference in NumPy, and the program. Run with the package on PYTHONPATH:

    PYTHONPATH=build/python COPPICE_PROGRAM=build/coppice python -m pytest tests/python

Suites of a framework skip, saying so, where it is not installed.
"""

import os
import subprocess

import numpy as np
import pytest

from google_test_xml import (  # noqa: F401 (hooks)
    pytest_collectreport,
    pytest_runtest_logreport,
    pytest_sessionfinish,
)


def keys_of(scores):
    """Scores as NumPy sorts them: -0 is +0."""
    return scores + np.zeros((), scores.dtype)


def reference_masks(scores, sparsity, scope="global"):
    """Name to scores (in their shape) -> name to mask, by a stable sort: lowest scores go first, ties by name's byte
    order, then row-major index; k = round-half-even(sparsity * n) of every group."""
    names = sorted(scores, key=lambda name: name.encode())
    if scope == "global":
        flat = np.concatenate([keys_of(scores[n]).reshape(-1).astype(np.float64) for n in names])
        kept = np.ones(flat.size, bool)
        kept[np.argsort(flat, kind="stable")[: round(sparsity * flat.size)]] = False
        bounds = np.cumsum([0] + [scores[n].size for n in names])
        return {n: kept[a:b].reshape(scores[n].shape) for n, a, b in zip(names, bounds, bounds[1:])}
    masks = {}
    for name in names:
        rows = keys_of(scores[name]).reshape(1 if scope == "tensor" else scores[name].shape[0], -1)
        kept = np.ones(rows.shape, bool)
        for row, order in zip(kept, np.argsort(rows, axis=1, kind="stable")):
            row[order[: round(sparsity * rows.shape[1])]] = False
        masks[name] = kept.reshape(scores[name].shape)
    return masks


def bits_of(array):
    """To compare bit for bit: -0 is not +0, and a NaN is itself."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def cut(array, mask):
    """What must be left: +0 where cut, every other bit as it was."""
    width = array.dtype.itemsize
    kept = np.repeat(np.ascontiguousarray(mask).reshape(-1), width)
    return np.where(kept, bits_of(array), 0).astype(np.uint8)


@pytest.fixture
def rng():
    seed = int.from_bytes(os.urandom(4), "little")
    print("seed", seed)
    return np.random.default_rng(seed)


@pytest.fixture
def program():
    """Runs `coppice` and gives what it printed."""
    path = os.environ.get("COPPICE_PROGRAM")
    if not path:
        pytest.skip("COPPICE_PROGRAM doesn't name the program")

    def run(*arguments):
        done = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run

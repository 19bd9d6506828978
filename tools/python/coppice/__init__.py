"""Coppice: prunes neural networks by what their gradients say, exactly and the same everywhere.

    result = coppice.prune(weights, gradients, criterion="taylor", sparsity=0.9)

`prune` cuts arrays in memory (NumPy, PyTorch, anything with DLPack); `prune_file`, `convert` and `inspect` do what the
program's verbs do; `coppice.torch` records gradients over your own training loop, prunes modules in place, keeps them
pruned and cuts gradually; `coppice.keras` and `coppice.onnx` convert. Masks are the same bits whichever of them made
them, for any number of threads. Bad input raises `coppice.Error`, a ValueError.
"""

from ._coppice import Error, __version__
from .files import (
    ConvertReport,
    GradientStatistics,
    convert,
    inspect,
    load,
    load_gradients,
    prune_file,
    run,
    save,
    save_gradients,
)
from .masks import Masks
from .pruning import PruneResult, criteria, prune
from .report import CarriedTensor, GateReport, GroupReport, PruneReport, TensorReport
from .schedule import CubicSchedule

__all__ = [
    "CarriedTensor",
    "ConvertReport",
    "CubicSchedule",
    "Error",
    "GateReport",
    "GradientStatistics",
    "GroupReport",
    "Masks",
    "PruneReport",
    "PruneResult",
    "TensorReport",
    "__version__",
    "convert",
    "criteria",
    "inspect",
    "load",
    "load_gradients",
    "prune",
    "prune_file",
    "run",
    "save",
    "save_gradients",
]

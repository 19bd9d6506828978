"""The extension module: a thin client of the engine. Use `coppice`, which settles defaults and forms of arrays."""

from typing import Optional, Union

import numpy as np

__version__: str

class Error(ValueError):
    """Bad input: the message names the thing, what was expected and what was found."""

Array = tuple[str, str, list[int], np.ndarray]
"""Name, type ("f32", "bf16", ...), shape, and the elements as flat uint8."""

FileOrArrays = Union[str, list[Array]]

class Options:
    """The options of pruning, settled."""

    settings: list[str]
    include: list[str]
    exclude: list[str]
    keep_diagonal: list[str]
    gates: list[tuple[str, int]]
    masks_only: bool
    dry_run: bool
    def __init__(self) -> None: ...

def prune_arrays(
    arrays: list[Array],
    gradients: list[FileOrArrays],
    activations: Optional[FileOrArrays],
    masks: Optional[FileOrArrays],
    options: Options,
) -> tuple[str, dict[str, np.ndarray]]: ...
def prune_file(
    weights: str,
    gradients: list[str],
    activations: str,
    masks: str,
    options: Options,
    sparse_encoding: bool,
    memory: str,
    output: str,
    force: bool,
) -> str: ...
def convert(input: str, to: str, output: str, force: bool) -> tuple[int, int, int]: ...
def inspect(path: str) -> str: ...
def run_recipe(recipe: str, output: str, settings: list[str], force: bool) -> str: ...
def read_weights(path: str) -> tuple[list[Array], dict[str, str]]: ...
def write_weights(path: str, arrays: list[Array], metadata: dict[str, str], force: bool) -> None: ...
def criteria() -> list[tuple[str, str, str]]: ...
def cubic_sparsity(initial: float, final: float, begin: int, end: int, step: int) -> float: ...

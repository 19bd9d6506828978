"""How frameworks stack the gates of recurrent layers."""

from __future__ import annotations

import numpy as np

from ._coppice import Error

GATES = {
    # One letter a gate, named as PyTorch names them: the candidate of an LSTM is g (Keras, ONNX: c), that of a GRU n (h).
    "lstm": {"pytorch": "ifgo", "keras": "ifgo", "onnx": "iofg"},
    "gru": {"pytorch": "rzn", "keras": "zrn", "onnx": "zrn"},
    "rnn": {"pytorch": "h", "keras": "h", "onnx": "h"},
}


def reorder(rows: np.ndarray, cell: str, source: str, target: str) -> np.ndarray:
    """Rows [gates * hidden, ...] in another framework's order of gates."""
    have, want = GATES[cell][source], GATES[cell][target]
    if rows.shape[0] % len(have):
        raise Error(f"{rows.shape[0]} rows are not those of {len(have)} gates")
    blocks = np.split(rows, len(have))
    return np.concatenate([blocks[have.index(gate)] for gate in want]) if have != want else rows

#!/usr/bin/env python3
"""Makes onnx_recurrent.safetensors from ONNX's conformance tests for RNN, LSTM and GRU (Apache-2.0).

    apt-get install libonnx-testdata python3-onnx
    python3 tests/golden/make_onnx_golden.py

Eleven of the twelve cases; the twelfth has peepholes, which no cell here has. Gates are put into PyTorch's order
(ONNX: LSTM i, o, f, c; GRU z, r, h). Tensors of a case: x [T, B, I], weight_ih, weight_hh, bias_ih, bias_hh, and
last [B, H], the expected last state.

ONNX's GRU (linear_before_reset = 0, which all four cases have) applies the reset gate before the recurrent product:
n = tanh(W x + (r * h) U + b), PyTorch's after it: n = tanh(W x + r * (h U + b_hn) + b_in). Neither of ONNX's biases
stands inside the product, so their sum is b_in, and b_hn = 0. At the first step from a zero state the two forms
agree; test_golden.cpp says what it does about the one case that has a second step.
"""

import glob
import pathlib

import numpy as np
import onnx
from onnx import numpy_helper

from write_safetensors import write_safetensors

FOLDER = "/usr/share/libonnx-testdata/data/node"
CASES = [
    "lstm_defaults", "lstm_with_initial_bias", "lstm_batchwise",
    "gru_defaults", "gru_with_initial_bias", "gru_seq_length", "gru_batchwise",
    "simple_rnn_defaults", "simple_rnn_with_initial_bias", "rnn_seq_length", "simple_rnn_batchwise",
]
ORDER = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2], "RNN": [0]}  # ours, by ONNX's number


def read(path):
    tensor = onnx.TensorProto()
    tensor.ParseFromString(pathlib.Path(path).read_bytes())
    return numpy_helper.to_array(tensor)


def main():
    tensors = {}
    for case in CASES:
        folder = f"{FOLDER}/test_{case}"
        node = onnx.load(f"{folder}/model.onnx").graph.node[0]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert set(attributes) <= {"hidden_size", "layout"} and len(node.input) <= 4, case
        inputs = [read(p) for p in sorted(glob.glob(f"{folder}/test_data_set_0/input_*.pb"))]
        last = read(sorted(glob.glob(f"{folder}/test_data_set_0/output_*.pb"))[-1])  # Y_h
        x, w, r = inputs[:3]
        if attributes.get("layout") == 1:  # batch first
            x, last = x.transpose(1, 0, 2), last.transpose(1, 0, 2)
        hidden = r.shape[2]
        order = ORDER[node.op_type]
        gates = len(order)
        bias = inputs[3][0] if len(inputs) > 3 else np.zeros(2 * gates * hidden, np.float32)

        def reorder(a):
            return np.concatenate([a[g * hidden:(g + 1) * hidden] for g in order])

        bias_ih, bias_hh = reorder(bias[:gates * hidden]), reorder(bias[gates * hidden:])
        if node.op_type == "GRU":
            bias_ih[2 * hidden:] += bias_hh[2 * hidden:]
            bias_hh[2 * hidden:] = 0
        for name, array in {"x": x, "weight_ih": reorder(w[0]), "weight_hh": reorder(r[0]), "bias_ih": bias_ih,
                            "bias_hh": bias_hh, "last": last[0]}.items():
            tensors[f"{case}/{name}"] = array
    path = pathlib.Path(__file__).parent / "onnx_recurrent.safetensors"
    write_safetensors(path, tensors, {"made_by": "make_onnx_golden.py", "source": "ONNX conformance tests, Apache-2.0"})
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Makes torch_recurrent.safetensors: what torch.nn.RNN, LSTM and GRU compute, forwards and backwards.

    python3 -m venv env && env/bin/pip install torch numpy
    env/bin/python tests/golden/make_torch_golden.py

Two layers, both directions, an initial state; once with all sequences of full length and once packed. PyTorch runs
in double and its results are rounded once, so that the comparison measures our error and not the sum of two.
Tensors of a case "lstm" or "lstm_packed":  x [T, B, I], lengths [B] (packed), h0, c0 [layers * directions, B, H],
the parameters by PyTorch's names, output [T, B, 2 H], hn, cn, d_output, and gradients "d_x", "d_weight_ih_l0", ...
"""

import pathlib

import numpy as np
import torch

from write_safetensors import write_safetensors

STEPS, BATCH, INPUTS, HIDDEN, LAYERS = 6, 4, 5, 7, 2
LENGTHS = [3, 6, 1, 4]  # unsorted; PyTorch packs no empty sequence


def make_case(tensors, name, module, packed):
    directions = 2
    has_cell = isinstance(module, torch.nn.LSTM)
    x = torch.randn(STEPS, BATCH, INPUTS, dtype=torch.float32).double().requires_grad_()
    states = [
        torch.randn(LAYERS * directions, BATCH, HIDDEN, dtype=torch.float32).double() for _ in range(1 + has_cell)
    ]
    state = tuple(states) if has_cell else states[0]
    if packed:
        sequence = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False)
        output, last = module(sequence, state)
        output, _ = torch.nn.utils.rnn.pad_packed_sequence(output, total_length=STEPS)
    else:
        output, last = module(x, state)
    d_output = torch.randn(output.shape, dtype=torch.float32).double()
    module.zero_grad()
    (output * d_output).sum().backward()

    result = {"x": x, "h0": states[0], "output": output, "d_output": d_output, "d_x": x.grad}
    result["hn"] = last[0] if has_cell else last
    if has_cell:
        result["c0"], result["cn"] = states[1], last[1]
    for parameter_name, parameter in module.named_parameters():
        result[parameter_name] = parameter
        result["d_" + parameter_name] = parameter.grad
    for tensor_name, tensor in result.items():
        tensors[f"{name}/{tensor_name}"] = tensor.detach().numpy().astype(np.float32)
    if packed:
        tensors[f"{name}/lengths"] = np.array(LENGTHS, dtype=np.int32)


def main():
    torch.manual_seed(20240131)
    options = dict(num_layers=LAYERS, bidirectional=True)
    modules = {
        "rnn_tanh": torch.nn.RNN(INPUTS, HIDDEN, nonlinearity="tanh", **options),
        "rnn_relu": torch.nn.RNN(INPUTS, HIDDEN, nonlinearity="relu", **options),
        "lstm": torch.nn.LSTM(INPUTS, HIDDEN, **options),
        "gru": torch.nn.GRU(INPUTS, HIDDEN, **options),
    }
    tensors = {}
    for name, module in modules.items():
        module.double()  # the drawn float32 values stay what they are
        make_case(tensors, name, module, packed=False)
        make_case(tensors, name + "_packed", module, packed=True)
    path = pathlib.Path(__file__).parent / "torch_recurrent.safetensors"
    write_safetensors(path, tensors, {"made_by": "make_torch_golden.py", "torch": torch.__version__})
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()

"""PyTorch on the CPU: dense or (with the argument "csr") compressed rows; whole LSTM, GRU and RNN layers. With the argument
"bf16" weights, inputs and results are bfloat16."""
import sys
import warnings

from protocol import input_of_product, read_matrix, serve

SPARSE = "csr" in sys.argv[1:]
ROUNDED = "bf16" in sys.argv[1:]


def prepare(problem):
    import torch
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
    torch.set_num_threads(problem["threads"])
    torch.set_grad_enabled(False)
    dtype = torch.bfloat16 if ROUNDED else torch.float32
    recurrent = torch.from_numpy(read_matrix(problem, "recurrent")).to(dtype)
    if problem["work"] == "product":
        x = torch.from_numpy(input_of_product(problem)).to(dtype)
        if SPARSE:
            weight, columns = recurrent.to_sparse_csr(), x.T.contiguous()
            state = {}

            def run():
                state["y"] = weight @ columns

            return torch.__version__, run, lambda: [float(state["y"][0, 0]), float(state["y"][-1, -1])]
        state = {}

        def run():
            state["y"] = torch.nn.functional.linear(x, recurrent)

        return torch.__version__, run, lambda: [float(state["y"][0, 0]), float(state["y"][-1, -1])]
    width, steps, batch = problem["cols"], problem["steps"], problem["batch"]
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[problem["cell"]]
    layer = kind(width, width, dtype=dtype)
    layer.weight_hh_l0.copy_(recurrent)
    layer.weight_ih_l0.copy_(torch.from_numpy(read_matrix(problem, "input")))
    x = torch.full((1 if problem["work"] == "frame" else steps, batch, width), 0.01, dtype=dtype)
    state = [None]

    def run():
        _, after = layer(x, state[0])
        if problem["work"] == "frame":
            state[0] = after

    return torch.__version__, run, lambda: []


serve("PyTorch", prepare)

"""coppice.onnx: what goes out computes the same in PyTorch, and what comes back runs in ONNX Runtime."""

import coppice
import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
import coppice.onnx  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def make_model(rng, kind, directions, linear_before_reset=1, inputs=7, hidden=5):
    """A recurrent node, a Gemm and a MatMul, as an exporter would write them."""
    rows = GATES[kind] * hidden

    def normal(*shape):
        return rng.normal(scale=0.5, size=shape).astype(np.float32)

    values = {"W": normal(directions, rows, inputs), "R": normal(directions, rows, hidden),
              "B": normal(directions, 2 * rows), "gemm": normal(6, directions * hidden), "gemm_b": normal(6),
              "matmul": normal(6, 3), "shape": np.array([-1, directions * hidden])}  # fmt: skip
    attributes = {"hidden_size": hidden, "direction": "bidirectional" if directions == 2 else "forward"}
    if kind == "GRU":
        attributes["linear_before_reset"] = linear_before_reset
    graph = helper.make_graph(
        [
            helper.make_node(kind, ["x", "W", "R", "B"], ["y4"], name="/rnn/node", **attributes),
            helper.make_node("Transpose", ["y4"], ["y4t"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", ["y4t", "shape"], ["flat"]),
            helper.make_node("Gemm", ["flat", "gemm", "gemm_b"], ["middle"], transB=1),
            helper.make_node("MatMul", ["middle", "matmul"], ["y"]),
        ],
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["steps", "batch", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


@pytest.mark.parametrize("kind", list(GATES))
@pytest.mark.parametrize("directions", [1, 2])
def test_initialisers_come_back_to_the_bit(rng, tmp_path, kind, directions):
    model = make_model(rng, kind, directions)
    onnx.save(model, tmp_path / "m.onnx")
    coppice.onnx.to_safetensors(tmp_path / "m.onnx", tmp_path / "m.safetensors")
    coppice.onnx.from_safetensors(tmp_path / "m.safetensors", tmp_path / "m.onnx", tmp_path / "again.onnx")
    again = onnx.load(tmp_path / "again.onnx")
    assert again.graph.node == model.graph.node
    for a, b in zip(again.graph.initializer, model.graph.initializer):
        assert a.name == b.name and np.array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))
    with pytest.raises(coppice.Error, match="exists"):
        coppice.onnx.from_safetensors(tmp_path / "m.safetensors", tmp_path / "m.onnx", tmp_path / "again.onnx")


def torch_of(torch, tensors, kind, directions):
    rnn = getattr(torch.nn, kind)(7, 5, bidirectional=directions == 2)
    rnn.load_state_dict({n.removeprefix("rnn.node."): torch.from_numpy(t.copy()) for n, t in tensors.items()
                         if n.startswith("rnn.node.")})  # fmt: skip

    def forward(x):
        with torch.no_grad():
            y = rnn(torch.from_numpy(x))[0].flatten(0, 1)
            y = torch.nn.functional.linear(y, torch.from_numpy(tensors["gemm"]), torch.from_numpy(tensors["gemm_b"]))
            return torch.nn.functional.linear(y, torch.from_numpy(tensors["matmul"].copy())).numpy()

    return forward


@pytest.mark.parametrize("kind", list(GATES))
@pytest.mark.parametrize("directions", [1, 2])
def test_pytorch_and_onnx_runtime_agree(rng, tmp_path, kind, directions):
    """Before and after pruning: the gates are where each of them looks for them."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    onnx.save(make_model(rng, kind, directions), tmp_path / "m.onnx")
    coppice.onnx.to_safetensors(tmp_path / "m.onnx", tmp_path / "m.safetensors")
    report = coppice.prune_file(tmp_path / "m.safetensors", tmp_path / "p.safetensors", criterion="magnitude",
                                sparsity=0.5, scope="gate", include=[".*weight_.*", "gemm", "matmul"])  # fmt: skip
    if kind != "RNN":
        assert [g.gate for g in report.gates][: GATES[kind]] == list({"LSTM": "ifgo", "GRU": "rzn"}[kind])
    coppice.onnx.from_safetensors(tmp_path / "p.safetensors", tmp_path / "m.onnx", tmp_path / "p.onnx")
    x = rng.normal(size=(9, 4, 7)).astype(np.float32)
    for name in ("m", "p"):
        session = runtime.InferenceSession(tmp_path / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
        want = session.run(None, {"x": x})[0]
        got = torch_of(torch, coppice.load(tmp_path / f"{name}.safetensors"), kind, directions)(x)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_gru_that_pytorch_does_not_have(rng, tmp_path):
    model = make_model(rng, "GRU", 1, linear_before_reset=0)
    before = model.SerializeToString()
    with pytest.warns(UserWarning, match="linear_before_reset = 0"):
        tensors = coppice.onnx.tensors_of(model)
    with pytest.warns(UserWarning):
        coppice.onnx.assign(model, tensors)
    assert model.SerializeToString() == before


def test_wrong_tensors_change_nothing(rng):
    model = make_model(rng, "LSTM", 1)
    before = model.SerializeToString()
    tensors = coppice.onnx.tensors_of(model)
    for wrong in (np.zeros((3, 7), np.float32), tensors["gemm"].astype(np.float64)):
        with pytest.raises(coppice.Error, match="'gemm' is"):
            coppice.onnx.assign(model, {n: np.zeros_like(t) for n, t in tensors.items()} | {"gemm": wrong})
    with pytest.raises(coppice.Error, match="no tensor 'gemm'"):
        coppice.onnx.assign(model, {n: t for n, t in tensors.items() if n != "gemm"})
    assert model.SerializeToString() == before

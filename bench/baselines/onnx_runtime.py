"""ONNX Runtime on the CPU: a product with a constant matrix, and whole LSTM, GRU and RNN layers.

    bench/baselines/onnx_runtime.py latency [HIDDEN [THREADS]]   median and 99th percentile of single LSTM frames at batch
                                                                 1, beside build/bench/bench_session_latency
"""
import sys
import time

from protocol import input_of_product, read_matrix, serve


def session_of(nodes, inputs, outputs, constants, threads):
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper
    graph = helper.make_graph(
        nodes, "graph", [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [onnx.numpy_helper.from_array(v, n) for n, v in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def gates_from(matrix, cell, numpy):
    """ONNX orders an LSTM's gates i, o, f, c and a GRU's z, r, h; ours are i, f, g, o and r, z, n."""
    order = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}[cell]
    parts = numpy.split(matrix, len(order))
    return numpy.concatenate([parts[i] for i in order])[None]


def prepare(problem):
    import numpy
    import onnxruntime
    from onnx import helper
    version = onnxruntime.__version__
    recurrent = read_matrix(problem, "recurrent")
    if problem["work"] == "product":
        session = session_of([helper.make_node("MatMul", ["x", "w"], ["y"])], [("x", (problem["batch"], problem["cols"]))],
                             ["y"], {"w": numpy.ascontiguousarray(recurrent.T)}, problem["threads"])
        x, state = input_of_product(problem), {}

        def multiply():
            state["y"] = session.run(None, {"x": x})[0]

        return version, multiply, lambda: [float(state["y"][0, 0]), float(state["y"][-1, -1])]
    return version, layer_of(problem, read_matrix(problem, "input"), recurrent), lambda: []


def layer_of(problem, input_matrix, recurrent):
    """A call of the whole layer, or of one frame whose states are the next one's."""
    import numpy
    from onnx import helper
    cell, width, batch = problem["cell"], problem["cols"], problem["batch"]
    steps = 1 if problem["work"] == "frame" else problem["steps"]
    constants = {"W": gates_from(input_matrix, cell, numpy), "R": gates_from(recurrent, cell, numpy),
                 "B": numpy.zeros((1, 2 * problem["rows"]), numpy.float32)}
    lstm = cell == "lstm"
    states = ["h0", "c0"] if lstm else ["h0"]
    after = ["hn", "cn"] if lstm else ["hn"]
    attributes = {"linear_before_reset": 1} if cell == "gru" else {}
    node = helper.make_node(cell.upper(), ["X", "W", "R", "B", ""] + states, ["Y"] + after, hidden_size=width, **attributes)
    session = session_of([node], [("X", (steps, batch, width))] + [(s, (1, batch, width)) for s in states],
                         ["Y"] + after, constants, problem["threads"])
    feed = {"X": numpy.full((steps, batch, width), 0.01, numpy.float32)}
    for name in states:
        feed[name] = numpy.zeros((1, batch, width), numpy.float32)

    def run():
        results = session.run(None, feed)
        if problem["work"] == "frame":
            feed.update(zip(states, results[1:]))

    return run


def latency(hidden=1024, threads=1, calls=2000):
    import numpy
    matrices = numpy.random.default_rng(1).uniform(-0.1, 0.1, (2, 4 * hidden, hidden)).astype(numpy.float32)
    run = layer_of({"work": "frame", "cell": "lstm", "rows": 4 * hidden, "cols": hidden, "batch": 1, "threads": threads},
                   *matrices)
    seconds = []
    for call in range(-100, calls):
        start = time.perf_counter()
        run()
        if call >= 0:
            seconds.append(time.perf_counter() - start)
    median, tail = numpy.quantile(seconds, (0.5, 0.99)) * 1e6
    print(f"LSTM {hidden}, {threads} thread(s)  median {median:7.1f} us  p99 {tail:7.1f} us  worst {max(seconds) * 1e6:8.1f} us")


if sys.argv[1:2] == ["latency"]:
    latency(*map(int, sys.argv[2:]))
else:
    serve("ONNX Runtime", prepare)

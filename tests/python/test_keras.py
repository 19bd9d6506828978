"""coppice.keras: what goes out computes the same in PyTorch, and comes back to the bit."""

import os

import coppice
import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
keras = pytest.importorskip("keras", reason="Keras is not installed")
try:
    import coppice.keras
except Exception as error:  # Keras without a backend
    pytest.skip(f"Keras can't be imported: {error}", allow_module_level=True)
if keras.__version__ < "3":
    pytest.skip("Keras 3 is not installed", allow_module_level=True)

L = keras.layers


def randomised(model, rng):
    """Weights, biases too, that no initialiser gives."""
    for v in model.weights:
        v.assign(rng.normal(scale=0.5, size=v.shape).astype(np.float32))
    return model


def every_kind(**gru):
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            L.Embedding(20, 6, name="words"),
            L.Bidirectional(L.LSTM(5, return_sequences=True), name="both"),
            L.Bidirectional(L.GRU(4, return_sequences=True, **gru), name="gates"),
            L.LayerNormalization(name="normalised"),
            L.SimpleRNN(3, return_sequences=True, use_bias=False, name="simple"),
            L.Conv1D(4, 3, padding="same", name="convolved"),
            L.Dense(2, name="out"),
        ]
    )


@pytest.mark.parametrize("reset_after", [True, False])
def test_weights_come_back_to_the_bit(rng, tmp_path, reset_after):
    model = randomised(every_kind(reset_after=reset_after), rng)
    want = [np.array(v) for v in model.weights]
    if reset_after:
        coppice.keras.to_safetensors(model, tmp_path / "m.safetensors")
    else:
        with pytest.warns(UserWarning, match="without reset_after"):
            coppice.keras.to_safetensors(model, tmp_path / "m.safetensors")
    names = set(coppice.load(tmp_path / "m.safetensors"))
    assert {"words.weight", "both.weight_ih_l0", "both.weight_hh_l0_reverse", "gates.bias_hh_l0", "normalised.gamma",
            "simple.weight_hh_l0", "convolved.kernel", "out.weight", "out.bias"} <= names  # fmt: skip
    randomised(model, rng)
    coppice.keras.from_safetensors(tmp_path / "m.safetensors", model)
    for variable, value in zip(model.weights, want):
        assert np.array_equal(np.array(variable), value), variable.path


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_pytorch_computes_the_same(rng, kind, bidirectional):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    layer = getattr(L, kind)(5, return_sequences=True, name="rnn")
    model = keras.Sequential([keras.Input((None, 7)), L.Bidirectional(layer, name="rnn") if bidirectional else layer,
                              L.Dense(3, name="out")])  # fmt: skip
    randomised(model, rng)
    tensors = {name: torch.from_numpy(value.copy()) for name, value in coppice.keras.tensors_of(model).items()}
    module = torch.nn.ModuleDict(
        {"rnn": {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU, "SimpleRNN": torch.nn.RNN}[kind](
            7, 5, batch_first=True, bidirectional=bidirectional),
         "out": torch.nn.Linear(10 if bidirectional else 5, 3)})  # fmt: skip
    module.load_state_dict(tensors)
    x = rng.normal(size=(4, 9, 7)).astype(np.float32)
    want = np.array(model(x))
    with torch.no_grad():
        got = module["out"](module["rnn"](torch.from_numpy(x))[0]).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    # And what PyTorch has trained goes into Keras: both biases count.
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    coppice.keras.assign(model, {n: p.detach().numpy() for n, p in module.state_dict().items()})
    with torch.no_grad():
        want = module["out"](module["rnn"](torch.from_numpy(x))[0]).numpy()
    np.testing.assert_allclose(np.array(model(x)), want, rtol=1e-4, atol=1e-5)


def test_a_gate_is_a_gate(rng, tmp_path):
    """What is cut of gate z is what Keras calls z."""
    model = randomised(keras.Sequential([keras.Input((None, 7)), L.GRU(5, name="rnn")]), rng)
    kernel = np.array(model.layers[0].cell.recurrent_kernel)
    result = coppice.prune(coppice.keras.tensors_of(model), criterion="magnitude", sparsity=0.6, scope="gate",
                           include=".*weight_hh.*")  # fmt: skip
    assert [g.gate for g in result.report.gates if g.tensor == "rnn.weight_hh_l0"] == list("rzn")
    coppice.keras.assign(model, result.tensors)
    pruned = np.array(model.layers[0].cell.recurrent_kernel)
    for gate in range(3):  # z, r, h
        block, cut = kernel[:, 5 * gate : 5 * gate + 5], pruned[:, 5 * gate : 5 * gate + 5]
        bound = np.sort(np.abs(block).reshape(-1))[round(0.6 * 25) - 1]
        assert np.array_equal(cut, np.where(np.abs(block) <= bound, 0, block))


def test_wrong_tensors_change_nothing(rng):
    model = randomised(every_kind(), rng)
    before = [np.array(v) for v in model.weights]
    tensors = coppice.keras.tensors_of(model)
    for wrong, message in (({"out.bias": np.zeros(3)}, "'out.bias' is of shape"), ({"out.bias": None}, "no tensor")):
        changed = {n: np.zeros_like(t) for n, t in tensors.items()} | wrong
        with pytest.raises(coppice.Error, match=message):
            coppice.keras.assign(model, {n: t for n, t in changed.items() if t is not None})
    assert all(np.array_equal(np.array(v), b) for v, b in zip(model.weights, before))


def test_training_keeps_what_was_pruned(rng):
    model = randomised(keras.Sequential([keras.Input((None, 7)), L.GRU(5, name="rnn"), L.Dense(2, name="out")]), rng)
    result = coppice.prune(coppice.keras.tensors_of(model), criterion="magnitude", sparsity=0.7,
                           include=[".*weight.*", "rnn.bias_hh_l0"])  # fmt: skip
    coppice.keras.assign(model, result.tensors)
    before = coppice.keras.tensors_of(model)
    model.compile("adam", "mse")
    model.fit(rng.normal(size=(32, 4, 7)), rng.normal(size=(32, 2)), batch_size=8, verbose=0,
              callbacks=[coppice.keras.KeepPruned(model, result.masks)])  # fmt: skip
    after = coppice.keras.tensors_of(model)
    for name in result.masks:
        assert not after[name][~result.masks[name]].any()
    assert any((after[name] != before[name])[result.masks[name]].any() for name in result.masks)
    with pytest.raises(coppice.Error, match="'rnn.weight'"):
        coppice.keras.KeepPruned(model, coppice.Masks.from_arrays({"rnn.weight": np.ones(3)}))

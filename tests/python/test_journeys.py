"""The documents of tools/examples, run as they say; where a framework is absent they skip."""

import os
import pathlib
import re
import subprocess
import sys

import coppice
import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "tools" / "examples"


def run(script, *arguments):
    done = subprocess.run([sys.executable, EXAMPLES / script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def percent(text, what):
    """The first percentage of the line that begins with `what`."""
    return float(re.search(rf"^{what}.*?([\d.]+)%", text, re.M)[1])


def test_own_pytorch_lstm(tmp_path, program):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    out = run("torch_lstm.py", tmp_path)
    assert percent(out, "dense") > 95 and percent(out, "retrained") > 95 > percent(out, "cut")
    assert "90.0% of weight_hh_l0 are zero" in out
    assert coppice.load_gradients(tmp_path / "gradients.safetensors").count == 20
    # The zeros that were trained with are those of the masks.
    import torch

    state = torch.load(tmp_path / "model.pt", weights_only=True)
    masks = coppice.Masks.load(tmp_path / "masks.safetensors")
    assert set(masks) == {"lstm.weight_ih_l0", "lstm.weight_hh_l0"}
    for name in masks:
        assert not state[name].numpy()[~masks[name]].any()


def test_sharded_transformer(tmp_path, program):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    out = run("transformer_shards.py", tmp_path)
    assert percent(out, "dense") > 95
    assert percent(out, "magnitude") > 20 and percent(out, "wanda") > 20  # 12.5 % is guessing
    index = tmp_path / "model.safetensors.index.json"
    program("prune", index, "--criterion", "wanda", "--activations", tmp_path / "norms.safetensors", "--sparsity", "0.8",
            "-o", tmp_path / "program")  # fmt: skip
    for file in ("masks.safetensors", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        assert (tmp_path / "program" / file).read_bytes() == (tmp_path / "wanda" / file).read_bytes()
    # Each row for itself, by |w| * ||x||.
    weights, norms = coppice.load(index), coppice.load(tmp_path / "norms.safetensors")
    masks = coppice.Masks.load(tmp_path / "wanda" / "masks.safetensors")
    assert len(masks) == 12
    for name in masks:
        order = np.argsort(np.abs(weights[name]) * norms[f"{name}.norm"], axis=1, kind="stable")
        cut = np.take_along_axis(~masks[name], order, axis=1)
        k = round(0.8 * cut.shape[1])
        assert cut[:, :k].all() and not cut[:, k:].any()


def test_keras_gru(tmp_path):
    pytest.importorskip("keras", reason="Keras is not installed")
    out = run("keras_gru.py", tmp_path)
    assert percent(out, "dense") > 95 and percent(out, "retrained") > 95
    assert "80.0% of the recurrent kernel are zero" in out


def test_c_program():
    """Against the installed package it is built by the suite `install`."""
    program = os.environ.get("COPPICE_EXAMPLE_C")
    if not program or not os.path.exists(program):
        pytest.skip("COPPICE_EXAMPLE_C doesn't name the built example")
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0 and "kept 4 of 10 weights" in done.stdout


def test_gradual_loop():
    out = run("gradual_loop.py")
    errors = [float(e) for e in re.findall(r"error ([\d.]+)", out)]
    assert errors[-1] < 0.5 * errors[0] and "80.0% are zero" in out

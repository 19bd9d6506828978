"""Files: what the program's verbs do."""

import coppice
import numpy as np
import pytest

from conftest import bits_of


def test_tensors_go_through_files_bit_for_bit(rng, tmp_path):
    tensors = {"a": rng.standard_normal((3, 5)), "b": np.float32(rng.standard_normal(7)), "none": np.zeros((0, 3)),
               "c": np.float16(rng.standard_normal((2, 2))), "i": np.arange(5), "flag": np.array([True, False]),
               "scalar": np.array(2.5)}  # fmt: skip
    for name in ("t.safetensors", "t.npz"):
        coppice.save(tmp_path / name, tensors)
        found = coppice.load(tmp_path / name)
        assert found.keys() == tensors.keys()
        for key, value in tensors.items():
            assert found[key].dtype == value.dtype and found[key].shape == value.shape
            assert np.array_equal(bits_of(found[key]), bits_of(value))
    with pytest.raises(coppice.Error, match="exists"):
        coppice.save(tmp_path / "t.npz", tensors)
    coppice.save(tmp_path / "t.npz", tensors, force=True)


def test_the_safetensors_package_reads_what_is_written(rng, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = {"a": rng.standard_normal((3, 5)), "b": np.float16(rng.standard_normal(7))}
    coppice.save(tmp_path / "t.safetensors", tensors)
    found = safetensors.load_file(tmp_path / "t.safetensors")
    assert all(np.array_equal(found[k], v) for k, v in tensors.items())
    safetensors.save_file(tensors, tmp_path / "u.safetensors")
    found = coppice.load(tmp_path / "u.safetensors")
    assert all(np.array_equal(found[k], v) for k, v in tensors.items())


def test_convert_and_inspect(rng, tmp_path):
    w = {"lstm.weight_hh_l0": rng.standard_normal((44, 11)).astype(np.float32)}
    coppice.save(tmp_path / "w.safetensors", w)
    report = coppice.prune_file(
        tmp_path / "w.safetensors", tmp_path / "p.safetensors", criterion="magnitude", sparsity=0.9
    )
    assert [gate.gate for gate in report.gates] == list("ifgo")
    assert report.kept == 484 - round(0.9 * 484)
    facts = coppice.inspect(tmp_path / "p.safetensors")
    assert facts["tensors"][0]["zeros"] == round(0.9 * 484)
    small = coppice.convert(tmp_path / "p.safetensors", tmp_path / "s.safetensors", to="sparse")
    assert small.bytes_after < small.bytes_before
    coppice.convert(tmp_path / "s.safetensors", tmp_path / "d.safetensors", to="dense")
    assert (tmp_path / "d.safetensors").read_bytes() == (tmp_path / "p.safetensors").read_bytes()


def test_dry_run_writes_nothing(rng, tmp_path):
    coppice.save(tmp_path / "w.safetensors", {"w": rng.standard_normal((44, 11))})
    report = coppice.prune_file(tmp_path / "w.safetensors", criterion="magnitude", sparsity=0.5, dry_run=True)
    assert report.kept == 242 and [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    with pytest.raises(coppice.Error, match="output is missing"):
        coppice.prune_file(tmp_path / "w.safetensors", criterion="magnitude", sparsity=0.5)


def test_gradients_go_through_files(rng, tmp_path):
    statistics = coppice.GradientStatistics({"w.sum": rng.standard_normal((3, 4)).astype(np.float32)}, 17)
    coppice.save_gradients(tmp_path / "g.safetensors", statistics)
    found = coppice.load_gradients(tmp_path / "g.safetensors")
    assert found.count == 17 and np.array_equal(found["w.sum"], statistics["w.sum"])


def test_errors_name_the_file(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 20)
    for call in (coppice.load, coppice.inspect, coppice.Masks.load, coppice.load_gradients):
        with pytest.raises(coppice.Error, match="w.safetensors"):
            call(tmp_path / "w.safetensors")
    with pytest.raises(coppice.Error, match="expected bytes"):
        coppice.prune_file("w", "o", criterion="magnitude", sparsity=0.5, memory="2 GB")
    with pytest.raises(coppice.Error, match="'dense' or 'sparse'"):
        coppice.convert(tmp_path / "w.safetensors", tmp_path / "o", to="half")

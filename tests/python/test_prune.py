"""coppice.prune on NumPy arrays: the masks of a stable sort, and the bits of the program."""

import os
import signal
import subprocess
import sys
import threading
import time

import coppice
import numpy as np
import pytest

from conftest import bits_of, cut, reference_masks

SIZES = (0, 1, 3, 7, 31, 32, 33, 255, 257)


def with_ties(rng, shape, dtype):
    """Few values, both zeros, denormals and infinities among them."""
    special = [0.0, -0.0, 1.0, -1.0, 0.5, np.finfo(dtype).smallest_subnormal, -np.finfo(dtype).smallest_subnormal,
               np.inf, -np.inf]  # fmt: skip
    values = rng.standard_normal(shape).astype(dtype)
    return np.where(rng.random(shape) < 0.7, rng.choice(np.array(special, dtype), shape), values)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("size", SIZES)
def test_ties_are_cut_as_a_stable_sort_cuts(rng, dtype, size):
    # Ten arrays and more: "10" comes after "9".
    arrays = [with_ties(rng, (size,), dtype) for _ in range(11)]
    sparsity = rng.random()
    want = reference_masks({f"{i:02}": np.abs(a) for i, a in enumerate(arrays)}, sparsity)
    result = coppice.prune(arrays, criterion="magnitude", sparsity=sparsity, threads=int(rng.integers(1, 3)))
    for i, (before, after) in enumerate(zip(arrays, result.tensors)):
        assert np.array_equal(result.masks[f"{i:02}"], want[f"{i:02}"])
        assert np.array_equal(bits_of(after), cut(before, want[f"{i:02}"]))
    assert result.report.kept == sum(int(m.sum()) for m in want.values())


@pytest.mark.parametrize("scope", ["global", "tensor", "row"])
@pytest.mark.parametrize("criterion", ["magnitude", "gradient", "taylor", "taylor-absolute", "fisher"])
def test_criteria_and_scopes(rng, criterion, scope):
    shapes = {"b.proj": (67, 31), "a.proj": (33, 257), "É.proj": (5, 7)}
    weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    gradients = {n: np.round(rng.standard_normal(s), 1).astype(np.float32) for n, s in shapes.items()}
    score = {
        "magnitude": lambda w, g: np.abs(w), "gradient": lambda w, g: np.abs(g), "taylor": lambda w, g: np.abs(w * g),
        "taylor-absolute": lambda w, g: np.abs(w * np.abs(g)), "fisher": lambda w, g: (g * g) * (w * w),
    }[criterion]  # fmt: skip
    want = reference_masks({n: score(weights[n], gradients[n]) for n in shapes}, 0.37, scope)
    result = coppice.prune(weights, gradients, criterion=criterion, sparsity=0.37, scope=scope)
    assert result.masks.keys() == want.keys()
    for name in shapes:
        assert np.array_equal(result.masks[name], want[name]), name
        assert np.array_equal(bits_of(result.tensors[name]), cut(weights[name], want[name]))


def test_the_same_bits_as_the_program(rng, program, tmp_path):
    weights = {f"layer{i}.{n}": with_ties(rng, s, t) for i in range(2) for n, s, t in (
        ("proj", (33, 31), np.float32), ("wide", (7, 65), np.float64), ("half", (12, 11), np.float16),
        ("bias", (31,), np.float32))}  # fmt: skip
    weights = {n: np.where(np.isfinite(w), w, 2).astype(w.dtype) for n, w in weights.items()}
    weights["steps"] = np.arange(3)
    gradients = {n: with_ties(rng, w.shape, np.float32) for n, w in weights.items() if w.dtype.kind == "f"}
    gradients = {n: np.where(np.isfinite(g), g, 3).astype(g.dtype) for n, g in gradients.items()}
    coppice.save(tmp_path / "w.safetensors", weights)
    coppice.save(tmp_path / "g.safetensors", gradients)
    program("prune", tmp_path / "w.safetensors", "--gradients", tmp_path / "g.safetensors", "--criterion", "taylor",
            "--sparsity", "0.6", "--min-density", "0.05", "-o", tmp_path / "out.safetensors")  # fmt: skip
    want, masks = coppice.load(tmp_path / "out.safetensors"), coppice.Masks.load(
        tmp_path / "out.safetensors.masks.safetensors"
    )
    options = dict(criterion="taylor", sparsity=0.6, min_density=0.05)
    for source in (gradients, tmp_path / "g.safetensors"):
        result = coppice.prune(weights, source, **options)
        assert result.masks == masks
        for name in weights:
            assert np.array_equal(bits_of(result.tensors[name]), bits_of(want[name])), name
    coppice.prune_file(
        tmp_path / "w.safetensors", tmp_path / "again.safetensors", gradients=tmp_path / "g.safetensors", **options
    )
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "out.safetensors").read_bytes()
    # What was carried over is what the program carries over, and says why.
    assert {t.name: t.reason for t in result.report.carried}["steps"] == "no float"
    assert {t.reason for t in result.report.carried} == {"no float", "bias"}


def test_in_place_and_not(rng):
    weights = {"a.proj": rng.standard_normal((31, 33)).astype(np.float32)}
    before, address = weights["a.proj"].copy(), weights["a.proj"].ctypes.data
    result = coppice.prune(weights, criterion="magnitude", sparsity=0.5)
    assert np.array_equal(weights["a.proj"], before)
    assert result.tensors["a.proj"].ctypes.data != address
    dry = coppice.prune(weights, criterion="magnitude", sparsity=0.5, in_place=True, dry_run=True)
    assert np.array_equal(weights["a.proj"], before) and dry.report.kept == result.report.kept
    again = coppice.prune(weights, criterion="magnitude", sparsity=0.5, in_place=True)
    assert again.tensors["a.proj"] is weights["a.proj"] and weights["a.proj"].ctypes.data == address
    assert np.array_equal(weights["a.proj"], result.tensors["a.proj"])
    assert np.array_equal(weights["a.proj"] != 0, again.masks["a.proj"])


def test_arrays_that_are_not_contiguous(rng):
    whole = rng.standard_normal((64, 66)).astype(np.float32)
    poison = whole.copy()
    part = whole[1:62:2, 3:64:3].T
    want = coppice.prune(part.copy(), criterion="magnitude", sparsity=0.7).tensors
    coppice.prune(part, criterion="magnitude", sparsity=0.7, in_place=True)
    assert np.array_equal(part, want)
    untouched = np.ones(whole.shape, bool)
    untouched[1:62:2, 3:64:3] = False
    assert np.array_equal(whole[untouched], poison[untouched])
    # And one that lies at an odd address.
    odd = np.frombuffer(bytearray(4 * 100 + 1), np.uint8)[1:].view(np.float32)
    odd[:] = rng.standard_normal(100)
    want = coppice.prune(odd.copy(), criterion="magnitude", sparsity=0.7).tensors
    coppice.prune(odd, criterion="magnitude", sparsity=0.7, in_place=True)
    assert np.array_equal(odd, want)


def test_bfloat16(rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    w = rng.standard_normal((33, 35)).astype(ml_dtypes.bfloat16)
    want = reference_masks({"0": np.abs(w.astype(np.float32))}, 0.6)["0"]
    result = coppice.prune(w, criterion="magnitude", sparsity=0.6)
    assert result.tensors.dtype == w.dtype
    assert np.array_equal(result.mask, want)
    assert np.array_equal(bits_of(result.tensors), cut(w, want))


def test_anything_with_dlpack(rng):
    class Foreign:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    w = rng.standard_normal((9, 11))
    want = coppice.prune(w, criterion="magnitude", sparsity=0.5)
    result = coppice.prune(Foreign(w), criterion="magnitude", sparsity=0.5)
    assert np.array_equal(result.tensors, want.tensors) and result.masks == want.masks


def test_wanda_and_its_norms(rng):
    w = rng.standard_normal((8, 33)).astype(np.float32)
    norms = rng.random(33).astype(np.float32)
    want = reference_masks({"w": np.abs(w) * norms}, 0.5, "row")["w"]
    result = coppice.prune({"w": w}, criterion="wanda", sparsity=0.5, activations={"w": norms})
    assert result.report.scope == "row" and np.array_equal(result.masks["w"], want)


def test_several_gradients_are_added_up(rng):
    w = {"w": rng.standard_normal((8, 33)).astype(np.float32)}
    g = [{"w": rng.standard_normal((8, 33)).astype(np.float32)} for _ in range(3)]
    want = coppice.prune(w, {"w.sum": g[0]["w"] + g[1]["w"] + g[2]["w"]}, criterion="taylor", sparsity=0.5)
    assert coppice.prune(w, g, criterion="taylor", sparsity=0.5).masks == want.masks


def test_masks_made_earlier(rng, tmp_path):
    w = {"w": rng.standard_normal((9, 33)).astype(np.float32)}
    half = coppice.prune(w, criterion="random", sparsity=0.3, seed=7)
    half.masks.save(tmp_path / "m.safetensors")
    assert coppice.Masks.load(tmp_path / "m.safetensors") == half.masks
    for masks in (half.masks, tmp_path / "m.safetensors", {"w": half.masks["w"]}):
        more = coppice.prune(w, criterion="magnitude", sparsity=0.6, masks=masks)
        assert not (more.masks["w"] & ~half.masks["w"]).any()
        assert more.report.kept == 9 * 33 - round(0.6 * 9 * 33)
        alone = coppice.prune(w, masks=masks)
        assert np.array_equal(bits_of(alone.tensors["w"]), cut(w["w"], half.masks["w"]))


def test_masks_hold_bits(rng):
    for size in SIZES:
        kept = rng.random(size) < 0.5
        masks = coppice.Masks.from_arrays({"w": kept})
        assert np.array_equal(masks["w"], kept) and masks.kept("w") == kept.sum()
        assert masks.bits("w").size == (size + 7) // 8


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(tensors={"w": np.zeros((2, 3))}, criterion="magnitud", sparsity=0.5), "did you mean \"magnitude\""),
        (dict(tensors={"w": np.zeros((2, 3))}, criterion="magnitude", sparsity=1.5), "prune.sparsity"),
        (dict(tensors={"w": np.zeros((2, 3))}, criterion="magnitude"), "sparsity and percentile, found none"),
        (dict(tensors={"w": np.zeros((2, 3))}, sparsity=0.5), "criterion is missing"),
        (dict(tensors={"w": np.zeros((2, 3))}, criterion="taylor", sparsity=0.5), "expected a file of them, found none"),
        (dict(tensors={"w": "text"}, criterion="magnitude", sparsity=0.5), "'w' is a str"),
        (dict(tensors={"w": np.zeros((2, 3), complex)}, criterion="magnitude", sparsity=0.5), "'w' is of type complex"),
        (dict(tensors={1: np.zeros((2, 3))}, criterion="magnitude", sparsity=0.5), "expected names"),
        (dict(tensors=np.array([1, np.nan, 2]), criterion="magnitude", sparsity=0.5), "NaN"),
        (dict(tensors={"w": np.zeros((2, 3))}, criterion="magnitude", sparsity=0.5, include="x"), "'x'"),
        (dict(tensors={"w": np.zeros((2, 3))}, gradients={"w": np.zeros((3, 2))}, criterion="taylor", sparsity=0.5),
         "the gradients: tensor \"w\" is f64 of shape [3, 2]"),
        (dict(tensors={"w": np.zeros((2, 3))}, masks={"v": np.ones((2, 3))}), "the masks: has a mask of \"v\""),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(arguments, message):
    tensors = arguments.pop("tensors")
    before = {k: v.copy() for k, v in tensors.items() if hasattr(v, "copy")} if isinstance(tensors, dict) else None
    with pytest.raises(coppice.Error, match="^[^\n]*$") as caught:
        coppice.prune(tensors, in_place=True, **arguments)
    assert message in str(caught.value)
    assert isinstance(caught.value, ValueError)
    if before:
        assert all(np.array_equal(tensors[k], v) for k, v in before.items())


def test_read_only_arrays_are_not_cut(rng):
    w = rng.standard_normal(100)
    w.flags.writeable = False
    with pytest.raises(coppice.Error, match="read-only"):
        coppice.prune(w, criterion="magnitude", sparsity=0.5, in_place=True)
    coppice.prune(w, w, criterion="taylor", sparsity=0.5)  # gradients may be


def test_the_lock_is_released(rng):
    w = rng.standard_normal(4_000_000).astype(np.float32)
    ticks, done = [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(None)
            time.sleep(0)

    thread = threading.Thread(target=tick)
    thread.start()
    before = len(ticks)
    coppice.prune([w] * 1 + [w[:-1]], criterion="magnitude", sparsity=0.5)
    after = len(ticks)
    done.set()
    thread.join()
    assert after > before


def test_ctrl_c_stops_a_long_job_and_leaves_nothing(tmp_path):
    """A job of many passes over a file is interrupted: KeyboardInterrupt, and no file is left."""
    script = """
import coppice, numpy as np, sys
w = {f"{i}.proj": np.zeros((1000, 1000), np.float32) for i in range(20)}
coppice.save(sys.argv[1] + "/w.safetensors", w)
print("begin", flush=True)
try:
    while True:  # whenever the signal comes, a job is running
        coppice.prune_file(sys.argv[1] + "/w.safetensors", sys.argv[1] + "/o.safetensors", criterion="random",
                           scope="tensor", sparsity=0.5, memory="4MiB", force=True)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout.readline() == "begin\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert out == "stopped\n" and process.returncode == 0
    assert not list(tmp_path.glob("*.partial-*"))

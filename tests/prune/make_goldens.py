#!/usr/bin/env python3
"""Makes tests/prune/goldens.json: what NumPy cuts.

    python3 tests/prune/make_goldens.py > tests/prune/goldens.json

Scores are float32 for float32 tensors, one rounding per operation; percentiles and their interpolation float64; a
global cut is a stable argsort over the tensors in the byte order of their names. Values are written as bit patterns,
so that nothing is lost on the way.
"""
import json
import sys

import numpy as np

rng = np.random.default_rng(20261124)
F32, F64 = np.float32, np.float64


def bits(a):
    return [int(x) for x in a.reshape(-1).view(np.uint32 if a.dtype == F32 else np.uint64)]


def special(shape, dtype):
    """Ties, zeros of both signs, denormals, huge and tiny values among normal ones."""
    a = rng.standard_normal(shape).astype(dtype).reshape(-1)
    values = np.array([0.0, -0.0, 1e-45, -1e-45, 1e-39, 0.5, -0.5, 0.5, 1e30, -1e-30], dtype)
    chosen = rng.random(a.size) < 0.4
    a[chosen] = rng.choice(values, chosen.sum())
    return a.reshape(shape)


def score(criterion, w, s):
    with np.errstate(all="ignore"):
        return {"magnitude": lambda: np.abs(w), "gradient": lambda: np.abs(s), "taylor": lambda: np.abs(w * s),
                "gradient-absolute": lambda: np.abs(s), "gradient-squared": lambda: np.abs(s),
                "taylor-absolute": lambda: np.abs(w * s), "fisher": lambda: s * (w * w)}[criterion]()


def product(values):
    """Product of the values in index order as (mantissa in [0.5, 1), exponent)."""
    m, e = 1.0, 0
    for v in values:
        vm, ve = np.frexp(F64(v))
        m, me = np.frexp(F64(m) * vm)
        e = 0 if m == 0 else e + int(ve) + int(me)
    return float(m), e


def unit_scores(case, scores):
    """Scores of the units of one tensor, in float64 (products of this file stay inside its range)."""
    a = scores.astype(F64)
    if case["pattern"] == "element":
        return a.reshape(-1)
    lines = a if case["pattern"] == "row" else a.T
    how = case["reduce"]
    if how == "product":
        return np.array([np.ldexp(*product(line)) for line in lines])
    sums = np.array([np.cumsum(line)[-1] for line in lines])  # cumsum adds in index order, sum() pairwise
    if how == "sum":
        return sums
    if how == "mean":
        return sums / lines.shape[1]
    if how == "max":
        return lines.max(axis=1)
    return np.sqrt(np.array([np.cumsum(line * line)[-1] for line in lines]))


def make(name, criterion, tensors, pattern="element", reduce="sum", scope="global", sparsity=None, percentile=None):
    case = {"name": name, "criterion": criterion, "pattern": pattern, "reduce": reduce, "scope": scope}
    case["percentile" if sparsity is None else "sparsity"] = percentile if sparsity is None else sparsity
    units = {}
    for t in tensors:
        units[t["name"]] = unit_scores(case, score(criterion, t["w"], t["s"]))
    order = sorted(units)
    groups = [order] if scope == "global" else [[n] for n in order]
    keep, thresholds = {}, []
    for group in groups:
        values = np.concatenate([units[n] for n in group])
        if sparsity is None:
            threshold = np.percentile(values, percentile)
            kept = ~(values < threshold)
        else:
            k = int(np.rint(F64(sparsity) * values.size))
            cut = np.argsort(values, kind="stable")[:k]
            kept = np.ones(values.size, bool)
            kept[cut] = False
            threshold = values[cut[-1]] if k else np.nan
        thresholds.append(float(threshold).hex())
        at = 0
        for n in group:
            keep[n] = kept[at:at + units[n].size]
            at += units[n].size
    out = []
    for t in tensors:
        k = keep[t["name"]]
        shape = t["w"].shape
        mask = {"element": lambda: k, "row": lambda: np.repeat(k, shape[1]),
                "column": lambda: np.tile(k, shape[0])}[pattern]()
        out.append({"name": t["name"], "shape": list(shape), "dtype": "f32" if t["w"].dtype == F32 else "f64",
                    "w": bits(t["w"]), "s": bits(t["s"]), "mask": "".join("1" if x else "0" for x in mask)})
    return dict(case, thresholds=thresholds, tensors=out)


def tensor(name, shape, dtype=F32, kind=special, statistic=None):
    w = kind(shape, dtype)
    s = kind(shape, dtype) if statistic is None else statistic
    return {"name": name, "w": w, "s": s}


def normal(shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


cases = []
for criterion in ("magnitude", "gradient", "taylor", "fisher"):
    for scope in ("global", "tensor"):
        ts = [tensor("rnn.weight_ih_l0", (8, 5)), tensor("decoder.weight", (3, 7)), tensor("rnn.Weight", (31,))]
        if criterion == "fisher":
            for t in ts:  # squares of 1e30 would be infinite, and infinity times zero NaN
                t["w"] = np.clip(t["w"], F32(-1e9), F32(1e9))
                t["s"] = np.square(np.clip(t["s"], F32(-1e9), F32(1e9)))
        cases.append(make(f"{criterion} {scope} k", criterion, ts, scope=scope, sparsity=0.55))
        cases.append(make(f"{criterion} {scope} percentile", criterion, ts, scope=scope, percentile=62.5))
cases.append(make("f64 beside f32", "taylor", [tensor("b", (9, 3), F64), tensor("a", (4, 4), F32)], sparsity=0.6))
for p in (0, 5, 29, 33.3, 50, 95, 99.9, 100):
    cases.append(make(f"percentile {p}", "magnitude", [tensor("w", (101,), F32, normal)], percentile=p))
for pattern in ("row", "column"):
    for how in ("sum", "mean", "max", "l2", "product"):
        cases.append(make(f"{pattern} {how}", "taylor", [tensor("w", (6, 9), F32, normal), tensor("v", (4, 5), F32, normal)],
                          pattern=pattern, reduce=how, sparsity=0.5))
# The article: a SimpleRNN kernel of 10 inputs and 50 units, |g| near 1e-3; np.prod in float32 is all zero.
g = (rng.standard_normal((50, 10)) * 1e-3).astype(F32)
assert not np.prod(np.abs(g), axis=0).any()
cases.append(make("article", "gradient", [tensor("rnn.weight_ih_l0", (50, 10), F32, normal, g)], pattern="column",
                  reduce="product", percentile=95))

json.dump({"numpy": np.__version__, "cases": cases}, sys.stdout, separators=(",", ":"))
sys.stdout.write("\n")

#!/usr/bin/env python3
"""coppice.prune beside what people use, in one process: turns alternate, so that all see the same machine in the same minute.

    PYTHONPATH=build/python bench/prune_arrays.py --millions 100 --turns 5 --threads 2

Magnitude, global, in place; the weights are renewed, and so touched, before every turn, and that is not timed. Peers:
`torch.nn.utils.prune.global_unstructured` (with `remove`, which leaves the zeros in the weights, as ours does), and NumPy's
percentile of |w| with a mask. Extra memory is the peak of the resident size over what was resident when the turn began.
Prints one JSON object: medians, ratios to ours turn by turn (median), memory.
"""

import argparse
import json
import os
import statistics
import sys
import time


def resident(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, default=100)
    parser.add_argument("--tensors", type=int, default=4)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between turns")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))

    import coppice
    import numpy as np

    columns = 5000
    rows = int(options.millions * 1e6 / options.tensors / columns)
    random = np.random.default_rng(1)
    original = [random.standard_normal((rows, columns), np.float32) for _ in range(options.tensors)]
    weights = [w.copy() for w in original]

    def ours():
        coppice.prune(weights, criterion="magnitude", sparsity=options.sparsity, in_place=True, threads=options.threads)

    def numpy_percentile():
        threshold = np.percentile(np.concatenate([np.abs(w).reshape(-1) for w in weights]), 100 * options.sparsity)
        for w in weights:
            w *= np.abs(w) >= threshold

    sides = {"coppice": ours, "numpy_percentile": numpy_percentile}
    try:
        import torch
        from torch.nn.utils import prune
    except ImportError:
        print("PyTorch is not installed: its side is left out", file=sys.stderr)
    else:
        torch.set_num_threads(options.threads)

        def torch_global_unstructured():
            modules = torch.nn.ModuleList()
            for w in weights:
                module = torch.nn.Module()
                module.weight = torch.nn.Parameter(torch.from_numpy(w))
                modules.append(module)
            pairs = [(m, "weight") for m in modules]
            prune.global_unstructured(pairs, prune.L1Unstructured, amount=options.sparsity)
            for m in modules:
                prune.remove(m, "weight")

        sides["torch_global_unstructured"] = torch_global_unstructured

    seconds = {name: [] for name in sides}
    extra = dict.fromkeys(sides, 0.0)
    for _ in range(options.turns):
        for name, side in sides.items():
            for w, o in zip(weights, original):
                np.copyto(w, o)
            time.sleep(options.pause)
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # the peak starts anew
            before = resident("VmRSS")
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
            extra[name] = max(extra[name], resident("VmHWM") - before)
    ours_s = seconds["coppice"]
    print(json.dumps({
        "weights": sum(w.size for w in weights), "threads": options.threads, "turns": options.turns,
        "median_s": {n: round(statistics.median(s), 4) for n, s in seconds.items()},
        "times_ours": {n: round(statistics.median(b / a for a, b in zip(ours_s, s)), 1) for n, s in seconds.items()},
        "extra_MiB": {n: round(m, 1) for n, m in extra.items()},
    }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()

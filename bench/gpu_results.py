#!/usr/bin/env python3
"""Adds runs to the figures of a card and a day, and prints all of these as tables.

    bench/gpu_results.py bench/results/<card>-<date>.json RUN...

A RUN is what bench_recurrent_gpu wrote with --benchmark_out, or NAME=FILE where FILE's last line is the JSON of one of
the other programs.
"""
import json
import os
import re
import sys

STEP = re.compile(r"step/(\w+)/H:(\d+)/B:(\d+)/zeros:(\d+)/(\w+)")
ALGORITHM = re.compile(r"(spmm|spmv)/(\w+)/H:(\d+)/B:(\d+)/zeros:(\d+)")
TRAINING = re.compile(r"training/(\w+)/H:(\d+)/B:(\d+)/T:(\d+)/zeros:(\d+)")


def read_run(argument):
    """The context and the benchmarks of a run, each benchmark with a name."""
    if "=" not in argument:
        with open(argument) as file:
            run = json.load(file)
        return run["context"], run["benchmarks"]
    name, path = argument.split("=", 1)
    with open(path) as file:
        facts = json.loads(file.read().strip().splitlines()[-1])
    return {key: facts[key] for key in ("device", "detail") if key in facts}, [{"name": name, **facts}]


def print_steps(benchmarks):
    times, peers = {}, {}
    for benchmark in benchmarks:
        match = STEP.match(benchmark["name"])
        if match and "us" in benchmark:
            layout, hidden, batch, zeros, mode = match.groups()
            times[mode, int(hidden), int(batch), int(zeros), layout] = benchmark["us"]
            if "cudnn_us" in benchmark:
                peers.setdefault((mode, int(hidden), int(batch)), []).append(benchmark["cudnn_us"])
    if not times:
        return
    print("\nOne LSTM step, us; in brackets how many times faster than the fastest dense one, cuDNN's included\n")
    layouts = sorted({key[4] for key in times if key[3] != 0})
    print("| mode | H | B | zeros, % | dense | dense, a graph | cuDNN | " + " | ".join(layouts) + " |")
    print("|---" * (7 + len(layouts)) + "|")
    for mode, hidden, batch, zeros in sorted({key[:4] for key in times if key[3] != 0}):
        rivals = [times.get((mode, hidden, batch, 0, layout)) for layout in ("dense", "dense_graph")]
        rivals.append(min(peers.get((mode, hidden, batch), []), default=None))
        dense = min(filter(None, rivals), default=None)
        cells = []
        for layout in layouts:
            time = times.get((mode, hidden, batch, zeros, layout))
            ratio = f" ({dense / time:.1f})" if time and dense else ""
            cells.append(f"{time:.1f}{ratio}" if time else "")
        cells = [f"{time:.1f}" if time else "" for time in rivals] + cells
        print(f"| {mode} | {hidden} | {batch} | {zeros} | " + " | ".join(cells) + " |")


def print_training(benchmarks):
    rows = [(TRAINING.match(b["name"]), b) for b in benchmarks if "us" in b]
    rows = [(match.groups(), b) for match, b in rows if match]
    if not rows:
        return
    print("\nA training step of an LSTM layer\n\n| layout | zeros, % | H | B | T | ms | tokens/s | cuDNN dense, ms | speedup |")
    print("|---" * 9 + "|")
    for (layout, hidden, batch, steps, zeros), b in rows:
        peer = f"{b['cudnn_us'] / 1000:.2f} | {b['speedup']:.2f}" if "cudnn_us" in b else " | "
        print(f"| {layout} | {zeros} | {hidden} | {batch} | {steps} | {b['us'] / 1000:.2f} | {b['tokens/s']:.0f} | {peer} |")


def print_algorithms(benchmarks):
    times = {}
    for benchmark in benchmarks:
        match = ALGORITHM.match(benchmark["name"])
        if match and "us" in benchmark:
            product, algorithm, hidden, batch, zeros = match.groups()
            unsteady = " (bits differ)" if benchmark["differs"] else ""
            times.setdefault((product, int(hidden), int(batch), int(zeros)), []).append(
                f"{algorithm} {benchmark['us']:.1f}{unsteady}")
    if times:
        print("\ncuSPARSE's algorithms, us\n\n| product | H | B | zeros, % | |\n|---|---|---|---|---|")
        for (product, hidden, batch, zeros), found in sorted(times.items()):
            print(f"| {product} | {hidden} | {batch} | {zeros} | {', '.join(found)} |")


def print_others(benchmarks):
    rows = [b for b in benchmarks if b["name"].startswith("selection/") and "select" in b]
    if rows:
        print("\nSelection, in place\n\n| | weights | ms | over its floor | cut at a known threshold, ms | over its floor |")
        print("|---" * 6 + "|")
        for b in rows:
            select, cut = b["select"], b["cut_at_known_threshold"]
            print(f"| {b['name']} | {b['units']} | {select['median_s'] * 1e3:.2f} | {select['over_floor']:.2f} | "
                  f"{cut['median_s'] * 1e3:.2f} | {cut['over_floor']:.2f} |")
    rows = [b for b in benchmarks if "median_s" in b]
    if rows:
        print("\n| | ms | a second |\n|---|---|---|")
        for b in rows:
            rate = f"{b['units_per_s']:.0f}" if "units_per_s" in b else ""
            print(f"| {b['name']} | {b['median_s'] * 1e3:.2f} | {rate} |")
            if b.get("top_k_median_s", -1) > 0:
                print(f"| {b['name']}, top-k instead | {b['top_k_median_s'] * 1e3:.2f} | |")


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    path = sys.argv[1]
    results = {"context": {}, "benchmarks": []}
    if os.path.exists(path):
        with open(path) as file:
            results = json.load(file)
    for argument in sys.argv[2:]:
        context, benchmarks = read_run(argument)
        names = {benchmark["name"] for benchmark in benchmarks}  # measured again: the new figure counts
        results["context"].update(context)
        results["benchmarks"] = [b for b in results["benchmarks"] if b["name"] not in names] + benchmarks
    with open(path, "w") as file:
        json.dump(results, file, indent=1)
        file.write("\n")
    context = results["context"]
    print(f"{context.get('device', 'unknown device')}, {context.get('detail', '')}")
    print_steps(results["benchmarks"])
    print_training(results["benchmarks"])
    print_algorithms(results["benchmarks"])
    print_others(results["benchmarks"])


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Adds what bench_recurrent_gpu wrote to the figures of a card and a day, and prints them as tables.

    bench/gpu_results.py RUN.json bench/results/<card>-<date>.json
"""
import json
import os
import re
import sys

STEP = re.compile(r"step/(\w+)/H:(\d+)/B:(\d+)/zeros:(\d+)/(\w+)")
TRAINING = re.compile(r"training/(\w+)/H:(\d+)/B:(\d+)/T:(\d+)/zeros:(\d+)")


def merged(run, path):
    """The run's benchmarks beside those of earlier runs; a name measured again replaces the old figure."""
    earlier = []
    if os.path.exists(path):
        with open(path) as file:
            earlier = json.load(file)["benchmarks"]
    names = {benchmark["name"] for benchmark in run["benchmarks"]}
    run["benchmarks"] = [b for b in earlier if b["name"] not in names] + run["benchmarks"]
    return run


def print_steps(benchmarks):
    times = {}
    for benchmark in benchmarks:
        match = STEP.match(benchmark["name"])
        if match and "us" in benchmark:
            layout, hidden, batch, zeros, mode = match.groups()
            times[mode, int(hidden), int(batch), int(zeros), layout] = benchmark["us"]
    if not times:
        return
    print("\nOne LSTM step, us; in brackets how many times faster than dense\n")
    layouts = sorted({key[4] for key in times} - {"dense"})
    print("| mode | H | B | zeros, % | dense | " + " | ".join(layouts) + " |")
    print("|---" * (5 + len(layouts)) + "|")
    for mode, hidden, batch, zeros in sorted({key[:4] for key in times if key[4] != "dense"}):
        dense = times.get((mode, hidden, batch, 0, "dense"))
        cells = []
        for layout in layouts:
            time = times.get((mode, hidden, batch, zeros, layout))
            ratio = f" ({dense / time:.1f})" if time and dense else ""
            cells.append(f"{time:.1f}{ratio}" if time else "")
        print(f"| {mode} | {hidden} | {batch} | {zeros} | {f'{dense:.1f}' if dense else ''} | "
              + " | ".join(cells) + " |")


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


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1]) as file:
        results = merged(json.load(file), sys.argv[2])
    with open(sys.argv[2], "w") as file:
        json.dump(results, file, indent=1)
        file.write("\n")
    context = results["context"]
    print(f"{context.get('device', 'unknown device')}, {context.get('detail', '')}, {context.get('date', '')}")
    print_steps(results["benchmarks"])
    print_training(results["benchmarks"])


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measures every row of the project's table of speed goals on this machine and prints it as Markdown.

    bench/goals.py                        # all of it, some minutes; needs a build with -DCOPPICE_BENCH=ON
    bench/goals.py --rows product,frame   # some of it
    bench/goals.py --rows sequence --sparsity 0.9 --turns 5   # less of it: half a minute
    bench/goals.py --keep results         # also keeps each run's bench.json in a folder

Speed-ups are over the fastest dense of the same run (ours, oneDNN, OpenBLAS, Eigen, PyTorch, ONNX Runtime: those that are
there), one thread unless a row says otherwise, everything hot, medians of interleaved turns.
"""
import argparse
import array
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
KINDS = ("product", "sequence", "frame", "train", "file")

# What is asked of each row, by machine: goals at 80, 90 and 95 % (None: none was set).
GOALS = {
    "zen4": {"unstructured, B 32, H 1024": (3.3, 6, 10.5), "unstructured, B 16, H 512": (2.7, 5.5, 11),
             "unstructured, B 1, H 1024": (3.5, 5.5, 9), "blocks or balanced, B 32": (4.8, 9.3, 17),
             "blocks or balanced, B 1": (6, 11, 15), "LSTM inference, T 64, B 32, H 1024": (3, 5, 8.3)},
    "zen5": {"unstructured, B 32, H 1024": (3, 5.3, 9), "unstructured, B 16, H 512": (2.4, 4.6, 9),
             "unstructured, B 1, H 1024": (4.5, 8, 14), "blocks or balanced, B 32": (4.8, 9.3, 17),
             "blocks or balanced, B 1": (8, 14, 28), "LSTM inference, T 64, B 32, H 1024": (2.7, 4.8, 7.5)},
}
RETRAINING = {0.8: None, 0.9: 3.5, 0.95: 5.5}
FILES = {0.8: 0.235, 0.9: 0.135, 0.95: 0.08}
SPARSITIES = (0.8, 0.9, 0.95)
BREAK_EVEN = (0.2, 0.3, 0.4, 0.5)


class Table:
    """Prints each row as soon as it is measured: what was found stays when the rest is interrupted."""

    def __init__(self):
        self.write("", "sparsity", "goal", "measured", "of the ceiling", "against", "")
        print("|" + "---|" * 7, flush=True)

    @staticmethod
    def write(*row):
        print("| " + " | ".join(row) + " |", flush=True)

    def add(self, what, sparsity, goal, measured, share="", against="", at_most=False):
        if goal is None:
            verdict = ""
        else:
            met = measured <= goal if at_most else measured >= goal
            verdict = "met" if met else "missed"
        goal_text = "" if goal is None else ("<= " if at_most else ">= ") + f"{goal:g}"
        self.write(what, sparsity, goal_text, f"{measured:.3g}", share, against, verdict)


def percent(sparsity):
    return f"{100 * sparsity:g} %"


def listed(sparsities):
    return ",".join(f"{s:g}" for s in sparsities)


class Bench:
    def __init__(self, options):
        self.options, self.runs = options, 0
        self.sparsities = options.sparsity

    def run(self, *arguments, threads=1):
        command = [self.options.program, "bench", "--cell", "lstm", "--threads", str(threads), "--device", "cpu",
                   "--turns", str(self.options.turns), "--json", *arguments]
        if self.options.baselines:
            command += ["--baselines", self.options.baselines]
        print("$ " + " ".join(command), file=sys.stderr)
        text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        self.runs += 1
        if self.options.keep:
            folder = pathlib.Path(self.options.keep)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"bench_{self.runs}.json").write_text(text)
        return json.loads(text)


def cell_of(result, batch, sparsity):
    return next(c for c in result["cells"] if c["batch"] == batch and abs(c["sparsity"] - sparsity) < 1e-9)


def entry_of(cell, name):
    return next((e for e in cell["entries"] if e["name"] == name), None)


def best(cell, families):
    ours = [e for e in cell["entries"] if e["layout"] and e["family"] in families]
    return min(ours, key=lambda e: e["seconds"])


def add_best(table, what, goals, result, batch, families):
    for sparsity, goal in zip(SPARSITIES, goals):
        if all(abs(c["sparsity"] - sparsity) > 1e-9 for c in result["cells"]):
            continue
        cell = cell_of(result, batch, sparsity)
        entry, dense = best(cell, families), entry_of(cell, cell["best_dense"])
        ratio = dense["seconds"] / entry["seconds"]
        noisy = ", noisy" if entry["noisy"] or dense["noisy"] else ""
        table.add(f"{what} ({entry['name']}{noisy})", percent(sparsity), goal, ratio, f"{entry['share_of_ceiling']:.2f}",
                  f"{dense['name']} {dense['seconds'] * 1e6:.0f} us")


def add_break_even(table, what, goal, result, batch):
    for crossing in result["crossover"]:
        if crossing["batch"] == batch and crossing["family"] == "unstructured":
            found = 1.0 if crossing["sparsity"] is None else crossing["sparsity"]
            table.add(f"break-even sparsity, {what}", "at most" if crossing["at_most"] else "", goal, found, at_most=True)


def products(bench, goals, table):
    whole = len(bench.sparsities) == len(SPARSITIES)
    sparsities = listed((BREAK_EVEN if whole else ()) + tuple(bench.sparsities))
    wide = bench.run("--hidden", "1024", "--batch", "1,32", "--sparsity", sparsities)
    narrow = bench.run("--hidden", "512", "--batch", "16", "--sparsity", sparsities)
    structured = ("blocks", "balanced")
    for what, result, batch, families in (
            ("unstructured, B 32, H 1024", wide, 32, ("unstructured",)),
            ("unstructured, B 16, H 512", narrow, 16, ("unstructured",)),
            ("unstructured, B 1, H 1024", wide, 1, ("unstructured",)),
            ("blocks or balanced, B 32", wide, 32, structured), ("blocks or balanced, B 1", wide, 1, structured)):
        add_best(table, what, goals[what], result, batch, families)
    if whole:
        add_break_even(table, "B 32, H 1024", 0.3, wide, 32)
        add_break_even(table, "B 1, H 1024", 0.3, wide, 1)
        add_break_even(table, "B 16, H 512", 0.48, narrow, 16)
    for sparsity in bench.sparsities:
        cell = cell_of(wide, 32, sparsity)
        csr, ours = entry_of(cell, "PyTorch CSR"), best(cell, ("unstructured",))
        if csr is not None:
            table.add(f"times PyTorch's CSR, B 32, H 1024 ({ours['name']})", percent(sparsity), 2.3,
                      csr["seconds"] / ours["seconds"], f"{ours['share_of_ceiling']:.2f}",
                      f"{csr['version']} {csr['seconds'] * 1e6:.0f} us")


def sequences(bench, goals, table):
    what = "LSTM inference, T 64, B 32, H 1024"
    result = bench.run("--work", "sequence", "--steps", "64", "--hidden", "1024", "--batch", "32", "--sparsity",
                       listed(bench.sparsities), "--layout", "sell,bsr,balanced")
    for family, goal in (("unstructured", goals[what]), ("blocks", (None,) * 3), ("balanced", (None,) * 3)):
        add_best(table, f"{what}, {family}", goal, result, 32, (family,))


def frames(bench, table):
    for threads, onnx_goal, own_goal in ((1, 9, 6.5), (2, 6, None)):
        result = bench.run("--work", "frame", "--hidden", "1024", "--batch", "1", "--sparsity", "0.9", "--layout",
                           "sell,bsr,balanced", threads=threads)
        cell = cell_of(result, 1, 0.9)
        for family in ("unstructured", "blocks", "balanced"):
            entry = best(cell, (family,))
            what = f"one LSTM frame, B 1, H 1024, {family} ({entry['name']}), {threads} thread{'s' * (threads > 1)}"
            share = f"{entry['share_of_ceiling']:.2f}"
            for name, goal in (("ONNX Runtime", onnx_goal), ("dense", own_goal)):
                dense = entry_of(cell, name)
                if dense is not None:
                    noisy = ", noisy" if entry["noisy"] or dense["noisy"] else ""
                    table.add(what + noisy, "90 %", goal if family == "unstructured" else None,
                              dense["seconds"] / entry["seconds"], share,
                              f"{dense['version'] if name != 'dense' else 'our dense'} {dense['seconds'] * 1e6:.0f} us")


def retraining(options, table):
    program = pathlib.Path(options.program).parent / "bench" / "bench_sparse_training"
    command = [str(program), "--hidden", "1024", "--batch", "32", "--steps", "64", "--sparsity", listed(options.sparsity),
               "--turns", str(min(options.turns, 7)), "--json"]
    print("$ " + " ".join(command), file=sys.stderr)
    for line in subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines():
        step = json.loads(line)
        # Forward and dW of both matrices, backward through time of one, dX of the other: three times both.
        nonzeros = (1 - step["sparsity"]) * 2 * 4 * step["hidden"] ** 2
        operations = 2 * 3 * nonzeros * step["steps"] * step["batch"]
        table.add(f"retraining step, T 64, B 32, H 1024 ({step['layout']})", percent(step["sparsity"]),
                  RETRAINING[step["sparsity"]], step["ratio"],
                  f"{operations / step['sparse_s'] / step['peak_gflops'] * 1e-9:.2f}",
                  f"our dense step and mask {step['dense_s'] * 1e3:.0f} ms")


def files(options, table):
    """The share of a dense file's bytes that the sparse encoding takes, for one matrix [4096, 1024] cut at random."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        draw = random.Random(1)
        values = array.array("f", (draw.gauss(0, 1) for _ in range(4096 * 1024)))
        header = json.dumps({"rnn.weight_hh_l0": {"dtype": "F32", "shape": [4096, 1024],
                                                  "data_offsets": [0, 4 * len(values)]}}).encode()
        header += b" " * (-len(header) % 8)
        dense = folder / "dense.safetensors"
        dense.write_bytes(struct.pack("<Q", len(header)) + header + values.tobytes())
        for sparsity in options.sparsity:
            out = folder / f"{sparsity}.safetensors"
            subprocess.run([options.program, "prune", str(dense), "--criterion", "random", "--sparsity", str(sparsity),
                            "--sparse-encoding", "-o", str(out), "--quiet"], check=True, stdout=subprocess.DEVNULL)
            table.add("sparse file over dense", percent(sparsity), FILES[sparsity],
                      out.stat().st_size / dense.stat().st_size, at_most=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(HERE.parent / "build/coppice"))
    parser.add_argument("--machine", choices=GOALS, default="zen4", help="whose goals to compare with")
    parser.add_argument("--rows", default=",".join(KINDS), help="some of " + ", ".join(KINDS))
    parser.add_argument("--sparsity", default=listed(SPARSITIES),
                        help="some of " + listed(SPARSITIES) + "; frames are at 0.9 alone, break-even needs all")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--baselines", help="as `coppice bench --baselines`")
    parser.add_argument("--keep", help="a folder for what each run gave")
    options = parser.parse_args()
    rows = options.rows.split(",")
    if unknown := set(rows) - set(KINDS):
        parser.error("unknown rows: " + ", ".join(sorted(unknown)))
    asked = {float(s) for s in options.sparsity.split(",")}
    if unknown := asked - set(SPARSITIES):
        parser.error(f"no goals at sparsity {listed(sorted(unknown))}; expected some of {listed(SPARSITIES)}")
    options.sparsity = [s for s in SPARSITIES if s in asked]
    bench, table, goals = Bench(options), Table(), GOALS[options.machine]
    if "product" in rows:
        products(bench, goals, table)
    if "sequence" in rows:
        sequences(bench, goals, table)
    if "frame" in rows:
        frames(bench, table)
    if "train" in rows:
        retraining(options, table)
    if "file" in rows:
        files(options, table)


if __name__ == "__main__":
    main()

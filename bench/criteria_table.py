#!/usr/bin/env python3
"""Which score should decide the cut? Criterion × sparsity, just cut and retrained, from one dense model.

Every cell is one `coppice run` that starts from the same trained weights, so that only the score differs. Cells that
are already there are not run again; the table is printed from what the reports say.

    bench/criteria_table.py --coppice build/tools/coppice --recipe tools/recipes/kjv_word_lm.toml \
        --weights RUN/dense --out table/ [--sparsity 0.8 0.9 0.95] [--criteria magnitude taylor …] \
        [--set prune.schedule="gradual" …] [--jobs 2]
"""
import argparse
import concurrent.futures
import json
import pathlib
import subprocess
import sys

CRITERIA = ["magnitude", "taylor", "taylor-absolute", "fisher", "gradient", "gradient-absolute", "gradient-squared",
            "random"]


def value(metric):
    if metric is None:
        return None
    return metric.get("perplexity") or metric.get("accuracy") or metric.get("loss")


def run(options, criterion, sparsity):
    folder = options.out / f"{criterion}-{sparsity:g}{options.label}"
    report = folder / "report.json"
    if not report.exists():
        command = [options.coppice, "run", options.recipe, "-o", folder, "--force", "--quiet",
                   "--threads", options.threads, "--set", f"model.weights={options.weights}",
                   "--set", f"prune.criterion={criterion}", "--set", f"prune.sparsity={sparsity}"]
        for assignment in options.set:
            command += ["--set", assignment]
        done = subprocess.run([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              text=True)
        if done.returncode:
            sys.exit(f"{criterion} at {sparsity}: {done.stderr.strip()}")
    metrics = json.loads(report.read_text())["metrics"]
    return {"criterion": criterion, "sparsity": sparsity,
            **{stage: value(metrics.get(stage)) for stage in ("dense", "dense_continued", "pruned", "retrained")}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coppice", required=True, type=pathlib.Path)
    parser.add_argument("--recipe", required=True, type=pathlib.Path)
    parser.add_argument("--weights", required=True, type=pathlib.Path, help="a trained model's folder")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.8, 0.9, 0.95])
    parser.add_argument("--criteria", nargs="+", default=CRITERIA)
    parser.add_argument("--set", action="append", default=[], help="further recipe keys, as for coppice run")
    parser.add_argument("--label", default="", help="appended to the folders' names, to keep variants apart")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="cells at the same time")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    cells = [(c, s) for s in options.sparsity for c in options.criteria]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(lambda cell: run(options, *cell), cells))
    number = lambda x: "" if x is None else f"{x:.4g}"
    print("| sparsity | criterion | dense | just cut | retrained |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['sparsity']:.0%} | {row['criterion']} | {number(row['dense'])} | {number(row['pruned'])} | "
              f"{number(row['retrained'])} |")
    (options.out / f"table{options.label}.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

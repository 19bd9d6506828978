#!/usr/bin/env python3
"""`coppice prune` of files beside what nobody can do without: every input read once, and a copy forced to the disk.

    build/bench/make_checkpoint xlstm-7b big width=1 layers=9 shards=8          # 4.45 GB of bf16
    bench/prune_files.py build/coppice big --turns 5 -- --criterion magnitude --sparsity 0.9 --memory 256MiB

Turns alternate: prune, then `cat` of every input and `cp --reflink=never` of the weights with fsync. Warm: the inputs lie in
the page cache before either. Cold (--cold): they are dropped from it (posix_fadvise) before each. Outputs are removed, and
the disk is left to rest, between the two. Prints one JSON object: medians, each turn's ratio and their median, the peak
resident size.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time


def files_of(path):
    path = pathlib.Path(path)
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]


def into_the_cache(files):
    for file in files:
        with open(file, "rb", buffering=0) as data:
            while data.read(8 << 20):
                pass


def out_of_the_cache(files):
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def timed(command):
    """Seconds, and the peak resident size in MiB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(command)}: exit status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="coppice")
    parser.add_argument("weights", help="a file, or the folder of a sharded checkpoint")
    parser.add_argument("--gradients", action="append", default=[])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--rest", type=float, default=2.0, help="seconds between the two")
    # What follows -- goes to coppice prune.
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options = parser.parse_args(sys.argv[1:at])

    weights = files_of(options.weights)
    inputs = weights + [file for gradients in options.gradients for file in files_of(gradients)]
    output = pathlib.Path("prune_files.output")
    prune = [options.program, "prune", options.weights, *sys.argv[at + 1 :], "-o", str(output)]
    for gradients in options.gradients:
        prune += ["--gradients", gradients]
    copy = ["sh", "-c", 'to=$1; shift; mkdir "$to"; cp --reflink=never "$@" "$to" && sync "$to"/*', "copy", str(output)]
    copy += map(str, weights)
    read = ["sh", "-c", 'cat "$@" > /dev/null', "read", *map(str, inputs)]

    def prepare():
        shutil.rmtree(output, ignore_errors=True)
        output.unlink(missing_ok=True)
        os.sync()
        (out_of_the_cache if options.cold else into_the_cache)(inputs)
        time.sleep(options.rest)

    pruned, copied, peak = [], [], 0.0
    for _ in range(options.turns):
        prepare()
        seconds, resident = timed(prune)
        pruned.append(seconds)
        peak = max(peak, resident)
        prepare()
        copied.append(timed(read)[0] + timed(copy)[0])
    shutil.rmtree(output, ignore_errors=True)
    ratios = [ours / theirs for ours, theirs in zip(pruned, copied)]
    print(
        json.dumps(
            {
                "cache": "cold" if options.cold else "warm",
                "gigabytes": round(sum(file.stat().st_size for file in inputs) / 1e9, 3),
                "prune_s": [round(s, 2) for s in pruned],
                "read_and_copy_s": [round(s, 2) for s in copied],
                "ratios": [round(r, 2) for r in ratios],
                "median_ratio": round(statistics.median(ratios), 2),
                "peak_resident_mib": round(peak, 1),
            }
        )
    )


if __name__ == "__main__":
    main()

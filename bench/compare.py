#!/usr/bin/env python3
"""Lets two programs take turns and prints the ratio of their medians.

Both must speak the protocol of bench/sampling.hpp: print {"ready": …}, then one {"seconds": …} for every line
that they read. Turns alternate, so that both see the same machine in the same minute; a pause between the turns
lets the worker pool of the side that just ran go to sleep.

    bench/compare.py --turns 15 --pause 0.5 --ours "build/bench/bench_training --work train" \
                     --peer "python lstm_torch.py --work train"
"""
import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time


class Side:
    def __init__(self, command):
        self.process = subprocess.Popen(shlex.split(command) + ["--interleave"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.facts = self.read("ready", command)
        self.command = command
        self.seconds = []

    def read(self, key, what):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"compare.py: '{what}' ended before it said '{key}'")
        return json.loads(line)[key]

    def turn(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.seconds.append(self.read("seconds", self.command))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between turns")
    options = parser.parse_args()
    sides = [Side(options.ours), Side(options.peer)]
    for _ in range(options.turns):
        for side in sides:
            time.sleep(options.pause)
            side.turn()
    ours, peer = (statistics.median(side.seconds) for side in sides)
    per_turn = sorted(b / a for a, b in zip(sides[0].seconds, sides[1].seconds))
    print(json.dumps({
        "ours": sides[0].facts, "peer": sides[1].facts, "turns": options.turns,
        "ours_median_s": round(ours, 6), "peer_median_s": round(peer, 6), "speedup": round(peer / ours, 3),
        "speedup_quartiles": [round(per_turn[len(per_turn) // 4], 3), round(per_turn[3 * len(per_turn) // 4], 3)],
    }))
    for side in sides:
        side.process.stdin.close()
        side.process.wait()


if __name__ == "__main__":
    main()

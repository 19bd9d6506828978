"""Answers lines with lines, as engine/bench/baselines.hpp says: for libraries that are reached from Python."""
import json
import resource
import sys
import time


def read_matrix(problem, key):
    import numpy
    width = problem["cols"]
    return numpy.fromfile(problem[key], dtype=numpy.float32).reshape(problem["rows"], width)


def input_of_product(problem):
    """x [B, cols]: x[b][c] = ((7 c + 13 b) mod 31 - 15) / 16."""
    import numpy
    c = numpy.arange(problem["cols"])[None, :]
    b = numpy.arange(problem["batch"])[:, None]
    return (((7 * c + 13 * b) % 31 - 15) / 16).astype(numpy.float32)


def serve(library, prepare):
    """`prepare(problem)` gives (version, run, probe): a call of `run` is one turn, `probe()` y's corners or []."""
    run, threads = None, 1

    def preemptions():
        return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw

    for line in sys.stdin:
        try:
            ask = json.loads(line)
            if "problem" in ask:
                threads = ask["problem"]["threads"]
                version, run, probe = prepare(ask["problem"])
                run()
                answer = {"ready": {"library": library, "version": version, "probe": probe()}}
            else:
                # One thread is timed by its CPU time, which another job's turns don't count into.
                now = time.thread_time if threads == 1 else time.perf_counter
                warm = now() + ask["warm_up_seconds"]
                run()
                for _ in range(1, ask["warm_up_calls"]):
                    if now() >= warm:
                        break
                    run()
                preempted = preemptions()
                start = now()
                for _ in range(ask["turn"]):
                    run()
                answer = {"seconds": now() - start, "polluted": preemptions() != preempted}
        except Exception as error:  # what can't be done is told, and the next question may be another one
            answer = {"absent": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)

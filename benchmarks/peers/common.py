# SPDX-License-Identifier: MIT
"""What the peers share that come as Python packages: names, inputs, the timing loop, the check, the JSON.

A peer program lists its entries, runs those that --filter finds, and writes what nibble-bench writes for its own: one
object for each entry with `run_name`, `GBps` (10^9 bytes per second: of stored weights, or of floats where these become
blocks or come from them), for products `GOPs` (10^9 operations, 2 M N K), and `label`. The roofs are nibble-bench's; compare
divides by them."""

import argparse
import json
import os
import re
import statistics
import sys
import time

SHAPES = [(4096, 4096), (11008, 4096), (1024, 3072), (3072, 1024)]  # N, K: shapes.hpp
BATCHES = [1, 5, 16, 128, 512]
PERIOD = 64  # rows of weights that differ; further rows repeat them, since timing does not look at values


def thread_counts():
    return [1, 2] if len(os.sched_getaffinity(0)) > 1 else [1]


def cold_bytes():
    """1.5 GiB of distinct weights, or a quarter of a smaller memory, as in nibble-bench."""
    return min(3 << 29, os.sysconf("SC_PHYS_PAGES") // 4 * os.sysconf("SC_PAGE_SIZE"))


class Case:
    """One entry: a format of the peer, a shape, and how it is run."""

    def __init__(self, kind, N, K, M, threads, cold):
        self.kind, self.N, self.K, self.M, self.threads, self.cold = kind, N, K, M, threads, cold
        self.name = f"gemm/{kind}/N:{N}/K:{K}/M:{M}/threads:{threads}/{'cold' if cold else 'warm'}"


class Codec:
    """One entry: rows of floats become blocks (topic "quantize") or come from them ("dequantize"), on one thread."""

    def __init__(self, topic, kind, N, K):
        self.topic, self.kind, self.N, self.K = topic, kind, N, K
        self.name = f"{topic}/{kind}/N:{N}/K:{K}/threads:1"


def cases(kinds):
    """All entries of the formats; those with equal weights are neighbours."""
    return [Case(kind, N, K, M, threads, cold)
            for kind in kinds for N, K in SHAPES for cold in (False, True) for M in BATCHES for threads in thread_counts()]


def weights(N, K):
    import numpy
    block = numpy.random.default_rng(1).normal(0.0, 0.02, (PERIOD, K)).astype(numpy.float32)
    return numpy.tile(block, (N // PERIOD, 1))


def tokens(M, K):
    import numpy
    return numpy.random.default_rng(2).normal(0.0, 1.0, (M, K)).astype(numpy.float32)


def relative_error(y, x, w):
    """Root mean square distance of y from the product of the floats, over the product's root mean square; a few rows."""
    import numpy
    rows = sorted({0, len(x) // 2, len(x) - 1})
    right = x[rows].astype(numpy.float64) @ w[:PERIOD].T.astype(numpy.float64)
    right = numpy.tile(right, (1, len(w) // PERIOD))
    return float(numpy.sqrt(((y[rows] - right) ** 2).sum() / (right**2).sum()))


def time_calls(call, min_time):
    """(wall seconds of the median call, mean processor seconds of a call): as many calls as min_time holds, but at least
    three, of which a second is enough. What checked the result has warmed up."""
    seconds, begun, cpu = [], time.perf_counter(), time.process_time()
    while (passed := time.perf_counter() - begun) < min_time or len(seconds) < 3 and passed < 1.0 or not seconds:
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds), (time.process_time() - cpu) / len(seconds)


def entry(case, times, products, weight_bytes, label):
    """The result of a case whose calls of so many products took `times`, as time_calls says."""
    seconds, cpu = (t / products for t in times)
    return {"run_name": case.name, "GBps": weight_bytes / seconds * 1e-9,
            "GOPs": 2.0 * case.M * case.N * case.K / seconds * 1e-9,
            "cpu_time": cpu * 1e9, "time_unit": "ns", "label": label}


def codec_entry(case, times, label):
    """The same for a codec, of which a call goes over all values."""
    seconds, cpu = times
    return {"run_name": case.name, "GBps": 4.0 * case.N * case.K / seconds * 1e-9, "cpu_time": cpu * 1e9,
            "time_unit": "ns", "label": label}


def failure(case, why):
    return {"run_name": case.name, "error_occurred": True, "error_message": why}


def main(description, entries, open_library):
    """The program of a peer with these entries, of Case and Codec. open_library() gives (context for the JSON,
    measure(case, min_time) -> entry); it raises
    ImportError or OSError where the package is not installed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--filter", default=".", help="regular expression: entries whose name it finds are run")
    parser.add_argument("--min-time", type=float, default=0.05, help="seconds for each entry (default: 0.05)")
    parser.add_argument("--out", help="file for the JSON (default: standard output)")
    parser.add_argument("--list", action="store_true", help="only print the names")
    options = parser.parse_args()
    wanted = [case for case in entries if re.search(options.filter, case.name)]
    if options.list:
        print("\n".join(case.name for case in wanted))
        return
    try:
        context, measure = open_library()
    except (ImportError, OSError, AttributeError) as error:
        context, wanted = {"absent": str(error)}, []
    found = []
    for case in wanted:
        found.append(measure(case, options.min_time))
        e = found[-1]
        operations = f" {e['GOPs']:.1f} GOP/s" if "GOPs" in e else ""
        print(case.name, e.get("error_message") or f"{e['GBps']:.2f} GB/s{operations} {e['label']}", file=sys.stderr)
    text = json.dumps({"context": context, "benchmarks": found}, indent=1)
    if options.out:
        with open(options.out, "w", encoding="utf-8") as f:
            f.write(text)
    else:
        print(text)

#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Markdown tables from the JSON of nibble-bench: results.py run.json [more.json ...]

Medians where a run has repetitions. Only the shape N:4096/K:4096 is shown."""

import json
import re
import sys

GEMM = re.compile(r"^gemm/(.+)/N:4096/K:4096/M:(\d+)/threads:(\d+)/(warm|cold)$")
CODEC = re.compile(r"^(quantize|quantize_mse_search|dequantize|pack|unpack)/(\w+)/N:4096/K:4096/threads:(\d+)$")


def load(paths):
    runs = {}
    for path in paths:
        with open(path, encoding="utf-8") as f:
            for entry in json.load(f)["benchmarks"]:
                if entry.get("aggregate_name", "median") == "median" and not entry.get("error_occurred"):
                    runs[entry["run_name"]] = entry
    return runs


def row(cells):
    print("| " + " | ".join(cells) + " |")


def table(head, rows):
    row(head)
    row(["---"] + ["--:"] * (len(head) - 1))
    for cells in rows:
        row(cells)
    print()


def gemm(runs):
    cells = {}
    for name, entry in runs.items():
        if match := GEMM.match(name):
            what, M, threads, place = match.groups()
            cells[what, int(M), int(threads), place] = entry
    batches = sorted({M for _, M, _, _ in cells if M > 1})
    for threads in sorted({key[2] for key in cells}):
        rows = []
        for what in dict.fromkeys(key[0] for key in cells):
            line = [f"`{what}`"]
            for place in ("cold", "warm"):
                e = cells.get((what, 1, threads, place))
                ms = 2 * 4096 * 4096 / e["GOPs"] * 1e-6 if e else 0
                line.append(f"{ms:.2f} ms, {e['GBps']:.1f} GB/s, {e['read_roof']:.2f}" if e else "")
            for M in batches:
                e = cells.get((what, M, threads, "warm"))
                line.append(f"{e['GOPs']:.0f}, {e['peak_roof']:.2f}" if e else "")
            if any(line[1:]):
                rows.append(line)
        print(f"4096 x 4096, {threads} thread{'s' if threads > 1 else ''}. M = 1: time, stored bytes per second, share of "
              "the read roof. M > 1, warm: GOP/s, share of the peak.\n")
        table(["", "M = 1 cold", "M = 1 warm"] + [f"M = {M}" for M in batches], rows)


def codecs(runs):
    cells = {}
    for name, entry in runs.items():
        if match := CODEC.match(name):
            topic, kind, threads = match.groups()
            cells[kind, f"{topic}, {threads} thread{'s' if threads != '1' else ''}"] = entry
    if not cells:
        return
    columns = list(dict.fromkeys(key[1] for key in cells))
    print("4096 x 4096, GB/s of floats (quantize, dequantize) or of packed bytes (pack, unpack).\n")
    table([""] + columns,
          [[f"`{kind}`"] + [f"{cells[kind, c]['GBps']:.2f}" if (kind, c) in cells else "" for c in columns]
           for kind in dict.fromkeys(key[0] for key in cells)])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    found = load(sys.argv[1:])
    gemm(found)
    codecs(found)

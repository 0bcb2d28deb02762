# SPDX-License-Identifier: MIT
"""From results of nibble-bench and of its peers to tables and plots: what compare prints."""

import json
import os
import re
import statistics
import subprocess

GEMM = re.compile(r"^gemm/(?P<kind>.+)/N:(?P<N>\d+)/K:(?P<K>\d+)/M:(?P<M>\d+)/threads:(?P<threads>\d+)/(?P<place>warm|cold)$")
CODEC = re.compile(r"^(quantize|quantize_mse_search|quantize_least_error|dequantize|pack|unpack)/(\w+)/N:(4096|64)/K:4096/threads:(\d+)$")
MATRIX = re.compile(r"^matrix/w(\d)([a-z]?)_(\w+)/(\w+)/.*/M:(1|512)/threads:1/(?:cold|warm)$")
READ = re.compile(r"^roof/read/(?:KiB:(\d+)|memory)/threads:(\d+)$")
PEAK = re.compile(r"^roof/peak/(float|bfloat16|bytes/bits:\d+)/threads:(\d+)$")
PEER = re.compile(r"^(eigen|openblas|onednn|gemmlowp|xnnpack|llama|onnxruntime)_")
IMAGES = ("/one_plane", "/two_planes")  # integer images of codebooks
COUNTERS = ("GBps", "GOPs", "read_roof", "peak_roof", "cpu_time")


def load(path):
    """(context, entries by name) of one JSON file. Of a run with repetitions the medians; errors are left out."""
    with open(path, encoding="utf-8") as f:
        run = json.load(f)
    entries = {e["run_name"]: e for e in run["benchmarks"]
               if e.get("aggregate_name", "median") == "median" and not e.get("error_occurred")}
    return run["context"], entries


def medians(rounds):
    """One entry for each name, from several runs: the median of each counter."""
    found = {}
    for name in dict.fromkeys(name for entries in rounds for name in entries):
        all_of = [entries[name] for entries in rounds if name in entries]
        entry = {"run_name": name, "label": all_of[0].get("label", ""), "rounds": len(all_of)}
        for counter in COUNTERS:
            values = [e[counter] for e in all_of if counter in e]
            if values:
                entry[counter] = statistics.median(values)
        found[name] = entry
    return found


class Product:
    """A result of a matrix product, with what its name says."""

    def __init__(self, name, entry):
        parts = GEMM.match(name).groupdict()
        self.kind, self.place = parts["kind"], parts["place"]
        self.N, self.K, self.M, self.threads = (int(parts[key]) for key in ("N", "K", "M", "threads"))
        self.GBps, self.GOPs = entry["GBps"], entry["GOPs"]
        self.read_roof, self.peak_roof = entry.get("read_roof"), entry.get("peak_roof")
        self.cpu_time, self.label = entry.get("cpu_time"), entry.get("label", "")

    @property
    def seconds(self):
        return 2e-9 * self.M * self.N * self.K / self.GOPs

    @property
    def case(self):
        return self.N, self.K, self.M, self.threads, self.place

    @property
    def is_peer(self):
        return PEER.match(self.kind) is not None

    @property
    def bits(self):
        return bits_of(self.kind)

    def slower(self, factor):
        """Takes `factor` times as long."""
        self.GBps /= factor
        self.GOPs /= factor
        if self.read_roof:
            self.read_roof /= factor
        if self.peak_roof:
            self.peak_roof /= factor


def bits_of(kind):
    """Bits of a code: of w4_g128, llama_q4_K, llama_iq4_nl, onednn_s8_channel, eigen_f32, nf4_g64, lloyd2_g128, ..."""
    found = re.search(r"(?:^|_)(?:bf|fp|nf|iq|lloyd|[wqsuf])(\d+)", kind)
    return int(found.group(1)) if found else None


def products(entries):
    return [Product(name, entry) for name, entry in entries.items() if GEMM.match(name)]


def by_processor_time(all_products):
    """Times that a neighbour cannot take: those of the processor, for products on one thread; the others are left out."""
    kept = [p for p in all_products if p.threads == 1 and p.cpu_time]
    for p in kept:
        p.slower(p.cpu_time * 1e-9 / p.seconds)
    return kept


class Roofs:
    """The roofs that nibble-bench measured, for results from elsewhere."""

    def __init__(self, entries):
        self.read, self.memory, self.peak = {}, {}, {}
        for name, entry in entries.items():
            if match := READ.match(name):
                kib, threads = match.groups()
                if kib:
                    self.read.setdefault(int(threads), {})[int(kib) * 1024] = entry["GBps"]
                else:
                    self.memory[int(threads)] = entry["GBps"]
            elif match := PEAK.match(name):
                self.peak[match.group(1), int(match.group(2))] = entry["GOPs"]

    def read_of(self, size, threads):
        """GB/s of a buffer of so many bytes: that of the nearest size that was measured, by ratio."""
        measured = self.read.get(threads)
        return measured[min(measured, key=lambda s: max(s / size, size / s))] if measured else None

    def peak_of(self, kind, threads):
        if kind.endswith(IMAGES):  # multiplied as codes of 8 or 7 bits
            return self.peak.get(("bytes/bits:8", threads))
        if kind.endswith("/bfloat16"):
            return self.peak.get(("bfloat16", threads))
        if not kind.endswith("/integer"):
            return self.peak.get(("float", threads))
        return self.peak.get((f"bytes/bits:{5 if (bits_of(kind) or 8) <= 5 else 8}", threads))

    def complete(self, all_products):
        """Gives results their shares of the roofs where they have none of their own."""
        for p in all_products:
            if p.read_roof is None:
                size = p.GBps * p.seconds * 1e9
                roof = self.memory.get(p.threads) if p.place == "cold" else self.read_of(size, p.threads)
                p.read_roof = p.GBps / roof if roof else None
            if p.peak_roof is None:
                peak = self.peak_of(p.kind, p.threads)
                p.peak_roof = p.GOPs / peak if peak else None


def best_peers(all_products):
    """The fastest peer for each case and number of bits."""
    best = {}
    for p in all_products:
        key = p.case, p.bits
        if p.is_peer and p.bits is not None and (key not in best or p.seconds < best[key].seconds):
            best[key] = p
    return best


def table(head, rows):
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---"] + ["--:"] * (len(head) - 1)] + rows
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines) + "\n"


def number(value, digits=2):
    return "" if value is None else f"{value:.{digits}f}"


def plural(threads):
    return f"{threads} thread{'s' if threads != 1 else ''}"


def summary(all_products):
    """For each shape and number of threads one table: M = 1 and the batches, side by side."""
    text = ""
    for N, K, threads in sorted({(p.N, p.K, p.threads) for p in all_products}):
        cells = {(p.kind, p.M, p.place): p for p in all_products if (p.N, p.K, p.threads) == (N, K, threads)}
        columns = sorted({(M, place) for _, M, place in cells}, key=lambda c: (c[0], c[1] == "warm"))
        rows = []
        for kind in dict.fromkeys(key[0] for key in cells):
            row = [f"`{kind}`"]
            for M, place in columns:
                p = cells.get((kind, M, place))
                if p is None:
                    row.append("")
                elif M == 1:
                    row.append(f"{p.seconds * 1e3:.2f} ms, {p.GBps:.1f} GB/s, {number(p.read_roof)}")
                else:
                    row.append(f"{p.GOPs:.0f}, {number(p.peak_roof)}")
            rows.append(row)
        text += (f"{N} x {K}, {plural(threads)}. M = 1: time, stored bytes per second, share of the read roof. M > 1: GOP/s, "
                 "share of the peak.\n\n")
        text += table([""] + [f"M = {M} {place}" for M, place in columns], rows)
    return text


def ratios(all_products):
    """Time of the best peer of equal bits over nibble's: above 1 nibble is the faster."""
    best, text = best_peers(all_products), ""
    own = [p for p in all_products if not p.is_peer and (p.case, p.bits) in best]
    for N, K, threads in sorted({(p.N, p.K, p.threads) for p in own}):
        cells = {(p.kind, p.M, p.place): p for p in own if (p.N, p.K, p.threads) == (N, K, threads)}
        columns = sorted({(M, place) for _, M, place in cells}, key=lambda c: (c[0], c[1] == "warm"))
        rows = []
        for kind in dict.fromkeys(key[0] for key in cells):
            row = [f"`{kind}`"]
            for M, place in columns:
                p = cells.get((kind, M, place))
                peer = best[p.case, p.bits] if p else None
                row.append(f"{peer.seconds / p.seconds:.2f} ({peer.kind.split('/')[0]})" if p else "")
            rows.append(row)
        text += f"{N} x {K}, {plural(threads)}: times as fast as the best peer of equal bits, and who that is.\n\n"
        text += table([""] + [f"M = {M} {place}" for M, place in columns], rows)
    return text


def everything(all_products):
    """One row for each result."""
    best, rows = best_peers(all_products), []
    for p in sorted(all_products, key=lambda p: (p.N, p.K, p.M, p.place, p.threads)):
        peer = best.get((p.case, p.bits))
        rows.append([f"`{p.kind}`", f"{p.N} x {p.K}", str(p.M), str(p.threads), p.place, f"{p.seconds * 1e3:.3f}",
                     number(p.GBps), number(p.GOPs, 1), number(p.read_roof), number(p.peak_roof),
                     number(peer.seconds / p.seconds) if peer else ""])
    return table(["", "N x K", "M", "threads", "weights", "ms", "GB/s", "GOP/s", "read roof", "peak roof",
                  "best peer's time / this"], rows)


RULES = {"": "symmetric", "m": "mid-rise", "a": "asymmetric", "o": "float offset", "c": "codebook"}
COMPUTED = {"integer": "", "weight_only": ", float", "one_plane": ", one plane", "two_planes": ", two planes"}


def formats(entries):
    """Every width x rule x group: share of the read roof at M = 1, of the peak at M = 512; empty when there is none."""
    cells = {}
    for name, entry in entries.items():
        if match := MATRIX.match(name):
            bits, rule, group, computed, M = match.groups()
            cells.setdefault(((bits, rule, computed), group), {})[M] = entry
    if not cells:
        return ""
    groups = list(dict.fromkeys(group for _, group in cells))
    rows = []
    for kind in dict.fromkeys(kind for kind, _ in cells):
        row = [f"{kind[0]}, {RULES[kind[1]]}{COMPUTED[kind[2]]}"]
        for group in groups:
            found = cells.get((kind, group), {})
            row.append(" / ".join(number(found[M].get(counter)) if M in found else "-"
                                  for M, counter in (("1", "read_roof"), ("512", "peak_roof"))))
        rows.append(row)
    return ("4096 x 4096, 1 thread, bits and rule by group: share of the read roof at M = 1 cold / share of the peak at "
            "M = 512.\n\n" + table([""] + groups, rows))


def codecs(entries):
    """Quantize, dequantize, pack, unpack, and blocks beside ggml's; empty when there is none."""
    cells, few = {}, {}
    for name, entry in entries.items():
        if match := CODEC.match(name):
            topic, kind, N, threads = match.groups()
            (cells if N == "4096" else few)[kind, f"{topic}, {plural(int(threads))}"] = entry["GBps"]
    text = ""
    if cells:
        columns = list(dict.fromkeys(key[1] for key in cells))
        rows = [[f"`{kind}`"] + [number(cells.get((kind, c))) for c in columns]
                for kind in dict.fromkeys(key[0] for key in cells)]
        text = ("4096 x 4096, GB/s of floats (quantize, dequantize) or of packed bytes (pack, unpack).\n\n"
                + table([""] + columns, rows))
    topics = [f"{topic}, {plural(1)}" for topic in ("quantize", "dequantize")]
    rows = []
    for kind in dict.fromkeys(key[0] for key in few):
        row = [f"`{kind}`"]
        for t in topics:
            own, peer = few.get((kind, t)), few.get((f"llama_{kind}", t))
            row += [number(own), number(peer), number(own / peer if own and peer else None, 1)]
        if any(row[3::3]):
            rows.append(row)
    if rows:
        head = [""] + [cell for t in topics for cell in (f"{t}, GB/s", "ggml", "times as fast")]
        text += "64 x 4096, GB/s of floats, and times as fast as ggml with the same blocks.\n\n" + table(head, rows)
    return text


def gnuplot(script):
    subprocess.run(["gnuplot"], input=script, text=True, check=True)


def quoted(text):
    return '"' + text.replace("_", "\\\\_") + '"'


def plots(all_products, roofs, folder):
    """GOP/s over M with the roofline, for 4 and 8 bits, and GB/s by format at M = 1; the paths of what was drawn."""
    drawn = []
    for N, K, threads in sorted({(p.N, p.K, p.threads) for p in all_products}):
        here = [p for p in all_products if (p.N, p.K, p.threads) == (N, K, threads)]
        title, name = f"{N} x {K}, {plural(threads)}", f"{N}x{K}-threads{threads}"
        for bits in (4, 8):
            script = over_batches([p for p in here if p.place == "warm" and p.bits == bits], roofs, bits)
            if script:
                drawn.append(os.path.join(folder, f"gops-{bits}bit-{name}.svg"))
                gnuplot(f'set terminal svg size 1000,640 background "white"\nset output "{drawn[-1]}"\n'
                        f'set title "{title}, {bits} bits, warm"\n' + script)
        kinds = list(dict.fromkeys(p.kind for p in here if p.M == 1))
        if kinds:
            drawn.append(os.path.join(folder, f"gbps-{name}.svg"))
            gnuplot(f'set terminal svg size {260 + 26 * len(kinds)},600 background "white"\nset output "{drawn[-1]}"\n'
                    f'set title "{title}, M = 1"\n' + by_format([p for p in here if p.M == 1], kinds, roofs.memory.get(threads)))
    return drawn


def over_batches(some, roofs, bits):
    """The commands for one line of GOP/s over M for each format of so many bits; empty when there is no line to draw."""
    lines = {kind: sorted((p.M, p.GOPs) for p in some if p.kind == kind) for kind in dict.fromkeys(p.kind for p in some)}
    lines = {kind: points for kind, points in lines.items() if len(points) > 1}
    if not lines:
        return ""
    data, drawings = "", []
    for i, (kind, points) in enumerate(lines.items()):
        data += f"$d{i} << end\n" + "".join(f"{M} {gops}\n" for M, gops in points) + "end\n"
        drawings.append(f"$d{i} using 1:2 with linespoints dashtype {2 if PEER.match(kind) else 1} title {quoted(kind)}")
    first = some[0]
    size = first.N * first.K * bits / 8  # bytes of the codes
    read, peak = roofs.read_of(size, first.threads), roofs.peak_of(f"w{bits}/integer", first.threads)
    if read and peak:  # each reading of the matrix serves 2 M N K operations
        slope = 2 * first.N * first.K / size * read
        drawings.append(f'(x * {slope} < {peak} ? x * {slope} : {peak}) with lines linecolor "black" linewidth 2 '
                        f'title "roofline, {bits} bits"')
    if flop := roofs.peak.get(("float", first.threads)):
        drawings.append(f'{flop} with lines linecolor "gray" linewidth 2 title "float peak"')
    top = max(M for points in lines.values() for M, _ in points)
    return (f'set logscale xy\nset xlabel "M"\nset ylabel "GOP/s"\nset key outside right\nset xrange [1:{top}]\n{data}'
            "plot " + ", ".join(drawings) + "\n")


def by_format(single, kinds, memory):
    """The commands for two bars, cold and warm, for each format at M = 1."""
    rates = {(p.kind, p.place): p.GBps for p in single}
    data = "".join(f"{quoted(kind)} {rates.get((kind, 'cold'), 0)} {rates.get((kind, 'warm'), 0)}\n" for kind in kinds)
    drawings = ['$d using 2:xtic(1) title "cold"', '$d using 3 title "warm"']
    if memory:
        drawings.append(f'{memory} with lines linecolor "black" title "read from memory"')
    return ('set style data histograms\nset style fill solid 0.8\nset xtics rotate by 60 right\nset yrange [0:*]\n'
            f'set ylabel "GB/s of stored weights"\n$d << end\n{data}end\nplot ' + ", ".join(drawings) + "\n")

# SPDX-License-Identifier: MIT
"""What benchmarks/compare makes of results: python3 tests/benchmarks/tables.py"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path[:0] = [os.path.join(root, "benchmarks"), os.path.join(root, "benchmarks", "peers")]
import common
import llama
import onnx_runtime
import tables


def name(kind, M=1, threads=1, place="warm"):
    return f"gemm/{kind}/N:4096/K:4096/M:{M}/threads:{threads}/{place}"


def product(kind, GOPs, M=1, threads=1, place="warm", **counters):
    return tables.Product(name(kind, M, threads, place), {"GBps": 1.0, "GOPs": GOPs, **counters})


class Tables(unittest.TestCase):
    def test_bits_are_read_from_the_names_of_nibble_and_of_every_peer(self):
        for kind, bits in (("w4_g128/integer", 4), ("w8_channel/weight_only", 8), ("w2o_g128/integer", 2), ("nf4_g64", 4),
                           ("lloyd3_channel", 3), ("eigen_f32", 32), ("onednn_bf16", 16), ("onednn_s8_channel/integer", 8),
                           ("gemmlowp_u8_channel/integer", 8), ("llama_q4_K_packed/integer", 4), ("llama_iq4_nl/integer", 4),
                           ("onnxruntime_w8_g32/integer", 8)):
            with self.subTest(kind):
                self.assertEqual(tables.bits_of(kind), bits)

    def test_every_peer_from_python_is_known_as_one(self):
        for kind in llama.KINDS + onnx_runtime.KINDS:
            with self.subTest(kind):
                self.assertTrue(product(kind, 1.0).is_peer)
        self.assertFalse(product("w4_g128/integer", 1.0).is_peer)

    def test_names_of_python_peers_are_those_of_nibble_bench(self):
        case = common.Case("llama_q4_0/integer", 4096, 4096, 5, 2, True)
        self.assertEqual(case.name, name("llama_q4_0/integer", 5, 2, "cold"))

    def test_shapes_and_batches_are_those_of_nibble_bench(self):
        with open(os.path.join(root, "benchmarks", "shapes.hpp"), encoding="utf-8") as f:
            header = f.read()
        self.assertIn("{" + ", ".join(map(str, common.BATCHES)) + "}", header)
        self.assertIn("{" + ", ".join(f"shape{{{N}, {K}}}" for N, K in common.SHAPES) + "}", header)

    def test_table_of_formats_has_both_shares_in_the_cell_of_width_rule_and_group(self):
        entries = {"matrix/w4a_g32/integer/N:4096/K:4096/M:1/threads:1/cold": {"read_roof": 0.7, "peak_roof": 0.1},
                   "matrix/w4a_g32/integer/N:4096/K:4096/M:512/threads:1/warm": {"read_roof": 0.2, "peak_roof": 0.5},
                   "matrix/w2c_tensor/weight_only/N:4096/K:4096/M:1/threads:1/cold": {"read_roof": 0.3},
                   "matrix/w2c_tensor/two_planes/N:4096/K:4096/M:1/threads:1/cold": {"read_roof": 0.4}}
        text = tables.formats(entries)
        self.assertIn("|  | g32 | tensor |", text)
        self.assertIn("| 4, asymmetric | 0.70 / 0.50 | - / - |", text)
        self.assertIn("| 2, codebook, float | - / - | 0.30 / - |", text)
        self.assertIn("| 2, codebook, two planes | - / - | 0.40 / - |", text)
        self.assertEqual(tables.formats({name("w4_g128/integer"): {}}), "")

    def test_block_formats_stand_beside_those_of_ggml(self):
        entries = {"quantize/Q4_K/N:4096/K:4096/threads:1": {"GBps": 0.5}, llama.CODECS[0].name: {"GBps": 1.0},
                   "quantize/Q4_K/N:64/K:4096/threads:1": {"GBps": 0.6},
                   "quantize/llama_Q4_K/N:64/K:4096/threads:1": {"GBps": 0.05},
                   "quantize/w4_g128/N:4096/K:4096/threads:1": {"GBps": 5.0}}
        text = tables.codecs(entries).split("64 x 4096")
        self.assertIn("| `w4_g128` | 5.00 |", text[0])
        self.assertIn("| `Q4_K` | 0.50 |", text[0])
        self.assertIn("| `Q4_K` | 0.60 | 0.05 | 12.0 |  |  |  |", text[1])
        self.assertNotIn("w4_g128", text[1])
        self.assertNotIn("64 x 4096", tables.codecs({"quantize/w4_g128/N:4096/K:4096/threads:1": {"GBps": 5.0}}))

    def test_codecs_of_ggml_are_the_types_that_nibble_writes(self):
        with open(os.path.join(root, "include", "nibble", "quant", "ggml_type.hpp"), encoding="utf-8") as f:
            header = f.read()
        for case in llama.CODECS:
            with self.subTest(case.name):
                self.assertRegex(case.name, tables.CODEC)
                self.assertIn(f'"{case.kind.removeprefix("llama_")}"', header)

    def test_time_comes_from_operations(self):
        self.assertAlmostEqual(product("w4_g128", 2 * 4096 * 4096 * 1e-9, M=1).seconds, 1.0)

    def test_median_of_the_rounds_is_taken_for_each_counter(self):
        rounds = [{"a": {"GBps": b, "GOPs": o}} for b, o in ((1, 9), (5, 7), (2, 8))]
        self.assertEqual((tables.medians(rounds)["a"]["GBps"], tables.medians(rounds)["a"]["GOPs"]), (2, 8))

    def test_an_entry_that_fails_in_one_round_keeps_its_others(self):
        found = tables.medians([{"a": {"GBps": 1}}, {}, {"a": {"GBps": 3}}])
        self.assertEqual((found["a"]["GBps"], found["a"]["rounds"]), (2, 2))

    def test_errors_and_means_of_a_run_are_not_results(self):
        run = {"context": {}, "benchmarks": [
            {"run_name": "a", "GBps": 1, "aggregate_name": "mean"}, {"run_name": "a", "GBps": 2, "aggregate_name": "median"},
            {"run_name": "b", "error_occurred": True, "error_message": "wrong product"}]}
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "run.json")
            with open(path, "w", encoding="utf-8") as f:
                json.dump(run, f)
            _, entries = tables.load(path)
        self.assertEqual({key: e["GBps"] for key, e in entries.items()}, {"a": 2})

    def test_ratio_is_to_the_fastest_peer_of_equal_bits_and_case(self):
        text = tables.ratios([product("w4_g128/integer", 30.0), product("llama_q4_0/integer", 10.0),
                              product("onnxruntime_w4_g32/integer", 20.0), product("llama_q8_0/integer", 50.0),
                              product("llama_q4_K/integer", 60.0, M=5)])
        self.assertIn("| `w4_g128/integer` | 1.50 (onnxruntime_w4_g32) |", text)

    def test_there_is_no_ratio_without_a_peer_of_equal_bits(self):
        self.assertEqual(tables.ratios([product("w7_g128/integer", 30.0), product("llama_q4_0/integer", 10.0)]), "")

    def test_a_result_from_elsewhere_gets_its_shares_of_the_roofs(self):
        roofs = tables.Roofs({"roof/read/KiB:8192/threads:1": {"GBps": 40.0}, "roof/read/KiB:16384/threads:1": {"GBps": 30.0},
                              "roof/read/memory/threads:1": {"GBps": 20.0}, "roof/peak/float/threads:1": {"GOPs": 100.0},
                              "roof/peak/bfloat16/threads:1": {"GOPs": 150.0},
                              "roof/peak/bytes/bits:5/threads:1": {"GOPs": 300.0},
                              "roof/peak/bytes/bits:8/threads:1": {"GOPs": 200.0}})
        size = 9.4e6  # nearest by ratio: 8 MiB
        warm = product("llama_q4_0/integer", 2 * 4096 * 4096 * 1e-6)
        warm.GBps = size * 1e-6
        cold = product("llama_q8_0/integer", 50.0, place="cold")
        floats = product("onnxruntime_w4_g32/weight_only", 50.0)
        rounded = product("w4_g128/bfloat16", 50.0)
        roofs.complete([warm, cold, floats, rounded])
        self.assertAlmostEqual(warm.read_roof, warm.GBps / 40.0)
        self.assertAlmostEqual(warm.peak_roof, warm.GOPs / 300.0)
        self.assertAlmostEqual(cold.read_roof, 1.0 / 20.0)
        self.assertAlmostEqual(cold.peak_roof, 50.0 / 200.0)
        self.assertAlmostEqual(floats.peak_roof, 50.0 / 100.0)
        self.assertAlmostEqual(rounded.peak_roof, 50.0 / 150.0)

    def test_shares_that_nibble_bench_measured_are_kept(self):
        p = product("w4_g128/integer", 30.0, read_roof=0.5, peak_roof=0.25)
        tables.Roofs({"roof/peak/bytes/bits:5/threads:1": {"GOPs": 300.0}}).complete([p])
        self.assertEqual((p.read_roof, p.peak_roof), (0.5, 0.25))

    def test_processor_time_replaces_the_clock_on_one_thread_only(self):
        one = product("w4_g128", 2 * 4096 * 4096 * 1e-6, cpu_time=5e5, peak_roof=0.2)  # 1 ms by the clock, half of it ours
        two = product("w4_g128", 1.0, threads=2, cpu_time=5e5)
        self.assertEqual(tables.by_processor_time([one, two]), [one])
        self.assertAlmostEqual(one.seconds, 5e-4)
        self.assertAlmostEqual(one.peak_roof, 0.4)

    def test_tables_have_as_many_cells_in_every_row(self):
        some = [product("w4_g128", 30.0), product("w4_g128", 90.0, M=16), product("eigen_f32", 10.0, place="cold")]
        for text in (tables.summary(some), tables.everything(some)):
            rows = [line for line in text.splitlines() if line.startswith("|")]
            self.assertEqual(len({line.count("|") for line in rows}), 1, text)

    @unittest.skipUnless(shutil.which("gnuplot"), "gnuplot is not installed")
    def test_plots_are_drawn_with_and_without_roofs(self):
        some = [product(kind, 30.0 + M, M=M) for kind in ("w4_g128/integer", "llama_q4_0/integer") for M in (1, 16)]
        for entries in ({}, {"roof/read/KiB:8192/threads:1": {"GBps": 40.0}, "roof/read/memory/threads:1": {"GBps": 20.0},
                             "roof/peak/bytes/bits:5/threads:1": {"GOPs": 300.0}}):
            with tempfile.TemporaryDirectory() as folder:
                drawn = tables.plots(some, tables.Roofs(entries), folder)
                self.assertEqual([os.path.basename(path) for path in drawn],
                                 ["gops-4bit-4096x4096-threads1.svg", "gbps-4096x4096-threads1.svg"])
                for path in drawn:
                    self.assertGreater(os.path.getsize(path), 1000)


class Compare(unittest.TestCase):
    """The program itself, with a stand-in for nibble-bench that writes another number in each round."""

    def program(self, text):
        path = os.path.join(self.folder.name, f"program{len(os.listdir(self.folder.name))}")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(path, 0o755)
        return path

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.out = os.path.join(self.folder.name, "out")
        self.bench = self.program(f"""#!/bin/sh
for a; do case $a in --benchmark_out=*) file=${{a#*=}} ;; esac; done
echo x >> {self.folder.name}/rounds
n=$(grep -c x {self.folder.name}/rounds)
echo '{{"context": {{"peer eigen_f32": "absent: a test"}}, "benchmarks": [{{"run_name": "{name("w4_g128/integer")}",
"GBps": '$n', "GOPs": '$n', "read_roof": 0.5, "peak_roof": 0.25, "label": "avx2"}}]}}' > $file
""")
        self.python = self.program(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # finds no package but Python's own

    def compare(self, *arguments):
        return subprocess.run([sys.executable, "-B", os.path.join(root, "benchmarks", "compare"), "--out", self.out,
                               "--bench", self.bench, "--python", self.python, *arguments],
                              capture_output=True, text=True, check=False)

    def tables(self):
        with open(os.path.join(self.out, "tables.md"), encoding="utf-8") as f:
            return f.read()

    def test_a_run_without_any_peer_names_them_as_absent(self):
        done = self.compare("--rounds", "1")
        self.assertEqual(done.returncode, 0, done.stderr)
        for peer in ("eigen_f32: absent: a test", "llama.cpp: absent: ", "ONNX Runtime: absent: "):
            self.assertIn(f"peer {peer}", self.tables())

    def test_results_are_medians_over_the_rounds(self):
        self.assertEqual(self.compare("--rounds", "3").returncode, 0)
        with open(os.path.join(self.out, "results.json"), encoding="utf-8") as f:
            run = json.load(f)
        self.assertEqual((run["context"]["rounds"], run["benchmarks"][0]["GOPs"]), (3, 2))

    def test_a_round_that_would_end_too_late_is_not_begun(self):
        done = self.compare("--rounds", "3", "--minutes", "0")
        self.assertIn("stopped after 1 rounds", done.stdout)

    def test_results_that_are_there_are_shown_again(self):
        self.compare("--rounds", "1")
        before = self.tables()
        done = self.compare("--from", os.path.join(self.out, "results.json"))
        self.assertEqual((done.returncode, self.tables()), (0, before))

    def test_nibble_bench_that_fails_is_an_error_with_its_last_line(self):
        self.bench = self.program("#!/bin/sh\necho broken >&2\nexit 3\n")
        done = self.compare()
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("nibble-bench failed: broken", done.stderr)


if __name__ == "__main__":
    unittest.main()

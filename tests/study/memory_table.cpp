// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <string>

#include <nibble/study/memory_table.hpp>

using namespace nibble;
using namespace nibble::study;

TEST_CASE("memory_table: parameter counts of the presets") {
  CHECK(parameters_of(preset::qwen3_0_6b(true)) == 596'049'920);
  CHECK(parameters_of(preset::qwen3_0_6b(false)) == 751'632'384);
  CHECK(parameters_of(preset::pythia_2_8b()) == 2'775'208'960);
  CHECK(parameters_of(preset::llama_7b(49'954)) == 6'885'494'784);
  CHECK(parameters_of(preset::llama_7b()) == 6'738'415'616);
  CHECK(parameters_of(preset::llama_13b()) == 13'015'864'320);
}

TEST_CASE("memory_table: the KV cache of 2048 and 2056 tokens of a 7B LLaMA") {
  CHECK(kv_cache_bytes(preset::llama_7b(), 2048, 2) == std::uint64_t{1024} << 20);
  CHECK(kv_cache_bytes(preset::llama_7b(), 2056, 1) == std::uint64_t{514} << 20);
}

TEST_CASE("memory_table: block formats take the bytes of their definition, tails rounded up") {
  CHECK(storage::q4_k.bytes(1, 512) == 288);
  CHECK(storage::nf4_double_quant.bytes(1, 64 * 256) == 64 * 256 / 2 + 256 + 4);
  CHECK(storage::int2_row.bytes(3, 5) == 4 + 12);
}

TEST_CASE("memory_table: the tensors of the q4_k_m file take 516,688,896 bytes") {
  CHECK(r0_q4_k_m_plan(true).total_bytes() == 516'688'896.0);
}

TEST_CASE("memory_table: every cell has its verdict, and 22337 stays a 16 MiB miss") {
  std::map<std::string, finding> rows;
  for (const finding& f : memory_findings()) rows.emplace(f.name, f);
  for (const auto& row : rows) {
    const std::string& name = row.first;  // clang 14 cannot capture a structured binding
    const verdict v = row.second.result();
    CAPTURE(name);
    if (name.starts_with("R4")) CHECK((v == verdict::reproduced) == (name != "R4 batch 8 KV fp16"));
    if (name.starts_with("R1")) CHECK((v == verdict::reproduced) == (name.find("plain") == std::string::npos));
  }
  CHECK(rows.at("R4 batch 8 KV fp16").result() == verdict::differs);
  CHECK(std::fabs(*rows.at("R4 batch 8 KV fp16").difference() - 16.0) < 0.1);
  CHECK(rows.at("R0 q8_0 file").result() == verdict::reproduced);
  CHECK(rows.at("R0 q4_k_m tensors").result() == verdict::reproduced);
  CHECK(rows.at("R3 LLaMA-13B FP16").result() == verdict::reproduced);
  CHECK(rows.at("R2 nominal 7B INT2").result() == verdict::contradicted);
}

TEST_CASE("memory_table: fitted constants are labelled wherever they enter") {
  for (const finding& f : memory_findings()) {
    CAPTURE(f.name);
    if (f.name.starts_with("R4") || f.name.starts_with("R1") || f.name == "R0 q8_0 file")
      CHECK(f.basis.find("(fitted)") != std::string::npos);
  }
}

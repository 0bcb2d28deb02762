// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <nibble/core/round.hpp>
#include <nibble/study/r2_exact.hpp>

using namespace nibble;
using namespace nibble::study;

TEST_CASE("r2_exact: the generator gives binary16 values bounded by 3.905") {
  std::vector<float> x(4096);
  r2_generator().fill(x);
  float largest = 0.0f;
  for (const float v : x) {
    CHECK_MESSAGE(to_float(to_half(v)) == v, v);
    largest = std::max(largest, std::fabs(v));
  }
  CHECK(largest <= r2_generator::largest());
  CHECK(r2_generator::largest() == doctest::Approx(3.905).epsilon(3e-4));
  CHECK_THROWS_AS(r2_generator().fill(std::span(x).first(24)), error);
}

TEST_CASE("r2_exact: INT2 and INT8 accuracies of the three chains agree with the reported digits") {
  for (const r2_reported& r : r2_reports) {
    CAPTURE(r.name);
    const r2_measurement m2 = measure_r2<2>(r.h), m8 = measure_r2<8>(r.h);
    CHECK(std::fabs(m2.accuracy - r.accuracy2) <= 2e-5);
    CHECK(std::fabs(m8.accuracy - r.accuracy8) <= 2e-6);
    CHECK(std::fabs(m2.weight_cosine - r.weight_cosine2) <= 6e-5);
  }
}

TEST_CASE("r2_exact: the seventh digit of the emulated accuracies") {
  CHECK(measure_r2<2>(32).accuracy == doctest::Approx(.9142245).epsilon(1e-7));
  CHECK(measure_r2<2>(128).accuracy == doctest::Approx(.8713271).epsilon(1e-7));
  CHECK(measure_r2<2>(512).accuracy == doctest::Approx(.8357186).epsilon(1e-7));
}

TEST_CASE("r2_exact: nibble::quantize equals the report's quantizer, element by element") {
  for (const r2_layer& layer : r2_chain(32)) {
    const auto q = quantize<r2_format<2>>(make_span2d(layer.weight.data(), layer.out, layer.in));
    for (std::size_t n = 0; n < layer.out; ++n) {
      float greatest = 0.0f;
      for (std::size_t k = 0; k < layer.in; ++k)
        greatest = std::max(greatest, std::fabs(layer.weight[n * layer.in + k]));
      for (std::size_t k = 0; k < layer.in; ++k) {
        const float x = layer.weight[n * layer.in + k];
        const int code = std::clamp(round_half_even(x / greatest), -2, 1);
        CHECK(decode_at(q.view(), n, k) == greatest * static_cast<float>(code));
      }
    }
  }
}

TEST_CASE("r2_exact: the ledger of packed codes") {
  const r2_measurement m = measure_r2<2>(512);
  CHECK(m.ledger.matrices.payload == 2'752'512 / 4);
  CHECK(m.ledger.matrices.scales == 3584 * 4);
}

TEST_CASE("r2_exact: 8.12x is contradicted as packing, and the accuracies flip when perturbed") {
  study_table t = r2_exact_table();
  CHECK(t.id == "r2_exact");
  bool found = false;
  for (finding& f : t.rows) {
    CAPTURE(f.name);
    if (f.name == "INT2 ratio 8.12x as packing") {
      found = true;
      CHECK(f.result() == verdict::contradicted);
    }
    if (f.name.starts_with("INT2 accuracy,") || f.name.starts_with("INT8 accuracy,")) {
      CHECK(f.result() == verdict::reproduced);
      f.ours = *f.ours + 3.0 * f.tolerance;
      CHECK(f.result() == verdict::differs);
    }
  }
  CHECK(found);
}

TEST_CASE("r2_exact: the LZ model counts tokens, offsets and literals") {
  CHECK(lz_bytes(std::vector<std::uint8_t>{}, 1) == 1);        // an empty last token
  CHECK(lz_bytes(std::vector<std::uint8_t>(10, 7), 1) == 11);  // too short for a match: token and literals
  // One literal, a match of 994 bytes (token 1, literal 1, offset 2, 4 length bytes), then a token and 5 literals.
  CHECK(lz_bytes(std::vector<std::uint8_t>(1000, 7), 1) == 8 + 6);
}

TEST_CASE("r2_exact: file sizes by codec stand beside the ledger, or are said to be absent") {
  const text_grid absent = r2_files_grid({});
  CHECK(absent.caption.find("absent") != std::string::npos);
  REQUIRE(absent.cells.size() == 9);
  CHECK(absent.cells[0] == std::vector<std::string>{"Small INT8", "packed", "11648", "absent", "absent", "absent"});

  const text_grid there = r2_files_grid([](auto layers, std::string_view codec, bool byte_codes) {
    CHECK(layers.size() == 3);
    return layers[0].N * 10 + codec.size() + (byte_codes ? 1 : 0);
  });
  CHECK(there.caption.find("absent") == std::string::npos);
  // 10,752 weights of 2 bits, 224 scales of 4 bytes.
  CHECK(there.cells[2] == std::vector<std::string>{"Small INT2", "a byte each", "3584", "1285", "1287", "1285"});
}

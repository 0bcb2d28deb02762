// SPDX-License-Identifier: MIT
//
// The bits of integer products, and of codes, scales and panels, against digests committed in tests/golden/digests.txt.
// NIBBLE_WRITE_DIGESTS=<path> in the environment writes the file anew; include/nibble/testing/README.md says when it may
// change.

#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>

#include <nibble/gemm/gemm.hpp>
#include <nibble/quant/qtype.hpp>
#include <nibble/tensor/quantize.hpp>
#include <nibble/testing/digest.hpp>

#include "support/coverage.hpp"
#include "support/digests.hpp"

namespace {

using namespace nibble;
namespace digests = test::digests;

/// "weights <format> <N>x<K> <seed>" -> digests of codes, of scales and zero points, and of the panels' codes.
digests::map weight_digests() {
  digests::map out;
  for (std::size_t i = 0; i < quant::qtype_count; ++i) {
    const quant::qtype_info& info = quant::info_of(static_cast<qtype>(i));
    for (const auto& [N, K] : {std::pair<std::size_t, std::size_t>{1, 33}, {17, 256}, {33, 1000}}) {
      const auto w = digests::weights_of(N, K);
      const any_qmatrix q = quantize(static_cast<qtype>(i), make_span2d(w.data(), N, K));
      testing::digest parameters;
      parameters.add(q.scale_plane()).add(q.zero_plane()).add(q.super_scales()).add(q.block_scales());
      std::string panels = "-";
      if (can_pack(info.format, K, layout_id::panel16) == errc::ok) {
        const packed_matrix p = pack_matrix(q.view(), layout_id::panel16);
        const std::size_t bytes = pack::panel16::panels(N) * pack::panel16::panel_bytes(K, info.format.bits);
        panels = digests::text_of({p.view().matrix.codes, bytes});
      }
      out["weights " + std::string(info.name) + ' ' + digests::extents({N, K}) + ' ' + std::to_string(digests::seed)] =
          digests::text_of(q.codes()) + ' ' + parameters.text() + ' ' + panels;
    }
  }
  return out;
}

/// True in a run that writes the file: then nothing is compared.
bool writing() { return std::getenv("NIBBLE_WRITE_DIGESTS") != nullptr; }

}  // namespace

TEST_CASE("digests: the file is written where NIBBLE_WRITE_DIGESTS says") {
  if (!writing()) return;
  std::ofstream file(std::getenv("NIBBLE_WRITE_DIGESTS"));
  file
      << "# FNV-1a 64 (testing/digest.hpp) of results that every instruction set, compiler and thread count must give.\n"
         "# law version "
      << testing::law_version
      << ", layout panel16 (1). tests/gemm/digests.cpp makes and checks this file.\n"
         "# product <format> <M>x<N>x<K> <epilogue> <seed> = Y, integer computation\n"
         "# rows <format> <M>x<N>x<K> <epilogue> <seed> = the same of formats whose groups cross rows\n"
         "# mode <format> <scales of activations, types of X and Y> <M>x<N>x<K> <seed> = Y, integer computation\n"
         "# weights <format> <N>x<K> <seed> = codes, scales and zero points, codes in panel16 (- when it has none)\n";
  for (const digests::map& all : {digests::of_products<gemm::simd>(layout_id::panel16),
                                  digests::of_products<gemm::scalar>(layout_id::row_major, true),
                                  digests::of_modes<gemm::simd>(), weight_digests()})
    for (const auto& [key, value] : all) file << key << " = " << value << '\n';
  CHECK(file.flush().good());
}

TEST_CASE("digests: the file is of this law version") {
  if (writing()) return;
  std::ifstream file(digests::golden);
  std::string first, second;
  std::getline(file, first);
  std::getline(file, second);
  CHECK(second.starts_with("# law version " + std::to_string(testing::law_version) + ","));
}

TEST_CASE("digests: integer products of the panel kernels are those committed") {
  if (writing() || !test::covers<kernels::gemm_panel<isa::native>, gemm::simd::isa_type>()) return;
  CHECK(digests::differing(digests::of_products<gemm::simd>(layout_id::panel16), "product ") == "");
}

TEST_CASE("digests: integer products of the plain kernels are those committed, canonical rows and panels") {
  if (writing()) return;
  CHECK(digests::differing(digests::of_products<gemm::scalar>(layout_id::row_major), "product ") == "");
  CHECK(digests::differing(digests::of_products<gemm::scalar>(layout_id::panel16), "product ") == "");
}

TEST_CASE("digests: integer products of groups that cross rows are those committed") {
  if (writing()) return;
  CHECK(digests::differing(digests::of_products<gemm::scalar>(layout_id::row_major, true), "rows ") == "");
}

TEST_CASE("digests: products with other scales of activations and other types are those committed") {
  if (writing() || !test::covers<kernels::gemm_panel<isa::native>, gemm::simd::isa_type>()) return;
  CHECK(digests::differing(digests::of_modes<gemm::simd>(), "mode ") == "");
}

TEST_CASE("digests: the same on the plain kernels") {
  if (writing()) return;
  CHECK(digests::differing(digests::of_modes<gemm::scalar>(), "mode ") == "");
}

TEST_CASE("digests: codes, scales and panels are those committed") {
  if (writing()) return;
  CHECK(digests::differing(weight_digests(), "weights ") == "");
}

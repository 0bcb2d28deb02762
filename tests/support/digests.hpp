// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Digests of products, and those committed in tests/golden/digests.txt, for the tests that compare them.

#include <array>
#include <cstring>
#include <fstream>
#include <initializer_list>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <nibble/gemm/gemm.hpp>
#include <nibble/kernels/scalar/quantize_row.hpp>
#include <nibble/quant/qtype.hpp>
#include <nibble/tensor/quantize.hpp>
#include <nibble/testing/digest.hpp>
#include <nibble/testing/operands.hpp>

namespace nibble::test::digests {

using map = std::map<std::string, std::string>;

inline constexpr std::uint64_t seed = 1;
inline const std::string golden = NIBBLE_TEST_SOURCE_DIR "/tests/golden/digests.txt";

struct product {
  std::size_t M, N, K;
  bool epilogue;  // bias, and beta = -0.5
};
// One row, a few, more than a tile; a column, a panel, beyond two; one block of k, ends of groups, several k blocks.
inline constexpr product products[] = {{1, 1, 32, false},    {1, 16, 100, false},  {1, 33, 4100, false},
                                       {3, 33, 32, false},   {3, 16, 127, false},  {3, 17, 4100, false},
                                       {3, 33, 100, true},   {17, 33, 100, false}, {17, 16, 129, false},
                                       {17, 33, 256, false}, {17, 1, 4100, true}};

inline std::vector<float> weights_of(std::size_t N, std::size_t K) {
  return testing::values(testing::value_pattern::random, N * K, seed * 1000 + N * 10007 + K);
}

inline std::string extents(std::initializer_list<std::size_t> sizes) {
  std::string s;
  for (const std::size_t size : sizes) s += (s.empty() ? "" : "x") + std::to_string(size);
  return s;
}

inline std::string text_of(std::span<const std::byte> bytes) { return testing::digest().add(bytes).text(); }

/// The images that integer computation has of a format: the one of exact sums, or those of a codebook.
struct image {
  table_image kind;
  const char* suffix;  ///< of the format's name
};
inline std::vector<image> images_of(const format_desc& f) {
  if (f.rule != code_rule::codebook) return {{table_image::none, ""}};
  return {{table_image::one_plane, "/one-plane"}, {table_image::two_planes, "/two-planes"}};
}

/// "product <format> <M>x<N>x<K> <epilogue> <seed>" -> digest of Y, on backend B with W in `layout`. `flat`: of formats that
/// have no panel form, "rows ..."; else of those that have one.
template <class B>
map of_products(layout_id layout, bool flat = false) {
  map out;
  for (std::size_t i = 0; i < quant::qtype_count; ++i) {
    const quant::qtype_info& info = quant::info_of(static_cast<qtype>(i));
    for (const product& p : products) {
      if ((can_pack(info.format, p.K, layout_id::panel16) != errc::ok) != flat) continue;
      const auto w = weights_of(p.N, p.K);
      const any_qmatrix q = quantize(static_cast<qtype>(i), make_span2d(w.data(), p.N, p.K));
      const packed_matrix packed = pack_matrix(q.view(), layout);
      const auto x = testing::activations(testing::operand_pattern::random, p.M, p.K, seed + p.M * 31 + p.K);
      const auto bias = testing::values(testing::value_pattern::random, p.N, seed + 5);
      for (const image& each : images_of(info.format)) {
        auto y = testing::values(testing::value_pattern::random, p.M * p.N, seed + 6);
        gemm_options o{.computation = computation::integer, .image = each.kind};
        if (p.epilogue) o.bias = bias.data(), o.beta = -0.5f;
        aligned_vector<std::byte> scratch(B::scratch_bytes(packed.view(), p.M, o, 1));
        context ctx;
        ctx.scratch = scratch.data();
        ctx.scratch_bytes = scratch.size();
        gemm::multiply<B>(make_span2d(x.data(), p.M, p.K), packed.view(), make_span2d(y.data(), p.M, p.N), o, ctx);
        out[(flat ? "rows " : "product ") + std::string(info.name) + each.suffix + ' ' + extents({p.M, p.N, p.K}) +
            (p.epilogue ? " bias+beta " : " plain ") + std::to_string(seed)] =
            text_of(std::as_bytes(std::span<const float>(y)));
      }
    }
  }
  return out;
}

/// How activations are scaled, and the types of X and Y.
struct mode {
  std::string_view name;
  activation_scales activations;
  element x, y;
};
inline constexpr mode modes[] = {
    {"group-scales", activation_scales::per_token_and_group, element::f32, element::f32},
    {"fixed", activation_scales::fixed, element::f32, element::f32},
    {"fixed-s8-to-s8", activation_scales::fixed, element::s8, element::s8},
    {"f16-to-bf16", activation_scales::per_token, element::f16, element::bf16},
};

/// Elements of another type, from floats: s8 codes of a scale, or half.
inline std::vector<std::byte> as_elements(const std::vector<float>& values, element type, float scale) {
  std::vector<std::byte> out(values.size() * gemm::element_bytes(type));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (type == element::f32) std::memcpy(&out[i * 4], &values[i], 4);
    const half h = to_half(values[i]);
    if (type == element::f16) std::memcpy(&out[i * 2], &h, 2);
    if (type == element::s8)
      out[i] = static_cast<std::byte>(kernels::quantize_row<isa::scalar>::code_of(values[i], scale));
  }
  return out;
}

/// "mode <format> <mode> <M>x<N>x<K> <seed>" -> digest of Y, panels on backend B.
template <class B>
map of_modes() {
  constexpr float x_scale = 0x1.8p-6f, y_scale = 0.75f;
  map out;
  for (std::size_t i = 0; i < quant::qtype_count; ++i) {
    const quant::qtype_info& info = quant::info_of(static_cast<qtype>(i));
    if (info.format.rule == code_rule::codebook) continue;
    for (const auto& [M, N, K] : {std::array<std::size_t, 3>{1, 17, 300}, {19, 33, 132}}) {
      const auto w = weights_of(N, K);
      const packed_matrix packed = pack_matrix(quantize(static_cast<qtype>(i), make_span2d(w.data(), N, K)).view());
      const auto x = testing::activations(testing::operand_pattern::random, M, K, seed + M * 31 + K);
      for (const mode& m : modes) {
        const gemm_options o{.computation = computation::integer, .activations = m.activations, .x_scale = x_scale};
        if (B::can_multiply(packed.view(), o) != errc::ok) continue;  // scales of groups where there are no groups
        const std::vector<std::byte> from = as_elements(x, m.x, x_scale);
        std::vector<std::byte> to(M * N * gemm::element_bytes(m.y));
        const gemm_task task{{from.data(), M, K, K, m.x}, packed.view(), {to.data(), M, N, N, m.y, y_scale}, nullptr};
        const std::span<const gemm_task> tasks(&task, 1);
        aligned_vector<std::byte> scratch(B::scratch_bytes(tasks, o, 1));
        context ctx;
        ctx.scratch = scratch.data();
        ctx.scratch_bytes = scratch.size();
        gemm::multiply<B>(tasks, o, ctx);
        out["mode " + std::string(info.name) + ' ' + std::string(m.name) + ' ' + extents({M, N, K}) + ' ' +
            std::to_string(seed)] = text_of(to);
      }
    }
  }
  return out;
}

/// A line is a key, " = ", and its digests; lines that begin with # are remarks.
inline map read_golden(std::string_view kind) {
  map out;
  std::ifstream file(golden);
  for (std::string line; std::getline(file, line);)
    if (const std::size_t at = line.find(" = "); line.starts_with(kind) && at != line.npos)
      out[line.substr(0, at)] = line.substr(at + 3);
  return out;
}

/// What differs from the committed digests of a kind, or empty.
inline std::string differing(const map& got, std::string_view kind) {
  const map want = read_golden(kind);
  std::size_t wrong = got.size() == want.size() ? 0 : 1;
  std::string first =
      wrong == 0 ? "" : std::to_string(got.size()) + " digests, committed " + std::to_string(want.size());
  for (const auto& [key, value] : got) {
    const auto at = want.find(key);
    if (at != want.end() && at->second == value) continue;
    if (wrong++ == 0) first = key + " = " + value + ", committed " + (at == want.end() ? "nothing" : at->second);
  }
  return wrong == 0 ? "" : first + " (" + std::to_string(wrong) + " differ)";
}

}  // namespace nibble::test::digests

// SPDX-License-Identifier: MIT
#include <nibble/io/packed_file.hpp>

#include <algorithm>
#include <cstring>

#include <nibble/gemm/gemm.hpp>
#include <nibble/tensor/quantize.hpp>

#include "support/matrices.hpp"
#include "target.hpp"

namespace nibble::fuzz {
namespace {

/// Uses every code, scale and zero point: damaged ones may give wrong numbers, but no access outside the file.
void use(const packed_view& W) {
  const std::vector<float> x(W.matrix.K, 1.0f);
  std::vector<float> y(W.matrix.N);
  multiply(make_span2d(x.data(), 1, x.size()), W, make_span2d(y.data(), 1, y.size()));
  if (W.layout != layout_id::row_major) return;
  std::vector<float> values(W.matrix.N * W.matrix.K);
  dequantize(W.matrix, make_span2d(values.data(), W.matrix.N, W.matrix.K));
}

}  // namespace

const std::size_t max_input_bytes = 16 << 10;

void run(std::span<const std::byte> input) {
  // What no search guesses is filled in: the magic, the size that the header's numbers give, and no checksum is asked for.
  // What is then accepted must be safe to use.
  if (input.size() >= io::packed_header_bytes) {
    io::detail::packed_header h;
    std::memcpy(&h, input.data(), sizeof h);
    const io::detail::packed_header own;
    std::memcpy(h.magic, own.magic, sizeof h.magic);
    h.version = own.version;
    h.total = input.size();
    const format_desc format{static_cast<code_rule>(h.rule), h.bits, static_cast<granularity_kind>(h.granularity),
                             static_cast<scale_storage>(h.scale), h.group_size};
    const bool known = format.rule <= code_rule::codebook && h.bits >= 2 && h.bits <= 8 &&
                       format.granularity <= granularity_kind::flat && format.scale <= scale_storage::super_block &&
                       h.layout < 2;
    const bool grouped =
        format.granularity == granularity_kind::grouped || format.granularity == granularity_kind::flat;
    if (known && grouped == (h.group_size != 0) && h.N - 1 < 4096 && h.K - 1 < 4096) {
      const io::detail::plane_sizes s = io::detail::sizes_of(format, h.N, h.K, static_cast<layout_id>(h.layout));
      if (!s.overflow && s.total <= max_input_bytes) h.total = s.total;
    }
    aligned_vector<std::byte> file(h.total);
    for (std::size_t i = 0; i < file.size(); ++i) file[i] = input[i % input.size()];
    std::memcpy(file.data(), &h, sizeof h);
    try {
      use(io::view_packed(file, false));
    } catch (const error& e) {
      require(e.code() == errc::bad_file, e.what());
    }
  }
  const memory_limit limit(4096);
  static_cast<void>(io::view_packed(input));
}

void make_seeds(const add_seed& add) {
  for (int bits = 2; bits <= 8; bits += 2) {
    std::size_t i = 0;
    for (const format_desc& f : test::all_formats(bits, {8, 64}))
      for (const layout_id layout : {layout_id::panel16, layout_id::row_major}) {
        constexpr std::size_t N = 3, K = 72;
        if (can_pack(f, K, layout) != errc::ok || i++ % 7 != 0) continue;
        const packed_matrix W = pack_matrix(test::random_qmatrix(f, N, K, 1).view(), layout);
        add(std::to_string(bits) + "_" + std::to_string(i) + ".nibblepk", io::serialize_packed(W.view()));
      }
  }
}

}  // namespace nibble::fuzz

// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include <nibble/core/thread_pool.hpp>
#include <nibble/gemm/gemm.hpp>

#include "support/matrices.hpp"

namespace {

std::atomic<std::size_t> allocations{0}, allocated_bytes{0};

void* counted(std::size_t bytes, std::size_t alignment) {
  ++allocations;
  allocated_bytes += bytes;
  void* p = std::aligned_alloc(alignment, nibble::round_up(bytes == 0 ? 1 : bytes, alignment));
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

}  // namespace

// The test program's own operators: every allocation of the library passes here. Not inlined, or gcc warns that memory
// from operator new is given to free.
[[gnu::noinline]] void* operator new(std::size_t bytes) { return counted(bytes, alignof(std::max_align_t)); }
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return counted(bytes, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

using namespace nibble;

TEST_CASE("allocation: multiply allocates nothing, whatever the format, computation, layout and threads") {
  thread_pool pool(2);
  for (const format_desc& f : test::all_formats(4, {32})) {
    const any_qmatrix w = test::random_qmatrix(f, 40, 96, 1);
    for (const layout_id layout : {layout_id::row_major, layout_id::panel16}) {
      const packed_matrix p = pack_matrix(w.view(), layout);
      for (const std::size_t M : {std::size_t{1}, std::size_t{7}}) {
        for (const computation c : {computation::weight_only, computation::integer, computation::bfloat16}) {
          const auto x = test::normal_values(M * 96, 2);
          std::vector<float> y(M * 40);
          const gemm_options o{.computation = c, .image = table_image::two_planes};
          pool.with_scratch(gemm_scratch_bytes(p.view(), M, o, pool.size()), [&](const context& ctx) {
            const std::size_t before = allocations;
            multiply(make_span2d(x.data(), M, std::size_t{96}), p.view(), make_span2d(y.data(), M, std::size_t{40}), o,
                     ctx);
            CHECK(allocations == before);
          });
        }
      }
    }
  }
}

TEST_CASE("allocation: the planes of the packed form take as many bytes as its ledger says") {
  const any_qmatrix w = test::random_qmatrix(
      {code_rule::codebook, 4, granularity_kind::grouped, scale_storage::double_quant, 32}, 40, 96, 1);
  const std::size_t before = allocated_bytes;
  const packed_matrix p = pack_matrix(w.view());
  // Beside the planes, packing takes one panel of unpacked codes and one row, given back at its end.
  CHECK(allocated_bytes - before == total_bytes(p.ledger()));
}

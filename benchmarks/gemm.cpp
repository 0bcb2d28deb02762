// SPDX-License-Identifier: MIT
// Products by format, computation, shape, batch, threads, and the place of the weights.

#include <algorithm>

#include <nibble/gemm/gemm.hpp>
#include <nibble/quant/qtype.hpp>

#include "bench.hpp"
#include "roofs.hpp"
#include "support/matrices.hpp"

namespace nibble::bench {
namespace {

/// What a product is measured with: its name says everything but the sizes.
struct product {
  std::string format;  ///< names the copies of the weights
  format_desc desc;
  computing how;
  shape s;
  std::size_t M, threads;
  std::size_t distinct_bytes;  ///< of weights between two uses of one matrix; 0: warm
};

gemm_options options_of(computing how) {
  switch (how) {
    case computing::weight_only: return {};
    case computing::integer: return {.computation = computation::integer};
    case computing::one_plane: return {.computation = computation::integer, .image = table_image::one_plane};
    case computing::two_planes: return {.computation = computation::integer, .image = table_image::two_planes};
    case computing::bfloat16: return {.computation = computation::bfloat16};
  }
  return {};
}

/// The image of a codebook is multiplied as codes of 8 or 7 bits.
double peak_of(computing how, int bits, std::size_t threads) {
  if (how == computing::weight_only) return float_peak(threads);
  if (how == computing::bfloat16) return bfloat16_peak(threads);
  return byte_peak(how == computing::integer ? bits : 8, threads);
}

/// What computes with a format: exact floats, integers, those of a codebook through its image, and bfloat16.
std::vector<computing> computings(const format_desc& f) {
  using enum computing;
  if (f.rule == code_rule::codebook) return {weight_only, one_plane, two_planes, bfloat16};
  return {weight_only, integer, bfloat16};
}

copies<packed_matrix>& weights(const product& p) {
  return input_cache::get<copies<packed_matrix>>(text("copies/", p.format, "/", name_of(p.s)), [&] {
    packed_matrix packed = pack_matrix(test::random_qmatrix(p.desc, p.s.N, p.s.K, 1).view());
    const std::size_t bytes = total_bytes(packed.ledger());
    return copies<packed_matrix>(std::move(packed), bytes);
  });
}

void run_product(benchmark::State& state, const product& p) {
  auto& W = weights(p);
  W.want_distinct(p.distinct_bytes);
  const std::vector<float> x = values(p.M * p.s.K, 2);
  std::vector<float> y(p.M * p.s.N);
  const auto X = make_span2d(x.data(), p.M, p.s.K);
  const auto Y = make_span2d(y.data(), p.M, p.s.N);
  const gemm_options options = options_of(p.how);
  thread_pool& pool = pool_of(p.threads);
  const double seconds = time_loop(state, [&] { multiply(X, W.next(), Y, pool, options); });
  const double peak = peak_of(p.how, p.desc.bits, p.threads);
  report(state, {p.s.N, p.s.K, p.M, p.threads, W.bytes(), p.distinct_bytes != 0, peak}, seconds);
  state.SetLabel(
      gemm::with_default_backend(W.front().layout(), []<class B>(B) { return std::string(B::isa_type::name); }));
}

/// Between two uses of a matrix of the table of all formats: eight times an L3 cache of 32 MiB.
constexpr std::size_t matrix_cold_bytes = std::size_t{256} << 20;

/// "w4a_g32" as the list of qtypes would name it; "w4c_..." stands for any codebook of 4 bits.
std::string format_name(const format_desc& f) {
  const char* rule = f.rule == code_rule::mid_rise            ? "m"
                     : f.rule == code_rule::symmetric_full    ? "f"
                     : f.rule == code_rule::asymmetric        ? "a"
                     : f.rule == code_rule::asymmetric_offset ? "o"
                     : f.rule == code_rule::codebook          ? "c"
                                                              : "";
  const std::string head = text("w", int{f.bits}, rule);
  if (f.granularity == granularity_kind::per_tensor) return head + "_tensor";
  return f.granularity == granularity_kind::per_channel ? head + "_channel" : text(head, "_g", f.group_size);
}

}  // namespace

const char* name_of(computing how) {
  switch (how) {
    case computing::weight_only: return "weight_only";
    case computing::integer: return "integer";
    case computing::one_plane: return "one_plane";
    case computing::two_planes: return "two_planes";
    case computing::bfloat16: return "bfloat16";
  }
  return "";
}

std::string gemm_name(const std::string& what, shape s, std::size_t M, std::size_t threads, bool cold) {
  return text("gemm/", what, "/", name_of(s), "/M:", M, "/threads:", threads, cold ? "/cold" : "/warm");
}

void run_gemm(benchmark::State& state, qtype type, computing how, shape s, std::size_t M, std::size_t threads,
              bool cold) {
  const quant::qtype_info& info = quant::info_of(type);
  run_product(state, {std::string(info.name), info.format, how, s, M, threads, cold ? cold_bytes() : 0});
}

void register_gemm() {
  for (const qtype type : formats) {
    const quant::qtype_info& info = quant::info_of(type);
    for (const shape s : shapes) {
      for (const bool cold : {false, true}) {
        for (const computing how : computings(info.format)) {
          const bool in_bfloat16 = how == computing::bfloat16;
          if (in_bfloat16 && std::ranges::find(bfloat16_formats, type) == bfloat16_formats.end()) continue;
          for (const std::size_t M : batches) {
            if (in_bfloat16 && M < least_bfloat16_batch) continue;
            for (const std::size_t threads : thread_counts()) {
              const std::string what = text(info.name, '/', name_of(how));
              add(gemm_name(what, s, M, threads, cold),
                  [=](benchmark::State& state) { run_gemm(state, type, how, s, M, threads, cold); });
            }
          }
        }
      }
    }
  }
}

/// Matrices of GGUF files, as the peers' K-quants have them, and beside each the same codes with scales in half: what scales on
/// two levels cost.
void register_super_blocks() {
  constexpr shape s = shapes[0];
  for (const qtype type : super_block_formats) {
    const quant::qtype_info& info = quant::info_of(type);
    format_desc one_level = info.format;
    one_level.scale = scale_storage::f16;
    for (const bool cold : {false, true}) {
      for (const std::size_t M : batches) {
        for (const std::size_t threads : thread_counts()) {
          const std::size_t distinct = cold ? cold_bytes() : 0;
          const auto product_of = [&](const std::string& name, const format_desc& f) {
            add(gemm_name(name + "/integer", s, M, threads, cold), [=](benchmark::State& state) {
              run_product(state, {name, f, computing::integer, s, M, threads, distinct});
            });
          };
          product_of(std::string(info.name), info.format);
          product_of(format_name(one_level), one_level);
        }
      }
    }
  }
}

/// Every width x rule x group in integers, codebooks in floats as well: decoding from memory, and a large batch.
void register_matrix() {
  constexpr shape s{4096, 4096};
  using enum granularity_kind;
  constexpr std::pair<granularity_kind, std::uint32_t> granularities[] = {
      {grouped, 8},   {grouped, 16},  {grouped, 32},    {grouped, 64},
      {grouped, 128}, {grouped, 256}, {per_channel, 0}, {per_tensor, 0}};
  for (int bits = 2; bits <= 8; ++bits) {
    for (const code_rule rule : {code_rule::symmetric, code_rule::mid_rise, code_rule::asymmetric,
                                 code_rule::asymmetric_offset, code_rule::codebook}) {
      for (const auto& [granularity, group] : granularities) {
        const scale_storage scale = granularity == granularity_kind::grouped ? scale_storage::f16 : scale_storage::f32;
        const format_desc f{rule, static_cast<std::uint8_t>(bits), granularity, scale, group};
        for (const computing how : computings(f)) {
          if (how == computing::bfloat16 || (how == computing::weight_only && rule != code_rule::codebook)) continue;
          const std::string name = text("matrix/", format_name(f), '/', name_of(how), '/', name_of(s));
          add(text(name, "/M:1/threads:1/cold"), [=](benchmark::State& state) {
            run_product(state, {format_name(f), f, how, s, 1, 1, matrix_cold_bytes});
          });
          add(text(name, "/M:512/threads:1/warm"), [=](benchmark::State& state) {
            run_product(state, {format_name(f), f, how, s, 512, 1, 0});
          });
        }
      }
    }
  }
}

}  // namespace nibble::bench

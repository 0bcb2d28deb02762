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
  nibble::computation computation;
  shape s;
  std::size_t M, threads;
  std::size_t distinct_bytes;  ///< of weights between two uses of one matrix; 0: warm
};

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
  const gemm_options options{.computation = p.computation};
  thread_pool& pool = pool_of(p.threads);
  const double seconds = time_loop(state, [&] { multiply(X, W.next(), Y, pool, options); });
  const double peak = p.computation == computation::integer    ? byte_peak(p.desc.bits, p.threads)
                      : p.computation == computation::bfloat16 ? bfloat16_peak(p.threads)
                                                               : float_peak(p.threads);
  report(state, {p.s.N, p.s.K, p.M, p.threads, W.bytes(), p.distinct_bytes != 0, peak}, seconds);
  state.SetLabel(
      gemm::with_default_backend(W.front().layout(), []<class B>(B) { return std::string(B::isa_type::name); }));
}

/// Between two uses of a matrix of the table of all formats: eight times an L3 cache of 32 MiB.
constexpr std::size_t matrix_cold_bytes = std::size_t{256} << 20;

/// "w4a_g32" as the list of qtypes would name it; "w4c_..." stands for any codebook of 4 bits.
std::string format_name(const format_desc& f) {
  const char* rule = f.rule == code_rule::mid_rise            ? "m"
                     : f.rule == code_rule::asymmetric        ? "a"
                     : f.rule == code_rule::asymmetric_offset ? "o"
                     : f.rule == code_rule::codebook          ? "c"
                                                              : "";
  const std::string head = text("w", int{f.bits}, rule);
  if (f.granularity == granularity_kind::per_tensor) return head + "_tensor";
  return f.granularity == granularity_kind::per_channel ? head + "_channel" : text(head, "_g", f.group_size);
}

}  // namespace

std::string gemm_name(const std::string& what, shape s, std::size_t M, std::size_t threads, bool cold) {
  return text("gemm/", what, "/", name_of(s), "/M:", M, "/threads:", threads, cold ? "/cold" : "/warm");
}

void run_gemm(benchmark::State& state, qtype type, computation c, shape s, std::size_t M, std::size_t threads,
              bool cold) {
  const quant::qtype_info& info = quant::info_of(type);
  run_product(state, {std::string(info.name), info.format, c, s, M, threads, cold ? cold_bytes() : 0});
}

void register_gemm() {
  for (const qtype type : formats) {
    const quant::qtype_info& info = quant::info_of(type);
    for (const shape s : shapes) {
      for (const bool cold : {false, true}) {
        for (const computation c : {computation::weight_only, computation::integer, computation::bfloat16}) {
          if (c == computation::integer && info.format.rule == code_rule::codebook) continue;  // no exact integer sums
          const bool in_bfloat16 = c == computation::bfloat16;
          if (in_bfloat16 && std::ranges::find(bfloat16_formats, type) == bfloat16_formats.end()) continue;
          for (const std::size_t M : batches) {
            if (in_bfloat16 && M < least_bfloat16_batch) continue;
            for (const std::size_t threads : thread_counts()) {
              const std::string what = text(info.name, "/", name_of(c));
              add(gemm_name(what, s, M, threads, cold),
                  [=](benchmark::State& state) { run_gemm(state, type, c, s, M, threads, cold); });
            }
          }
        }
      }
    }
  }
}

/// Every width x rule x group, integer where there are exact integer sums: decoding from memory, and a large batch.
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
        const computation c = rule != code_rule::codebook ? computation::integer : computation::weight_only;
        const std::string name = text("matrix/", format_name(f), "/", name_of(c), "/", name_of(s));
        add(text(name, "/M:1/threads:1/cold"), [=](benchmark::State& state) {
          run_product(state, {format_name(f), f, c, s, 1, 1, matrix_cold_bytes});
        });
        add(text(name, "/M:512/threads:1/warm"), [=](benchmark::State& state) {
          run_product(state, {format_name(f), f, c, s, 512, 1, 0});
        });
      }
    }
  }
}

}  // namespace nibble::bench

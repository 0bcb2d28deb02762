// SPDX-License-Identifier: MIT
// Floats to codes and back.

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <nibble/isa/tags.hpp>
#include <nibble/quant/ggml_type.hpp>
#include <nibble/quant/qtype.hpp>
#include <nibble/tensor/ggml_rows.hpp>
#include <nibble/tensor/quantize.hpp>

#include "bench.hpp"
#include "support/matrices.hpp"

namespace nibble::bench {
namespace {

constexpr shape square = shapes[0];

/// What is measured: the formats of products, and what only the quantizer tells apart.
struct codec {
  std::string name;
  format_desc desc;
  codebook_desc book;
};
codec codec_of(qtype type) {
  const quant::qtype_info& info = quant::info_of(type);
  return {std::string(info.name), info.format, info.book};
}
std::vector<codec> codecs() {
  std::vector<codec> all;
  for (const qtype type : formats) all.push_back(codec_of(type));
  // Short groups, whose parameters weigh more than their values.
  constexpr std::pair<code_rule, const char*> rules[] = {
      {code_rule::symmetric, ""}, {code_rule::asymmetric, "a"}, {code_rule::asymmetric_offset, "o"}};
  for (const std::uint32_t group : {8u, 16u})
    for (const auto& [rule, letter] : rules)
      all.push_back(
          {text("w4", letter, "_g", group), {rule, 4, granularity_kind::grouped, scale_storage::f16, group}, {}});
  // Tables by sign and magnitude, by root mean square, of more bits.
  for (const qtype type : {qtype::fp4_g64, qtype::lloyd3_g128, qtype::lloyd4_g128, qtype::lloyd6_g128})
    all.push_back(codec_of(type));
  return all;
}

std::string name(const std::string& what, const codec& c, shape s, std::size_t threads) {
  return text(what, "/", c.name, "/", name_of(s), "/threads:", threads);
}

/// GBps counts float input.
void time_quantize(benchmark::State& state, const codec& c, bool search, shape s, std::size_t threads) {
  const auto& w =
      input_cache::get<std::vector<float>>(text("floats/", name_of(s)), [&] { return values(s.N * s.K, 1); });
  quantize_options options;
  if (search) options.fit.method = fitter::mse_search;
  const context ctx = pool_of(threads).context();
  const double seconds = time_loop(state, [&] {
    any_qmatrix q = quantize(c.desc, c.book, make_span2d(w.data(), s.N, s.K), options, ctx);
    const std::byte* codes = q.codes().data();
    keep(codes);
  });
  state.counters["GBps"] = static_cast<double>(w.size() * sizeof(float)) / seconds * 1e-9;
  state.SetLabel(std::string(isa::native::name));
}

/// GBps counts float output.
void time_dequantize(benchmark::State& state, const codec& c, shape s, std::size_t threads) {
  const std::string key = text("canonical/", c.name, "/", name_of(s));
  const auto& q = input_cache::get<any_qmatrix>(key, [&] { return test::random_qmatrix(c.desc, s.N, s.K, 1); });
  std::vector<float> out(s.N * s.K);
  const context ctx = pool_of(threads).context();
  const double seconds = time_loop(state, [&] { dequantize(q.view(), make_span2d(out.data(), s.N, s.K), ctx); });
  state.counters["GBps"] = static_cast<double>(out.size() * sizeof(float)) / seconds * 1e-9;
  state.SetLabel(std::string(isa::native::name));
}

/// The block formats of GGUF files that nibble writes.
std::vector<quant::ggml_type_info> ggml_formats() {
  std::vector<quant::ggml_type_info> all;
  for (const auto& info : quant::detail::ggml_types)
    if (info.quantized && can_encode_ggml(info.type)) all.push_back(info);
  return all;
}
std::vector<std::byte> ggml_blocks(const quant::ggml_type_info& info, shape s) {
  return std::vector<std::byte>(s.N * s.K / info.block_elements * info.block_bytes);
}

/// GBps counts float input.
void time_encode_ggml(benchmark::State& state, const quant::ggml_type_info& info, const ggml_encoding& how, shape s,
                      std::size_t threads) {
  const auto& w =
      input_cache::get<std::vector<float>>(text("floats/", name_of(s)), [&] { return values(s.N * s.K, 1); });
  auto blocks = ggml_blocks(info, s);
  const context ctx = pool_of(threads).context();
  const double seconds =
      time_loop(state, [&] { encode_ggml(info.type, make_span2d(w.data(), s.N, s.K), blocks, how, ctx); });
  state.counters["GBps"] = static_cast<double>(w.size() * sizeof(float)) / seconds * 1e-9;
  state.SetLabel(std::string(isa::native::name));
}

/// GBps counts float output.
void time_decode_ggml(benchmark::State& state, const quant::ggml_type_info& info, shape s, std::size_t threads) {
  auto blocks = ggml_blocks(info, s);
  std::vector<float> out = values(s.N * s.K, 1);
  const context ctx = pool_of(threads).context();
  encode_ggml(info.type, make_span2d<const float>(out.data(), s.N, s.K), blocks, ctx);
  const double seconds = time_loop(state, [&] { decode_ggml(info.type, blocks, out, ctx); });
  state.counters["GBps"] = static_cast<double>(out.size() * sizeof(float)) / seconds * 1e-9;
  state.SetLabel(std::string(isa::native::name));
}

}  // namespace

void run_quantize(benchmark::State& state, qtype type, bool search, shape s, std::size_t threads) {
  time_quantize(state, codec_of(type), search, s, threads);
}
void run_dequantize(benchmark::State& state, qtype type, shape s, std::size_t threads) {
  time_dequantize(state, codec_of(type), s, threads);
}

void register_quantize() {
  for (const bool search : {false, true})
    for (const codec& c : codecs())
      for (const std::size_t threads : thread_counts())
        add(name(search ? "quantize_mse_search" : "quantize", c, square, threads),
            [=](benchmark::State& state) { time_quantize(state, c, search, square, threads); });
  for (const codec& c : codecs())
    for (const std::size_t threads : thread_counts())
      add(name("dequantize", c, square, threads),
          [=](benchmark::State& state) { time_dequantize(state, c, square, threads); });
  // 1 MiB of floats, for a comparison with ggml, whose searches take tens of nanoseconds for a value.
  constexpr shape few_rows{64, 4096};
  for (const quant::ggml_type_info& info : ggml_formats()) {
    const std::string rest = text("/", info.name, "/", name_of(few_rows), "/threads:1");
    add("quantize" + rest, [=](benchmark::State& state) { time_encode_ggml(state, info, {}, few_rows, 1); });
    add("dequantize" + rest, [=](benchmark::State& state) { time_decode_ggml(state, info, few_rows, 1); });
  }
  for (const quant::ggml_type_info& info : ggml_formats())
    for (const std::size_t threads : thread_counts()) {
      const std::string rest = text("/", info.name, "/", name_of(square), "/threads:", threads);
      add("quantize" + rest, [=](benchmark::State& state) { time_encode_ggml(state, info, {}, square, threads); });
      if (can_fit_ggml(info.type))
        add("quantize_least_error" + rest, [=](benchmark::State& state) {
          time_encode_ggml(state, info, {.search = ggml_search::least_error, .importance = {}}, square, threads);
        });
      add("dequantize" + rest, [=](benchmark::State& state) { time_decode_ggml(state, info, square, threads); });
    }
}

}  // namespace nibble::bench

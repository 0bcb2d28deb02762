// SPDX-License-Identifier: MIT
// A safetensors file with the tensors of one quantized layer "l", in any layout of another tool or nibble's own. A layer that is
// accepted is written back byte for byte.
#include <nibble/io/awq.hpp>
#include <nibble/io/bitsandbytes.hpp>
#include <nibble/io/compressed_tensors.hpp>
#include <nibble/io/gptq.hpp>
#include <nibble/io/llm_int8.hpp>
#include <nibble/io/quantized_tensors.hpp>
#include <nibble/io/safetensors.hpp>
#include <nibble/tensor/quantize.hpp>

#include <algorithm>
#include <optional>

#include "target.hpp"

namespace nibble::fuzz {

const std::size_t max_input_bytes = 16 << 10;

namespace {

using io::tensor_bytes;

std::optional<io::tensor_view> find(const io::safetensors_reader& file, const char* suffix) {
  const std::string name = std::string{"l"} + suffix;
  if (!file.contains(name)) return {};
  return file.view(file.at(name));
}

/// Calls f, whose errors are those that the formats allow: widths and dtypes that nibble does not read, scales that it cannot
/// keep. Whether it had none.
template <class F>
bool attempt(F&& f) {
  try {
    f();
    return true;
  } catch (const error& e) {
    if (e.code() != errc::bad_file && e.code() != errc::unsupported_format) throw;
    return false;
  }
}

void same(const io::safetensors_reader& file, const std::vector<tensor_bytes>& tensors) {
  for (const tensor_bytes& t : tensors) {
    require(file.contains(t.name), "a layer is written to the tensors that it was read from");
    const io::tensor_info& was = file.at(t.name);
    require(was.type == t.type && was.shape == t.shape && std::ranges::equal(file.bytes(was), t.bytes),
            "a layer is written back byte for byte");
  }
}

/// Whether the tensors are a layer in any of the layouts.
bool read_layers(const io::safetensors_reader& file) {
  bool accepted = false;
  const auto qweight = find(file, ".qweight"), qzeros = find(file, ".qzeros"), scales = find(file, ".scales");
  if (qweight && qzeros && scales) {
    for (const int bits : {2, 3, 4, 8})
      for (const std::size_t group : {0u, 16u, 32u})
        for (const io::gptq_version version : {io::gptq_version::v1, io::gptq_version::v2})
          accepted |= attempt([&] {
            const io::gptq_form form{bits, group, version};
            const auto g_idx = find(file, ".g_idx");
            same(file, io::write_gptq(io::read_gptq({*qweight, *qzeros, *scales, g_idx}, form), form, "l",
                                      g_idx.has_value()));
          });
    for (const std::size_t group : {0u, 16u, 32u})
      accepted |= attempt([&] { same(file, io::write_awq(io::read_awq({*qweight, *qzeros, *scales}, group), "l")); });
  }
  const auto packed = find(file, ".weight_packed"), scale = find(file, ".weight_scale"),
             shape = find(file, ".weight_shape");
  if (packed && scale && shape)
    for (const int bits : {3, 4, 8})
      for (const std::size_t group : {0u, 16u, 32u})
        for (const io::word_packing packing : {io::word_packing::whole, io::word_packing::stream})
          accepted |= attempt([&] {
            const auto m = io::read_pack_quantized(
                {*packed, *scale, *shape, find(file, ".weight_zero_point"), find(file, ".weight_g_idx")}, bits, group,
                packing);
            const auto way = io::detail::packing_of(m.matrix.K(), packed->shape[1], bits, packing);
            same(file, io::write_pack_quantized(m, "l",
                                                {.shape_type = shape->type,
                                                 .g_idx = find(file, ".weight_g_idx").has_value(),
                                                 .scale_rank = scale->shape.size(),
                                                 .packing = way.value()}));
          });
  const auto weight = find(file, ".weight"), absmax = find(file, ".weight.absmax"),
             map = find(file, ".weight.quant_map");
  for (const char* const type : {".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4"})
    if (const auto state = find(file, type); weight && absmax && map && state)
      accepted |= attempt([&] {
        same(file, io::write_bnb(io::read_bnb({*weight, *absmax, *map, *state, find(file, ".weight.nested_absmax"),
                                               find(file, ".weight.nested_quant_map")}),
                                 "l.weight"));
      });
  if (const auto scb = find(file, ".SCB"); weight && scb)
    accepted |= attempt([&] {
      const auto form = find(file, ".weight_format");
      same(file, io::write_llm_int8(io::read_llm_int8({*weight, *scb, form}), "l", form.has_value()));
    });
  return attempt([&] { touch(io::read_quantized(file, "l").matrix.codes()); }) || accepted;
}

}  // namespace

void run(std::span<const std::byte> input) {
  const io::safetensors_reader file(input);
  // The greatest is a layer of 2 bits: codes, their row in bytes, scales, an order of columns, and all of it written again.
  const memory_limit limit(64 * input.size() + (64 << 10));
  read_layers(file);
}

void make_seeds(const add_seed& add) {
  std::vector<float> w(32 * 64);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>((i * 2654435761u >> 20) % 2001) * 0.001f - 1.0f;
  const auto W = make_span2d<const float>(w.data(), 32, 64);
  const auto seed = [&](const char* name, auto&& fill) {
    const std::vector<std::byte> bytes = saved([&](const std::string& path) {
      io::safetensors_writer out;
      fill(out);
      out.save(path);
    });
    require(read_layers(io::safetensors_reader(bytes)), "each seed is a layer that is read");
    add(name, bytes);
  };
  const auto file_of = [&](const char* name, std::vector<tensor_bytes> tensors) {
    seed(name, [&](io::safetensors_writer& out) {
      for (tensor_bytes& t : tensors) out.add(std::move(t));
    });
  };
  const auto matrix = [&](code_rule rule, std::uint8_t bits, std::uint32_t group) {
    return quantize({rule, bits, granularity_kind::grouped, scale_storage::f16, group}, W);
  };
  std::vector<std::uint32_t> order(64);
  for (std::uint32_t k = 0; k < 64; ++k) order[k] = k * 37 % 64;
  file_of("gptq",
          io::write_gptq({matrix(code_rule::asymmetric, 4, 16), order, {}, {}}, {4, 16, io::gptq_version::v2}, "l"));
  // Without g_idx, and with words that codes straddle.
  file_of("gptq3", io::write_gptq({matrix(code_rule::asymmetric, 3, 32), {}, {}, {}}, {3, 32, io::gptq_version::v2},
                                  "l", false));
  file_of("awq", io::write_awq({matrix(code_rule::asymmetric, 4, 32), {}, {}, {}}, "l"));
  file_of("packed", io::write_pack_quantized({matrix(code_rule::symmetric_full, 4, 32), {}, {}, {}}, "l"));
  file_of("zeros",
          io::write_pack_quantized({matrix(code_rule::asymmetric, 4, 32), order, {}, {}}, "l", {.g_idx = true}));
  file_of("straddling", io::write_pack_quantized({matrix(code_rule::asymmetric, 3, 32), {}, {}, {}}, "l",
                                                 {.packing = io::word_packing::stream}));
  const auto few = make_span2d<const float>(w.data(), 8, 64);
  file_of("nf4", io::write_bnb({quantize(qtype::nf4_flat64, few), {}, {}, {}}, "l.weight"));
  file_of("nf4_nested", io::write_bnb({quantize(qtype::nf4_flat64_dq, few), {}, {}, {}}, "l.weight"));
  file_of("fp4", io::write_bnb({quantize(qtype::fp4_flat64, few), {}, {}, {}}, "l.weight"));
  file_of("fp4_nested", io::write_bnb({quantize(qtype::fp4_flat64_dq, few), {}, {}, {}}, "l.weight"));
  std::vector<float> row_absmax(8);
  for (std::size_t n = 0; n < 8; ++n) row_absmax[n] = 1.0f + 0.1f * static_cast<float>(n);
  file_of("int8", io::write_llm_int8({quantize(qtype::w8_channel, few), {}, row_absmax, {}}, "l", true));
  seed("own", [&](io::safetensors_writer& out) {
    io::add_quantized(out, "l", {matrix(code_rule::asymmetric, 4, 16), order, {}, {}});
  });
  seed("blocks", [&](io::safetensors_writer& out) {
    io::add_quantized(out, "l", {quantize(qtype::w4o_g32_sb, W), {}, {}, {}});
  });
}

}  // namespace nibble::fuzz

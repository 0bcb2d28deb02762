// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Checkpoints with quantized layers: which layers there are, in which layout, and each as a matrix.
///
/// A layer is known by its tensors: NAME.qweight (GPTQ, AWQ), NAME.weight_packed (compressed-tensors),
/// NAME.weight.quant_state.bitsandbytes__* (NF4, FP4), NAME.SCB (LLM.int8()), NAME.nibble.codes (nibble's own). What the
/// tensors' shapes do not say follows from the configuration beside the file, or from checkpoint_options, which go first.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/io/awq.hpp>
#include <nibble/io/bitsandbytes.hpp>
#include <nibble/io/checkpoint_matrix.hpp>
#include <nibble/io/compressed_tensors.hpp>
#include <nibble/io/gptq.hpp>
#include <nibble/io/llm_int8.hpp>
#include <nibble/io/quantization_config.hpp>
#include <nibble/io/quantized_tensors.hpp>
#include <nibble/io/safetensors_set.hpp>
#include <nibble/io/word_codes.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

/// The layout of a layer's tensors.
enum class layer_layout : std::uint8_t { gptq, awq, pack_quantized, bitsandbytes, llm_int8, nibble };

constexpr std::string_view name_of(layer_layout layout) noexcept {
  switch (layout) {
    case layer_layout::gptq: return "gptq";
    case layer_layout::awq: return "awq";
    case layer_layout::pack_quantized: return "pack-quantized";
    case layer_layout::bitsandbytes: return "bitsandbytes";
    case layer_layout::llm_int8: return "llm.int8";
    case layer_layout::nibble: return "nibble";
  }
  return "unknown";
}

/// A quantized layer W[N, K] of a file.
struct checkpoint_layer {
  std::string name;  ///< without the suffixes of its tensors: "model.layers.0.mlp.up_proj"
  layer_layout layout = layer_layout::gptq;
  std::size_t N = 0, K = 0;
  int bits = 0;
  std::size_t group_size = 0;                  ///< inputs that share a scale; 0: all of a row, or of the matrix
  gptq_version version = gptq_version::v1;     ///< GPTQ only
  word_packing packing = word_packing::whole;  ///< pack-quantized only
  std::vector<const tensor_info*> tensors{};   ///< all that belong to it, in the order of the file
};

/// What a caller knows better than the configuration. Empty members leave it to the configuration and the shapes.
struct checkpoint_options {
  std::optional<int> bits{};
  std::optional<std::size_t> group_size{};  ///< 0: whole rows
  std::optional<gptq_version> version{};
  gptq_full_zero full_zero = gptq_full_zero::is_power;
  std::optional<word_packing> packing{};  ///< for short rows of pack-quantized codes, whose shapes do not say it
};

/// A checkpoint that is open. Copies nothing until a layer is read.
class checkpoint {
 public:
  /// `path` as safetensors_set has it; the configuration is looked for in the same folder. Throws what safetensors_set,
  /// find_quantization_config and the readers of layers throw: bad_file for layers that contradict themselves, their
  /// configuration or the options, unsupported_format for layouts that nibble does not read.
  explicit checkpoint(const std::string& path, checkpoint_options options = {})
      : files_(path), options_(options), config_(find_quantization_config(files_.folder())) {
    find_layers();
  }
  checkpoint(const checkpoint&) = delete;  // layers point into it
  checkpoint& operator=(const checkpoint&) = delete;

  const safetensors_set& files() const noexcept { return files_; }
  const std::optional<quantization_config>& config() const noexcept { return config_; }
  /// By name.
  const std::vector<checkpoint_layer>& layers() const noexcept { return layers_; }
  /// The layer of this name, or null.
  const checkpoint_layer* find(std::string_view name) const noexcept {
    for (const checkpoint_layer& l : layers_)
      if (l.name == name) return &l;
    return nullptr;
  }
  /// The tensors that belong to no quantized layer, in the order of the file.
  std::vector<const tensor_info*> others() const {
    std::vector<const tensor_info*> out;
    for (const tensor_info& t : files_.tensors())
      if (taken_.find(t.name) == taken_.end()) out.push_back(&t);
    return out;
  }

  /// The layer without loss. Throws bad_file with tensor and rule.
  checkpoint_matrix read(const checkpoint_layer& l) const {
    switch (l.layout) {
      case layer_layout::gptq:
        return read_gptq({need(l, ".qweight"), need(l, ".qzeros"), need(l, ".scales"), maybe(l, ".g_idx")}, form_of(l));
      case layer_layout::awq:
        return read_awq({need(l, ".qweight"), need(l, ".qzeros"), need(l, ".scales")}, l.group_size);
      case layer_layout::pack_quantized:
        return read_pack_quantized({need(l, ".weight_packed"), need(l, ".weight_scale"), need(l, ".weight_shape"),
                                    maybe(l, ".weight_zero_point"), maybe(l, ".weight_g_idx")},
                                   l.bits, l.group_size, l.packing);
      case layer_layout::bitsandbytes:
        return read_bnb({need(l, ".weight"), need(l, ".weight.absmax"), need(l, ".weight.quant_map"), quant_state_of(l),
                         maybe(l, ".weight.nested_absmax"), maybe(l, ".weight.nested_quant_map")});
      case layer_layout::llm_int8:
        return read_llm_int8({need(l, ".weight"), need(l, ".SCB"), maybe(l, ".weight_format")});
      case layer_layout::nibble: break;
    }
    return read_quantized(files_, l.name);
  }

  /// A matrix as the tensors of layer l, in the layout that it has in this file: what read(l) gave comes back byte for byte.
  /// Not for nibble's own layout: add_quantized. Throws what the layout's own writer throws.
  std::vector<tensor_bytes> write(const checkpoint_layer& l, const checkpoint_matrix& m) const {
    switch (l.layout) {
      case layer_layout::gptq: return write_gptq(m, form_of(l), l.name, files_.contains(l.name + ".g_idx"));
      case layer_layout::awq: return write_awq(m, l.name);
      case layer_layout::pack_quantized:
        return write_pack_quantized(m, l.name,
                                    {.shape_type = files_.at(l.name + ".weight_shape").type,
                                     .g_idx = files_.contains(l.name + ".weight_g_idx"),
                                     .scale_rank = files_.at(l.name + ".weight_scale").shape.size(),
                                     .packing = l.packing});
      case layer_layout::bitsandbytes: return write_bnb(m, l.name + ".weight");
      case layer_layout::llm_int8: return write_llm_int8(m, l.name, files_.contains(l.name + ".weight_format"));
      case layer_layout::nibble: break;
    }
    core::fail(errc::unsupported_format, "checkpoint: '", printable(l.name),
               "' has nibble's own layout, which add_quantized writes");
  }

  /// The tensors of a layer that was read leave this process's resident memory.
  void release(const checkpoint_layer& l) const {
    for (const tensor_info* const t : l.tensors) files_.release(*t);
  }

 private:
  tensor_view need(const checkpoint_layer& l, std::string_view suffix) const {
    return files_.view(files_.at(l.name + std::string{suffix}));
  }
  std::optional<tensor_view> maybe(const checkpoint_layer& l, std::string_view suffix) const {
    const tensor_info* const t = files_.find(l.name + std::string{suffix});
    if (t == nullptr) return std::nullopt;
    return files_.view(*t);
  }
  tensor_view quant_state_of(const checkpoint_layer& l) const {
    for (const std::string_view type : {"nf4", "fp4"})
      if (const auto t = maybe(l, core::message(".weight.quant_state.bitsandbytes__", type))) return *t;
    core::fail(errc::unsupported_format, "checkpoint: '", printable(l.name),
               "': a quant_state that is neither nf4 nor fp4");
  }
  gptq_form form_of(const checkpoint_layer& l) const { return {l.bits, l.group_size, l.version, options_.full_zero}; }

  template <class... Pieces>
  [[noreturn]] void refuse(const checkpoint_layer& l, const Pieces&... pieces) const {
    core::fail(errc::bad_file, "checkpoint: ", files_.place(), ": layer '", printable(l.name), "': ", pieces...);
  }
  /// The rows or columns of tensor NAME.suffix, which must be a matrix.
  std::size_t extent(const checkpoint_layer& l, std::string_view suffix, std::size_t i) const {
    return detail::extent_of("checkpoint", need(l, suffix), 2, i);
  }
  bool says(std::string_view method) const { return config_ && std::string_view{config_->method} == method; }

  /// How many inputs share a scale where a row has `groups`.
  std::size_t group_size_of(const checkpoint_layer& l, std::size_t groups) const {
    std::optional<std::size_t> stated = options_.group_size;
    if (!stated && config_ && !config_->by_layer) stated = config_->group_size;
    if (stated) {
      if (detail::groups_of(l.K, *stated) != groups)
        refuse(l, "groups of ", *stated, options_.group_size ? " (options)" : " (configuration)", " in rows of ", l.K,
               " are ", detail::groups_of(l.K, *stated), "; the file has ", groups);
      return *stated;
    }
    if (groups == 1) return 0;
    // Several sizes give as many groups; the one that tools choose is a power of two.
    const std::size_t size = groups == 0 ? 0 : l.K / groups;
    if (size == 0 || l.K % groups != 0 || (size & (size - 1)) != 0)
      refuse(l, groups, " groups in rows of ", l.K,
             " do not say how many columns a group has; rule: options or configuration say it");
    return size;
  }
  /// The width that options or configuration state for the layer; 0 when they do not.
  int stated_bits() const noexcept {
    if (options_.bits) return *options_.bits;
    return config_ && !config_->by_layer ? config_->bits : 0;
  }

  void describe_gptq_or_awq(checkpoint_layer& l) const {
    const std::size_t words = extent(l, ".qweight", 1), outputs = extent(l, ".scales", 1);
    // A word of AWQ holds eight outputs; of GPTQ, inputs of one output.
    l.layout = words == outputs ? layer_layout::gptq : layer_layout::awq;
    l.N = outputs;
    if (l.layout == layer_layout::awq && words * 8 != outputs)
      refuse(l, "qweight has ", words, " columns, scales ", outputs, ": neither GPTQ nor AWQ of version gemm");
    const std::string_view method = name_of(l.layout);
    if (config_ && (says("gptq") || says("awq")) && !says(method))
      refuse(l, "the shapes are those of ", method, ", the configuration says ", printable(config_->method),
             config_->version.empty() ? "" : " of version ", printable(config_->version));
    const std::size_t groups = extent(l, ".scales", 0);
    if (l.layout == layer_layout::awq) {
      if (config_ && !config_->version.empty() && std::string_view{config_->version} != "gemm")
        core::fail(errc::unsupported_format, "checkpoint: ", config_->place, ": AWQ version '",
                   printable(config_->version), "'; gemm is supported");
      l.bits = 4;
      l.K = extent(l, ".qweight", 0);
    } else {
      const std::size_t zero_words = extent(l, ".qzeros", 1);
      if (zero_words > outputs || zero_words * 32 % outputs != 0 || zero_words * 32 / outputs > 8)
        refuse(l, "qzeros has ", zero_words, " words for ", outputs, " outputs; rule: N bits / 32");
      l.bits = static_cast<int>(zero_words * 32 / outputs);
      const std::size_t rows = extent(l, ".qweight", 0);
      if (l.bits == 0 || rows > static_cast<std::size_t>(-1) / 32)
        refuse(l, "qweight has ", rows, " rows of words, qzeros ", zero_words, " columns");
      l.K = rows * 32 / static_cast<std::size_t>(l.bits);
      l.version = version_of(l);
    }
    if (const int stated = stated_bits(); stated != 0 && stated != l.bits)
      refuse(l, "the shapes are those of ", l.bits, " bits, ",
             options_.bits ? "the options say " : "the configuration says ", stated);
    l.group_size = group_size_of(l, groups);
  }
  gptq_version version_of(const checkpoint_layer& l) const {
    if (options_.version) return *options_.version;
    if (!config_)
      refuse(l, "no configuration in '", printable(files_.folder()),
             "' says how zero points are stored; rule: checkpoint_options::version does");
    const std::string_view format = config_->checkpoint_format;
    if (format.empty() || format == "gptq") return gptq_version::v1;
    if (format == "gptq_v2") return gptq_version::v2;
    core::fail(errc::unsupported_format, "checkpoint: ", config_->place, ": checkpoint_format '", printable(format),
               "'; gptq and gptq_v2 are supported");
  }

  void describe_pack_quantized(checkpoint_layer& l) const {
    if (config_ && !config_->format.empty() && std::string_view{config_->format} != "pack-quantized" &&
        std::string_view{config_->format} != "mixed-precision")
      core::fail(errc::unsupported_format, "checkpoint: ", config_->place, ": format '", printable(config_->format),
                 "'; pack-quantized is supported");
    std::tie(l.N, l.K) = detail::packed_extents(need(l, ".weight_shape"));
    const std::size_t words = extent(l, ".weight_packed", 1);
    const tensor_view scale = need(l, ".weight_scale");
    const std::size_t groups = scale.shape.size() == 2 ? scale.shape[1] : 1;
    std::vector<weight_scheme> candidates = config_ ? config_->schemes : std::vector<weight_scheme>{};
    if (candidates.empty())
      for (int bits = 2; bits <= 8; ++bits) candidates.push_back({bits, group_size_of(l, groups)});
    std::vector<weight_scheme> fitting;
    for (weight_scheme c : candidates) {
      if (options_.bits) c.bits = *options_.bits;
      if (options_.group_size) c.group_size = *options_.group_size;
      const bool fits = c.bits >= 2 && c.bits <= 8 && detail::groups_of(l.K, c.group_size) == groups &&
                        (detail::words_of(l.K, c.bits, word_packing::whole) == words ||
                         detail::words_of(l.K, c.bits, word_packing::stream) == words);
      if (fits && std::find(fitting.begin(), fitting.end(), c) == fitting.end()) fitting.push_back(c);
    }
    if (fitting.size() != 1)
      refuse(l, words, " words and ", groups, " scales for rows of ", l.K, " columns fit ", fitting.size(),
             " schemes of ",
             options_.bits || options_.group_size   ? "the options"
             : config_ && !config_->schemes.empty() ? "the configuration"
                                                    : "2 to 8 bits",
             "; rule: one");
    l.bits = fitting[0].bits;
    l.group_size = fitting[0].group_size;
    const std::optional<word_packing> packing = detail::packing_of(l.K, words, l.bits, stated_packing());
    if (!packing)
      refuse(l, "rows of ", l.K, " codes of ", l.bits, " bits have ", words,
             " words whether codes straddle words or not; rule: the configuration's version or "
             "checkpoint_options::packing says which");
    l.packing = *packing;
  }
  /// What the options say, or the version of compressed-tensors that wrote the configuration: 0.18 packs without gaps.
  std::optional<word_packing> stated_packing() const {
    if (options_.packing || !config_) return options_.packing;
    unsigned major = 0, minor = 0;
    if (std::sscanf(config_->version.c_str(), "%3u.%5u", &major, &minor) != 2) return std::nullopt;
    return major > 0 || minor >= 18 ? word_packing::stream : word_packing::whole;
  }

  void describe_bitsandbytes(checkpoint_layer& l) const {
    const tensor_view state = quant_state_of(l);
    const bnb_quant_state s =
        parse_quant_state({reinterpret_cast<const char*>(state.bytes.data()), state.bytes.size()},
                          core::message("checkpoint: ", files_.place(), ": '", printable(state.name), "'"));
    l.N = s.N;
    l.K = s.K;
    l.bits = 4;
    l.group_size = s.blocksize;
  }

  void describe(checkpoint_layer& l) const {
    switch (l.layout) {
      case layer_layout::gptq:
      case layer_layout::awq: return describe_gptq_or_awq(l);
      case layer_layout::pack_quantized: return describe_pack_quantized(l);
      case layer_layout::bitsandbytes: return describe_bitsandbytes(l);
      case layer_layout::llm_int8:
        l.N = extent(l, ".weight", 0);
        l.K = extent(l, ".weight", 1);
        l.bits = 8;
        return;
      case layer_layout::nibble: {
        const detail::description about = detail::find_planes(files_, l.name).about;
        l.N = about.N;
        l.K = about.K;
        l.bits = about.format.bits;
        l.group_size = about.format.group_size;
        return;
      }
    }
  }

  /// Suffixes of the tensors of a layout; the first one is what a layer is known by.
  static std::span<const std::string_view> suffixes_of(layer_layout layout) noexcept {
    static constexpr std::string_view words[] = {".qweight", ".qzeros", ".scales", ".g_idx"};
    static constexpr std::string_view packed[] = {".weight_packed", ".weight_scale", ".weight_shape",
                                                  ".weight_zero_point", ".weight_g_idx"};
    static constexpr std::string_view bnb[] = {".weight.quant_state.bitsandbytes__nf4",
                                               ".weight.quant_state.bitsandbytes__fp4",
                                               ".weight",
                                               ".weight.absmax",
                                               ".weight.quant_map",
                                               ".weight.nested_absmax",
                                               ".weight.nested_quant_map"};
    static constexpr std::string_view int8[] = {".SCB", ".weight", ".weight_format"};
    switch (layout) {
      case layer_layout::gptq:
      case layer_layout::awq: return words;
      case layer_layout::pack_quantized: return packed;
      case layer_layout::bitsandbytes: return bnb;
      case layer_layout::llm_int8: return int8;
      case layer_layout::nibble: break;
    }
    return detail::plane_names;
  }

  void find_layers() {
    for (const tensor_info& t : files_.tensors()) {
      for (const layer_layout layout : {layer_layout::gptq, layer_layout::pack_quantized, layer_layout::bitsandbytes,
                                        layer_layout::llm_int8, layer_layout::nibble}) {
        const std::span<const std::string_view> suffixes = suffixes_of(layout);
        const std::size_t keys = layout == layer_layout::bitsandbytes ? 2 : 1;
        for (std::size_t i = 0; i < keys; ++i) {
          if (!detail::ends_with(t.name, suffixes[i])) continue;
          checkpoint_layer l;
          l.name = t.name.substr(0, t.name.size() - suffixes[i].size());
          l.layout = layout;
          describe(l);
          for (const std::string_view suffix : suffixes)
            if (const tensor_info* const part = files_.find(l.name + std::string{suffix})) {
              l.tensors.push_back(part);
              if (!taken_.insert(part->name).second)
                refuse(l, "tensor '", printable(part->name), "' belongs to another layer too");
            }
          layers_.push_back(std::move(l));
        }
      }
    }
    std::sort(layers_.begin(), layers_.end(),
              [](const checkpoint_layer& a, const checkpoint_layer& b) { return a.name < b.name; });
  }

  safetensors_set files_;
  checkpoint_options options_;
  std::optional<quantization_config> config_;
  std::vector<checkpoint_layer> layers_;
  std::set<std::string_view> taken_;  // names of the tensors of layers, in files_
};

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble

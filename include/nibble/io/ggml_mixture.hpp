// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Which tensor of a model file becomes which block format: one type for all, llama.cpp's mixtures, and rules by name on top
/// of either. Where a row is no whole number of blocks another type takes its place; every choice says so. What a tensor is
/// says its role (tensor_role.hpp), so that GGUF's and Hugging Face's names of a model lead to the same types.
/// Source: llama.cpp of February 2025, llama-quant (without importance matrices), dense models and those of 8 experts.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <regex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/io/file_text.hpp>
#include <nibble/io/gguf.hpp>
#include <nibble/io/tensor_role.hpp>
#include <nibble/quant/ggml_type.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

/// Mixtures by the names that llama.cpp's tool has for them: S, M and L spend more and more on the tensors that matter most.
enum class ggml_mixture : std::uint8_t { q2_k_s, q2_k, q3_k_s, q3_k_m, q3_k_l, q4_k_s, q4_k_m, q5_k_s, q5_k_m };

/// What is known of a mixture: its name, the type of most tensors, and the number that files carry as general.file_type.
struct mixture_info {
  ggml_mixture mixture;
  std::string_view name;
  ggml_type base;
  std::uint32_t file_type;
};
inline constexpr std::array<mixture_info, 9> ggml_mixtures = {{
    {ggml_mixture::q2_k_s, "Q2_K_S", ggml_type::q2_k, 21},
    {ggml_mixture::q2_k, "Q2_K", ggml_type::q2_k, 10},
    {ggml_mixture::q3_k_s, "Q3_K_S", ggml_type::q3_k, 11},
    {ggml_mixture::q3_k_m, "Q3_K_M", ggml_type::q3_k, 12},
    {ggml_mixture::q3_k_l, "Q3_K_L", ggml_type::q3_k, 13},
    {ggml_mixture::q4_k_s, "Q4_K_S", ggml_type::q4_k, 14},
    {ggml_mixture::q4_k_m, "Q4_K_M", ggml_type::q4_k, 15},
    {ggml_mixture::q5_k_s, "Q5_K_S", ggml_type::q5_k, 16},
    {ggml_mixture::q5_k_m, "Q5_K_M", ggml_type::q5_k, 17},
}};

constexpr const mixture_info& info_of(ggml_mixture m) noexcept { return ggml_mixtures[static_cast<std::size_t>(m)]; }
constexpr std::string_view name_of(ggml_mixture m) noexcept { return info_of(m).name; }

/// What a mixture asks of a model beside the names and extents of its tensors. 0: not known.
struct model_facts {
  std::string architecture;
  std::size_t layers = 0, heads = 0, kv_heads = 0, experts = 0;
};

/// The facts in a file's metadata. Throws bad_file where a key holds something else than its number.
inline model_facts facts_of(const gguf_reader& file) {
  model_facts facts;
  if (const auto name = file.get_if<std::string_view>("general.architecture")) facts.architecture = *name;
  const auto number = [&](std::string_view key) {
    const std::string full = facts.architecture + std::string{key};
    const gguf_value* const value = file.find(full);
    // Models whose layers differ have an array here; a mixture asks for the greatest then.
    if (value != nullptr && value->type() == gguf_type::array) {
      std::size_t most = 0;
      for (const std::size_t v : file.get_array<std::size_t>(full)) most = v > most ? v : most;
      return most;
    }
    return file.get_if<std::size_t>(full).value_or(0);
  };
  facts.layers = number(".block_count");
  facts.heads = number(".attention.head_count");
  facts.kv_heads = number(".attention.head_count_kv");
  facts.experts = number(".expert_count");
  return facts;
}

/// What a rule's pattern may cost: its bytes times the counts of its repetitions ({2,30}: 30), which bounds the states that a
/// search steps through for each byte of a name, and how deep its brackets can nest on the parser's stack.
inline constexpr std::size_t max_pattern_cost = 2'000, max_pattern_bytes = 500;

/// A rule on top of a mixture: tensors whose name the pattern finds (ECMAScript, anywhere in the name) become `type`. With
/// libstdc++ the search takes time in proportion to states and name, whatever the pattern; it has no back-references then.
struct type_rule {
  std::string text;  ///< the pattern as it was written
  std::regex pattern;
  ggml_type type;

  /// Throws bad_value, with what is wrong, for a pattern that is none or costs too much.
  type_rule(std::string written, ggml_type to) : text(std::move(written)), type(to) {
    if (text.size() > max_pattern_bytes)
      core::fail(errc::bad_value, "type_rule: '", printable(text), "' has ", text.size(), " bytes; at most ",
                 max_pattern_bytes);
    for (std::size_t i = 0; i + 1 < text.size(); ++i) {
      if (text[i] != '\\') continue;
      if (const char c = text[++i]; c >= '1' && c <= '9')  // the standard library's parser overflows at long ones
        core::fail(errc::bad_value, "type_rule: '", printable(text), "' has a back-reference, \\", c,
                   "; rules are searched for without");
    }
    if (cost_of(text) > max_pattern_cost)
      core::fail(errc::bad_value, "type_rule: '", printable(text),
                 "' repeats too much: its bytes times its counts are ", "more than ", max_pattern_cost);
    auto flags = std::regex::ECMAScript | std::regex::optimize | std::regex::nosubs;
#if defined(__GLIBCXX__)
    flags |=
        std::regex_constants::__polynomial;  // by default `(a+)+b` takes exponential time, `.*` stack for each byte
#endif
    try {
      pattern.assign(text, flags);
    } catch (const std::regex_error& e) {
      core::fail(errc::bad_value, "type_rule: '", printable(text), "' is no regular expression: ", e.what());
    }
  }

 private:
  /// Bytes times the product of the counts in braces, or some number above the limit.
  static std::size_t cost_of(std::string_view pattern) noexcept {
    std::size_t cost = pattern.size(), count = 0, greatest = 1;
    bool inside = false;
    for (std::size_t i = 0; i < pattern.size() && cost <= max_pattern_cost; ++i) {
      const char c = pattern[i];
      if (c == '\\') {
        ++i;
      } else if (c == '{') {
        inside = true;
        count = 0;
        greatest = 1;
      } else if (inside && c >= '0' && c <= '9') {
        count = 10 * count + static_cast<std::size_t>(c - '0');
        greatest = count > greatest ? count : greatest;
        if (greatest > max_pattern_cost) return greatest;
      } else if (inside && c == ',') {
        count = 0;
      } else if (inside && c == '}') {
        inside = false;
        cost *= greatest;
      }
    }
    return cost;
  }
};

/// The rules of a text: a pattern, '=' and the name of a type in each line; '#' begins a comment, empty lines are skipped.
/// `place` names the text in errors. Throws bad_value with the line.
inline std::vector<type_rule> parse_rules(std::string_view text, std::string_view place) {
  std::vector<type_rule> rules;
  const auto trimmed = [](std::string_view s) {
    const std::size_t first = s.find_first_not_of(" \t\r"), last = s.find_last_not_of(" \t\r");
    return first == std::string_view::npos ? std::string_view{} : s.substr(first, last - first + 1);
  };
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::size_t end = text.find('\n');
    const std::string_view line = trimmed(text.substr(0, text.substr(0, end).find('#')).substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.empty()) continue;
    const std::size_t equals = line.rfind('=');
    if (equals == std::string_view::npos)
      core::fail(errc::bad_value, place, ", line ", number, ": '", printable(line), "' is not 'pattern = TYPE'");
    const std::string_view name = trimmed(line.substr(equals + 1));
    const std::optional<ggml_type> type = quant::ggml_type_from_name(name);
    if (!type)
      core::fail(errc::bad_value, place, ", line ", number, ": there is no type '", printable(name),
                 "'; types are written as in Q4_K or F16");
    if (!can_encode_ggml(*type))
      core::fail(errc::unsupported_format, place, ", line ", number, ": nibble cannot write type ", name);
    rules.emplace_back(std::string{trimmed(line.substr(0, equals))}, *type);
  }
  return rules;
}

/// What becomes of one tensor.
struct type_choice {
  ggml_type type;                   ///< what is written
  ggml_type wanted;                 ///< what was asked for: differs where rows are no whole blocks of it
  bool kept = false;                ///< stays as it is: a norm, a bias, a router, a table of positions
  bool known = true;                ///< its name says what it is; else a mixture gives it the type of most tensors
  const type_rule* rule = nullptr;  ///< the rule that decided, if one did

  bool substituted() const noexcept { return type != wanted; }
};

namespace detail {

constexpr bool contains(std::string_view s, std::string_view part) noexcept {
  return s.find(part) != std::string_view::npos;
}

/// Whether a quantizer touches a tensor of that role, or of that name, at all.
constexpr bool is_quantized(std::string_view name, std::size_t n_dims) noexcept {
  if (!name.ends_with("weight") || n_dims < 2) return false;
  for (const std::string_view part :
       {"_norm.weight",       "ffn_gate_inp.weight",      "position_embd.weight",     "token_types.weight",
        "ssm_conv1d.weight",  "time_mix_first.weight",    "time_mix_w0.weight",       "time_mix_w1.weight",
        "time_mix_w2.weight", "time_mix_v0.weight",       "time_mix_v1.weight",       "time_mix_v2.weight",
        "time_mix_a0.weight", "time_mix_a1.weight",       "time_mix_a2.weight",       "time_mix_g1.weight",
        "time_mix_g2.weight", "time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight",
        "ffn_gate_inp_shexp"})
    if (contains(name, part)) return false;
  return true;
}

/// `type` where rows of so many elements are whole blocks of it, else the type that takes its place.
constexpr ggml_type type_for_rows(ggml_type type, std::size_t row) noexcept {
  const auto fits = [row](ggml_type t) { return row % quant::info_of(t).block_elements == 0; };
  if (fits(type)) return type;
  ggml_type other = ggml_type::f16;
  switch (type) {
    case ggml_type::q2_k:
    case ggml_type::q3_k:
    case ggml_type::iq4_xs: other = ggml_type::iq4_nl; break;
    case ggml_type::q4_k: other = ggml_type::q5_0; break;
    case ggml_type::q5_k: other = ggml_type::q5_1; break;
    case ggml_type::q6_k: other = ggml_type::q8_0; break;
    default: break;
  }
  return fits(other) ? other : ggml_type::f16;
}

/// Whether layer i of n is one that gets more bits: the first and the last eighth, and every third between.
constexpr bool more_bits(std::size_t i, std::size_t n) noexcept {
  return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
}

/// Roles that hold `part`: how many there are, and each one's place among them by the number behind "blk.". Experts that share
/// a role count once.
class layer_places {
 public:
  layer_places(std::span<const std::string> roles, std::string_view part) : part_(part) {
    std::vector<std::string_view> own;
    for (const std::string& role : roles)
      if (contains(role, part)) own.push_back(role);
    std::sort(own.begin(), own.end());
    own.erase(std::unique(own.begin(), own.end()), own.end());
    for (const std::string_view role : own) layers_.push_back(layer_of(role));
  }
  bool takes(std::string_view role) const noexcept { return contains(role, part_); }
  std::size_t count() const noexcept { return layers_.size(); }
  std::size_t place_of(std::string_view role) const noexcept {
    const std::size_t own = layer_of(role);
    std::size_t before = 0;
    for (const std::size_t layer : layers_) before += layer < own ? 1 : 0;
    return before;
  }

 private:
  static std::size_t layer_of(std::string_view role) noexcept {
    std::size_t layer = 0;
    if (!role.starts_with("blk.")) return layer;
    for (const char c : role.substr(4)) {
      if (c < '0' || c > '9') break;
      layer = 10 * layer + static_cast<std::size_t>(c - '0');
    }
    return layer;
  }
  std::string_view part_;
  std::vector<std::size_t> layers_;
};

/// How many experts of one layer have a matrix of their own, and share its role; at most 1 where one tensor holds them all.
inline std::size_t experts_in(std::span<const std::string> roles) {
  std::map<std::string_view, std::size_t> counts;
  std::size_t most = 0;
  for (const std::string& role : roles)
    if (contains(role, "ffn_down_exps.weight")) most = std::max(most, ++counts[role]);
  return most;
}

}  // namespace detail

/// What a plan says without an effect on a model's tensors.
struct plan_gaps {
  std::vector<const type_rule*> without_tensor;  ///< rules that find no tensor's name
  std::vector<const type_rule*> of_kept;         ///< rules that find names, but only of tensors that stay as they are
  std::vector<std::size_t> unknown;  ///< tensors that get a mixture's type though their names say nothing to it
  bool blind = false;  ///< these are all: a mixture that knows no tensor of any layer, and so tells nothing apart
};

/// The types of all tensors of a model, in their order: of one type, or of a mixture. Norms, biases, routers and tables of
/// positions stay as they are, whatever is asked for; elsewhere the first rule that finds a tensor's own name decides.
class type_plan {
 public:
  type_plan(ggml_type type, std::vector<type_rule> rules = {}) : one_(type), rules_(std::move(rules)) {
    if (!can_encode_ggml(type))
      core::fail(errc::unsupported_format, "type_plan: nibble cannot write type ", quant::name_of(type));
  }
  type_plan(ggml_mixture mixture, std::vector<type_rule> rules = {}) : mixture_(mixture), rules_(std::move(rules)) {}

  const std::vector<type_rule>& rules() const noexcept { return rules_; }

  /// One choice for each tensor; they refer to the rules of this plan. Where the facts say no experts, the names are counted.
  std::vector<type_choice> choose(model_facts facts, std::span<const gguf_tensor> tensors) const {
    std::vector<std::string> roles;
    std::vector<bool> known;
    for (const gguf_tensor& t : tensors) {
      std::optional<std::string> role = role_of(t.name);
      known.push_back(role.has_value());
      roles.push_back(role ? std::move(*role) : std::string{t.name});
    }
    if (facts.experts == 0) facts.experts = detail::experts_in(roles);
    const detail::layer_places values{roles, "attn_v.weight"}, downs{roles, "ffn_down"};
    const bool output = std::find(roles.begin(), roles.end(), "output.weight") != roles.end();
    std::vector<type_choice> choices;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const gguf_tensor& t = tensors[i];
      if (!detail::is_quantized(roles[i], t.n_dims)) {
        choices.push_back({.type = t.type, .wanted = t.type, .kept = true, .known = known[i]});
        continue;
      }
      const type_rule* rule = nullptr;
      for (std::size_t r = 0; rule == nullptr && r < rules_.size(); ++r)
        if (finds(rules_[r], t)) rule = &rules_[r];
      ggml_type wanted = one_;
      if (rule != nullptr) wanted = rule->type;
      else if (mixture_)
        wanted = known[i] ? of_mixture(facts, roles[i], output, values, downs) : info_of(*mixture_).base;
      choices.push_back(
          {.type = detail::type_for_rows(wanted, t.dims[0]), .wanted = wanted, .known = known[i], .rule = rule});
    }
    return choices;
  }

  /// What of this plan has no effect on tensors for which it made these choices. A rule that comes too late everywhere is none
  /// of that: a last rule for all that is left may find nothing left.
  plan_gaps gaps(std::span<const gguf_tensor> tensors, std::span<const type_choice> choices) const {
    plan_gaps all;
    for (const type_rule& rule : rules_) {
      bool found = false, of_use = false;
      for (std::size_t i = 0; i < tensors.size() && !of_use; ++i) {
        if (!finds(rule, tensors[i])) continue;
        found = true;
        of_use = !choices[i].kept;
      }
      if (!found) all.without_tensor.push_back(&rule);
      else if (!of_use) all.of_kept.push_back(&rule);
    }
    if (!mixture_) return all;
    bool knows_layers = false;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (choices[i].kept) continue;
      if (!choices[i].known && choices[i].rule == nullptr) all.unknown.push_back(i);
      if (choices[i].known) knows_layers |= detail::contains(role_of(tensors[i].name).value_or(""), "blk.");
    }
    all.blind = !all.unknown.empty() && !knows_layers;
    return all;
  }

  /// Whether tensors are told apart, and a model's facts asked for: not with one type.
  bool is_mixture() const noexcept { return mixture_.has_value(); }

  /// The number that files carry as general.file_type, where there is one for this plan.
  std::optional<std::uint32_t> file_type() const noexcept {
    if (mixture_) return info_of(*mixture_).file_type;
    switch (one_) {
      case ggml_type::f32: return 0u;
      case ggml_type::f16: return 1u;
      case ggml_type::q4_0: return 2u;
      case ggml_type::q4_1: return 3u;
      case ggml_type::q8_0: return 7u;
      case ggml_type::q5_0: return 8u;
      case ggml_type::q5_1: return 9u;
      case ggml_type::q3_k: return 11u;
      case ggml_type::q4_k: return 14u;
      case ggml_type::q5_k: return 16u;
      case ggml_type::q6_k: return 18u;
      case ggml_type::iq4_nl: return 25u;
      case ggml_type::iq4_xs: return 30u;
      case ggml_type::mxfp4: return 38u;
      default: return std::nullopt;
    }
  }

 private:
  static bool finds(const type_rule& rule, const gguf_tensor& t) {
    return std::regex_search(t.name.begin(), t.name.end(), rule.pattern);
  }
  ggml_type of_mixture(const model_facts& facts, std::string_view role, bool has_output,
                       const detail::layer_places& values, const detail::layer_places& downs) const {
    using enum ggml_type;
    const ggml_mixture m = *mixture_;
    const ggml_type base = info_of(m).base;
    if (role == "output.weight" || (!has_output && role == "token_embd.weight")) return q6_k;
    if (role == "token_embd.weight") return base;
    const bool eight_experts = facts.experts == 8;
    if (values.takes(role)) {
      if (eight_experts) return q8_0;
      const ggml_type type = of_values(facts, values.place_of(role), values.count());
      // A model of 80 layers shares its values eight times over: they are small.
      const bool of_70b = facts.architecture == "llama" && facts.layers == 80 && facts.heads != facts.kv_heads;
      return of_70b && (type == q3_k || type == q4_k) ? q5_k : type;
    }
    if (detail::contains(role, "attn_k.weight") && eight_experts) return q8_0;
    if (detail::contains(role, "attn_qkv.weight")) return of_fused_attention();
    if (downs.takes(role)) return of_down(downs.place_of(role), downs.count());
    if (detail::contains(role, "attn_output.weight")) return of_attention_output(eight_experts);
    return base;
  }
  /// Values: the place-th of `count` matrices.
  ggml_type of_values(const model_facts& facts, std::size_t place, std::size_t count) const {
    using enum ggml_type;
    const ggml_type base = info_of(*mixture_).base;
    const bool shared = facts.kv_heads != 0 && facts.heads / facts.kv_heads >= 4;
    switch (*mixture_) {
      case ggml_mixture::q2_k_s: return shared ? q4_k : base;
      case ggml_mixture::q2_k: return shared ? q4_k : q3_k;
      case ggml_mixture::q3_k_m: return place < 2 ? q5_k : q4_k;
      case ggml_mixture::q3_k_l: return q5_k;
      case ggml_mixture::q4_k_s: return place < 4 ? q5_k : base;
      case ggml_mixture::q4_k_m:
      case ggml_mixture::q5_k_m: return detail::more_bits(place, count) ? q6_k : base;
      case ggml_mixture::q3_k_s:
      case ggml_mixture::q5_k_s: break;
    }
    return base;
  }
  ggml_type of_fused_attention() const {
    using enum ggml_type;
    switch (*mixture_) {
      case ggml_mixture::q3_k_m:
      case ggml_mixture::q3_k_l: return q4_k;
      case ggml_mixture::q4_k_m: return q5_k;
      case ggml_mixture::q5_k_m: return q6_k;
      default: return info_of(*mixture_).base;
    }
  }
  ggml_type of_down(std::size_t place, std::size_t count) const {
    using enum ggml_type;
    const ggml_type base = info_of(*mixture_).base;
    switch (*mixture_) {
      case ggml_mixture::q2_k_s: return place < count / 8 ? q4_k : base;
      case ggml_mixture::q2_k: return q3_k;
      case ggml_mixture::q3_k_m: return place < count / 16 ? q5_k : q4_k;
      case ggml_mixture::q3_k_l: return q5_k;
      case ggml_mixture::q4_k_s: return place < count / 8 ? q5_k : base;
      case ggml_mixture::q4_k_m:
      case ggml_mixture::q5_k_m: return detail::more_bits(place, count) ? q6_k : base;
      case ggml_mixture::q3_k_s:
      case ggml_mixture::q5_k_s: break;
    }
    return base;
  }
  ggml_type of_attention_output(bool eight_experts) const {
    using enum ggml_type;
    const ggml_mixture m = *mixture_;
    const ggml_type base = info_of(m).base;
    // With eight experts attention is a small part of the model.
    if (eight_experts) return m == ggml_mixture::q2_k_s || m == ggml_mixture::q3_k_l ? base : q5_k;
    switch (m) {
      case ggml_mixture::q2_k: return q3_k;
      case ggml_mixture::q3_k_m: return q4_k;
      case ggml_mixture::q3_k_l: return q5_k;
      default: return base;
    }
  }

  std::optional<ggml_mixture> mixture_;
  ggml_type one_ = ggml_type::f32;
  std::vector<type_rule> rules_;
};

/// The plan of a name: a mixture's or a type's, "Q4_K_M", "Q8_0". "Q2_K" is the mixture. Throws bad_value for a name of
/// neither.
inline type_plan plan_of(std::string_view name, std::vector<type_rule> rules = {}) {
  for (const mixture_info& m : ggml_mixtures)
    if (name == m.name) return {m.mixture, std::move(rules)};
  if (const std::optional<ggml_type> type = quant::ggml_type_from_name(name)) return {*type, std::move(rules)};
  core::fail(
      errc::bad_value, "plan_of: '", printable(name),
      "' is neither a mixture (Q2_K, Q2_K_S, Q3_K_S/M/L, Q4_K_S/M, Q5_K_S/M) nor a type (F16, Q8_0, Q4_K and so on)");
}

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble

// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The types of a model's tensors for a size that the file must not exceed: one option for each tensor, with least cost in all.
/// A cost is what the caller predicts, such as the share of a product's energy that turns to noise when its weights are of that
/// type; costs of tensors add up.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/io/file_text.hpp>
#include <nibble/quant/ggml_type.hpp>
#include <nibble/tensor/ggml_rows.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

/// What a tensor may become.
struct size_option {
  ggml_type type;
  std::size_t bytes;
  double cost;  ///< finite, 0 or more
};

/// One option of each tensor.
struct size_allocation {
  std::vector<std::size_t> chosen;  ///< the option's number, tensor by tensor
  std::size_t bytes = 0;
  double cost = 0.0;
  double bound = 0.0;  ///< no choice of that size costs less: that of the choice with fractions of tensors
};

namespace detail {

/// The options, by number, that a line from left to right under all points (bytes, cost) touches: each costs less than the one
/// before, and less for each byte saved the further right.
inline std::vector<std::size_t> lower_hull(std::span<const size_option> options) {
  std::vector<std::size_t> order(options.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return options[a].bytes != options[b].bytes ? options[a].bytes < options[b].bytes
                                                : options[a].cost < options[b].cost;
  });
  const auto slope = [&](std::size_t a, std::size_t b) {
    return (options[a].cost - options[b].cost) / static_cast<double>(options[b].bytes - options[a].bytes);
  };
  std::vector<std::size_t> hull;
  for (const std::size_t i : order) {
    if (!hull.empty() && !(options[i].cost < options[hull.back()].cost)) continue;
    while (hull.size() >= 2 && slope(hull[hull.size() - 2], hull.back()) <= slope(hull.back(), i)) hull.pop_back();
    hull.push_back(i);
  }
  return hull;
}

}  // namespace detail

/// Chooses one option for each tensor so that their bytes are at most `budget` and the sum of their costs is small: steps along
/// each tensor's lower hull, those that save most for a byte first, then single tensors into what is left. The cost is at most
/// that of one step above `bound`. The same for the same options in the same order. Throws bad_value for a tensor without
/// options, and, with the least size that there is, where even that is more than the budget.
inline size_allocation allocate_sizes(std::span<const std::vector<size_option>> tensors, std::size_t budget) {
  struct step {
    std::size_t tensor, place;  ///< from hull[place - 1] to hull[place]
    double gain;                ///< cost for a byte
  };
  std::vector<std::vector<std::size_t>> hulls;
  std::vector<step> steps;
  std::vector<std::size_t> place(tensors.size(), 0);
  size_allocation all;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const std::vector<size_option>& options = tensors[t];
    if (options.empty()) core::fail(errc::bad_value, "allocate_sizes: tensor ", t, " has no option");
    hulls.push_back(detail::lower_hull(options));
    const std::vector<std::size_t>& hull = hulls.back();
    for (std::size_t p = 1; p < hull.size(); ++p) {
      const size_option &from = options[hull[p - 1]], &to = options[hull[p]];
      steps.push_back({t, p, (from.cost - to.cost) / static_cast<double>(to.bytes - from.bytes)});
    }
    all.chosen.push_back(hull[0]);
    if (__builtin_add_overflow(all.bytes, options[hull[0]].bytes, &all.bytes))
      core::fail(errc::bad_value, "allocate_sizes: the least sizes add up to more than 64 bits");
  }
  if (all.bytes > budget)
    core::fail(errc::bad_value, "allocate_sizes: ", budget, " bytes are too few; the least is ", all.bytes);
  // Steps of one tensor fall in gain, and a stable sort keeps the order of equal ones.
  std::stable_sort(steps.begin(), steps.end(), [](const step& a, const step& b) { return a.gain > b.gain; });
  std::optional<double> saved_at_bound;
  double saved = 0.0;
  for (const step& s : steps) {
    const std::vector<size_option>& options = tensors[s.tensor];
    const size_option &from = options[hulls[s.tensor][s.place - 1]], &to = options[hulls[s.tensor][s.place]];
    const std::size_t more = to.bytes - from.bytes, left = budget - all.bytes;
    if (more > left && !saved_at_bound) saved_at_bound = saved + s.gain * static_cast<double>(left);
    if (place[s.tensor] + 1 != s.place || more > left) continue;
    place[s.tensor] = s.place;
    all.chosen[s.tensor] = hulls[s.tensor][s.place];
    all.bytes += more;
    saved += from.cost - to.cost;
  }
  // What is left goes to the option, on a hull or not, that saves most, while there is one that fits.
  for (;;) {
    double most = 0.0;
    std::size_t tensor = 0, option = 0;
    for (std::size_t t = 0; t < tensors.size(); ++t) {
      const size_option& now = tensors[t][all.chosen[t]];
      for (std::size_t o = 0; o < tensors[t].size(); ++o) {
        const size_option& other = tensors[t][o];
        const bool fits = other.bytes <= now.bytes || other.bytes - now.bytes <= budget - all.bytes;
        if (fits && now.cost - other.cost > most) most = now.cost - other.cost, tensor = t, option = o;
      }
    }
    if (most == 0.0) break;
    all.bytes = all.bytes - tensors[tensor][all.chosen[tensor]].bytes + tensors[tensor][option].bytes;
    all.chosen[tensor] = option;
  }
  double worst = 0.0;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    worst += tensors[t][hulls[t][0]].cost;
    all.cost += tensors[t][all.chosen[t]].cost;
  }
  all.bound = std::min(all.cost, worst - saved_at_bound.value_or(saved));
  return all;
}

/// Types that allocate_sizes may choose from for rows of so many elements: those that nibble writes, of 16 bits or fewer.
inline std::vector<ggml_type> types_of_rows(std::size_t row) {
  std::vector<ggml_type> types;
  for (const quant::ggml_type_info& info : quant::detail::ggml_types)
    if (can_encode_ggml(info.type) && row % info.block_elements == 0 && (info.quantized || info.type == ggml_type::f16))
      types.push_back(info.type);
  return types;
}

/// Bytes as people write them: a number, then nothing or B, KiB, MiB, GiB, KB, MB or GB ("400MiB", "1.5 GB"). Fractions of a
/// byte are cut off. Throws bad_value for anything else.
inline std::size_t parse_bytes(std::string_view text) {
  struct unit {
    std::string_view name;
    double bytes;
  };
  constexpr unit units[] = {{"", 1.0},       {"B", 1.0},  {"KiB", 0x1p10}, {"MiB", 0x1p20},
                            {"GiB", 0x1p30}, {"KB", 1e3}, {"MB", 1e6},     {"GB", 1e9}};
  double number = 0.0, place = 0.0;  // place: 0 before the point, else the weight of the next digit
  std::size_t at = 0, digits = 0;
  for (; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '.' && place == 0.0) {
      place = 0.1;
    } else if (c >= '0' && c <= '9') {
      ++digits;
      if (place == 0.0) number = number * 10.0 + (c - '0');
      else number += place * (c - '0'), place *= 0.1;
    } else {
      break;
    }
  }
  std::string_view rest = text.substr(at);
  while (!rest.empty() && rest.front() == ' ') rest.remove_prefix(1);
  for (const unit& u : units) {
    if (rest != u.name || digits == 0) continue;
    const double bytes = number * u.bytes;
    if (!(bytes < 0x1p63)) break;
    return static_cast<std::size_t>(bytes + 1e-6);  // 0.1 MB are 100000 bytes, whatever 0.1 is in binary
  }
  core::fail(errc::bad_value, "parse_bytes: '", printable(text),
             "' is no size; sizes are written as in 400MiB or 1.5GB");
}

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble

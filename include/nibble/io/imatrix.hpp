// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Importance of columns from the files of llama.cpp's imatrix tool: for each weight the sum, over the tokens of a text, of the
/// squares of the activations that meet each column. Two forms:
///
///   GGUF      for a weight W the tensors W.in_sum2 [K] or [K, matrices] and W.counts [1, matrices], F32
///   legacy    u32 entries; each: u32 length, name, u32 calls, u32 n, n floats; what follows is not read
///
/// Source: what that tool writes (GGUF since 2025, the legacy form before).

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/round.hpp>
#include <nibble/io/file_text.hpp>
#include <nibble/io/gguf.hpp>
#include <nibble/io/mapped_file.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

/// Mean squares of activations by weight: for each of its matrices (one, or one for each expert) a number for each column.
class imatrix {
 public:
  /// Reads either form; they are told apart by the first bytes. Throws io_failed, and bad_file with the entry or the byte for a
  /// file that is neither, or that holds a number which is negative or not finite.
  explicit imatrix(const std::string& path) : imatrix(mapped_file(path).bytes(), path) {}

  /// The same of a file in memory; `path` names it in errors.
  explicit imatrix(std::span<const std::byte> bytes, const std::string& path = "memory") {
    if (bytes.size() >= 4 && std::memcmp(bytes.data(), "GGUF", 4) == 0) read_gguf(bytes, path);
    else read_legacy(path, bytes);
    if (entries_.empty()) core::fail(errc::bad_file, "imatrix: '", printable(path), "' has no entry");
  }

  std::size_t size() const noexcept { return entries_.size(); }

  /// The numbers of one matrix of a weight with so many columns and matrices; empty where the file does not have the weight.
  /// Throws bad_shape where it has another number of them.
  std::span<const float> of(std::string_view name, std::size_t cols, std::size_t matrices, std::size_t matrix) const {
    const auto found = entries_.find(name);
    if (found == entries_.end()) return {};
    std::size_t need = 0;
    if (!detail::checked_multiply(cols, matrices, need) || found->second.size() != need)
      core::fail(errc::bad_shape, "imatrix: '", printable(name), "' has ", found->second.size(),
                 " numbers; the weight has ", matrices, " times ", cols, " columns");
    return std::span{found->second}.subspan(matrix * cols, cols);
  }

 private:
  void read_gguf(std::span<const std::byte> bytes, const std::string& path) {
    constexpr std::string_view sums_end = ".in_sum2";
    const gguf_reader file{bytes, "'" + path + "'"};
    for (const gguf_tensor& sums : file.tensors()) {
      if (!sums.name.ends_with(sums_end)) continue;
      const std::string name{sums.name.substr(0, sums.name.size() - sums_end.size())};
      const gguf_tensor* const found = file.find_tensor(name + ".counts");
      if (found == nullptr)
        core::fail(errc::bad_file, "imatrix: '", printable(path), "' has no tensor '", printable(name), ".counts'");
      const gguf_tensor& counts = *found;
      for (const gguf_tensor* const t : {&sums, &counts})
        if (t->type != ggml_type::f32)
          core::fail(errc::bad_file, "imatrix: '", printable(path), "': '", printable(t->name), "' is not F32");
      if (sums.elements == 0 || counts.elements == 0 || sums.elements % counts.elements != 0)
        core::fail(errc::bad_file, "imatrix: '", printable(name), "' has ", sums.elements, " sums and ",
                   counts.elements, " counts");
      const auto sum = file.read_f32(sums), count = file.read_f32(counts);
      const std::size_t cols = sum.size() / count.size();
      std::vector<float> means(sum.size());
      for (std::size_t i = 0; i < sum.size(); ++i) {
        const float n = count[i / cols];
        // A matrix that no token met says nothing: all of its columns are alike.
        means[i] = n > 0.0f ? sum[i] / n : 1.0f;
        check(path, name, i, n < 0.0f || !is_finite(n) ? n : means[i]);
      }
      entries_.try_emplace(name, std::move(means));  // a GGUF file has a name once
    }
  }

  void read_legacy(const std::string& path, std::span<const std::byte> bytes) {
    std::size_t at = 0;
    const auto take = [&](std::size_t n, std::string_view what) {
      if (n > bytes.size() - at)
        core::fail(errc::bad_file, "imatrix: '", printable(path), "', byte ", at, ": ", what, " takes ", n, " bytes; ",
                   bytes.size() - at, " remain");
      at += n;
      return bytes.data() + at - n;
    };
    const auto number = [&](std::string_view what) {
      std::uint32_t v = 0;
      std::memcpy(&v, take(4, what), 4);
      return std::size_t{v};
    };
    const std::size_t count = number("the number of entries");
    for (std::size_t e = 0; e < count; ++e) {
      const std::size_t length = number("the length of a name");
      const std::string name(reinterpret_cast<const char*>(take(length, "a name")), length);
      const std::size_t calls = number("the number of calls"), n = number("the number of sums");
      if (n == 0)
        core::fail(errc::bad_file, "imatrix: '", printable(path), "', byte ", at, ": '", printable(name),
                   "' has no numbers");
      const std::byte* const sums = take(n * sizeof(float), "the sums");
      std::vector<float> means(n);
      std::memcpy(means.data(), sums, n * sizeof(float));
      for (std::size_t i = 0; i < n; ++i) {
        if (calls > 0) means[i] /= static_cast<float>(calls);
        check(path, name, i, means[i]);
      }
      if (!entries_.try_emplace(name, std::move(means)).second)
        core::fail(errc::bad_file, "imatrix: '", printable(path), "', byte ", at, ": a second entry of '",
                   printable(name), "' ends here");
    }
  }
  static void check(const std::string& path, std::string_view name, std::size_t i, float v) {
    if (!is_finite(v) || v < 0.0f)
      core::fail(errc::bad_file, "imatrix: '", printable(path), "': number ", i, " of '", printable(name), "' is ", v);
  }

  std::map<std::string, std::vector<float>, std::less<>> entries_;
};

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble

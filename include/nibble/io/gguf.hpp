// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Reader of GGUF files, versions 2 and 3: metadata, tensor infos, then the tensors' bytes. Nothing in a file is trusted:
/// the constructor walks the header once, checks every rule before it allocates by a number, and touches no tensor data.
/// Keys, names, strings, arrays and tensors are views into the file's bytes. Source: the GGUF specification.

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/round.hpp>
#include <nibble/io/file_text.hpp>
#include <nibble/io/mapped_file.hpp>
#include <nibble/quant/ggml_type.hpp>
#include <nibble/tensor/ggml_rows.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

/// Types of metadata values by the id that files store.
enum class gguf_type : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

inline constexpr std::size_t gguf_type_count = 13;
constexpr std::string_view name_of(gguf_type type) noexcept {
  constexpr std::string_view names[gguf_type_count] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                       "bool", "string", "array", "u64", "i64", "f64"};
  return names[static_cast<std::size_t>(type)];
}

/// Arrays in arrays deeper than this are refused.
inline constexpr int gguf_max_depth = 8;
/// Where the data section and each tensor begin at multiples of, unless the key general.alignment says another number.
inline constexpr std::size_t gguf_default_alignment = 32;

namespace detail {

/// Bytes of a value of this type: for strings and arrays of the lengths that come first.
constexpr std::size_t gguf_least_bytes(gguf_type type) noexcept {
  switch (type) {
    case gguf_type::u8:
    case gguf_type::i8:
    case gguf_type::boolean: return 1;
    case gguf_type::u16:
    case gguf_type::i16: return 2;
    case gguf_type::u32:
    case gguf_type::i32:
    case gguf_type::f32: return 4;
    case gguf_type::u64:
    case gguf_type::i64:
    case gguf_type::f64:
    case gguf_type::string: return 8;
    case gguf_type::array: return 12;
  }
  return 0;
}
constexpr bool gguf_fixed_size(gguf_type type) noexcept {
  return type != gguf_type::string && type != gguf_type::array;
}

template <class T>
T load(const std::byte* p) noexcept {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

}  // namespace detail

/// A metadata value: a view into a file that was checked.
class gguf_value {
 public:
  /// `bytes` is the value as it lies in the file, without its type, and was checked to be one.
  gguf_value(gguf_type type, std::span<const std::byte> bytes) noexcept : type_(type), bytes_(bytes) {}

  gguf_type type() const noexcept { return type_; }
  /// The value as it lies in the file: numbers little-endian and not aligned; strings and arrays with their lengths first.
  std::span<const std::byte> bytes() const noexcept { return bytes_; }
  /// Type and number of the elements; of an array only.
  gguf_type element_type() const noexcept { return static_cast<gguf_type>(detail::load<std::uint32_t>(bytes_.data())); }
  std::size_t size() const noexcept {
    return type_ == gguf_type::array ? static_cast<std::size_t>(detail::load<std::uint64_t>(bytes_.data() + 4)) : 0;
  }

  /// The value as a T, or nothing where it is none: integers that fit T from any integer type, float from f32, double from
  /// f32 and f64, bool, and std::string_view, each from its own.
  template <class T>
  std::optional<T> as() const noexcept {
    const std::byte* const p = bytes_.data();
    if constexpr (std::same_as<T, std::string_view>) {
      if (type_ != gguf_type::string) return {};
      return std::string_view{reinterpret_cast<const char*>(p) + 8, bytes_.size() - 8};
    } else if constexpr (std::same_as<T, bool>) {
      if (type_ != gguf_type::boolean) return {};
      return *p != std::byte{0};
    } else if constexpr (std::floating_point<T>) {
      if (type_ == gguf_type::f32) return static_cast<T>(detail::load<float>(p));
      if constexpr (sizeof(T) >= sizeof(double))
        if (type_ == gguf_type::f64) return static_cast<T>(detail::load<double>(p));
      return {};
    } else {
      static_assert(std::integral<T>, "gguf_value::as: bool, an integer, float, double or std::string_view");
      switch (type_) {
        case gguf_type::u8: return fitting<T>(detail::load<std::uint8_t>(p));
        case gguf_type::i8: return fitting<T>(detail::load<std::int8_t>(p));
        case gguf_type::u16: return fitting<T>(detail::load<std::uint16_t>(p));
        case gguf_type::i16: return fitting<T>(detail::load<std::int16_t>(p));
        case gguf_type::u32: return fitting<T>(detail::load<std::uint32_t>(p));
        case gguf_type::i32: return fitting<T>(detail::load<std::int32_t>(p));
        case gguf_type::u64: return fitting<T>(detail::load<std::uint64_t>(p));
        case gguf_type::i64: return fitting<T>(detail::load<std::int64_t>(p));
        default: return {};
      }
    }
  }

  /// Calls f(gguf_value) for each element of an array in order; nothing for other types.
  template <class F>
  void for_each(F&& f) const {
    if (type_ != gguf_type::array) return;
    const gguf_type type = element_type();
    const std::byte* p = bytes_.data() + 12;
    for (std::size_t i = 0, n = size(); i < n; ++i) {
      const std::size_t bytes = bytes_of(type, p);
      f(gguf_value{type, {p, bytes}});
      p += bytes;
    }
  }

 private:
  template <class T, class U>
  static std::optional<T> fitting(U value) noexcept {
    if (!std::in_range<T>(value)) return {};
    return static_cast<T>(value);
  }
  /// Bytes of the value at p.
  static std::size_t bytes_of(gguf_type type, const std::byte* p) noexcept {
    if (type == gguf_type::string) return 8 + static_cast<std::size_t>(detail::load<std::uint64_t>(p));
    if (type != gguf_type::array) return detail::gguf_least_bytes(type);
    const auto element = static_cast<gguf_type>(detail::load<std::uint32_t>(p));
    const auto n = static_cast<std::size_t>(detail::load<std::uint64_t>(p + 4));
    if (detail::gguf_fixed_size(element)) return 12 + n * detail::gguf_least_bytes(element);
    std::size_t bytes = 12;
    for (std::size_t i = 0; i < n; ++i) bytes += bytes_of(element, p + bytes);
    return bytes;
  }

  gguf_type type_;
  std::span<const std::byte> bytes_;
};

/// One pair of the metadata.
struct gguf_entry {
  std::string_view key;
  gguf_value value;
};

/// One tensor of a file. dims[0] is the extent along memory: a weight of shape [N, K] has dims {K, N}. Rows of dims[0]
/// elements hold whole blocks of the type.
struct gguf_tensor {
  std::string_view name;
  ggml_type type = ggml_type::f32;
  std::size_t n_dims = 0;
  std::array<std::size_t, 4> dims{1, 1, 1, 1};  ///< 1 from n_dims on
  std::size_t elements = 0;                     ///< product of dims
  std::size_t offset = 0;                       ///< first byte, counted from the start of the data section
  std::size_t bytes = 0;

  std::span<const std::size_t> shape() const noexcept { return {dims.data(), n_dims}; }
};

namespace detail {

/// A position in a file's bytes that never leaves them.
class gguf_cursor {
 public:
  gguf_cursor(std::span<const std::byte> bytes, std::string_view place) noexcept : bytes_(bytes), place_(place) {}

  std::size_t at() const noexcept { return at_; }
  std::size_t left() const noexcept { return bytes_.size() - at_; }

  template <class... Pieces>
  [[noreturn]] void refuse(const Pieces&... pieces) const {
    core::fail(errc::bad_file, "gguf: ", place_, ": ", pieces...);
  }

  template <class T, class... What>
  T number(const What&... what) {
    if (left() < sizeof(T))
      refuse(what..., " at byte ", at_, " needs ", sizeof(T), " bytes; ", left(), " are left in the file");
    const T value = load<T>(bytes_.data() + at_);
    at_ += sizeof(T);
    return value;
  }

  /// A count of things that take `least` bytes each, so that no count promises more than the file can hold.
  template <class... What>
  std::size_t count(std::size_t least, const What&... what) {
    const std::size_t begin = at_;
    const auto n = number<std::uint64_t>(what...);
    if (n > left() / least)
      refuse(what..., " ", n, " at byte ", begin, "; rule: each takes at least ", least, " bytes, and ", left(),
             " are left in the file");
    return static_cast<std::size_t>(n);
  }

  template <class... What>
  std::string_view string(const What&... what) {
    const std::size_t length = count(1, "length of ", what...);
    const std::string_view s{reinterpret_cast<const char*>(bytes_.data()) + at_, length};
    if (const std::size_t bad = find_ill_formed_utf8(s); bad != length)
      refuse(what..., " is not UTF-8 at byte ", at_ + bad, "; rule: strings are UTF-8");
    at_ += length;
    return s;
  }

  template <class... What>
  gguf_type type(const What&... what) {
    const std::size_t begin = at_;
    const auto id = number<std::uint32_t>(what...);
    if (id >= gguf_type_count) refuse(what..., " ", id, " at byte ", begin, "; rule: 0 to ", gguf_type_count - 1);
    return static_cast<gguf_type>(id);
  }

  /// Steps over one value and checks all of it.
  gguf_value value(gguf_type type, std::string_view key, int depth = 0) {
    const std::size_t begin = at_;
    if (type == gguf_type::string) {
      string("string of key '", shown{key}, "'");
    } else if (type == gguf_type::array) {
      if (depth == gguf_max_depth)
        refuse("array of key '", shown{key}, "' at byte ", begin, "; rule: arrays nest at most ", gguf_max_depth,
               " deep");
      const gguf_type element = this->type("element type of key '", shown{key}, "'");
      const std::size_t n = count(gguf_least_bytes(element), "element count of key '", shown{key}, "'");
      if (element == gguf_type::boolean) {
        for (std::size_t i = 0; i < n; ++i) check_bool(at_ + i, key);
      }
      if (gguf_fixed_size(element)) at_ += n * gguf_least_bytes(element);
      else
        for (std::size_t i = 0; i < n; ++i) value(element, key, depth + 1);
    } else {
      const std::size_t need = gguf_least_bytes(type);
      if (left() < need)
        refuse("value of key '", shown{key}, "' at byte ", at_, " needs ", need, " bytes; ", left(),
               " are left in the file");
      if (type == gguf_type::boolean) check_bool(at_, key);
      at_ += need;
    }
    return {type, bytes_.subspan(begin, at_ - begin)};
  }

 private:
  void check_bool(std::size_t at, std::string_view key) const {
    if (bytes_[at] > std::byte{1})
      refuse("bool of key '", shown{key}, "' at byte ", at, " is ", std::to_integer<int>(bytes_[at]), "; rule: 0 or 1");
  }

  std::span<const std::byte> bytes_;
  std::string_view place_;
  std::size_t at_ = 0;
};

/// Positions 0 .. names.size() - 1 by ascending name.
template <class Name>
std::vector<std::size_t> gguf_order(std::size_t n, Name name) {
  std::vector<std::size_t> order(n);
  for (std::size_t i = 0; i < n; ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return name(a) < name(b); });
  return order;
}

}  // namespace detail

/// A GGUF file, or its bytes in memory. The constructor checks the whole header and where the tensors lie, in time that
/// grows with the header alone; it accepts gaps between tensors, tensors in any order, and a file that ends without the
/// last padding. Movable; names and values stay valid.
class gguf_reader {
 public:
  /// Maps the file. Throws io_failed when it cannot be read; bad_file, with the byte and the rule, when it breaks a rule.
  explicit gguf_reader(std::string path) : file_(std::in_place, std::move(path)), place_("'" + file_->path() + "'") {
    parse(file_->bytes());
  }
  /// Reads from memory that the caller keeps alive; `place` names it in messages.
  explicit gguf_reader(std::span<const std::byte> bytes, std::string place = "bytes in memory")
      : place_(std::move(place)) {
    parse(bytes);
  }

  std::uint32_t version() const noexcept { return version_; }
  std::size_t alignment() const noexcept { return alignment_; }
  /// The file as messages call it.
  const std::string& place() const noexcept { return place_; }

  /// All metadata in file order.
  const std::vector<gguf_entry>& metadata() const noexcept { return metadata_; }
  /// The value of a key, or null.
  const gguf_value* find(std::string_view key) const noexcept {
    const std::size_t i = position(keys_, key, [&](std::size_t k) { return metadata_[k].key; });
    return i == absent ? nullptr : &metadata_[i].value;
  }
  /// The value of a key as a T (gguf_value::as); nothing when the file lacks the key. Throws bad_file when it holds something
  /// else, or a number that does not fit.
  template <class T>
  std::optional<T> get_if(std::string_view key) const {
    const gguf_value* const value = find(key);
    if (value == nullptr) return {};
    const std::optional<T> result = value->as<T>();
    if (!result) wrong(key, *value, what<T>());
    return result;
  }
  /// The same where the key must be there.
  template <class T>
  T get(std::string_view key) const {
    if (const std::optional<T> value = get_if<T>(key)) return *value;
    refuse("there is no key '", printable(key), "'");
  }
  /// The elements of an array, each as a T. Throws bad_file as get.
  template <class T>
  std::vector<T> get_array(std::string_view key) const {
    const gguf_value* const value = find(key);
    if (value == nullptr) refuse("there is no key '", printable(key), "'");
    if (value->type() != gguf_type::array) wrong(key, *value, "an array");
    std::vector<T> values;
    values.reserve(value->size());
    value->for_each([&](const gguf_value& element) {
      const std::optional<T> v = element.as<T>();
      if (!v) wrong(key, element, what<T>());
      values.push_back(*v);
    });
    return values;
  }

  /// All tensors in file order.
  const std::vector<gguf_tensor>& tensors() const noexcept { return tensors_; }
  bool contains(std::string_view name) const noexcept { return find_tensor(name) != nullptr; }
  /// The tensor of a name, or null.
  const gguf_tensor* find_tensor(std::string_view name) const noexcept {
    const std::size_t i = position(names_, name, [&](std::size_t k) { return tensors_[k].name; });
    return i == absent ? nullptr : &tensors_[i];
  }
  /// Throws bad_file when the file has no such tensor.
  const gguf_tensor& at(std::string_view name) const {
    const gguf_tensor* const t = find_tensor(name);
    if (t == nullptr) refuse("there is no tensor '", printable(name), "'");
    return *t;
  }
  /// The bytes of tensor t of this file: blocks in the order of the elements, dims[0] along memory.
  std::span<const std::byte> bytes(const gguf_tensor& t) const {
    if (t.bytes == 0) return {};
    if (t.offset > data_.size() || t.bytes > data_.size() - t.offset)
      core::fail(errc::bad_shape, "gguf: ", place_, ": bytes [", t.offset, ", +", t.bytes, ") of '", printable(t.name),
                 "' are outside its data section of ", data_.size());
    return data_.subspan(t.offset, t.bytes);
  }
  /// Values [first, first + out.size()) in the order of the elements, bit for bit those of ggml. Both numbers are whole blocks
  /// of the type, else bad_shape, as for a range outside the tensor; throws unsupported_format, with the tensor and its type,
  /// for types that nibble lists only. `ctx` says on which threads.
  void read_f32(const gguf_tensor& t, std::size_t first, std::span<float> out, const context& ctx = {}) const {
    const quant::ggml_type_info& info = quant::info_of(t.type);
    if (!can_decode_ggml(t.type))
      core::fail(errc::unsupported_format, "gguf: ", place_, ": tensor '", printable(t.name), "' is ", info.name,
                 "; nibble knows its size, not its values");
    if (first > t.elements || out.size() > t.elements - first)
      core::fail(errc::bad_shape, "gguf: ", place_, ": values [", first, ", +", out.size(), ") of tensor '",
                 printable(t.name), "', which has ", t.elements);
    if (first % info.block_elements != 0 || out.size() % info.block_elements != 0)
      core::fail(errc::bad_shape, "gguf: ", place_, ": values [", first, ", +", out.size(), ") of tensor '",
                 printable(t.name), "'; ", info.name, " has blocks of ", info.block_elements);
    const std::span<const std::byte> all = bytes(t);
    decode_ggml(t.type,
                all.subspan(first / info.block_elements * info.block_bytes,
                            out.size() / info.block_elements * info.block_bytes),
                out, ctx);
  }
  aligned_vector<float> read_f32(const gguf_tensor& t, const context& ctx = {}) const {
    aligned_vector<float> values(can_decode_ggml(t.type) ? t.elements : 0);
    read_f32(t, 0, values, ctx);
    return values;
  }
  aligned_vector<float> read_f32(std::string_view name, const context& ctx = {}) const {
    return read_f32(at(name), ctx);
  }
  /// Drops the pages of a tensor that was read from a mapped file from this process's resident memory.
  void release(const gguf_tensor& t) const { release(bytes(t)); }
  /// The same for some of its bytes, which lie in bytes(t).
  void release(std::span<const std::byte> part) const {
    if (file_) file_->release(part);
  }

 private:
  static constexpr std::size_t absent = std::numeric_limits<std::size_t>::max();

  template <class... Pieces>
  [[noreturn]] void refuse(const Pieces&... pieces) const {
    core::fail(errc::bad_file, "gguf: ", place_, ": ", pieces...);
  }
  template <class T>
  static constexpr std::string_view what() noexcept {
    if constexpr (std::same_as<T, std::string_view>) return "a string";
    else if constexpr (std::same_as<T, bool>) return "a bool";
    else if constexpr (std::same_as<T, float>) return "an f32";
    else if constexpr (std::floating_point<T>) return "an f32 or f64";
    else if constexpr (std::signed_integral<T>)
      return sizeof(T) == 8 ? "an integer below 2^63" : "an integer that fits";
    else return "an integer of 0 and more that fits";
  }
  [[noreturn]] void wrong(std::string_view key, const gguf_value& value, std::string_view asked) const {
    if (const auto u = value.as<std::uint64_t>())
      refuse("key '", printable(key), "' holds the ", name_of(value.type()), " ", *u, "; asked for ", asked);
    if (const auto i = value.as<std::int64_t>())
      refuse("key '", printable(key), "' holds the ", name_of(value.type()), " ", *i, "; asked for ", asked);
    refuse("key '", printable(key), "' holds a value of type ", name_of(value.type()), "; asked for ", asked);
  }
  template <class Name>
  static std::size_t position(const std::vector<std::size_t>& order, std::string_view wanted, Name name) noexcept {
    const auto it = std::lower_bound(order.begin(), order.end(), wanted,
                                     [&](std::size_t i, std::string_view w) { return name(i) < w; });
    return it != order.end() && name(*it) == wanted ? *it : absent;
  }

  void parse(std::span<const std::byte> bytes) {
    detail::gguf_cursor cursor{bytes, place_};
    if (bytes.size() < 4 || std::memcmp(bytes.data(), "GGUF", 4) != 0)
      cursor.refuse("the file does not begin with \"GGUF\"; rule: the first four bytes are 47 47 55 46");
    cursor.number<std::uint32_t>("magic");
    version_ = cursor.number<std::uint32_t>("version");
    if ((version_ & 0xffffu) == 0 && version_ != 0)
      cursor.refuse("version ", version_, " at byte 4: the file is big-endian; rule: numbers are little-endian");
    if (version_ != 2 && version_ != 3)
      cursor.refuse("version ", version_, " at byte 4; rule: 2 or 3 (version 1 had counts of 32 bits)");
    const std::size_t counts = cursor.at();
    const auto tensor_count = cursor.number<std::uint64_t>("tensor count");
    // A key of no byte, a type and a value of one byte: 13; a tensor without name and extents: 24.
    const std::size_t key_count = cursor.count(13, "key count");
    if (tensor_count > cursor.left() / 24)
      cursor.refuse("tensor count ", tensor_count, " at byte ", counts, "; rule: each takes at least 24 bytes, and ",
                    cursor.left(), " are left in the file");
    parse_metadata(cursor, key_count);
    const std::vector<std::size_t> places = parse_tensors(cursor, static_cast<std::size_t>(tensor_count));
    const std::size_t begin = round_up(cursor.at(), alignment_);
    data_ = begin <= bytes.size() ? bytes.subspan(begin) : std::span<const std::byte>{};
    check_tensors(cursor, places, begin);
  }

  void parse_metadata(detail::gguf_cursor& cursor, std::size_t count) {
    metadata_.reserve(count);
    std::vector<std::size_t> places;  // where the keys begin
    places.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t begin = cursor.at();
      places.push_back(begin);
      const std::string_view key = cursor.string("key ", i);
      if (key.size() > 65535)
        cursor.refuse("key ", i, " at byte ", begin, " has ", key.size(), " bytes; rule: at most 65535");
      const gguf_type type = cursor.type("value type of key '", detail::shown{key}, "'");
      metadata_.push_back({key, cursor.value(type, key)});
    }
    keys_ = detail::gguf_order(count, [&](std::size_t i) { return metadata_[i].key; });
    for (std::size_t i = 1; i < count; ++i)
      if (metadata_[keys_[i]].key == metadata_[keys_[i - 1]].key)
        cursor.refuse("key '", printable(metadata_[keys_[i]].key), "' occurs twice, at bytes ",
                      std::min(places[keys_[i]], places[keys_[i - 1]]), " and ",
                      std::max(places[keys_[i]], places[keys_[i - 1]]), "; rule: keys are unique");
    for (std::size_t i = 0; i < count; ++i) {
      const auto& [key, value] = metadata_[i];
      if (key != "general.alignment") continue;
      if (value.type() != gguf_type::u32)
        cursor.refuse("key 'general.alignment' at byte ", places[i], " is of type ", name_of(value.type()),
                      "; rule: u32");
      alignment_ = *value.as<std::uint32_t>();
      if (!std::has_single_bit(alignment_))
        cursor.refuse("key 'general.alignment' at byte ", places[i], " is ", alignment_, "; rule: a power of two");
    }
  }

  /// Returns where each tensor's info begins in the file.
  std::vector<std::size_t> parse_tensors(detail::gguf_cursor& cursor, std::size_t count) {
    std::vector<std::size_t> places;
    places.reserve(count);  // the count was held against the bytes that are left
    tensors_.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      places.push_back(cursor.at());
      gguf_tensor t;
      t.name = cursor.string("name of tensor ", i);
      if (t.name.size() > 65535)
        cursor.refuse("name of tensor ", i, " at byte ", places.back(), " has ", t.name.size(),
                      " bytes; rule: at most 65535");
      const auto refuse = [&](std::size_t at, const auto&... pieces) {
        cursor.refuse("tensor '", printable(t.name), "' at byte ", at, ": ", pieces...);
      };
      std::size_t at = cursor.at();
      t.n_dims = cursor.number<std::uint32_t>("number of extents of '", detail::shown{t.name}, "'");
      if (t.n_dims > t.dims.size()) refuse(at, t.n_dims, " extents; rule: at most ", t.dims.size());
      at = cursor.at();
      for (std::size_t d = 0; d < t.n_dims; ++d)
        t.dims[d] = static_cast<std::size_t>(cursor.number<std::uint64_t>("extents of '", detail::shown{t.name}, "'"));
      const std::size_t type_at = cursor.at();
      const auto id = cursor.number<std::uint32_t>("type of '", detail::shown{t.name}, "'");
      const quant::ggml_type_info* const info = quant::find_ggml_type(id);
      if (info == nullptr) refuse(type_at, "type ", id, "; rule: one of the ids of the format that are in use");
      t.type = info->type;
      if (t.dims[0] % info->block_elements != 0)
        refuse(at, "rows of ", t.dims[0], " elements; rule: ", info->name, " has blocks of ", info->block_elements);
      // Extents of 0 are left out of the overflow check, so that a hostile product is refused in any order.
      std::size_t product = 1, blocks = 1;
      bool fits = true, empty = false;
      for (const std::size_t extent : t.dims) {
        empty |= extent == 0;
        fits = fits && detail::checked_multiply(product, extent == 0 ? 1 : extent, product);
      }
      blocks = product / info->block_elements;
      if (!fits || !detail::checked_multiply(blocks, info->block_bytes, t.bytes))
        refuse(at, "the product of ", shape_text(t.shape()),
               " and the block size overflows 64 bits; rule: a tensor's bytes are counted in 64 bits");
      t.elements = empty ? 0 : product;
      if (empty) t.bytes = 0;
      at = cursor.at();
      t.offset = static_cast<std::size_t>(cursor.number<std::uint64_t>("offset of '", detail::shown{t.name}, "'"));
      if (t.offset % alignment_ != 0)
        refuse(at, "offset ", t.offset, "; rule: a multiple of the alignment ", alignment_);
      tensors_.push_back(t);
    }
    return places;
  }

  void check_tensors(const detail::gguf_cursor& cursor, const std::vector<std::size_t>& places, std::size_t begin) {
    names_ = detail::gguf_order(tensors_.size(), [&](std::size_t i) { return tensors_[i].name; });
    for (std::size_t i = 1; i < names_.size(); ++i)
      if (tensors_[names_[i]].name == tensors_[names_[i - 1]].name)
        cursor.refuse("tensor '", printable(tensors_[names_[i]].name), "' occurs twice, at bytes ",
                      std::min(places[names_[i]], places[names_[i - 1]]), " and ",
                      std::max(places[names_[i]], places[names_[i - 1]]), "; rule: names are unique");
    const auto by_offset = detail::gguf_order(tensors_.size(), [&](std::size_t i) { return tensors_[i].offset; });
    const gguf_tensor* before = nullptr;
    for (const std::size_t i : by_offset) {
      const gguf_tensor& t = tensors_[i];
      if (t.bytes == 0) continue;
      if (t.offset > data_.size() || t.bytes > data_.size() - t.offset)
        cursor.refuse("tensor '", printable(t.name), "' at byte ", places[i], ": ", t.bytes, " bytes at data offset ",
                      t.offset, "; rule: inside the data section, ", data_.size(), " bytes from byte ", begin);
      if (before != nullptr && t.offset - before->offset < before->bytes)
        cursor.refuse("tensor '", printable(t.name), "' at byte ", places[i], " begins at data offset ", t.offset,
                      ", inside '", printable(before->name), "', which ends at ", before->offset + before->bytes,
                      "; rule: tensors do not overlap");
      before = &t;
    }
  }

  std::optional<mapped_file> file_;
  std::string place_;
  std::uint32_t version_ = 0;
  std::size_t alignment_ = gguf_default_alignment;
  std::vector<gguf_entry> metadata_;
  std::vector<gguf_tensor> tensors_;
  std::vector<std::size_t> keys_, names_;  ///< positions in ascending order of key and name
  std::span<const std::byte> data_;
};

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble

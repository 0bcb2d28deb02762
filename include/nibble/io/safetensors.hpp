// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Reader and writer of safetensors files: u64 N, N bytes of JSON header, then the tensors' bytes without a gap.
/// Nothing in a file is trusted; every rule of the format is checked before a byte is allocated or a value is read.
/// Source: the safetensors format description and the checks of its reference implementation.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/half.hpp>
#include <nibble/io/atomic_file.hpp>
#include <nibble/io/dtype.hpp>
#include <nibble/io/file_text.hpp>
#include <nibble/io/mapped_file.hpp>
#include <nibble/io/tensor_sink.hpp>
#include <nibble/io/tensor_view.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

/// One tensor of a file. Row-major; shape {} is a scalar of one element, an extent may be 0.
struct tensor_info {
  std::string name;
  dtype type = dtype::f32;
  std::vector<std::size_t> shape;
  std::size_t elements = 0;  ///< product of shape
  std::size_t begin = 0;     ///< first byte, counted from the start of the data section
  std::size_t end = 0;       ///< one past the last byte
};

namespace detail {

inline constexpr std::size_t max_header_bytes = 100'000'000;  // limit of the reference implementation

/// Receives the header's JSON events. Only the three levels of the format exist, so nesting never grows a stack; a
/// callback that returns false stops the parser at once, with the reason in `problem`.
class header_handler {
 public:
  /// `text`: the header, which begins at byte 8 of the file; `next` is kept at the first byte that was not read yet.
  header_handler(std::string_view text, const std::size_t& next) : text_(text), next_(next) {}

  std::vector<tensor_info> tensors;
  std::vector<std::size_t> places;  ///< of each tensor, where its name begins in the file
  std::map<std::string, std::string> metadata;
  std::string problem;

  bool null() { return wrong("null"); }
  bool boolean(bool) { return wrong("a boolean"); }
  bool binary(nlohmann::json::binary_t&) { return wrong("binary data"); }
  bool number_integer(std::int64_t value) { return wrong(core::message("the signed integer ", value)); }
  bool number_float(double, const std::string& text) {
    return wrong(core::message("the number ", printable(text), ", not an unsigned 64-bit integer"));
  }
  bool number_unsigned(std::uint64_t value) {
    const auto n = static_cast<std::size_t>(value);
    if (level_ == level::shape) return tensors.back().shape.push_back(n), true;
    if (level_ == level::offsets) {
      if (offsets_ == 2) return refuse("rule: data_offsets has exactly two numbers");
      (offsets_++ == 0 ? tensors.back().begin : tensors.back().end) = n;
      return true;
    }
    return wrong(core::message("the integer ", n));
  }
  bool string(std::string& value) {
    if (level_ == level::metadata) return metadata.find(key_)->second = value, true;
    if (level_ != level::tensor || field_ != field::dtype) return wrong("a string");
    for (std::size_t i = 0; i < dtype_table.size(); ++i)
      if (dtype_table[i].name == value) return tensors.back().type = static_cast<dtype>(i), true;
    return refuse("unknown dtype '", printable(value), "'");
  }
  bool start_object(std::size_t) {
    switch (level_) {
      case level::outside: level_ = level::top; return true;
      case level::top: level_ = key_ == "__metadata__" ? level::metadata : level::tensor; return true;
      default: return wrong("an object");
    }
  }
  bool key(std::string& value) {
    switch (level_) {
      case level::top:
        key_ = value;
        if (const auto [it, fresh] = names_.emplace(value, place()); !fresh)
          return refuse("rule: names are unique; this one occurs twice, at bytes ", it->second, " and ", place());
        if (value != "__metadata__") {
          places.push_back(place());
          tensors.emplace_back().name = value;
          seen_ = {};
          offsets_ = 0;
        }
        return true;
      case level::metadata:
        key_ = value;
        if (metadata.emplace(value, "").second) return true;
        problem = core::message("__metadata__ key '", printable(value), "' occurs twice, the second time at byte ",
                                place(), "; rule: keys are unique");
        return false;
      default:  // level::tensor: arrays have no keys
        for (std::size_t i = 0; i < field_names.size(); ++i) {
          if (field_names[i] != value) continue;
          field_ = static_cast<field>(i);
          if (std::exchange(seen_[i], true)) return refuse("rule: '", value, "' occurs once");
          return true;
        }
        return refuse("unknown field '", printable(value), "'; rule: dtype, shape and data_offsets only");
    }
  }
  bool end_object() {
    if (level_ == level::tensor)
      for (std::size_t i = 0; i < field_names.size(); ++i)
        if (!seen_[i]) return refuse("'", field_names[i], "' is missing");
    level_ = level_ == level::top ? level::outside : level::top;
    return true;
  }
  bool start_array(std::size_t) {
    if (level_ != level::tensor || field_ == field::dtype) return wrong("an array");
    level_ = field_ == field::shape ? level::shape : level::offsets;
    return true;
  }
  bool end_array() {
    if (level_ == level::offsets && offsets_ != 2) return refuse("rule: data_offsets has exactly two numbers");
    level_ = level::tensor;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& reason) {
    problem = core::message("the header is not JSON at byte ", 8 + position, ": ", printable(reason.what()));
    return false;
  }

 private:
  enum class level { outside, top, metadata, tensor, shape, offsets };
  enum class field { dtype, shape, data_offsets };
  static constexpr std::array<std::string_view, 3> field_names{"dtype", "shape", "data_offsets"};

  /// Where the string that was read last begins in the file: at its opening quote, which no odd number of backslashes precedes.
  std::size_t place() const {
    std::size_t i = next_ - 1;  // its closing quote
    for (;;) {
      std::size_t backslashes = 0;
      while (text_[--i] != '"') {}
      while (text_[i - 1 - backslashes] == '\\') ++backslashes;
      if (backslashes % 2 == 0) return 8 + i;
    }
  }
  template <class... Pieces>
  bool refuse(const Pieces&... pieces) {
    problem = core::message("tensor '", printable(key_), "': ", pieces...);
    return false;
  }
  /// `what` stands where the format wants something else.
  bool wrong(std::string_view what) {
    switch (level_) {
      case level::outside:
        problem = core::message("the header holds ", what, "; rule: it is one JSON object");
        return false;
      case level::top: return refuse("its entry is ", what, "; rule: an object with dtype, shape and data_offsets");
      case level::metadata:
        problem = core::message("__metadata__ key '", printable(key_), "' holds ", what, "; rule: strings only");
        return false;
      case level::tensor:
        return refuse(field_names[static_cast<std::size_t>(field_)], " holds ", what,
                      "; rule: dtype is a string, shape and "
                      "data_offsets are arrays");
      default:
        return refuse(level_ == level::shape ? "shape" : "data_offsets", " holds ", what,
                      "; rule: unsigned integers without fraction or exponent only");
    }
  }

  level level_ = level::outside;
  field field_ = field::dtype;
  std::string_view text_;
  const std::size_t& next_;
  std::string key_;
  std::map<std::string, std::size_t> names_;  // and where they begin
  std::array<bool, 3> seen_{};
  int offsets_ = 0;
};

/// The characters of a header, of which the parser's copies share the place of the one that comes next.
class header_iterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  header_iterator(std::string_view text, std::size_t at, std::size_t& next) : text_(text), at_(at), next_(&next) {}
  reference operator*() const { return text_[at_]; }
  header_iterator& operator++() { return *next_ = ++at_, *this; }
  header_iterator operator++(int) {
    const header_iterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const header_iterator& other) const { return at_ == other.at_; }

 private:
  std::string_view text_;
  std::size_t at_;
  std::size_t* next_;
};

/// The checked header of a file of `bytes`. `place` names the file in messages.
struct parsed_header {
  std::vector<tensor_info> tensors;  // in data order
  std::map<std::string, std::string> metadata;
  std::size_t data_begin = 0;
};

inline parsed_header parse_header(std::span<const std::byte> bytes, std::string_view place) {
  const auto refuse = [&](const auto&... pieces) {
    core::fail(errc::bad_file, "safetensors: ", place, ": ", pieces...);
  };
  if (bytes.size() < 8)
    refuse("the file has ", bytes.size(), " bytes; rule: it begins with the header length, 8 bytes");
  std::uint64_t header_bytes;
  std::memcpy(&header_bytes, bytes.data(), 8);
  if (header_bytes > max_header_bytes)
    refuse("header length ", header_bytes, " at byte 0; rule: at most ", max_header_bytes);
  if (header_bytes > bytes.size() - 8)
    refuse("header length ", header_bytes, " at byte 0, but only ", bytes.size() - 8, " bytes follow it");

  std::string_view text{reinterpret_cast<const char*>(bytes.data()) + 8, static_cast<std::size_t>(header_bytes)};
  if (text.empty() || text.front() != '{') refuse("the header at byte 8 does not begin with '{'");
  text.remove_suffix(text.size() - 1 - text.find_last_not_of(' '));
  // The JSON lexer takes a NUL byte for the end of its input, so one would hide what stands behind it.
  if (const std::size_t nul = text.find('\0'); nul != text.npos) refuse("NUL byte in the header at byte ", 8 + nul);
  if (text.back() != '}')
    refuse("the header ends in a byte other than '}' and spaces, at byte ", 7 + text.size(),
           "; rule: it is one JSON object, padded with spaces");
  std::size_t next = 0;
  header_handler handler{text, next};
  if (!nlohmann::json::sax_parse(header_iterator{text, 0, next}, header_iterator{text, text.size(), next}, &handler))
    refuse(handler.problem);

  const std::vector<std::size_t> places = std::move(handler.places);
  parsed_header out{std::move(handler.tensors), std::move(handler.metadata),
                    static_cast<std::size_t>(header_bytes) + 8};
  const std::size_t data_bytes = bytes.size() - out.data_begin;
  for (tensor_info& t : out.tensors) {
    const auto offsets = [&] { return core::message("data_offsets [", t.begin, ", ", t.end, "]"); };
    if (t.begin > t.end) refuse("tensor '", printable(t.name), "': ", offsets(), "; rule: begin <= end");
    if (t.end > data_bytes)
      refuse("tensor '", printable(t.name), "': ", offsets(), "; rule: inside the data section of ", data_bytes,
             " bytes");
    // Extents of 0 are left out of the overflow check, so that a hostile [0, 2^63, 2^63] is refused in any order.
    std::size_t product = 1, bits = 0;
    bool fits = true, empty = false;
    for (const std::size_t extent : t.shape) {
      empty |= extent == 0;
      fits = fits && checked_multiply(product, extent == 0 ? 1 : extent, product);
    }
    if (!fits || !checked_multiply(product, bits_of(t.type), bits))
      refuse("tensor '", printable(t.name), "' at byte ", places[static_cast<std::size_t>(&t - out.tensors.data())],
             ": the product of ", shape_text(t.shape),
             " and the element size overflows 64 bits; rule: a tensor's bits are counted in 64 bits");
    t.elements = empty ? 0 : product;
    bits = empty ? 0 : bits;
    if (bits % 8 != 0)
      refuse("tensor '", printable(t.name), "': ", bits, " bits of ", name_of(t.type), "; rule: a multiple of 8");
    if (t.end - t.begin != bits / 8)
      refuse("tensor '", printable(t.name), "': ", offsets(), " hold ", t.end - t.begin,
             " bytes; rule: ", name_of(t.type), " times its shape needs ", bits / 8);
  }
  std::sort(out.tensors.begin(), out.tensors.end(), [](const tensor_info& a, const tensor_info& b) {
    return std::pair{a.begin, a.end} < std::pair{b.begin, b.end};
  });
  std::size_t expected = 0;
  for (const tensor_info& t : out.tensors) {
    if (t.begin != expected)
      refuse("tensor '", printable(t.name), "' begins at data offset ", t.begin, ", the one before it ends at ",
             expected, "; rule: tensors tile the data section without hole or overlap");
    expected = t.end;
  }
  if (expected != data_bytes)
    refuse("the data section has ", data_bytes, " bytes, the tensors end at ", expected, "; rule: no trailing byte");
  return out;
}

}  // namespace detail

/// A safetensors file, or its bytes in memory. The header is checked in full by the constructor; tensor values are read
/// only when asked for, straight from the mapping, so a pass over a file needs memory for its largest tensor only.
class safetensors_reader {
 public:
  /// Maps the file. Throws io_failed when it cannot be read, bad_file when it breaks a rule of the format.
  explicit safetensors_reader(std::string path)
      : file_(std::in_place, std::move(path)), place_("'" + file_->path() + "'") {
    parse(file_->bytes());
  }
  /// Reads from memory that the caller keeps alive; `place` names it in messages.
  explicit safetensors_reader(std::span<const std::byte> bytes, std::string place = "bytes in memory")
      : place_(std::move(place)) {
    parse(bytes);
  }

  /// All tensors in the order of their data.
  const std::vector<tensor_info>& tensors() const noexcept { return tensors_; }
  const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }
  /// The file as messages call it.
  const std::string& place() const noexcept { return place_; }

  bool contains(std::string_view name) const noexcept { return by_name_.find(name) != by_name_.end(); }
  /// Throws bad_file when the file has no such tensor.
  const tensor_info& at(std::string_view name) const {
    const auto it = by_name_.find(name);
    if (it == by_name_.end())
      core::fail(errc::bad_file, "safetensors: ", place_, " has no tensor '", printable(name), "'");
    return tensors_[it->second];
  }
  /// The bytes of tensor t of this file, row-major; not aligned to the element size.
  std::span<const std::byte> bytes(const tensor_info& t) const {
    if (t.begin > t.end || t.end > data_.size())
      core::fail(errc::bad_shape, "safetensors: ", place_, ": bytes [", t.begin, ", ", t.end, ") of '",
                 printable(t.name), "' are outside its data section of ", data_.size());
    return data_.subspan(t.begin, t.end - t.begin);
  }

  /// Tensor t with its bytes, for the readers of checkpoints.
  tensor_view view(const tensor_info& t) const { return {t.name, t.type, t.shape, bytes(t)}; }

  /// Whether the tensor is of a type in which weights stand by themselves: F32, F16 or BF16. (8-bit floats have scales in
  /// tensors beside them; read_f32 takes them and small integers too.)
  static bool is_float(const tensor_info& t) noexcept {
    return t.type == dtype::f32 || t.type == dtype::f16 || t.type == dtype::bf16;
  }
  /// Values [first, first + out.size()) in row-major order, exactly, of a tensor whose type fits_float: F32, F16, BF16, the
  /// 8-bit floats, integers of up to 16 bits. Throws unsupported_format, with name and dtype, for other types and bad_shape
  /// for a range outside the tensor.
  void read_f32(const tensor_info& t, std::size_t first, std::span<float> out) const {
    if (!fits_float(t.type))
      core::fail(errc::unsupported_format, "safetensors: ", place_, ": tensor '", printable(t.name), "' is ",
                 name_of(t.type),
                 rounds_to_float(t.type) ? "; its values must be rounded: read_f32_rounded"
                                         : "; its values cannot be read as floats");
    detail::read_floats(t.type, elements_at(t, first, out.size()), out.size(), out.data());
  }
  /// The same for I32, U32, I64, U64 and F64 too, whose values are rounded to the nearest float; what that cost.
  rounding_report read_f32_rounded(const tensor_info& t, std::size_t first, std::span<float> out) const {
    if (!rounds_to_float(t.type))
      core::fail(errc::unsupported_format, "safetensors: ", place_, ": tensor '", printable(t.name), "' is ",
                 name_of(t.type), "; its values cannot be read as floats");
    return detail::round_floats(t.type, elements_at(t, first, out.size()), out.size(), out.data());
  }
  aligned_vector<float> read_f32(const tensor_info& t) const {
    if (!fits_float(t.type)) read_f32(t, 0, {});  // refuses
    aligned_vector<float> values(bytes(t).size() / (bits_of(t.type) / 8));
    read_f32(t, 0, values);
    return values;
  }
  aligned_vector<float> read_f32(std::string_view name) const { return read_f32(at(name)); }

  /// All values of an I32 tensor, for token ids. Throws unsupported_format for other types.
  std::vector<std::int32_t> read_i32(std::string_view name) const {
    const tensor_info& t = at(name);
    if (t.type != dtype::i32)
      core::fail(errc::unsupported_format, "safetensors: ", place_, ": tensor '", printable(t.name), "' is ",
                 name_of(t.type), ", not I32");
    std::vector<std::int32_t> values(t.elements);
    if (t.elements != 0) std::memcpy(values.data(), bytes(t).data(), t.end - t.begin);
    return values;
  }

  /// Drops the pages of a tensor that was read from a mapped file from this process's resident memory.
  void release(const tensor_info& t) const { release(bytes(t)); }
  /// The same for some of its bytes, which lie in bytes(t).
  void release(std::span<const std::byte> part) const {
    if (file_) file_->release(part);
  }

 private:
  /// Where element `first` of t lies; throws bad_shape unless `count` elements are there.
  const std::byte* elements_at(const tensor_info& t, std::size_t first, std::size_t count) const {
    const std::size_t element_bytes = bits_of(t.type) / 8;
    const std::span<const std::byte> source = bytes(t);
    const std::size_t elements = source.size() / element_bytes;
    if (first > elements || count > elements - first)
      core::fail(errc::bad_shape, "safetensors: ", place_, ": values [", first, ", +", count, ") of tensor '",
                 printable(t.name), "', which has ", elements);
    return source.data() + first * element_bytes;
  }
  void parse(std::span<const std::byte> bytes) {
    detail::parsed_header header = detail::parse_header(bytes, place_);
    tensors_ = std::move(header.tensors);
    metadata_ = std::move(header.metadata);
    data_ = bytes.subspan(header.data_begin);
    for (std::size_t i = 0; i < tensors_.size(); ++i) by_name_.emplace(tensors_[i].name, i);
  }

  std::optional<mapped_file> file_;
  std::string place_;
  std::vector<tensor_info> tensors_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
  std::map<std::string, std::string> metadata_;
  std::span<const std::byte> data_;
};

/// Writes one file: add() the tensors, then save(). The values added are views and must live until save() returns, or they
/// are made while the file is written, piece by piece.
class safetensors_writer {
 public:
  /// __metadata__ of the file, string to string.
  std::map<std::string, std::string> metadata;

  /// `values` in row-major order; T is float (F32), half (F16), bfloat16 (BF16), std::int32_t (I32) or std::uint8_t (U8).
  /// Throws bad_shape when the shape's product is not values.size().
  template <class T>
  void add(std::string name, std::vector<std::size_t> shape, std::span<const T> values) {
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, half> || std::is_same_v<T, bfloat16> ||
                      std::is_same_v<T, std::int32_t> || std::is_same_v<T, std::uint8_t>,
                  "safetensors_writer: float, half, bfloat16, int32_t or uint8_t");
    constexpr dtype type = std::is_same_v<T, float>          ? dtype::f32
                           : std::is_same_v<T, half>         ? dtype::f16
                           : std::is_same_v<T, bfloat16>     ? dtype::bf16
                           : std::is_same_v<T, std::int32_t> ? dtype::i32
                                                             : dtype::u8;
    const std::size_t bytes = bytes_of(name, type, shape);
    if (bytes != values.size_bytes())
      core::fail(errc::bad_shape, "safetensors_writer: tensor '", printable(name), "' of shape ", shape_text(shape),
                 " with ", values.size(), " values");
    entries_.push_back({std::move(name), type, std::move(shape), bytes,
                        [values](tensor_sink& sink) { sink.write(std::as_bytes(values)); }});
  }
  /// A tensor of any dtype whose bytes, row-major and little-endian, `fill` writes when save() comes to it: exactly as many as
  /// dtype and shape take, else save() throws bad_shape. Throws bad_shape when they are not a whole number of bytes or overflow.
  void add(std::string name, dtype type, std::vector<std::size_t> shape, tensor_fill fill) {
    const std::size_t bytes = bytes_of(name, type, shape);
    entries_.push_back({std::move(name), type, std::move(shape), bytes, std::move(fill)});
  }

  /// A tensor as the writers of checkpoints give it; its bytes move into the writer. Throws bad_shape when they are not as
  /// many as dtype and shape take.
  void add(tensor_bytes t) {
    const std::size_t bytes = bytes_of(t.name, t.type, t.shape);
    if (bytes != t.bytes.size())
      core::fail(errc::bad_shape, "safetensors_writer: tensor '", printable(t.name), "' of shape ", shape_text(t.shape),
                 " and ", name_of(t.type), " with ", t.bytes.size(), " bytes");
    auto values = std::make_shared<std::vector<std::byte>>(std::move(t.bytes));  // a tensor_fill can be copied
    entries_.push_back({std::move(t.name), t.type, std::move(t.shape), bytes,
                        [values = std::move(values)](tensor_sink& sink) { sink.write(*values); }});
  }

  /// Writes a new file beside `path` and renames it over `path`, so that a reader sees the old file or the whole new one.
  /// Tensors are laid out by descending element size, then by name, as the reference writer does; the header is padded
  /// with spaces to a multiple of 8. Throws bad_value for names that are not UTF-8 or occur twice, io_failed with the
  /// system's reason, and what the fill functions throw; then `path` is as it was.
  /// With `how` tensors that are whole outlive the process, and one of the same fingerprint and header takes them over.
  void save(const std::string& path, const resumption& how) const { save(path, &how); }
  void save(const std::string& path) const { save(path, nullptr); }

  /// The tensors in the order in which they were added, split over files of `folder` of at most max_bytes of tensors each (a
  /// larger tensor has one of its own): model.safetensors where they fit one; else model-00001-of-00003.safetensors and so
  /// on, each written as save() does, and last model.safetensors.index.json, which safetensors_set opens. Every file has the
  /// whole __metadata__. Gives the names of the files. Files of an earlier save with another number of shards stay.
  std::vector<std::string> save_shards(const std::string& folder, std::size_t max_bytes) const {
    std::vector<std::vector<const entry*>> shards(1);
    std::size_t bytes = 0, total = 0;
    for (const entry& e : entries_) {
      if (!shards.back().empty() && (e.bytes > max_bytes || bytes > max_bytes - e.bytes)) {
        shards.emplace_back();
        bytes = 0;
      }
      shards.back().push_back(&e);
      bytes += e.bytes;
      total += e.bytes;
    }
    const std::string prefix = folder.empty() ? "" : folder + "/";
    std::vector<std::string> names;
    nlohmann::json map = nlohmann::json::object();
    for (std::size_t i = 0; i < shards.size(); ++i) {
      char name[64] = "model.safetensors";
      if (shards.size() != 1)
        std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, shards.size());
      for (const entry* e : shards[i])
        if (!map.emplace(e->name, name).second)
          core::fail(errc::bad_value, "safetensors_writer: tensor name '", printable(e->name), "' occurs twice");
      names.push_back(name);
    }
    for (std::size_t i = 0; i < shards.size(); ++i) write_file(prefix + names[i], std::move(shards[i]), nullptr);
    if (names.size() == 1) return names;
    names.push_back("model.safetensors.index.json");
    atomic_file index{"safetensors_writer", prefix + names.back()};
    index.write(nlohmann::json{{"metadata", {{"total_size", total}}}, {"weight_map", std::move(map)}}.dump(2));
    index.commit();
    return names;
  }

 private:
  void save(const std::string& path, const resumption* how) const {
    std::vector<const entry*> all;
    for (const entry& e : entries_) all.push_back(&e);
    write_file(path, std::move(all), how);
  }

  struct entry {
    std::string name;
    dtype type;
    std::vector<std::size_t> shape;
    std::size_t bytes;
    tensor_fill fill;
  };

  static std::size_t bytes_of(std::string_view name, dtype type, std::span<const std::size_t> shape) {
    std::size_t elements = 1, bits = 0;
    bool fits = true;
    for (const std::size_t extent : shape) fits = fits && detail::checked_multiply(elements, extent, elements);
    if (!fits || !detail::checked_multiply(elements, bits_of(type), bits) || bits % 8 != 0)
      core::fail(errc::bad_shape, "safetensors_writer: tensor '", printable(name), "' of shape ", shape_text(shape),
                 " and ", name_of(type), " is no whole number of bytes below 2^61");
    return bits / 8;
  }

  void write_file(const std::string& path, std::vector<const entry*> order, const resumption* how) const {
    std::sort(order.begin(), order.end(), [](const entry* a, const entry* b) {
      return std::pair{bits_of(b->type), std::string_view{a->name}} <
             std::pair{bits_of(a->type), std::string_view{b->name}};
    });
    const std::string json = make_header(order);
    const std::uint64_t json_bytes = json.size();
    std::string header{reinterpret_cast<const char*>(&json_bytes), sizeof json_bytes};
    header += json;
    std::vector<detail::tensor_part> parts;
    for (const entry* e : order) parts.push_back({e->name, e->bytes, &e->fill});
    detail::write_tensor_file("safetensors_writer", path, header, 1, parts, how);
  }

  std::string make_header(std::span<const entry* const> order) const {
    bool utf8 = true;
    const auto quoted = [&utf8](const std::string& s) {
      // With `replace` an ill-formed byte becomes U+FFFD instead of an exception: parsing back shows whether one was hit.
      std::string text = nlohmann::json(s).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
      utf8 = utf8 && nlohmann::json::parse(text).get_ref<const std::string&>() == s;
      return text;
    };
    std::set<std::string_view> names{"__metadata__"};
    std::string s = "{";
    if (!metadata.empty()) {
      s += "\"__metadata__\":{";
      for (const auto& [key, value] : metadata) s += (s.back() == '{' ? "" : ",") + quoted(key) + ":" + quoted(value);
      s += "}";
    }
    std::size_t offset = 0;
    for (const entry* e : order) {
      if (!names.insert(e->name).second)
        core::fail(errc::bad_value, "safetensors_writer: tensor name '", printable(e->name),
                   "' occurs twice or is reserved");
      s += s.size() == 1 ? "" : ",";
      s += quoted(e->name) + ":{\"dtype\":\"" + std::string{name_of(e->type)} + "\",\"shape\":[";
      for (std::size_t i = 0; i < e->shape.size(); ++i) {
        if (i != 0) s += ',';
        s += std::to_string(e->shape[i]);
      }
      s += "],\"data_offsets\":[" + std::to_string(offset) + "," + std::to_string(offset + e->bytes) + "]}";
      offset += e->bytes;
    }
    s += "}";
    if (!utf8) core::fail(errc::bad_value, "safetensors_writer: a tensor name or metadata string is not UTF-8");
    s.resize((s.size() + 7) / 8 * 8, ' ');
    if (s.size() > detail::max_header_bytes)
      core::fail(errc::bad_value, "safetensors_writer: the header has ", s.size(), " bytes; at most ",
                 detail::max_header_bytes);
    return s;
  }

  std::vector<entry> entries_;
};

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble

// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Export of quantized matrices as Parquet, for tools that read columns; needs Arrow's C++ libraries (arrow and parquet).
///
/// One row for each matrix, in a row group of its own; format version 2.6, V2 data pages. Columns:
///
///     layer        string
///     shape        list of int64: N, K
///     rule         string: symmetric, symmetric_full, mid_rise, asymmetric, asymmetric_offset, codebook
///     bits         int32
///     granularity  string: per_tensor, per_channel, grouped, flat
///     group_size   int32; 0 without groups
///     codes        binary: the rows of the canonical form without gaps (quant/format.hpp), or one byte for each code
///     scales       list of float, one for each group, as kernels read them
///     zero_points  list of float, as many, or none for a rule without them
///     table        list of float: of a codebook; else none

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <arrow/api.h>
#include <arrow/io/interfaces.h>
#include <parquet/arrow/writer.h>
#include <parquet/properties.h>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/io/atomic_file.hpp>
#include <nibble/io/file_text.hpp>
#include <nibble/pack/bits.hpp>
#include <nibble/quant/granularity.hpp>
#include <nibble/tensor/check_view.hpp>
#include <nibble/tensor/qmatrix.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

enum class parquet_codec : std::uint8_t { none, snappy, zstd };
constexpr std::string_view name_of(parquet_codec codec) noexcept {
  switch (codec) {
    case parquet_codec::none: return "none";
    case parquet_codec::snappy: return "snappy";
    case parquet_codec::zstd: return "zstd";
  }
  return {};
}

struct parquet_options {
  parquet_codec codec = parquet_codec::zstd;
  bool byte_codes = false;  ///< one byte for each code, which compressors understand; else packed
};

/// A matrix under a name.
struct parquet_layer {
  std::string name;
  quantized_view matrix;
};

namespace detail {

inline void check_arrow(const arrow::Status& status) {
  if (!status.ok()) core::fail(errc::io_failed, "parquet: ", status.ToString());
}
template <class T>
T check_arrow(arrow::Result<T> result) {
  check_arrow(result.status());
  return std::move(result).ValueUnsafe();
}

/// Arrow's side of an atomic_file.
class arrow_output final : public arrow::io::OutputStream {
 public:
  explicit arrow_output(atomic_file& file) noexcept : file_(file) {}
  using arrow::io::OutputStream::Write;
  arrow::Status Write(const void* data, std::int64_t bytes) override {
    try {
      file_.write(std::span{static_cast<const std::byte*>(data), static_cast<std::size_t>(bytes)});
    } catch (const error& e) {
      return arrow::Status::IOError(e.what());
    }
    return arrow::Status::OK();
  }
  arrow::Result<std::int64_t> Tell() const override { return static_cast<std::int64_t>(file_.written()); }
  arrow::Status Close() override {
    closed_ = true;
    return arrow::Status::OK();
  }
  bool closed() const override { return closed_; }

 private:
  atomic_file& file_;
  bool closed_ = false;
};

constexpr std::string_view text_of(code_rule rule) noexcept {
  switch (rule) {
    case code_rule::symmetric: return "symmetric";
    case code_rule::symmetric_full: return "symmetric_full";
    case code_rule::mid_rise: return "mid_rise";
    case code_rule::asymmetric: return "asymmetric";
    case code_rule::asymmetric_offset: return "asymmetric_offset";
    case code_rule::codebook: return "codebook";
  }
  return {};
}
constexpr std::string_view text_of(granularity_kind kind) noexcept {
  switch (kind) {
    case granularity_kind::per_tensor: return "per_tensor";
    case granularity_kind::per_channel: return "per_channel";
    case granularity_kind::grouped: return "grouped";
    case granularity_kind::flat: return "flat";
  }
  return {};
}

inline std::shared_ptr<arrow::Schema> parquet_schema() {
  const auto field = [](const char* name, std::shared_ptr<arrow::DataType> type) {
    return arrow::field(name, std::move(type), false);
  };
  return arrow::schema(
      {field("layer", arrow::utf8()), field("shape", arrow::list(arrow::int64())), field("rule", arrow::utf8()),
       field("bits", arrow::int32()), field("granularity", arrow::utf8()), field("group_size", arrow::int32()),
       field("codes", arrow::binary()), field("scales", arrow::list(arrow::float32())),
       field("zero_points", arrow::list(arrow::float32())), field("table", arrow::list(arrow::float32()))});
}

/// A column of one cell.
template <class Builder, class Fill>
std::shared_ptr<arrow::Array> parquet_cell(Fill fill) {
  Builder builder;
  fill(builder);
  return check_arrow(builder.Finish());
}
template <class Builder, class T>
std::shared_ptr<arrow::Array> parquet_list(const std::vector<T>& values) {
  auto items = std::make_shared<Builder>();
  arrow::ListBuilder list(arrow::default_memory_pool(), items);
  check_arrow(list.Append());
  check_arrow(items->AppendValues(values));
  return check_arrow(list.Finish());
}

/// Codes without gaps, packed or one byte each.
inline std::vector<std::uint8_t> parquet_codes(const quantized_view& m, bool byte_codes) {
  const bool flat = m.format.granularity == granularity_kind::flat;
  const std::size_t rows = flat ? 1 : m.N, row = flat ? m.N * m.K : m.K;
  std::vector<std::uint8_t> codes;
  codes.reserve(rows * (byte_codes ? row : pack::packed_bytes(row, m.format.bits)));
  for (std::size_t n = 0; n < rows; ++n) {
    const std::byte* const packed = m.codes + n * m.row_stride_bytes;
    if (byte_codes) {
      for (std::size_t k = 0; k < row; ++k)
        codes.push_back(static_cast<std::uint8_t>(pack::get(packed, k, m.format.bits)));
    } else {
      const auto* const p = reinterpret_cast<const std::uint8_t*>(packed);
      codes.insert(codes.end(), p, p + pack::packed_bytes(row, m.format.bits));
    }
  }
  return codes;
}

inline std::shared_ptr<arrow::Table> parquet_row(const parquet_layer& layer, bool byte_codes) {
  const quantized_view& m = layer.matrix;
  check_view(m, "parquet");
  const std::size_t groups = quant::scale_count(m.format, m.N, m.K);
  constexpr auto most = static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max());
  if (const std::size_t bytes = byte_codes ? m.N * m.K : m.N * pack::packed_bytes(m.K, m.format.bits);
      bytes >= most || groups >= most)
    core::fail(errc::bad_shape, "parquet: layer '", printable(layer.name), "' of ", m.N, " x ", m.K, " has ", bytes,
               " bytes of codes and ", groups, " scales; a cell holds fewer than 2^31 of either");
  if (const std::size_t bad = find_ill_formed_utf8(layer.name); bad != layer.name.size())
    core::fail(errc::bad_value, "parquet: the name '", printable(layer.name), "' is not UTF-8 at its byte ", bad);
  std::vector<float> scales(groups), zeros(quant::has_zeros(m.format) ? groups : 0), table;
  for (std::size_t g = 0; g < groups; ++g) scales[g] = quant::scale_at(m, g);
  for (std::size_t g = 0; g < zeros.size(); ++g) zeros[g] = quant::zero_at(m, g);
  if (m.format.rule == code_rule::codebook) table.assign(m.table, m.table + (std::size_t{1} << m.format.bits));
  const std::vector<std::uint8_t> codes = parquet_codes(m, byte_codes);

  const auto text = [](std::string_view s) {
    return parquet_cell<arrow::StringBuilder>([&](auto& b) { check_arrow(b.Append(s)); });
  };
  const auto number = [](std::uint32_t v) {
    return parquet_cell<arrow::Int32Builder>([&](auto& b) { check_arrow(b.Append(static_cast<std::int32_t>(v))); });
  };
  return arrow::Table::Make(parquet_schema(),
                            {text(layer.name),
                             parquet_list<arrow::Int64Builder>(std::vector<std::int64_t>{
                                 static_cast<std::int64_t>(m.N), static_cast<std::int64_t>(m.K)}),
                             text(text_of(m.format.rule)), number(m.format.bits), text(text_of(m.format.granularity)),
                             number(m.format.group_size), parquet_cell<arrow::BinaryBuilder>([&](auto& b) {
                               check_arrow(b.Append(codes.data(), static_cast<std::int32_t>(codes.size())));
                             }),
                             parquet_list<arrow::FloatBuilder>(scales), parquet_list<arrow::FloatBuilder>(zeros),
                             parquet_list<arrow::FloatBuilder>(table)},
                            1);
}

}  // namespace detail

/// Writes the layers, one after the other, to a new file that takes the name `path` when it is whole. Throws io_failed with the
/// system's or Arrow's reason, bad_shape for a matrix whose codes take 2^31 bytes, bad_value for a name that is not UTF-8, and
/// what check_view throws; then `path` is as it was.
inline void write_parquet(const std::string& path, std::span<const parquet_layer> layers,
                          const parquet_options& options = {}) {
  parquet::WriterProperties::Builder properties;
  properties.version(parquet::ParquetVersion::PARQUET_2_6)
      ->data_page_version(parquet::ParquetDataPageVersion::V2)
      ->disable_dictionary()  // no two cells are the same
      ->disable_statistics()  // the least and greatest cell would be copies of whole matrices
      ->compression(options.codec == parquet_codec::none     ? parquet::Compression::UNCOMPRESSED
                    : options.codec == parquet_codec::snappy ? parquet::Compression::SNAPPY
                                                             : parquet::Compression::ZSTD);
  atomic_file file{"parquet", path};
  auto out = std::make_shared<detail::arrow_output>(file);
  auto writer = detail::check_arrow(
      parquet::arrow::FileWriter::Open(*detail::parquet_schema(), arrow::default_memory_pool(), out, properties.build(),
                                       parquet::ArrowWriterProperties::Builder().build()));
  for (const parquet_layer& layer : layers)
    detail::check_arrow(writer->WriteTable(*detail::parquet_row(layer, options.byte_codes), 1));
  detail::check_arrow(writer->Close());
  file.commit();
}

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble

// SPDX-License-Identifier: MIT
#include <nibble/io/parquet.hpp>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <arrow/io/file.h>
#include <doctest/doctest.h>
#include <parquet/arrow/reader.h>
#include <parquet/metadata.h>

#include <nibble/quant/group_codec.hpp>
#include <nibble/tensor/quantize.hpp>

#include "support/matrices.hpp"
#include "support/refusal.hpp"
#include "support/temporary_file.hpp"

namespace {

using namespace nibble;
using test::temporary_file;

struct whole_table {
  std::shared_ptr<arrow::Table> table;
  std::shared_ptr<parquet::FileMetaData> metadata;

  explicit whole_table(const std::string& path) {
    auto file = arrow::io::ReadableFile::Open(path).ValueOrDie();
    auto reader = parquet::arrow::OpenFile(file, arrow::default_memory_pool()).ValueOrDie();
    metadata = reader->parquet_reader()->metadata();
    table = reader->ReadTable().ValueOrDie()->CombineChunks().ValueOrDie();
  }
  template <class Array>
  std::shared_ptr<Array> column(const char* name) const {
    return std::static_pointer_cast<Array>(table->GetColumnByName(name)->chunk(0));
  }
  std::vector<float> floats(const char* name, std::int64_t row) const {
    const auto list = column<arrow::ListArray>(name)->value_slice(row);
    const auto& values = static_cast<const arrow::FloatArray&>(*list);
    return {values.raw_values(), values.raw_values() + values.length()};
  }
};

std::vector<float> values_of(const quantized_view& v) {
  std::vector<float> values(v.N * v.K);
  dequantize(v, make_span2d(values.data(), v.N, v.K));
  return values;
}

}  // namespace

TEST_CASE("parquet: values follow from the columns, every format, packed codes and byte codes") {
  for (const int bits : {2, 4, 8})
    for (const format_desc& f : test::all_formats(bits, {8, 64}))
      for (const bool byte_codes : {false, true}) {
        CAPTURE(test::describe(f));
        CAPTURE(byte_codes);
        constexpr std::size_t N = 5, K = 77;
        const any_qmatrix q = test::random_qmatrix(f, N, K, 3);
        const temporary_file file{"columns.parquet"};
        const io::parquet_layer layers[] = {{"first", q.view()}};
        io::write_parquet(file.path, layers, {.byte_codes = byte_codes});
        const whole_table t{file.path};

        const auto codes = t.column<arrow::BinaryArray>("codes")->GetView(0);
        const auto scales = t.floats("scales", 0), zeros = t.floats("zero_points", 0), table = t.floats("table", 0);
        CHECK(scales.size() == quant::scale_count(f, N, K));
        CHECK(zeros.size() == (quant::has_zeros(f) ? scales.size() : 0));
        CHECK(t.column<arrow::Int32Array>("bits")->Value(0) == f.bits);
        CHECK(t.column<arrow::Int32Array>("group_size")->Value(0) == static_cast<int>(f.group_size));
        std::vector<float> values;
        const bool flat = f.granularity == granularity_kind::flat;
        const std::size_t row = byte_codes ? K : pack::packed_bytes(K, f.bits);
        for (std::size_t n = 0; n < N; ++n)
          for (std::size_t k = 0; k < K; ++k) {
            const auto* const p = reinterpret_cast<const std::byte*>(codes.data()) + (flat ? 0 : n * row);
            const std::size_t i = flat ? n * K + k : k;
            const auto u =
                byte_codes ? std::to_integer<std::uint8_t>(p[i]) : static_cast<std::uint8_t>(pack::get(p, i, f.bits));
            const std::size_t g = quant::group_of(f, K, n, k);
            float value = 0.0f;
            quant::decode_group({f, {.bits = f.bits, .values = table.data()}},
                                {scales[g], zeros.empty() ? 0.0f : zeros[g]}, &u, 1, &value);
            values.push_back(value);
          }
        CHECK(test::same_bits(values, values_of(q.view())));
      }
}

TEST_CASE("parquet: a row and a row group for each layer, V2 pages' format version, the codec asked for") {
  const format_desc f{code_rule::symmetric, 2, granularity_kind::per_channel, scale_storage::f32, 0};
  const any_qmatrix a = test::random_qmatrix(f, 40, 500, 1), b = test::random_qmatrix(f, 3, 9, 2);
  const io::parquet_layer layers[] = {{"a", a.view()}, {"caf\xc3\xa9", b.view()}};
  for (const auto codec : {io::parquet_codec::none, io::parquet_codec::snappy, io::parquet_codec::zstd}) {
    const temporary_file file{"layers.parquet"};
    io::write_parquet(file.path, layers, {.codec = codec, .byte_codes = true});
    const whole_table t{file.path};
    CHECK(t.table->num_rows() == 2);
    CHECK(t.metadata->num_row_groups() == 2);
    CHECK(t.metadata->version() == parquet::ParquetVersion::PARQUET_2_6);
    CHECK(t.column<arrow::StringArray>("layer")->GetString(1) == "caf\xc3\xa9");
    CHECK(t.column<arrow::StringArray>("rule")->GetString(0) == "symmetric");
    const auto shape = t.column<arrow::ListArray>("shape")->value_slice(1);
    CHECK(static_cast<const arrow::Int64Array&>(*shape).Value(0) == 3);
    CHECK(static_cast<const arrow::Int64Array&>(*shape).Value(1) == 9);
    const auto chunk = t.metadata->RowGroup(0)->ColumnChunk(6);
    CHECK(chunk->compression() == (codec == io::parquet_codec::none     ? parquet::Compression::UNCOMPRESSED
                                   : codec == io::parquet_codec::snappy ? parquet::Compression::SNAPPY
                                                                        : parquet::Compression::ZSTD));
    CHECK((chunk->total_compressed_size() < 40 * 500) == (codec != io::parquet_codec::none));
  }
}

TEST_CASE("parquet: what cannot be written is one error, and the old file stays") {
  const format_desc f{code_rule::symmetric, 4, granularity_kind::per_channel, scale_storage::f32, 0};
  const any_qmatrix q = test::random_qmatrix(f, 2, 8, 1);
  const temporary_file file{"old.parquet"};
  std::ofstream(file.path) << "old";
  const auto refused = [&](const std::string& name, const quantized_view& view) {
    const io::parquet_layer layers[] = {{name, view}};
    return test::refusal_of([&] { io::write_parquet(file.path, layers); });
  };
  CHECK(refused("\xff", q.view()).code == errc::bad_value);
  quantized_view huge = q.view();
  huge.N = std::size_t{1} << 31;
  CHECK(refused("huge", huge).says("a cell holds fewer than 2^31"));
  CHECK(test::bytes_of(file.path).size() == 3);
  CHECK(test::refusal_of([] { io::write_parquet("/nowhere/x.parquet", {}); }).code == errc::io_failed);
}

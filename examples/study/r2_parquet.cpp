// SPDX-License-Identifier: MIT
// Parquet files for the table r2_exact, where this build has Arrow.

#include <nibble/study/r2_files.hpp>

#include "study.hpp"

#if NIBBLE_HAS_PARQUET
#include <filesystem>

#include <nibble/io/parquet.hpp>
#endif

namespace study_program {

nibble::study::r2_file_bytes r2_parquet([[maybe_unused]] const options& o) {
#if NIBBLE_HAS_PARQUET
  return [folder = o.out_dir](std::span<const nibble::quantized_view> layers, std::string_view codec, bool byte_codes) {
    std::vector<nibble::io::parquet_layer> named;
    for (const nibble::quantized_view& layer : layers)
      named.push_back({"dense." + std::to_string(named.size()), layer});
    nibble::io::parquet_options how{.byte_codes = byte_codes};
    for (const auto c :
         {nibble::io::parquet_codec::none, nibble::io::parquet_codec::snappy, nibble::io::parquet_codec::zstd})
      if (name_of(c) == codec) how.codec = c;
    std::filesystem::create_directories(folder);
    const std::filesystem::path path = std::filesystem::path{folder} / "r2.parquet";
    nibble::io::write_parquet(path.string(), named, how);
    const std::size_t bytes = std::filesystem::file_size(path);
    std::filesystem::remove(path);
    return bytes;
  };
#else
  return {};
#endif
}

}  // namespace study_program

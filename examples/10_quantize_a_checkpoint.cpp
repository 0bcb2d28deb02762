// SPDX-License-Identifier: MIT
// Quantize a float checkpoint to 4 bits as nibble's own safetensors file, and multiply with what was written:
//
//     10_quantize_a_checkpoint [model.safetensors, its index, or the folder    out.safetensors]

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include <nibble/io/quantized_tensors.hpp>
#include <nibble/io/safetensors_set.hpp>
#include <nibble/nibble.hpp>
#include <nibble/study/error_metrics.hpp>

namespace io = nibble::io;
using nibble::make_span2d;

int main(int argc, char** argv) {
  if (argc != 1 && argc != 3) {
    std::fprintf(stderr, "usage: %s [MODEL OUT.safetensors]\n", argv[0]);
    return 2;
  }
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / "nibble_example_10";
  if (argc == 1) {  // a model to quantize: two shards with an index
    std::filesystem::create_directories(folder);
    std::vector<float> w(96 * 256), norm(256, 1.0f);
    for (float& v : w) v = 0.02f * normal(rng);
    io::safetensors_writer made;
    made.add<float>("model.up_proj.weight", {96, 256}, w);
    made.add<float>("model.down_proj.weight", {256, 96}, w);
    made.add<float>("model.norm.weight", {256}, norm);
    made.save_shards(folder.string(), 100000);
  }
  const io::safetensors_set file{argc == 3 ? argv[1] : folder.string()};
  const std::string out = argc == 3 ? argv[2] : (folder / "nibble.safetensors").string();

  // Matrices of floats become codes of 4 bits with a scale for 128 columns. A row too short for one group has 8 bits and one
  // scale, and other tensors stay as they are: said, never silent. Every matrix is made while the file is written, once for each of
  // its planes, so that memory holds one; `release` gives back the pages that were read.
  io::safetensors_writer writer;
  std::vector<const io::tensor_info*> matrices;
  for (const io::tensor_info& t : file.tensors()) {
    if (t.shape.size() != 2 || !io::safetensors_set::is_float(t)) {
      std::printf("%s: kept\n", t.name.c_str());
      writer.add(t.name, t.type, t.shape, [&file, &t](io::tensor_sink& sink) { sink.write(file.bytes(t)); });
      continue;
    }
    matrices.push_back(&t);
    const bool is_short = t.shape[1] < 128;
    if (is_short) std::printf("%s: w8_channel, rows of %zu are no group of 128\n", t.name.c_str(), t.shape[1]);
    io::add_quantized(writer, t.name,
                      [&file, &t, type = is_short ? nibble::qtype::w8_channel : nibble::qtype::w4_g128] {
                        const auto values = file.read_f32(t);
                        file.release(t);
                        return io::checkpoint_matrix{
                            nibble::quantize(type, make_span2d(values.data(), t.shape[0], t.shape[1])), {}, {}, {}};
                      });
  }
  writer.save(out);

  // The new file is used where it is mapped: a product with each matrix, against the floats.
  const io::safetensors_reader own{out};
  bool good = !matrices.empty();
  for (const io::tensor_info* const t : matrices) {
    const std::size_t N = t->shape[0], K = t->shape[1];
    const auto W = file.read_f32(*t);
    const io::quantized_tensor Q = io::view_quantized(own, t->name);
    std::vector<float> x(K), y(N), values(N * K), exact(N), decoded(N);
    for (float& v : x) v = normal(rng);
    nibble::multiply(make_span2d<const float>(x.data(), 1, K), nibble::pack_matrix(Q.view),
                     make_span2d(y.data(), 1, N));
    nibble::dequantize(Q.view, make_span2d(values.data(), N, K));
    for (std::size_t n = 0; n < N; ++n)
      for (std::size_t k = 0; k < K; ++k) {
        exact[n] += x[k] * W[n * K + k];
        decoded[n] += x[k] * values[n * K + k];
      }
    nibble::study::error_sums weights, outputs, product;
    weights.add(W, values);
    outputs.add(exact, y);
    product.add(decoded, y);
    std::printf("%s: %zu x %zu, relative error %.4f, of a product %.4f\n", t->name.c_str(), N, K,
                std::sqrt(weights.distortion()), nibble::study::relative_output_error(outputs));
    good = good && nibble::study::relative_output_error(product) < 1e-4;  // a product is one with the decoded values
    file.release(*t);
  }
  if (argc == 1) std::filesystem::remove_all(folder);
  return good ? 0 : 1;
}

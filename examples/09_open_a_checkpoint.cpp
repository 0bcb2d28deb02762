// SPDX-License-Identifier: MIT
// Open a quantized checkpoint of another tool, multiply with one of its layers, and keep it as nibble's own.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <nibble/io/checkpoint.hpp>
#include <nibble/nibble.hpp>

namespace io = nibble::io;

int main() {
  // A checkpoint to open: one GPTQ layer of 4 bits with act-order, groups of 32, as GPTQModel writes it.
  const std::size_t N = 64, K = 256;
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / "nibble_example_09";
  std::filesystem::create_directories(folder);
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> w(N * K), x(K), ordered(K), y(N);
  for (float& v : w) v = 0.02f * normal(rng);
  for (float& v : x) v = normal(rng);
  io::checkpoint_matrix made{
      nibble::quantize<nibble::quant::w4a_g32>(nibble::make_span2d(w.data(), N, K)).erased(), {}, {}, {}};
  made.column_order.resize(K);
  std::iota(made.column_order.begin(), made.column_order.end(), 0u);
  std::shuffle(made.column_order.begin(), made.column_order.end(), rng);
  io::safetensors_writer out;
  for (io::tensor_bytes& t : io::write_gptq(made, {4, 32, io::gptq_version::v2}, "model.layers.0.mlp.up_proj"))
    out.add(std::move(t));
  out.save((folder / "model.safetensors").string());
  std::ofstream(folder / "config.json")
      << R"({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32,
    "desc_act": true, "checkpoint_format": "gptq_v2"}})";

  // Ten lines to use it: the layers, whatever their layout, and a product with one. Its columns stand in the order of their
  // groups; the activations follow once.
  const io::checkpoint file{folder.string()};
  for (const io::checkpoint_layer& l : file.layers())
    std::printf("%s: %s, %zu x %zu, %d bits in groups of %zu\n", l.name.c_str(), std::string(name_of(l.layout)).c_str(),
                l.N, l.K, l.bits, l.group_size);
  const io::checkpoint_matrix layer = file.read(file.layers()[0]);
  io::permute_columns(nibble::make_span2d<const float>(x.data(), 1, K), layer.column_order,
                      nibble::make_span2d(ordered.data(), 1, K));
  nibble::multiply(nibble::make_span2d<const float>(ordered.data(), 1, K), nibble::pack_matrix(layer.matrix.view()),
                   nibble::make_span2d(y.data(), 1, N));

  // And on: all layers as nibble's own, one in memory at a time; the new file is used where it is mapped.
  io::safetensors_writer own;
  for (const io::checkpoint_layer& l : file.layers())
    io::add_quantized(own, l.name, [&file, &l] { return file.read(l); });
  own.save((folder / "nibble.safetensors").string());
  const io::safetensors_reader mapped{(folder / "nibble.safetensors").string()};
  const io::quantized_tensor again = io::view_quantized(mapped, "model.layers.0.mlp.up_proj");
  std::vector<float> z(N), dense(N * K);
  nibble::multiply(nibble::make_span2d<const float>(ordered.data(), 1, K), nibble::pack_matrix(again.view),
                   nibble::make_span2d(z.data(), 1, N));
  io::dequantize(layer, nibble::make_span2d(dense.data(), N, K));  // columns where the file has them
  std::filesystem::remove_all(folder);

  double worst = 0.0;
  for (std::size_t n = 0; n < N; ++n) {
    double exact = 0.0;
    for (std::size_t k = 0; k < K; ++k) exact += double{x[k]} * double{dense[n * K + k]};
    worst = std::max(worst, std::abs(double{y[n]} - exact));
  }
  std::printf("greatest error of the product: %.2g; nibble's own file gives %s\n", worst,
              y == z ? "the same" : "another");
  return worst < 1e-5 && y == z ? 0 : 1;
}

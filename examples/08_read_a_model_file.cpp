// SPDX-License-Identifier: MIT
// Write a small GGUF file, read it back, and multiply with one of its tensors.

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <random>
#include <span>
#include <vector>

#include <nibble/io/gguf.hpp>
#include <nibble/io/gguf_writer.hpp>
#include <nibble/nibble.hpp>
#include <nibble/tensor/ggml_matrix.hpp>

int main() {
  // A file to read: 64 outputs, 512 inputs, as ggml's Q4_K. dims[0] lies along memory.
  const std::size_t N = 64, K = 512;
  std::vector<float> w(N * K), x(K), y(N);
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  for (float& v : w) v = 0.02f * normal(rng);
  for (float& v : x) v = normal(rng);
  std::vector<std::byte> blocks(N * K / 256 * 144);
  nibble::encode_ggml(nibble::ggml_type::q4_k, nibble::make_span2d<const float>(w.data(), N, K), blocks);
  const std::string path = (std::filesystem::temp_directory_path() / "nibble_example_08.gguf").string();
  nibble::io::gguf_writer out;
  out.set("general.architecture", "example");
  out.set("example.block_count", 1u);
  out.add("blk.0.attn_q.weight", nibble::ggml_type::q4_k, {K, N}, blocks);
  out.save(path);

  // Ten lines to read it: metadata, tensors, values.
  const nibble::io::gguf_reader file{path};
  std::printf("%zu layers\n", file.get<std::size_t>("example.block_count"));
  for (const nibble::io::gguf_tensor& t : file.tensors())
    std::printf("%s: %s, %zu x %zu, %zu bytes\n", std::string(t.name).c_str(),
                std::string(nibble::quant::name_of(t.type)).c_str(), t.dims[1], t.dims[0], t.bytes);
  const auto values = file.read_f32("blk.0.attn_q.weight");

  // And on, without a detour over floats: its blocks as a matrix, which loses nothing, packed for the kernels.
  const nibble::io::gguf_tensor& t = file.at("blk.0.attn_q.weight");
  const auto Q = nibble::matrix_from_ggml(t.type, file.bytes(t), t.dims[1], t.dims[0]);
  nibble::multiply(nibble::make_span2d(x.data(), 1, K), nibble::pack_matrix(Q.view()),
                   nibble::make_span2d(y.data(), 1, N));
  std::filesystem::remove(path);

  double signal = 0.0, noise = 0.0;
  for (std::size_t n = 0; n < N; ++n) {
    double exact = 0.0;
    for (std::size_t k = 0; k < K; ++k) exact += double{x[k]} * double{values[n * K + k]};
    signal += exact * exact;
    noise += (y[n] - exact) * (y[n] - exact);
  }
  const double error = std::sqrt(noise / signal);
  std::printf("relative error of the product: %.5f\n", error);
  return error < 0.01 ? 0 : 1;
}

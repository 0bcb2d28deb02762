// SPDX-License-Identifier: MIT
// Quantized weights in Eigen code: a gated feed-forward block.

#include <cstdio>

#include <nibble/eigen.hpp>

int main() {
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Eigen::Index tokens = 8, width = 256, hidden = 768;
  std::srand(1);  // Eigen's Random() is std::rand()
  const matrix X = matrix::Random(tokens, width);
  const matrix gate = matrix::Random(hidden, width), up = matrix::Random(hidden, width),
               down = matrix::Random(width, hidden);

  // Any dense expression can be quantized; row-major memory is read in place.
  const auto gate4 = nibble::eigen::quantize<nibble::quant::w4_g32>(gate);
  const auto up4 = nibble::eigen::quantize<nibble::quant::w4_g32>(up);
  const auto down8 = nibble::eigen::quantize<nibble::quant::w8_g32>(down);

  // Products are Eigen expressions: with row-major matrices, tokens are rows and nothing is copied.
  const matrix H = (X * gate4.transpose()).cwiseMax(0.0f).cwiseProduct(X * up4.transpose());
  matrix Y = X;
  Y += H * down8.transpose();

  // With column-major matrices, Eigen's default, and with vectors, tokens are columns: W * x.
  const Eigen::VectorXf x = X.row(0), h = (gate4 * x).cwiseMax(0.0f).cwiseProduct(up4 * x), y = x + down8 * h;

  // Threads and computation belong to the product.
  nibble::thread_pool pool(2);
  const matrix Y8 = X + H * down8.with(pool).with(nibble::computation::integer).transpose();

  const matrix exact = X + (X * gate.transpose()).cwiseMax(0.0f).cwiseProduct(X * up.transpose()) * down.transpose();
  const float error = (Y - exact).norm() / exact.norm(), integer_error = (Y8 - exact).norm() / exact.norm();
  const float by_columns = (y - Y.row(0).transpose()).norm() / y.norm();
  std::printf("4-bit gate and up, 8-bit down: relative error %.4f, with integer computation %.4f\n",
              static_cast<double>(error), static_cast<double>(integer_error));
  std::printf("rows against columns: %.1e\n", static_cast<double>(by_columns));

  // Sizes that do not fit are nibble::error, not undefined behaviour.
  bool refused = false;
  try {
    Y = H * gate4.transpose();
  } catch (const nibble::error& failure) {
    std::printf("%s\n", failure.what());
    refused = failure.code() == nibble::errc::bad_shape;
  }
  return error > 0.02f && error < 0.2f && integer_error < 0.2f && by_columns < 1e-5f && refused ? 0 : 1;
}

// SPDX-License-Identifier: MIT
// Inside an engine: nibble runs on the engine's threads and memory. A product starts no thread and allocates nothing.

#include <atomic>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <random>
#include <semaphore>
#include <thread>
#include <vector>

#include <nibble/nibble.hpp>

// Counts what operator new gives out, to prove the point.
static std::atomic<long> allocations{0};
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  ++allocations;
  const auto a = static_cast<std::size_t>(alignment);
  if (void* p = std::aligned_alloc(a, (bytes + a - 1) / a * a)) return p;
  throw std::bad_alloc();
}
void* operator new(std::size_t bytes) { return ::operator new (bytes, std::align_val_t{alignof(std::max_align_t)}); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace {

/// The engine's threads: here one helper, woken by a semaphore.
class engine {
 public:
  ~engine() {
    body_ = nullptr;
    go_.release();
    helper_.join();
  }

  /// The one function that nibble asks for: call body(arg, s) once for each s in [0, slots), on any threads.
  static void parallel_for(void* self, std::size_t slots, void (*body)(void*, std::size_t), void* arg) {
    auto& e = *static_cast<engine*>(self);
    if (slots == 2) {  // never more than context::concurrency
      e.body_ = body;
      e.arg_ = arg;
      e.go_.release();
    }
    body(arg, 0);
    if (slots == 2) e.done_.acquire();
  }

 private:
  void help() {
    for (;;) {
      go_.acquire();
      if (body_ == nullptr) return;
      body_(arg_, 1);
      done_.release();
    }
  }
  void (*body_)(void*, std::size_t) = nullptr;
  void* arg_ = nullptr;
  std::binary_semaphore go_{0}, done_{0};
  std::thread helper_{[this] { help(); }};
};

}  // namespace

int main() {
  const std::size_t most_tokens = 32, N = 512, K = 1024;
  std::vector<float> w(N * K), x(most_tokens * K), y(most_tokens * N), token(N);
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  for (float& v : w) v = normal(rng);
  for (float& v : x) v = normal(rng);

  engine e;
  nibble::context ctx;
  ctx.user = &e;
  ctx.parallel_for = &engine::parallel_for;
  ctx.concurrency = 2;

  // At load time: quantize and pack on the engine's threads, and ask for the greatest need once.
  const auto weights = nibble::make_span2d<const float>(w.data(), N, K);
  const auto Q = nibble::quantize<nibble::quant::w4_g32>(weights, {}, ctx);
  const nibble::packed_matrix P = nibble::pack_matrix(Q.view(), ctx);
  const nibble::gemm_options options{.computation = nibble::computation::integer};
  ctx.scratch_bytes = nibble::gemm_scratch_bytes(P.view(), most_tokens, options, ctx.concurrency);
  nibble::aligned_vector<std::byte> scratch(ctx.scratch_bytes);  // or any 64-byte aligned memory of the engine
  ctx.scratch = scratch.data();

  // At run time: a prompt, then token by token.
  const long before = allocations;
  nibble::multiply(nibble::make_span2d(x.data(), most_tokens, K), P.view(),
                   nibble::make_span2d(y.data(), most_tokens, N), options, ctx);
  long difference = 0;
  for (std::size_t m = 0; m < most_tokens; ++m) {
    nibble::multiply(nibble::make_span2d(x.data() + m * K, 1, K), P.view(), nibble::make_span2d(token.data(), 1, N),
                     options, ctx);
    for (std::size_t n = 0; n < N; ++n) difference += token[n] != y[m * N + n];
  }
  const long during = allocations - before;
  std::printf("scratch: %zu bytes; allocations during %zu products: %ld\n", ctx.scratch_bytes, 1 + most_tokens, during);
  std::printf("values that depend on how the tokens were batched: %ld of %zu\n", difference, y.size());

  // Mistakes are errors with numbers in them, found before anything is written.
  bool refused = false;
  try {
    ctx.scratch_bytes = 64;
    nibble::multiply(nibble::make_span2d(x.data(), 1, K), P.view(), nibble::make_span2d(token.data(), 1, N), options,
                     ctx);
  } catch (const nibble::error& failure) {
    std::printf("with 64 bytes of scratch: %s\n", failure.what());
    refused = failure.code() == nibble::errc::scratch_too_small;
  }
  return during == 0 && difference == 0 && refused ? 0 : 1;
}

// SPDX-License-Identifier: MIT
// XNNPACK: fully connected operators for 8-bit codes and for float, on its own kind of thread pool.

#include "peers.hpp"
#include "roofs.hpp"

#if NIBBLE_BENCH_HAS_XNNPACK
#include <pthreadpool.h>
#include <xnnpack.h>

#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <type_traits>
#endif

namespace nibble::bench {

#if NIBBLE_BENCH_HAS_XNNPACK
namespace {

void must(xnn_status status, const char* what) {
  if (status != xnn_status_success)
    throw std::runtime_error(text("XNNPACK: ", what, " failed with status ", static_cast<int>(status)));
}

pthreadpool_t threads_of(std::size_t threads) {
  static std::map<std::size_t, std::unique_ptr<pthreadpool, decltype(&pthreadpool_destroy)>> pools;
  return pools.try_emplace(threads, pthreadpool_create(threads), &pthreadpool_destroy).first->second.get();
}

/// An operator, which holds weights in the library's order where it has any. A copy is made anew, weights and all.
class op {
 public:
  using make = std::function<xnn_status(xnn_operator_t*)>;
  explicit op(make how) : make_(std::move(how)) {
    must(xnn_initialize(nullptr), "initialize");
    xnn_operator_t made = nullptr;
    must(make_(&made), "create");
    operator_.reset(made);
  }
  op(const op& other) : op(other.make_) {}
  op(op&&) = default;
  xnn_operator_t get() const { return operator_.get(); }
  void run(std::size_t threads) const { must(xnn_run_operator(get(), threads_of(threads)), "run"); }

 private:
  struct destroy {
    void operator()(xnn_operator_t o) const { xnn_delete_operator(o); }
  };
  make make_;
  std::unique_ptr<std::remove_pointer_t<xnn_operator_t>, destroy> operator_;
};

template <class F>
void guarded(benchmark::State& state, F&& f) {
  try {
    f();
  } catch (const std::runtime_error& e) {
    state.SkipWithError(e.what());
  }
}

void run_f32(benchmark::State& state, shape s, std::size_t M, std::size_t threads, bool cold) {
  guarded(state, [&] {
    auto& weights = input_cache::get<copies<op>>(text("xnnpack_f32/", name_of(s)), [&] {
      const auto w = std::make_shared<std::vector<float>>(peer_weights(s));
      op first([=](xnn_operator_t* made) {
        return xnn_create_fully_connected_nc_f32(s.K, s.N, s.K, s.N, w->data(), nullptr, -INFINITY, INFINITY, 0, made);
      });
      return copies<op>(std::move(first), s.N * s.K * sizeof(float));
    });
    weights.want_cold(cold);
    const product_cost cost{s.N, s.K, M, threads, weights.bytes(), cold, float_peak(threads)};
    run_peer(state, cost, float_tolerance, [&](const float* x, float* y) {
      const op& o = weights.next();
      must(xnn_setup_fully_connected_nc_f32(o.get(), M, x, y, threads_of(threads)), "setup");
      o.run(threads);
    });
  });
}

/// One scale for all weights, for all tokens and for all results, which have 8 bits: known beforehand, as in a calibrated
/// network. Floats to codes and codes to floats by the library's own operators.
void run_s8(benchmark::State& state, shape s, std::size_t M, std::size_t threads, bool cold) {
  // Four and a half standard deviations of X, and of Y: the tails are cut off, the codes are used.
  const float x_scale = 4.5f / 127.0f, y_scale = 4.5f * 0.02f * std::sqrt(static_cast<float>(s.K)) / 127.0f;
  guarded(state, [&] {
    auto& weights = input_cache::get<copies<op>>(text("xnnpack_s8/", name_of(s)), [&] {
      const auto w = std::make_shared<s8_matrix>(s8_weights(s, false));
      op first([=](xnn_operator_t* made) {
        return xnn_create_fully_connected_nc_qs8(s.K, s.N, s.K, s.N, 0, x_scale, w->scales[0], w->codes.data(), nullptr,
                                                 0, y_scale, -128, 127, 0, made);
      });
      return copies<op>(std::move(first), s.N * s.K);
    });
    weights.want_cold(cold);
    const op narrow([&](xnn_operator_t* made) {
      return xnn_create_convert_nc_f32_qs8(s.K, s.K, s.K, x_scale, 0, -127, 127, 0, made);
    });
    const op widen(
        [&](xnn_operator_t* made) { return xnn_create_convert_nc_qs8_f32(s.N, s.N, s.N, y_scale, 0, 0, made); });
    aligned_vector<std::int8_t> codes(M * s.K + XNN_EXTRA_BYTES), results(M * s.N + XNN_EXTRA_BYTES);
    const pthreadpool_t pool = threads_of(threads);
    const product_cost cost{s.N, s.K, M, threads, weights.bytes(), cold, byte_peak(8, threads)};
    run_peer(state, cost, s8_tensor_tolerance, [&](const float* x, float* y) {
      const op& product = weights.next();
      must(xnn_setup_convert_nc_f32_qs8(narrow.get(), M, x, codes.data(), pool), "setup");
      must(xnn_setup_fully_connected_nc_qs8(product.get(), M, codes.data(), results.data(), pool), "setup");
      must(xnn_setup_convert_nc_qs8_f32(widen.get(), M, results.data(), y, pool), "setup");
      for (const op* o : {&narrow, &product, &widen}) o->run(threads);
    });
  });
}

}  // namespace

std::vector<peer> xnnpack_peers() {
  const std::string version = "of unknown version";  // the library does not tell
  return {{"xnnpack_s8_tensor/integer", version, "", run_s8}, {"xnnpack_f32", version, "", run_f32}};
}
#else
std::vector<peer> xnnpack_peers() {
  const char* why = "XNNPACK and pthreadpool were not found when this program was built";
  return {{"xnnpack_s8_tensor/integer", "", why, {}}, {"xnnpack_f32", "", why, {}}};
}
#endif

}  // namespace nibble::bench

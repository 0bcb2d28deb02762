// SPDX-License-Identifier: MIT
// oneDNN: 8-bit weights, bfloat16 and float, as inner products with weights in the library's own order. Debian's build
// takes its threads from OpenMP.

#include "peers.hpp"
#include "roofs.hpp"

#if NIBBLE_BENCH_HAS_ONEDNN
#include <omp.h>

#include <algorithm>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

#include <nibble/core/half.hpp>
#include <nibble/kernels/kernels.hpp>
#endif

namespace nibble::bench {

#if NIBBLE_BENCH_HAS_ONEDNN
namespace {

using dnnl::memory;

const dnnl::engine& cpu() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::stream& stream() {
  static dnnl::stream stream(cpu());
  return stream;
}

/// OpenMP's threads as a context, so that no second set of threads waits beside the one that oneDNN uses.
context omp_context(std::size_t threads) {
  context ctx;
  ctx.concurrency = threads;
  ctx.parallel_for = [](void*, std::size_t slots, void (*body)(void*, std::size_t), void* argument) {
#pragma omp parallel for schedule(static, 1)
    for (std::size_t slot = 0; slot < slots; ++slot) body(argument, slot);
  };
  return ctx;
}

/// An inner product X[M, K] * transpose(W[N, K]) and what a call of it needs.
struct product {
  dnnl::inner_product_forward::primitive_desc description;
  dnnl::inner_product_forward call;
  memory x, w, y, bias, scratch;

  product(shape s, std::size_t M, memory::data_type x_type, memory::data_type w_type, const std::vector<float>& scales)
      : description(describe(s, M, x_type, w_type, scales)),
        call(description),
        x(description.src_desc(), cpu()),
        w(description.weights_desc(), cpu(), nullptr),
        y(description.dst_desc(), cpu(), nullptr),
        bias(description.bias_desc(), cpu()),
        scratch(description.scratchpad_desc(), cpu()) {}

  static dnnl::inner_product_forward::primitive_desc describe(shape s, std::size_t M, memory::data_type x_type,
                                                              memory::data_type w_type,
                                                              const std::vector<float>& scales) {
    const auto m = static_cast<memory::dim>(M), n = static_cast<memory::dim>(s.N), k = static_cast<memory::dim>(s.K);
    const memory::desc X({m, k}, x_type, memory::format_tag::ab), W({n, k}, w_type, memory::format_tag::any),
        Y({m, n}, memory::data_type::f32, memory::format_tag::ab);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const auto kind = dnnl::prop_kind::forward_inference;
    if (scales.empty()) return {{kind, X, W, Y}, attributes, cpu()};
    const memory::desc B({n}, memory::data_type::s32, memory::format_tag::a);
    attributes.set_output_scales(1 << 1, scales);  // one for each output channel
    return {{kind, X, W, B, Y}, attributes, cpu()};
  }

  void run(const void* weights, float* results) {
    w.set_data_handle(const_cast<void*>(weights));
    y.set_data_handle(results);
    std::unordered_map<int, memory> arguments{
        {DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, y}, {DNNL_ARG_SCRATCHPAD, scratch}};
    if (!bias.get_desc().is_zero()) arguments.emplace(DNNL_ARG_BIAS, bias);
    call.execute(stream(), arguments);
    stream().wait();
  }
};

using packed_bytes = aligned_vector<std::byte>;

/// Row-major weights in the order that the product asks for.
packed_bytes in_its_order(const product& p, shape s, memory::data_type type, const void* row_major) {
  const memory::desc plain({static_cast<memory::dim>(s.N), static_cast<memory::dim>(s.K)}, type,
                           memory::format_tag::ab);
  memory from(plain, cpu(), const_cast<void*>(row_major));
  packed_bytes bytes(p.description.weights_desc().get_size());
  memory to(p.description.weights_desc(), cpu(), bytes.data());
  dnnl::reorder(from, to).execute(stream(), from, to);
  stream().wait();
  return bytes;
}

/// The order of the weights depends on M: one set for each.
template <class Make>
copies<packed_bytes>& packed(const std::string& name, shape s, std::size_t M, bool cold, Make&& make) {
  auto& weights = input_cache::get<copies<packed_bytes>>(text(name, "/", name_of(s), "/M:", M), [&] {
    packed_bytes bytes = make();
    const std::size_t size = bytes.size();
    return copies<packed_bytes>(std::move(bytes), size);
  });
  weights.want_cold(cold);
  return weights;
}

std::string isa_name() {
  switch (dnnl::get_effective_cpu_isa()) {
    case dnnl::cpu_isa::sse41: return "sse41";
    case dnnl::cpu_isa::avx: return "avx";
    case dnnl::cpu_isa::avx2: return "avx2";
    case dnnl::cpu_isa::avx2_vnni: return "avx2_vnni";
    case dnnl::cpu_isa::avx512_core: return "avx512_core";
    case dnnl::cpu_isa::avx512_core_vnni: return "avx512_core_vnni";
    case dnnl::cpu_isa::avx512_core_bf16: return "avx512_core_bf16";
    case dnnl::cpu_isa::avx512_core_amx: return "avx512_core_amx";
    default: return "its default isa";
  }
}

std::string version() {
  const dnnl_version_t* v = dnnl_version();
  return text(v->major, ".", v->minor, ".", v->patch, ", ", isa_name());
}

template <class F>
void guarded(benchmark::State& state, F&& f) {
  try {
    f();
  } catch (const dnnl::error& e) {
    state.SkipWithError(text("oneDNN: ", e.what()).c_str());
  }
}

/// Codes of the weights for each channel, codes of the tokens made inside. The tokens' codes go in as unsigned bytes, 128
/// more than the signed ones, because that is the operand order of the CPUs' instructions: signed ones took up to twenty
/// times as long here. 128 times the sum of a channel's codes is taken back as the bias, exact in int32. Without VNNI
/// the library adds pairs of products in 16 bits, which saturate for extreme codes.
void run_s8(benchmark::State& state, shape s, std::size_t M, std::size_t threads, bool cold) {
  omp_set_num_threads(static_cast<int>(threads));
  struct weights {
    copies<packed_bytes> codes;
    std::vector<float> scales;
    std::vector<std::int32_t> bias;
  };
  const auto product_with = [&](const std::vector<float>& scales) {
    return product(s, M, memory::data_type::u8, memory::data_type::s8, scales);
  };
  guarded(state, [&] {
    auto& W = input_cache::get<weights>(text("onednn_s8/", name_of(s), "/M:", M), [&] {
      s8_matrix q = s8_weights(s, true);
      std::vector<std::int32_t> bias(s.N);
      for (std::size_t n = 0; n < s.N; ++n)
        for (std::size_t k = 0; k < s.K; ++k) bias[n] -= 128 * q.codes[n * s.K + k];
      packed_bytes bytes = in_its_order(product_with(q.scales), s, memory::data_type::s8, q.codes.data());
      const std::size_t size = bytes.size() + s.N * sizeof(float);
      return weights{copies<packed_bytes>(std::move(bytes), size), std::move(q.scales), std::move(bias)};
    });
    W.codes.want_cold(cold);
    product p = product_with(W.scales);
    std::copy(W.bias.begin(), W.bias.end(), static_cast<std::int32_t*>(p.bias.get_data_handle()));
    const context ctx = omp_context(threads);
    std::vector<float> token_scales(M);
    auto* codes = static_cast<std::uint8_t*>(p.x.get_data_handle());
    const product_cost cost{s.N, s.K, M, threads, W.codes.bytes(), cold, byte_peak(8, threads)};
    run_peer(state, cost, s8_channel_tolerance, [&](const float* x, float* y) {
      core::for_each_item(ctx, M, [&](std::size_t m, std::size_t) {
        std::uint8_t* row = codes + m * s.K;
        token_scales[m] =
            kernels::quantize_row<isa::native>::run(x + m * s.K, s.K, reinterpret_cast<std::int8_t*>(row), s.K);
        for (std::size_t k = 0; k < s.K; ++k) row[k] ^= 0x80;
      });
      p.run(W.codes.next().data(), y);
      // The library would multiply by a token's scale itself, but on the slow way of its reference code.
      core::for_each_item(ctx, M, [&](std::size_t m, std::size_t) {
        for (std::size_t n = 0; n < s.N; ++n) y[m * s.N + n] *= token_scales[m];
      });
    });
  });
  state.SetLabel(version());
}

void run_f32(benchmark::State& state, shape s, std::size_t M, std::size_t threads, bool cold) {
  omp_set_num_threads(static_cast<int>(threads));
  guarded(state, [&] {
    product p(s, M, memory::data_type::f32, memory::data_type::f32, {});
    auto& weights = packed("onednn_f32", s, M, cold,
                           [&] { return in_its_order(p, s, memory::data_type::f32, peer_weights(s).data()); });
    const product_cost cost{s.N, s.K, M, threads, weights.bytes(), cold, float_peak(threads)};
    run_peer(state, cost, float_tolerance, [&](const float* x, float* y) {
      p.x.set_data_handle(const_cast<float*>(x));
      p.run(weights.next().data(), y);
    });
  });
  state.SetLabel(version());
}

/// Weights in bfloat16, tokens made bfloat16 inside. The share is that of the float peak.
void run_bf16(benchmark::State& state, shape s, std::size_t M, std::size_t threads, bool cold) {
  omp_set_num_threads(static_cast<int>(threads));
  guarded(state, [&] {
    product p(s, M, memory::data_type::bf16, memory::data_type::bf16, {});
    auto& weights = packed("onednn_bf16", s, M, cold, [&] {
      const std::vector<float> w = peer_weights(s);
      std::vector<bfloat16> narrow(w.size());
      std::transform(w.begin(), w.end(), narrow.begin(), to_bfloat16);
      return in_its_order(p, s, memory::data_type::bf16, narrow.data());
    });
    const memory::desc plain({static_cast<memory::dim>(M), static_cast<memory::dim>(s.K)}, memory::data_type::f32,
                             memory::format_tag::ab);
    memory tokens(plain, cpu(), nullptr);
    dnnl::reorder narrow(tokens, p.x);
    const product_cost cost{s.N, s.K, M, threads, weights.bytes(), cold, float_peak(threads)};
    run_peer(state, cost, bfloat16_tolerance, [&](const float* x, float* y) {
      tokens.set_data_handle(const_cast<float*>(x));
      narrow.execute(stream(), tokens, p.x);
      p.run(weights.next().data(), y);
    });
  });
  state.SetLabel(version());
}

}  // namespace

std::vector<peer> onednn_peers() {
  const auto isa = dnnl::get_effective_cpu_isa();
  const bool narrow = isa == dnnl::cpu_isa::avx512_core || isa == dnnl::cpu_isa::avx512_core_vnni ||
                      isa == dnnl::cpu_isa::avx512_core_bf16 || isa == dnnl::cpu_isa::avx512_core_amx;
  return {{"onednn_s8_channel/integer", version(), "", run_s8},
          {"onednn_f32", version(), "", run_f32},
          {"onednn_bf16", version(), narrow ? "" : "the library has no bfloat16 on this CPU", run_bf16}};
}
#else
std::vector<peer> onednn_peers() {
  const char* why = "oneDNN, or OpenMP which it needs, was not found when this program was built";
  return {{"onednn_s8_channel/integer", "", why, {}}, {"onednn_f32", "", why, {}}, {"onednn_bf16", "", why, {}}};
}
#endif

}  // namespace nibble::bench

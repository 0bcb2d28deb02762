// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The few vector operations of the panel kernels, on the register width of the native architecture: xsimd (8.1 to 14)
/// for loads, stores, arithmetic and conversions, on 64-bit Arm neon.hpp; intrinsics for the dot product of bytes, which
/// xsimd does not have.
///
/// Only the unit's own architecture is ever instantiated, because xsimd's functions live outside nibble's inline namespace
/// and are named by architecture. Two units that map to one architecture (SSE2 with and without AVX) are kept apart by
/// inlining alone; tests/link looks at the machine code.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <nibble/core/config.hpp>
#include <nibble/core/half.hpp>
#include <nibble/core/round.hpp>
#include <nibble/isa/intrinsics.hpp>
#include <nibble/isa/tags.hpp>
#include <nibble/kernels/simd/neon.hpp>

#if defined(__aarch64__) && defined(__ARM_NEON)
#define NIBBLE_SIMD_NEON 1
#else
#define NIBBLE_SIMD_NEON 0
#endif

#if NIBBLE_SIMD_NEON || (NIBBLE_HAS_XSIMD && defined(__SSE2__))
#if !NIBBLE_SIMD_NEON
#include <xsimd/xsimd.hpp>
#endif
#define NIBBLE_SIMD_KERNELS 1

// The register width of isa::native, and whether it has vpdpbusd. AVX2 without FMA or F16C, which no CPU has, counts as SSE2.
#if defined(__AVX512F__) && defined(__AVX512CD__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && \
    defined(__AVX512VL__) && defined(__FMA__) && defined(__F16C__)
#define NIBBLE_SIMD_WIDTH 512
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define NIBBLE_SIMD_WIDTH 256
#else
#define NIBBLE_SIMD_WIDTH 128
#endif
#if (NIBBLE_SIMD_WIDTH == 512 && defined(__AVX512VNNI__)) || (NIBBLE_SIMD_WIDTH == 256 && defined(__AVXVNNI__))
#define NIBBLE_SIMD_VNNI 1
#else
#define NIBBLE_SIMD_VNNI 0
#endif
// Arm's dot products of bytes: sdot takes two signed operands; usdot, which came with the matrix products, an unsigned one.
#if NIBBLE_SIMD_NEON && defined(__ARM_FEATURE_DOTPROD)
#define NIBBLE_SIMD_SDOT 1
#else
#define NIBBLE_SIMD_SDOT 0
#endif
#if NIBBLE_SIMD_SDOT && defined(__ARM_FEATURE_MATMUL_INT8)
#define NIBBLE_SIMD_USDOT 1
#else
#define NIBBLE_SIMD_USDOT 0
#endif

namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels::simd {

#if !NIBBLE_SIMD_NEON
#if NIBBLE_SIMD_WIDTH == 512
using arch = xsimd::avx512bw;
#elif NIBBLE_SIMD_WIDTH == 256
using arch = xsimd::fma3<xsimd::avx2>;
#else
using arch = xsimd::sse2;
#endif
#endif
// Above AVX-512 VNNI only the integer product of several rows has kernels of its own.
#if NIBBLE_SIMD_WIDTH == 512 && NIBBLE_SIMD_VNNI
using isa_type = isa::avx512_vnni;
#else
using isa_type = isa::native;
#endif

#if NIBBLE_SIMD_NEON
using vf = neon_floats;
using vi = neon_ints;
using vu = neon_uints;
#else
using vf = xsimd::batch<float, arch>;
using vi = xsimd::batch<std::int32_t, arch>;
using vu = xsimd::batch<std::uint32_t, arch>;
using xsimd::all;
using xsimd::any;
using xsimd::max;
using xsimd::min;
using xsimd::select;
#endif
/// 32-bit lanes of a register.
inline constexpr std::size_t lanes = vf::size;
/// Registers that hold the 16 columns of a panel.
inline constexpr std::size_t regs = 16 / lanes;
/// Vector registers of the architecture.
inline constexpr std::size_t register_count = lanes == 16 || NIBBLE_SIMD_NEON ? 32 : 16;

NIBBLE_ALWAYS_INLINE vf load(const float* p) noexcept { return vf::load_unaligned(p); }
NIBBLE_ALWAYS_INLINE vi load(const std::int32_t* p) noexcept { return vi::load_unaligned(p); }
/// Whether there is an instruction from half to float.
#if NIBBLE_SIMD_NEON || defined(__F16C__)
#define NIBBLE_SIMD_HALVES 1
NIBBLE_ALWAYS_INLINE vf load(const half* p) noexcept {
#if NIBBLE_SIMD_NEON
  return vf(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const std::uint16_t*>(p)))));
#elif NIBBLE_SIMD_WIDTH == 512
  return vf(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif NIBBLE_SIMD_WIDTH == 256
  return vf(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  return vf(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#endif
}
/// Signed bytes as floats.
NIBBLE_ALWAYS_INLINE vf load(const std::int8_t* p) noexcept {
#if NIBBLE_SIMD_NEON
  std::int32_t four;
  std::memcpy(&four, p, sizeof four);
  const int8x8_t bytes = vreinterpret_s8_s32(vdup_n_s32(four));
  return vf(vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes)))));
#elif NIBBLE_SIMD_WIDTH == 512
  return vf(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))));
#elif NIBBLE_SIMD_WIDTH == 256
  return vf(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))));
#else
  std::int32_t four;
  std::memcpy(&four, p, sizeof four);
  return vf(_mm_cvtepi32_ps(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(four))));
#endif
}
#else
#define NIBBLE_SIMD_HALVES 0
#endif
/// Whether a group of so many values fills half a register.
constexpr bool is_half(std::size_t group) noexcept { return group == lanes / 2; }
/// Half a register of values, twice.
NIBBLE_ALWAYS_INLINE vf load_half_twice(const float* p) noexcept {
#if NIBBLE_SIMD_NEON
  const float32x2_t v = vld1_f32(p);
  return vf(vcombine_f32(v, v));
#elif NIBBLE_SIMD_WIDTH == 512
  return vf(_mm512_broadcast_f32x8(_mm256_loadu_ps(p)));
#elif NIBBLE_SIMD_WIDTH == 256
  return vf(_mm256_broadcast_ps(reinterpret_cast<const __m128*>(p)));
#else
  const __m128 v = _mm_loadl_pi(_mm_setzero_ps(), reinterpret_cast<const __m64*>(p));
  return vf(_mm_movelh_ps(v, v));
#endif
}
/// a in the lower half of the lanes, b in the upper one.
NIBBLE_ALWAYS_INLINE vf in_halves(float a, float b) noexcept {
#if NIBBLE_SIMD_NEON
  return vf(vcombine_f32(vdup_n_f32(a), vdup_n_f32(b)));
#elif NIBBLE_SIMD_WIDTH == 512
  return vf(_mm512_mask_mov_ps(_mm512_set1_ps(a), 0xff00, _mm512_set1_ps(b)));
#elif NIBBLE_SIMD_WIDTH == 256
  return vf(_mm256_blend_ps(_mm256_set1_ps(a), _mm256_set1_ps(b), 0xf0));
#else
  return vf(_mm_setr_ps(a, a, b, b));
#endif
}
/// `lanes` 32-bit lanes from bytes.
NIBBLE_ALWAYS_INLINE vu load_lanes(const void* p) noexcept {
  return vu::load_unaligned(static_cast<const std::uint32_t*>(p));
}
#if NIBBLE_SIMD_NEON
NIBBLE_ALWAYS_INLINE vi as_signed(vu v) noexcept { return vi(vreinterpretq_s32_u32(static_cast<uint32x4_t>(v))); }
NIBBLE_ALWAYS_INLINE vf to_float(vi v) noexcept { return vf(vcvtq_f32_s32(static_cast<int32x4_t>(v))); }
#else
NIBBLE_ALWAYS_INLINE vi as_signed(vu v) noexcept { return vi(static_cast<vu::register_type>(v)); }
NIBBLE_ALWAYS_INLINE vf to_float(vi v) noexcept { return xsimd::to_float(v); }
#endif

/// fma with one rounding on every architecture: where there is no instruction, lane by lane through libm.
NIBBLE_ALWAYS_INLINE vf fused(vf a, vf b, vf c) noexcept {
#if NIBBLE_SIMD_NEON
  return vf(vfmaq_f32(static_cast<float32x4_t>(c), static_cast<float32x4_t>(a), static_cast<float32x4_t>(b)));
#elif NIBBLE_SIMD_WIDTH == 512
  return vf(_mm512_fmadd_ps(a, b, c));  // xsimd 8.1 has none for AVX-512: its generic fma rounds twice
#elif NIBBLE_SIMD_WIDTH == 256
  return xsimd::fma(a, b, c);
#elif defined(__FMA__)
  return vf(_mm_fmadd_ps(a, b, c));                 // FMA without AVX2: xsimd's SSE2 architecture would round twice
#else
  alignas(64) float x[lanes], y[lanes], z[lanes];
  a.store_aligned(x);
  b.store_aligned(y);
  c.store_aligned(z);
  for (std::size_t i = 0; i < lanes; ++i) z[i] = fused_multiply_add(x[i], y[i], z[i]);
  return vf::load_aligned(z);
#endif
}
/// The float path's a * b + c: as multiply_add of core/round.hpp.
NIBBLE_ALWAYS_INLINE vf madd(vf a, vf b, vf c) noexcept {
#if NIBBLE_HAS_FMA
  return fused(a, b, c);
#else
  return a * b + c;
#endif
}

// The last step of a dot product, on the accumulator itself. gcc, left alone, computes the products of a whole tile first,
// runs out of registers and spills the sums: a third of the speed. An instruction that it cannot move keeps the order of
// the source and the sum in one register. clang does so by itself.
#if defined(__GNUC__) && !defined(__clang__) && NIBBLE_SIMD_WIDTH >= 256
#if NIBBLE_SIMD_WIDTH == 512
#define NIBBLE_SIMD_REGISTER "v"
#define NIBBLE_SIMD_VEX ""
#else
#define NIBBLE_SIMD_REGISTER "x"
#define NIBBLE_SIMD_VEX "%{vex%} "  // AVX-VNNI: the assembler would choose AVX-512's encoding
#endif
#define NIBBLE_SIMD_ACCUMULATE(instruction, sum, a, b)    \
  __asm__ volatile(instruction " {%2, %1, %0|%0, %1, %2}" \
                   : "+" NIBBLE_SIMD_REGISTER(sum)        \
                   : NIBBLE_SIMD_REGISTER(a), NIBBLE_SIMD_REGISTER(b))
// The same with the 32 bits at p + offset in all lanes of the last operand. The address is spelled out: gcc would keep one for
// each offset.
#if NIBBLE_SIMD_WIDTH == 512
#define NIBBLE_SIMD_ACCUMULATE_EACH(instruction, sum, a, p, offset)                    \
  __asm__ volatile(instruction " {%c3(%2)%{1to16%}, %1, %0|%0, %1, [%2+%c3]%{1to16%}}" \
                   : "+" NIBBLE_SIMD_REGISTER(sum)                                     \
                   : NIBBLE_SIMD_REGISTER(a), "r"(p), "i"(offset),                     \
                     "m"(*reinterpret_cast<const std::int8_t(*)[4]>((p) + (offset))))
#endif
// sum = sum + v, in one register: with three operands gcc copies the sum that comes in.
#define NIBBLE_SIMD_ADD(instruction, sum, v) \
  __asm__ volatile(instruction " {%1, %0, %0|%0, %0, %1}" : "+" NIBBLE_SIMD_REGISTER(sum) : NIBBLE_SIMD_REGISTER(v))
#endif
// The same for Arm: `instruction` with its operands %0 (the sum), %1 and %2.
#if defined(__GNUC__) && !defined(__clang__) && NIBBLE_SIMD_NEON
#define NIBBLE_SIMD_ACCUMULATE_NEON(instruction, sum, a, b) __asm__ volatile(instruction : "+w"(sum) : "w"(a), "w"(b))
#endif

/// Loads and stores of memory stay on their side of it: gcc would load the accumulators of a whole tile first, and spill
/// them.
NIBBLE_ALWAYS_INLINE void in_order() noexcept {
#if defined(__GNUC__)
  __asm__ volatile("" : : : "memory");
#endif
}

/// sum = madd(a, b, sum).
NIBBLE_ALWAYS_INLINE void accumulate(vf& sum, vf a, vf b) noexcept {
#if defined(NIBBLE_SIMD_ACCUMULATE)
  auto s = static_cast<vf::register_type>(sum);
  NIBBLE_SIMD_ACCUMULATE("vfmadd231ps", s, static_cast<vf::register_type>(a), static_cast<vf::register_type>(b));
  sum = vf(s);
#elif defined(NIBBLE_SIMD_ACCUMULATE_NEON)
  auto s = static_cast<float32x4_t>(sum);
  NIBBLE_SIMD_ACCUMULATE_NEON("fmla %0.4s, %1.4s, %2.4s", s, static_cast<float32x4_t>(a), static_cast<float32x4_t>(b));
  sum = vf(s);
#else
  sum = madd(a, b, sum);
#endif
}
/// sum += v in int32 lanes.
NIBBLE_ALWAYS_INLINE void accumulate(vi& sum, vi v) noexcept {
#if defined(NIBBLE_SIMD_ACCUMULATE)
  auto s = static_cast<vi::register_type>(sum);
  NIBBLE_SIMD_ADD("vpaddd", s, static_cast<vi::register_type>(v));
  sum = vi(s);
#else
  sum = sum + v;
#endif
}

/// How unsigned codes and signed activations, |x| <= 127, are multiplied and added, exactly, four in each 32-bit lane. The
/// instructions of x86; those of Arm stand with its byte_dot.
enum class dot_kind : std::uint8_t {
  pairs,  ///< codes of few bits: vpmaddubsw, and several of its int16 results are added before they are widened
  quads,  ///< codes <= 127: vpmaddubsw, whose pairs fit int16 (2 * 127 * 127 = 32258), then vpmaddwd;
          ///< with VNNI all codes: vpdpbusd
  signs,  ///< codes <= 255: v = u - 128; vpmaddubsw of |v| <= 128 and x with the sign of v (2 * 128 * 127 = 32512), then
          ///< vpmaddwd. The sums are those of v: see bias_of
  wide,   ///< codes <= 255: even and odd bytes are widened to int16 and multiplied by vpmaddwd
  tables,  ///< looked up values in [-127, 127], code - 128: vpmaddubsw of |x| and the value with the sign of x
};

/// Units (4 k) whose pair sums fit int16 together: u * |x| <= (2^bits - 1) * 128, two of them in each unit.
constexpr std::size_t pair_run(int bits) noexcept { return 32767u / (((1u << bits) - 1u) * 256u); }
/// What a kind subtracts from codes before it multiplies.
constexpr std::int32_t bias_of(dot_kind kind) noexcept {
  return kind == dot_kind::signs || kind == dot_kind::tables ? 128 : 0;
}
static_assert(pair_run(2) == 42 && pair_run(3) == 18 && pair_run(4) == 8 && pair_run(5) == 4 && pair_run(6) == 2);

/// The cheapest kind for a width. Widening costs as much as two units' work, so runs of 1 or 2 gain nothing.
constexpr dot_kind dot_of([[maybe_unused]] int bits) noexcept {
#if NIBBLE_SIMD_VNNI || NIBBLE_SIMD_USDOT
  return dot_kind::quads;
#elif NIBBLE_SIMD_SDOT
  return bits <= 7 ? dot_kind::quads : dot_kind::signs;
#elif NIBBLE_SIMD_NEON
  return bits <= 6 ? dot_kind::pairs : (bits <= 7 ? dot_kind::quads : dot_kind::signs);
#else
  if constexpr (lanes == 4) return dot_kind::wide;  // vpmaddubsw came with SSSE3
  constexpr dot_kind widest = lanes == 8 ? dot_kind::signs : dot_kind::wide;  // AVX-512 has no vpsignb
  return bits <= 5 ? dot_kind::pairs : (bits <= 7 ? dot_kind::quads : widest);
#endif
}

/// That of one row's codes of an image, `bits` wide. The bias is that of dot_of.
constexpr dot_kind image_dot_of(int bits) noexcept {
  const dot_kind kind = dot_of(bits);
  return kind == dot_kind::signs && lanes == 8 ? dot_kind::tables : kind;
}

/// Chains that the sums of `sums` registers are cut into, because vpdpbusd waits for its sum: 4 or 5 cycles, of which two
/// begin in each. The other kinds end in an addition of one cycle.
constexpr std::size_t chains_of([[maybe_unused]] dot_kind kind, [[maybe_unused]] std::size_t sums) noexcept {
#if NIBBLE_SIMD_VNNI
  return sums >= 8 ? 1 : (sums >= 4 ? 2 : 4);
#else
  return 1;
#endif
}

template <dot_kind Kind>
struct byte_dot;

#if NIBBLE_SIMD_NEON
/// Both operands are signed: codes <= 127 as they are, with usdot all codes. Without a dot product four instructions for 16
/// products: smull and smull2 to int16, addp of neighbours (2 * 127 * 127 and 2 * 128 * 127 fit), sadalp.
template <>
struct byte_dot<dot_kind::quads> {
  using native = int32x4_t;
  using operand = int8x16_t;
  static NIBBLE_ALWAYS_INLINE operand weights(vu w) noexcept {
    return vreinterpretq_s8_u32(static_cast<uint32x4_t>(w));
  }
  static NIBBLE_ALWAYS_INLINE operand activations(std::int32_t four) noexcept {
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
  }
  static NIBBLE_ALWAYS_INLINE vi product(operand w, operand x) noexcept {
    vi sum(0);
    add(sum, w, x);
    return sum;
  }
  static NIBBLE_ALWAYS_INLINE void add(vi& sum, operand w, operand x) noexcept {
    auto s = static_cast<int32x4_t>(sum);
#if NIBBLE_SIMD_USDOT && defined(NIBBLE_SIMD_ACCUMULATE_NEON)
    NIBBLE_SIMD_ACCUMULATE_NEON("usdot %0.4s, %1.16b, %2.16b", s, w, x);
#elif NIBBLE_SIMD_USDOT
    s = vusdotq_s32(s, vreinterpretq_u8_s8(w), x);
#elif NIBBLE_SIMD_SDOT && defined(NIBBLE_SIMD_ACCUMULATE_NEON)
    NIBBLE_SIMD_ACCUMULATE_NEON("sdot %0.4s, %1.16b, %2.16b", s, w, x);
#elif NIBBLE_SIMD_SDOT
    s = vdotq_s32(s, w, x);
#else
    const int16x8_t two = vpaddq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)), vmull_high_s8(w, x));
#if defined(NIBBLE_SIMD_ACCUMULATE_NEON)
    NIBBLE_SIMD_ACCUMULATE_NEON("sadalp %0.4s, %1.8h", s, two, two);
#else
    s = vpadalq_s16(s, two);
#endif
#endif
    sum = vi(s);
  }
};

/// Codes with 128 taken off are signed bytes.
template <>
struct byte_dot<dot_kind::signs> : byte_dot<dot_kind::quads> {
  static NIBBLE_ALWAYS_INLINE operand weights(vu w) noexcept {
    return vreinterpretq_s8_u32(veorq_u32(static_cast<uint32x4_t>(w), vdupq_n_u32(0x80808080u)));
  }
};

/// smlal and smlal2 add the products of up to pair_run(bits) units to 16 sums in int16; two neighbours together still fit.
template <>
struct byte_dot<dot_kind::pairs> : byte_dot<dot_kind::quads> {
  struct native {
    int16x8_t low, high;
  };
  static NIBBLE_ALWAYS_INLINE native product(operand w, operand x) noexcept {
    return {vmull_s8(vget_low_s8(w), vget_low_s8(x)), vmull_high_s8(w, x)};
  }
  static NIBBLE_ALWAYS_INLINE void add(native& pairs, operand w, operand x) noexcept {
#if defined(NIBBLE_SIMD_ACCUMULATE_NEON)
    NIBBLE_SIMD_ACCUMULATE_NEON("smlal %0.8h, %1.8b, %2.8b", pairs.low, w, x);
    NIBBLE_SIMD_ACCUMULATE_NEON("smlal2 %0.8h, %1.16b, %2.16b", pairs.high, w, x);
#else
    pairs.low = vmlal_s8(pairs.low, vget_low_s8(w), vget_low_s8(x));
    pairs.high = vmlal_high_s8(pairs.high, w, x);
#endif
  }
  static NIBBLE_ALWAYS_INLINE void widen(vi& sum, const native& pairs) noexcept {
    sum = vi(vpadalq_s16(static_cast<int32x4_t>(sum), vpaddq_s16(pairs.low, pairs.high)));
  }
  static NIBBLE_ALWAYS_INLINE vi widened(const native& pairs) noexcept {
    return vi(vpaddlq_s16(vpaddq_s16(pairs.low, pairs.high)));
  }
};
#else

#if NIBBLE_SIMD_WIDTH == 512
#define NIBBLE_SIMD_OP(name) _mm512_##name
#elif NIBBLE_SIMD_WIDTH == 256
#define NIBBLE_SIMD_OP(name) _mm256_##name
#else
#define NIBBLE_SIMD_OP(name) _mm_##name
#endif

template <>
struct byte_dot<dot_kind::wide> {
  using native = vi::register_type;
  struct operand {
    native even, odd;
  };
  static NIBBLE_ALWAYS_INLINE operand weights(vu w) noexcept {
    const native v = static_cast<vu::register_type>(w);
    // In a tile this runs once for all rows; shifting twice keeps one spelling for three register widths.
    return {NIBBLE_SIMD_OP(srli_epi16)(NIBBLE_SIMD_OP(slli_epi16)(v, 8), 8), NIBBLE_SIMD_OP(srli_epi16)(v, 8)};
  }
  static NIBBLE_ALWAYS_INLINE operand activations(std::int32_t four) noexcept {
    const native v = NIBBLE_SIMD_OP(set1_epi32)(four);
    return {NIBBLE_SIMD_OP(srai_epi16)(NIBBLE_SIMD_OP(slli_epi16)(v, 8), 8), NIBBLE_SIMD_OP(srai_epi16)(v, 8)};
  }
  static NIBBLE_ALWAYS_INLINE vi product(const operand& w, const operand& x) noexcept {
    return vi(NIBBLE_SIMD_OP(add_epi32)(NIBBLE_SIMD_OP(madd_epi16)(w.even, x.even),
                                        NIBBLE_SIMD_OP(madd_epi16)(w.odd, x.odd)));
  }
  static NIBBLE_ALWAYS_INLINE void add(vi& sum, const operand& w, const operand& x) noexcept {
    accumulate(sum, product(w, x));
  }
};

#if NIBBLE_SIMD_WIDTH >= 256
template <>
struct byte_dot<dot_kind::quads> {
  using native = vi::register_type;
  using operand = native;
  static NIBBLE_ALWAYS_INLINE operand weights(vu w) noexcept { return static_cast<vu::register_type>(w); }
  static NIBBLE_ALWAYS_INLINE operand activations(std::int32_t four) noexcept {
    return NIBBLE_SIMD_OP(set1_epi32)(four);
  }
  static NIBBLE_ALWAYS_INLINE vi product(operand w, operand x) noexcept {
#if !NIBBLE_SIMD_VNNI
    return widened(NIBBLE_SIMD_OP(maddubs_epi16)(w, x));
#else
    vi sum(0);
    add(sum, w, x);
    return sum;
#endif
  }
  static NIBBLE_ALWAYS_INLINE void add(vi& sum, operand w, operand x) noexcept {
#if !NIBBLE_SIMD_VNNI
    accumulate(sum, product(w, x));
#elif defined(NIBBLE_SIMD_ACCUMULATE)
    auto s = static_cast<native>(sum);
    NIBBLE_SIMD_ACCUMULATE(NIBBLE_SIMD_VEX "vpdpbusd", s, w, x);
    sum = vi(s);
#elif NIBBLE_SIMD_WIDTH == 512
    sum = vi(_mm512_dpbusd_epi32(static_cast<native>(sum), w, x));
#else
    sum = vi(_mm256_dpbusd_avx_epi32(static_cast<native>(sum), w, x));
#endif
  }
  /// The same with the four activations at x + Offset.
  template <std::size_t Offset>
  static NIBBLE_ALWAYS_INLINE void add_from(vi& sum, operand w, const std::int8_t* x) noexcept {
#if NIBBLE_SIMD_VNNI && defined(NIBBLE_SIMD_ACCUMULATE_EACH)
    auto s = static_cast<native>(sum);
    NIBBLE_SIMD_ACCUMULATE_EACH("vpdpbusd", s, w, x, Offset);
    sum = vi(s);
#else
    std::int32_t four;
    std::memcpy(&four, x + Offset, sizeof four);
    add(sum, w, activations(four));
#endif
  }
  /// The sum of the two int16 of each lane.
  static NIBBLE_ALWAYS_INLINE vi widened(native pairs) noexcept {
    return vi(NIBBLE_SIMD_OP(madd_epi16)(pairs, NIBBLE_SIMD_OP(set1_epi16)(1)));
  }
  static NIBBLE_ALWAYS_INLINE void widen(vi& sum, native pairs) noexcept { accumulate(sum, widened(pairs)); }
};

/// `add` adds to int16 sums, which begin with a `product` and take pair_run(bits) units at most before `widen`.
template <>
struct byte_dot<dot_kind::pairs> : byte_dot<dot_kind::quads> {
  static NIBBLE_ALWAYS_INLINE native product(operand w, operand x) noexcept {
    return NIBBLE_SIMD_OP(maddubs_epi16)(w, x);
  }
  static NIBBLE_ALWAYS_INLINE void add(native& pairs, operand w, operand x) noexcept {
    const native products = product(w, x);
#if defined(NIBBLE_SIMD_ACCUMULATE)
    NIBBLE_SIMD_ADD("vpaddw", pairs, products);
#else
    pairs = NIBBLE_SIMD_OP(add_epi16)(pairs, products);
#endif
  }
};
#endif

#if NIBBLE_SIMD_WIDTH == 256 && !NIBBLE_SIMD_VNNI
template <>
struct byte_dot<dot_kind::signs> : byte_dot<dot_kind::quads> {
  struct operand {
    native value, magnitude;
  };
  static NIBBLE_ALWAYS_INLINE operand weights(vu w) noexcept {
    const native v = _mm256_xor_si256(static_cast<native>(w), _mm256_set1_epi8(-128));
    return {v, _mm256_abs_epi8(v)};
  }
  static NIBBLE_ALWAYS_INLINE vi product(const operand& w, native x) noexcept {
    return widened(_mm256_maddubs_epi16(w.magnitude, _mm256_sign_epi8(x, w.value)));
  }
  static NIBBLE_ALWAYS_INLINE void add(vi& sum, const operand& w, native x) noexcept { accumulate(sum, product(w, x)); }
};

template <>
struct byte_dot<dot_kind::tables> : byte_dot<dot_kind::quads> {
  struct activation {
    native value, magnitude;
  };
  static NIBBLE_ALWAYS_INLINE activation activations(std::int32_t four) noexcept {
    const native v = _mm256_set1_epi32(four);
    return {v, _mm256_abs_epi8(v)};
  }
  static NIBBLE_ALWAYS_INLINE vi product(operand w, const activation& x) noexcept {
    return widened(_mm256_maddubs_epi16(x.magnitude, _mm256_sign_epi8(w, x.value)));
  }
  static NIBBLE_ALWAYS_INLINE void add(vi& sum, operand w, const activation& x) noexcept {
    accumulate(sum, product(w, x));
  }
};
#endif
#endif

#undef NIBBLE_SIMD_OP
#undef NIBBLE_SIMD_ACCUMULATE
#undef NIBBLE_SIMD_ACCUMULATE_EACH
#undef NIBBLE_SIMD_ADD
#undef NIBBLE_SIMD_ACCUMULATE_NEON
#undef NIBBLE_SIMD_REGISTER
#undef NIBBLE_SIMD_VEX

}  // namespace kernels::simd
}  // namespace NIBBLE_ABI
}  // namespace nibble
#else
#define NIBBLE_SIMD_KERNELS 0
#endif

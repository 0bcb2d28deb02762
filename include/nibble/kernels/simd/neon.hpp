// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What the kernels take from xsimd elsewhere, for the 128-bit registers of 64-bit Arm. xsimd 8.1 divides there by an
/// estimate of the reciprocal (frecpe and two steps of Newton's), which is not the quotient of the law, and shifts by a
/// number known at run time in a chain of comparisons.

#include <cstddef>
#include <cstdint>

#include <nibble/core/config.hpp>
#include <nibble/isa/intrinsics.hpp>

#if defined(__aarch64__) && defined(__ARM_NEON)
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels::simd {

/// One answer for each lane: all its bits, or none.
class neon_mask {
 public:
  using register_type = uint32x4_t;
  NIBBLE_ALWAYS_INLINE explicit neon_mask(register_type v) noexcept : v_(v) {}
  NIBBLE_ALWAYS_INLINE explicit operator register_type() const noexcept { return v_; }
  friend NIBBLE_ALWAYS_INLINE neon_mask operator&(neon_mask a, neon_mask b) noexcept { return neon_mask(a.v_ & b.v_); }
  friend NIBBLE_ALWAYS_INLINE neon_mask operator|(neon_mask a, neon_mask b) noexcept { return neon_mask(a.v_ | b.v_); }

 private:
  register_type v_;
};
NIBBLE_ALWAYS_INLINE bool any(neon_mask m) noexcept { return vmaxvq_u32(static_cast<uint32x4_t>(m)) != 0; }
NIBBLE_ALWAYS_INLINE bool all(neon_mask m) noexcept { return vminvq_u32(static_cast<uint32x4_t>(m)) != 0; }

/// Four lanes of T in a register, in xsimd's words. The operators are those of the compiler's vector types, which are also
/// what its intrinsics are made of.
template <class T, class Register>
class neon_batch {
 public:
  using register_type = Register;
  using batch_bool_type = neon_mask;
  static constexpr std::size_t size = 4;

  neon_batch() noexcept = default;
  NIBBLE_ALWAYS_INLINE explicit neon_batch(T each) noexcept : v_{each, each, each, each} {}
  NIBBLE_ALWAYS_INLINE explicit neon_batch(register_type v) noexcept : v_(v) {}
  NIBBLE_ALWAYS_INLINE explicit operator register_type() const noexcept { return v_; }

  /// Any address will do: the processor asks for no alignment, and bytes do not ask the compiler.
  static NIBBLE_ALWAYS_INLINE neon_batch load_unaligned(const T* p) noexcept {
    return neon_batch(reinterpret_cast<register_type>(vld1q_u8(reinterpret_cast<const std::uint8_t*>(p))));
  }
  static NIBBLE_ALWAYS_INLINE neon_batch load_aligned(const T* p) noexcept { return load_unaligned(p); }
  NIBBLE_ALWAYS_INLINE void store_unaligned(T* p) const noexcept {
    vst1q_u8(reinterpret_cast<std::uint8_t*>(p), reinterpret_cast<uint8x16_t>(v_));
  }
  NIBBLE_ALWAYS_INLINE void store_aligned(T* p) const noexcept { store_unaligned(p); }

  friend NIBBLE_ALWAYS_INLINE neon_batch operator+(neon_batch a, neon_batch b) noexcept { return of(a.v_ + b.v_); }
  friend NIBBLE_ALWAYS_INLINE neon_batch operator-(neon_batch a, neon_batch b) noexcept { return of(a.v_ - b.v_); }
  friend NIBBLE_ALWAYS_INLINE neon_batch operator*(neon_batch a, neon_batch b) noexcept { return of(a.v_ * b.v_); }
  friend NIBBLE_ALWAYS_INLINE neon_batch operator/(neon_batch a, neon_batch b) noexcept { return of(a.v_ / b.v_); }
  friend NIBBLE_ALWAYS_INLINE neon_batch operator&(neon_batch a, neon_batch b) noexcept { return of(a.v_ & b.v_); }
  friend NIBBLE_ALWAYS_INLINE neon_batch operator|(neon_batch a, neon_batch b) noexcept { return of(a.v_ | b.v_); }
  friend NIBBLE_ALWAYS_INLINE neon_batch operator^(neon_batch a, neon_batch b) noexcept { return of(a.v_ ^ b.v_); }
  friend NIBBLE_ALWAYS_INLINE neon_batch operator<<(neon_batch a, int n) noexcept { return of(a.v_ << of(n).v_); }
  friend NIBBLE_ALWAYS_INLINE neon_batch operator>>(neon_batch a, int n) noexcept { return of(a.v_ >> of(n).v_); }

 private:
  static NIBBLE_ALWAYS_INLINE neon_batch of(register_type v) noexcept { return neon_batch(v); }
  static NIBBLE_ALWAYS_INLINE neon_batch of(int each) noexcept { return neon_batch(static_cast<T>(each)); }

  register_type v_;
};
using neon_floats = neon_batch<float, float32x4_t>;
using neon_ints = neon_batch<std::int32_t, int32x4_t>;
using neon_uints = neon_batch<std::uint32_t, uint32x4_t>;

NIBBLE_ALWAYS_INLINE neon_mask operator<(neon_floats a, neon_floats b) noexcept {
  return neon_mask(vcltq_f32(static_cast<float32x4_t>(a), static_cast<float32x4_t>(b)));
}
NIBBLE_ALWAYS_INLINE neon_mask operator<=(neon_floats a, neon_floats b) noexcept {
  return neon_mask(vcleq_f32(static_cast<float32x4_t>(a), static_cast<float32x4_t>(b)));
}
NIBBLE_ALWAYS_INLINE neon_mask operator==(neon_floats a, neon_floats b) noexcept {
  return neon_mask(vceqq_f32(static_cast<float32x4_t>(a), static_cast<float32x4_t>(b)));
}
NIBBLE_ALWAYS_INLINE neon_mask operator>(neon_floats a, neon_floats b) noexcept { return b < a; }
NIBBLE_ALWAYS_INLINE neon_mask operator>=(neon_floats a, neon_floats b) noexcept { return b <= a; }

NIBBLE_ALWAYS_INLINE neon_floats select(neon_mask m, neon_floats a, neon_floats b) noexcept {
  return neon_floats(vbslq_f32(static_cast<uint32x4_t>(m), static_cast<float32x4_t>(a), static_cast<float32x4_t>(b)));
}
// As on x86, b where the two are equal (zeros of either sign) or one is NaN: fmax and fmin say otherwise.
NIBBLE_ALWAYS_INLINE neon_floats max(neon_floats a, neon_floats b) noexcept { return select(a > b, a, b); }
NIBBLE_ALWAYS_INLINE neon_floats min(neon_floats a, neon_floats b) noexcept { return select(a < b, a, b); }
NIBBLE_ALWAYS_INLINE neon_ints max(neon_ints a, neon_ints b) noexcept {
  return neon_ints(vmaxq_s32(static_cast<int32x4_t>(a), static_cast<int32x4_t>(b)));
}
NIBBLE_ALWAYS_INLINE neon_ints min(neon_ints a, neon_ints b) noexcept {
  return neon_ints(vminq_s32(static_cast<int32x4_t>(a), static_cast<int32x4_t>(b)));
}

/// Lane i of the result is the float table[index[i]] for indices below 16: the 64 bytes of the table are one operand of tbl.
NIBBLE_ALWAYS_INLINE uint8x16x4_t bytes_of_16(const float* table) noexcept {
  const std::uint8_t* const bytes = reinterpret_cast<const std::uint8_t*>(table);
  return {{vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32), vld1q_u8(bytes + 48)}};
}
NIBBLE_ALWAYS_INLINE neon_floats look_up_16(const uint8x16x4_t& table, uint32x4_t index) noexcept {
  const uint32x4_t at = vmlaq_n_u32(vdupq_n_u32(0x03020100u), index, 0x04040404u);
  return neon_floats(vreinterpretq_f32_u8(vqtbl4q_u8(table, vreinterpretq_u8_u32(at))));
}
NIBBLE_ALWAYS_INLINE neon_floats look_up_16(const float* table, uint32x4_t index) noexcept {
  return look_up_16(bytes_of_16(table), index);
}

}  // namespace kernels::simd
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif

// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Quantized matrices in canonical form: portable, row-major, codes and parameters in planes of their own.
/// `any_qmatrix` has its format at run time, so the layers of one model may differ; `qmatrix<Policy>` has it in the type.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/half.hpp>
#include <nibble/pack/bits.hpp>
#include <nibble/quant/codebook.hpp>
#include <nibble/quant/double_quant.hpp>
#include <nibble/quant/format.hpp>
#include <nibble/quant/granularity.hpp>
#include <nibble/quant/policy.hpp>
#include <nibble/quant/scale.hpp>
#include <nibble/tensor/ledger.hpp>

namespace nibble {

/// The planes of a canonical matrix for writing: the writable twin of quantized_view.
struct mutable_planes {
  std::byte* codes = nullptr;
  std::size_t row_stride_bytes = 0;
  void* scales = nullptr;
  void* zeros = nullptr;          ///< nullptr for rules without zero points
  float* super_scales = nullptr;  ///< double quantization only
  float* table = nullptr;         ///< the matrix's own table; nullptr when it has none or refers to an outer one
};

inline namespace NIBBLE_ABI {

/// Weights W[N, K] in a format known at run time. Owns its planes, each 64-byte aligned; see quantized_view for their
/// meaning. Importers write them through planes(); every bit pattern in them is valid to read.
class any_qmatrix {
 public:
  /// An empty matrix, 0 x 0.
  any_qmatrix() noexcept = default;

  /// Zeroed planes for W[N, K]; a codebook format gets a table of its own, to be filled in. Raises bad_shape or
  /// unsupported_format.
  static any_qmatrix allocate(const format_desc& format, std::size_t N, std::size_t K) {
    return any_qmatrix(format, N, K, nullptr);
  }
  /// The same with a table of 2^bits values that is referred to, not copied: it must outlive the matrix and its copies.
  static any_qmatrix allocate(const format_desc& format, std::size_t N, std::size_t K, const float* table) {
    return any_qmatrix(format, N, K, table);
  }

  const format_desc& format() const noexcept { return format_; }
  std::size_t N() const noexcept { return N_; }
  std::size_t K() const noexcept { return K_; }
  std::size_t scale_count() const noexcept { return N_ == 0 ? 0 : quant::scale_count(format_, N_, K_); }

  /// Pointers and extents; valid while the matrix lives and is not assigned to.
  quantized_view view() const noexcept {
    quantized_view v;
    v.format = format_;
    v.N = N_;
    v.K = K_;
    v.codes = codes_.data();
    v.row_stride_bytes = row_stride_bytes();
    v.scales = scales_.data();
    v.zeros = zeros_.empty() ? nullptr : zeros_.data();
    v.super_scales = super_scales_.empty() ? nullptr : super_scales_.data();
    v.scale_offset = scale_offset_;
    v.table = own_table_.empty() ? outer_table_ : own_table_.data();
    return v;
  }

  /// The same planes for writing.
  mutable_planes planes() noexcept {
    return {codes_.data(),
            row_stride_bytes(),
            scales_.data(),
            zeros_.empty() ? nullptr : zeros_.data(),
            super_scales_.empty() ? nullptr : super_scales_.data(),
            own_table_.empty() ? nullptr : own_table_.data()};
  }
  /// Double quantization: the number added to every scale.
  void set_scale_offset(float offset) noexcept { scale_offset_ = offset; }

  /// The bytes of all planes, by purpose.
  byte_ledger ledger() const noexcept {
    if (N_ == 0) return {};
    return canonical_ledger(format_, N_, K_, own_table_.size() * sizeof(float));
  }

 private:
  any_qmatrix(const format_desc& format, std::size_t N, std::size_t K, const float* table)
      : format_(format), N_(N), K_(K), outer_table_(table) {
    quant::check_format(format, "any_qmatrix");
    quant::check_extents(N, K, "any_qmatrix");
    const std::size_t groups = scale_count();
    codes_.resize(format.granularity == granularity_kind::flat ? pack::packed_bytes(N * K, format.bits)
                                                               : N * row_stride_bytes());
    scales_.resize(groups * quant::scale_bytes(format.scale));
    zeros_.resize(groups * quant::zero_bytes(format));
    if (format.scale == scale_storage::double_quant) super_scales_.resize(quant::super_scale_count(groups));
    if (format.rule == code_rule::codebook && table == nullptr) own_table_.resize(std::size_t{1} << format.bits);
  }

  std::size_t row_stride_bytes() const noexcept {
    return format_.granularity == granularity_kind::flat ? 0 : pack::packed_bytes(K_, format_.bits);
  }

  format_desc format_;
  std::size_t N_ = 0;
  std::size_t K_ = 0;
  aligned_vector<std::byte> codes_;
  aligned_vector<std::byte> scales_;
  aligned_vector<std::byte> zeros_;
  aligned_vector<float> super_scales_;
  float scale_offset_ = 0.0f;
  const float* outer_table_ = nullptr;
  aligned_vector<float> own_table_;
};

/// Weights W[N, K] with the format in the type.
template <quant::matrix_format Policy>
class qmatrix {
 public:
  using policy = Policy;

  /// Takes a run-time matrix over. Raises unsupported_format when its format is not Policy's.
  explicit qmatrix(any_qmatrix erased) : erased_(std::move(erased)) {
    if (!quant::same_format(erased_.format(), Policy::format()))
      core::fail(errc::unsupported_format, "qmatrix: the run-time matrix has another format (",
                 int{erased_.format().bits}, " bits) than the type (", int{Policy::bits}, " bits)");
    if constexpr (requires { Policy::table::desc(); })
      if (!std::equal(erased_.view().table, erased_.view().table + (1 << Policy::bits), Policy::table::desc().values))
        core::fail(errc::unsupported_format, "qmatrix: the run-time matrix has another table than the type");
  }

  quantized_view view() const noexcept { return erased_.view(); }
  std::size_t N() const noexcept { return erased_.N(); }
  std::size_t K() const noexcept { return erased_.K(); }
  byte_ledger ledger() const noexcept { return erased_.ledger(); }

  const any_qmatrix& erased() const& noexcept { return erased_; }
  any_qmatrix&& erased() && noexcept { return std::move(erased_); }
  operator const any_qmatrix&() const& noexcept { return erased_; }

 private:
  any_qmatrix erased_;
};

namespace quant {

/// Scale of group g as a float. Every reader of scales, kernels included, gives this value.
inline float scale_at(const quantized_view& v, std::size_t g) noexcept {
  switch (v.format.scale) {
    case scale_storage::f32: return static_cast<const float*>(v.scales)[g];
    case scale_storage::f16: return to_float(static_cast<const half*>(v.scales)[g]);
    case scale_storage::bf16: return to_float(static_cast<const bfloat16*>(v.scales)[g]);
    case scale_storage::double_quant: break;
  }
  return double_quant_scale(static_cast<const std::uint8_t*>(v.scales)[g], v.super_scales[g / double_quant_block],
                            v.scale_offset);
}

/// Zero point or offset of group g as a float; 0 for rules without one.
inline float zero_at(const quantized_view& v, std::size_t g) noexcept {
  if (v.format.rule == code_rule::asymmetric) return static_cast<float>(static_cast<const std::uint8_t*>(v.zeros)[g]);
  if (v.format.rule != code_rule::asymmetric_offset) return 0.0f;
  switch (v.format.scale) {
    case scale_storage::f16: return to_float(static_cast<const half*>(v.zeros)[g]);
    case scale_storage::bf16: return to_float(static_cast<const bfloat16*>(v.zeros)[g]);
    case scale_storage::f32:
    case scale_storage::double_quant: break;
  }
  return static_cast<const float*>(v.zeros)[g];
}

inline group_params params_at(const quantized_view& v, std::size_t g) noexcept { return {scale_at(v, g), zero_at(v, g)}; }

}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble

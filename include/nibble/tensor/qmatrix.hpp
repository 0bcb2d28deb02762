// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Quantized matrices in canonical form: portable, row-major, codes and parameters in planes of their own.
/// `any_qmatrix` has its format at run time, so the layers of one model may differ; `qmatrix<Policy>` has it in the type.

#include <cstddef>
#include <cstdint>
#include <span>
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
#include <nibble/quant/super_block.hpp>
#include <nibble/tensor/ledger.hpp>

namespace nibble {

inline namespace NIBBLE_ABI {
namespace detail {

/// A value that returns to T{} when it is moved from. A class of such members and vectors is empty then, without special
/// members of its own.
template <class T>
struct emptied_by_move {
  T value{};

  emptied_by_move() noexcept = default;
  emptied_by_move(T v) noexcept : value(v) {}
  emptied_by_move(const emptied_by_move&) noexcept = default;
  emptied_by_move(emptied_by_move&& other) noexcept : value(std::exchange(other.value, T{})) {}
  emptied_by_move& operator=(const emptied_by_move&) noexcept = default;
  emptied_by_move& operator=(emptied_by_move&& other) noexcept {
    value = std::exchange(other.value, T{});
    return *this;
  }
};

}  // namespace detail

/// Weights W[N, K] in a format known at run time. Owns its planes, each 64-byte aligned; see quantized_view for their
/// meaning. The planes can be written directly, as importers do; every bit pattern in them is valid to read. What was moved
/// from is 0 x 0, keeps its format and may be assigned to.
class any_qmatrix {
 public:
  /// An empty matrix, 0 x 0.
  any_qmatrix() noexcept = default;

  /// Zeroed planes for W[N, K]. Codebook formats need `table`, 2^bits values by code, which is referred to and must outlive
  /// the matrix and its copies. Raises bad_shape, bad_value or unsupported_format.
  any_qmatrix(const format_desc& format, std::size_t N, std::size_t K, const float* table = nullptr)
      : format_(format), extents_(extents{N, K}), outer_table_(table) {
    if (format.rule == code_rule::codebook && table == nullptr)
      core::fail(errc::bad_value, "any_qmatrix: a codebook format needs a table of values");
    allocate();
  }

  /// The same for codebook formats with a table of the matrix's own: the 2^bits `values` are copied.
  any_qmatrix(const format_desc& format, std::size_t N, std::size_t K, std::span<const float> values)
      : format_(format), extents_(extents{N, K}) {
    if (format.rule != code_rule::codebook || format.bits > 8 || values.size() != std::size_t{1} << format.bits)
      core::fail(errc::bad_shape, "any_qmatrix: a table of ", values.size(), " values for a format of ",
                 int{format.bits}, " bits; codebook formats take 2^bits values, others none");
    own_table_.assign(values.begin(), values.end());
    allocate();
  }

  const format_desc& format() const noexcept { return format_; }
  std::size_t N() const noexcept { return extents_.value.N; }
  std::size_t K() const noexcept { return extents_.value.K; }
  std::size_t scale_count() const noexcept { return N() == 0 ? 0 : quant::scale_count(format_, N(), K()); }
  /// Bytes from one row of codes to the next; 0 for flat formats, which have no rows.
  std::size_t row_stride_bytes() const noexcept {
    return format_.granularity == granularity_kind::flat ? 0 : pack::packed_bytes(K(), format_.bits);
  }

  /// Pointers and extents; valid while the matrix lives and is not assigned to.
  quantized_view view() const noexcept {
    quantized_view v;
    v.format = format_;
    v.N = N();
    v.K = K();
    v.codes = codes_.data();
    v.row_stride_bytes = row_stride_bytes();
    v.scales = scales_.data();
    v.zeros = zeros_.empty() ? nullptr : zeros_.data();
    if (!super_scales_.empty()) {
      v.super_scales = super_scales_.data();
      v.scale_offset = super_scales_.back();
    }
    v.block_scales = block_scales_.empty() ? nullptr : block_scales_.data();
    v.table = own_table_.empty() ? outer_table_.value : own_table_.data();
    return v;
  }

  /// The planes; scales and zeros as bytes of their storage types.
  std::span<std::byte> codes() noexcept { return codes_; }
  std::span<const std::byte> codes() const noexcept { return codes_; }
  std::span<std::byte> scale_plane() noexcept { return scales_; }
  std::span<const std::byte> scale_plane() const noexcept { return scales_; }
  std::span<std::byte> zero_plane() noexcept { return zeros_; }
  std::span<const std::byte> zero_plane() const noexcept { return zeros_; }
  /// Double quantization only: the greatest magnitude of each 256 scales, then the offset of all.
  std::span<float> super_scales() noexcept { return super_scales_; }
  std::span<const float> super_scales() const noexcept { return super_scales_; }
  /// Super-blocks only: for each row the halves of its scales, then those of its offsets.
  std::span<half> block_scales() noexcept { return block_scales_; }
  std::span<const half> block_scales() const noexcept { return block_scales_; }

  /// The bytes of all planes, by purpose.
  byte_ledger ledger() const noexcept {
    if (N() == 0) return {};
    return canonical_ledger(format_, N(), K(), own_table_.size() * sizeof(float));
  }

 private:
  void allocate() {
    quant::check_format(format_, "any_qmatrix");
    quant::check_extents(N(), K(), "any_qmatrix");
    const std::size_t groups = scale_count();
    codes_.resize(format_.granularity == granularity_kind::flat ? pack::packed_bytes(N() * K(), format_.bits)
                                                                : N() * row_stride_bytes());
    scales_.resize(groups * quant::scale_bytes(format_.scale));
    zeros_.resize(groups * quant::zero_bytes(format_));
    if (format_.scale == scale_storage::double_quant) super_scales_.resize(quant::super_scale_count(groups));
    block_scales_.resize(N() * quant::block_scales_per_row(format_, K()));
  }

  struct extents {
    std::size_t N = 0, K = 0;
  };
  format_desc format_;
  detail::emptied_by_move<extents> extents_;
  aligned_vector<std::byte> codes_;
  aligned_vector<std::byte> scales_;
  aligned_vector<std::byte> zeros_;
  aligned_vector<float> super_scales_;
  aligned_vector<half> block_scales_;
  detail::emptied_by_move<const float*> outer_table_;
  aligned_vector<float> own_table_;
};

/// Weights W[N, K] with the format in the type.
template <quant::matrix_format Policy>
class qmatrix {
 public:
  using policy = Policy;

  /// Zeroed planes for W[N, K]. Raises bad_shape.
  qmatrix(std::size_t N, std::size_t K) : erased_(Policy::format(), N, K, outer_table()) {
    static_assert(Policy::rule != code_rule::codebook || has_own_table,
                  "qmatrix(N, K): a user's table has no values yet; make an any_qmatrix with the values and wrap it");
  }

  /// Takes a run-time matrix over. Raises unsupported_format when its format is not Policy's.
  explicit qmatrix(any_qmatrix erased) : erased_(std::move(erased)) {
    if (!quant::same_format(erased_.format(), Policy::format()))
      core::fail(errc::unsupported_format, "qmatrix: the run-time matrix has another format (",
                 int{erased_.format().bits}, " bits) than the type (", int{Policy::bits}, " bits)");
    if (const float* table = outer_table(); table != nullptr)
      for (std::size_t u = 0; u < std::size_t{1} << Policy::bits; ++u)
        if (erased_.view().table[u] != table[u])
          core::fail(errc::unsupported_format, "qmatrix: the run-time matrix has another value of code ", u, " (",
                     erased_.view().table[u], ") than the type (", table[u], ")");
  }

  quantized_view view() const noexcept { return erased_.view(); }
  std::size_t N() const noexcept { return erased_.N(); }
  std::size_t K() const noexcept { return erased_.K(); }
  byte_ledger ledger() const noexcept { return erased_.ledger(); }

  const any_qmatrix& erased() const& noexcept { return erased_; }
  any_qmatrix&& erased() && noexcept { return std::move(erased_); }
  operator const any_qmatrix&() const& noexcept { return erased_; }

 private:
  static constexpr bool has_own_table = requires { Policy::table::desc(); };
  static constexpr const float* outer_table() noexcept {
    if constexpr (has_own_table) return Policy::table::desc().values;
    else return nullptr;
  }
  any_qmatrix erased_;
};

namespace quant {

/// The half of a super-block that scales group g; with `offsets` that of its offset.
inline half block_scale_at(const quantized_view& v, std::size_t g, bool offsets) noexcept {
  const std::size_t in_row = groups_per_row(v.format, v.K), n = g / in_row;
  const std::size_t block = g % in_row * v.format.group_size / super_block_k;
  return v.block_scales[n * block_scales_per_row(v.format, v.K) + (offsets ? ceil_div(v.K, super_block_k) : 0) + block];
}

/// Scale of group g as a float. Every reader of scales, kernels included, gives this value.
inline float scale_at(const quantized_view& v, std::size_t g) noexcept {
  switch (v.format.scale) {
    case scale_storage::f32: return static_cast<const float*>(v.scales)[g];
    case scale_storage::f16: return to_float(static_cast<const half*>(v.scales)[g]);
    case scale_storage::bf16: return to_float(static_cast<const bfloat16*>(v.scales)[g]);
    case scale_storage::super_block:
      return super_block_value(static_cast<const std::int8_t*>(v.scales)[g], block_scale_at(v, g, false));
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
    case scale_storage::super_block:
      return super_block_value(static_cast<const std::int8_t*>(v.zeros)[g], block_scale_at(v, g, true));
    case scale_storage::f32:
    case scale_storage::double_quant: break;
  }
  return static_cast<const float*>(v.zeros)[g];
}

inline group_params params_at(const quantized_view& v, std::size_t g) noexcept {
  return {scale_at(v, g), zero_at(v, g)};
}

}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble

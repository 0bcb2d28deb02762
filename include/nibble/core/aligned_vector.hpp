// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Owned memory aligned for the widest loads.

#include <cstddef>
#include <limits>
#include <new>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {

/// Alignment of every plane the library owns: one cache line, one AVX-512 register, one AMX tile row.
inline constexpr std::size_t plane_alignment = 64;

/// Allocates with plane_alignment through the aligned operator new, which a user may replace.
template <class T>
struct aligned_allocator {
  using value_type = T;
  aligned_allocator() noexcept = default;
  template <class U>
  aligned_allocator(const aligned_allocator<U>&) noexcept {}
  T* allocate(std::size_t n) {
    if (n > std::numeric_limits<std::size_t>::max() / sizeof(T))
      core::fail(errc::out_of_memory, "aligned_vector: ", n, " elements of ", sizeof(T), " bytes overflow size_t");
    return static_cast<T*>(::operator new (n * sizeof(T), std::align_val_t{plane_alignment}));
  }
  void deallocate(T* p, std::size_t) noexcept { ::operator delete (p, std::align_val_t{plane_alignment}); }
  template <class U>
  bool operator==(const aligned_allocator<U>&) const noexcept {
    return true;
  }
};

/// A std::vector whose data() is aligned to 64 bytes.
template <class T>
using aligned_vector = std::vector<T, aligned_allocator<T>>;

}  // namespace NIBBLE_ABI
}  // namespace nibble

// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// A program's OpenMP threads as a pool. Asked for by name, in units compiled with -fopenmp.

#ifndef _OPENMP
#error "nibble/core/openmp.hpp needs OpenMP: compile with -fopenmp (CMake: OpenMP::OpenMP_CXX)"
#endif
#include <omp.h>

#include <cstddef>
#include <utility>

#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/process_mark.hpp>
#include <nibble/core/scratch.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {

/// Runs products on the threads that OpenMP keeps, one team for each step of a call; owns scratch memory alone. Several
/// threads may use one object: each opens a team of its own.
///
/// Inside a parallel region a call opens a nested one. With OpenMP's default, one active level, that has a single thread:
/// the caller does all the work, as with a serial context. omp_set_max_active_levels(2) gives nested teams threads.
///
/// After fork() a pool made before works serially in the child, because libgomp hangs there once its parent has opened a
/// team. A pool made in the child opens teams again: fine with LLVM's libomp, for libgomp only if the parent had none.
class openmp_pool {
 public:
  /// At most `threads` threads at once; 0: as many as omp_get_max_threads() says now.
  explicit openmp_pool(std::size_t threads = 0)
      : threads_(threads != 0 ? threads : static_cast<std::size_t>(omp_get_max_threads())) {}
  openmp_pool(const openmp_pool&) = delete;
  openmp_pool& operator=(const openmp_pool&) = delete;

  std::size_t size() const noexcept { return threads_; }

  /// A context over OpenMP without scratch memory.
  nibble::context context() noexcept {
    nibble::context c;
    c.user = this;
    c.parallel_for = &run;
    c.concurrency = threads_;
    return c;
  }

  /// Calls f(context) with at least `scratch_bytes` of scratch memory: this object's own, or, while another call of
  /// with_scratch holds that, memory allocated for this call.
  template <class F>
  decltype(auto) with_scratch(std::size_t scratch_bytes, F&& f) {
    return scratch_.lend(context(), scratch_bytes, std::forward<F>(f));
  }

 private:
  static void run(void* self, std::size_t slots, void (*body)(void*, std::size_t), void* arg) {
    if (static_cast<openmp_pool*>(self)->maker_.forked()) {
      for (std::size_t s = 0; s < slots; ++s) body(arg, s);
      return;
    }
    // One slot, one thread: slots share the items among themselves. A team that comes out smaller takes what is left.
    const int team = static_cast<int>(slots);  // no more than `concurrency`, the size of a team
#pragma omp parallel for num_threads(team) schedule(dynamic, 1)
    for (std::size_t s = 0; s < slots; ++s) body(arg, s);
  }

  std::size_t threads_;
  core::process_mark maker_;
  core::scratch_keeper scratch_;
};

}  // namespace NIBBLE_ABI
}  // namespace nibble

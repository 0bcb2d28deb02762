// SPDX-License-Identifier: MIT
// The table row_length.

#include <nibble/study/row_length.hpp>

#include "study.hpp"

namespace study_program {

nibble::study::study_table row_length(const options& o, progress& say) {
  nibble::study::row_length_options r;
  if (o.quick) {
    r.batches = 16;
    r.weights = std::size_t{1} << 15;
  }
  return nibble::study::row_length_table(r, o.ctx, say);
}

}  // namespace study_program

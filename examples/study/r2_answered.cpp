// SPDX-License-Identifier: MIT
// The table r2_answered.

#include <nibble/study/r2_answered.hpp>

#include "study.hpp"

namespace study_program {

nibble::study::study_table r2_answered(const options& o, progress& say) {
  nibble::study::r2_answered_options r;
  if (o.quick) {
    r.seeds = 4;
    r.large_rows = 8;
    r.searched_rows = 64;
  }
  return nibble::study::r2_answered_table(r, o.ctx, say);
}

}  // namespace study_program

// SPDX-License-Identifier: MIT
#include <nibble/quant/lossless.hpp>

#include <doctest/doctest.h>

#include <nibble/quant/qtype.hpp>

namespace {

using namespace nibble;
using namespace nibble::quant;

}  // namespace

TEST_CASE("lossless: every format holds itself, and no format of fewer bits holds a full one of more") {
  for_each_qtype([]<class P>(qtype type) {
    CAPTURE(name_of(type));
    CHECK(is_lossless_v<P, P>);
    CHECK(is_lossless({P::format(), nullptr}, {P::format(), nullptr}) == true);
  });
  CHECK_FALSE(is_lossless_v<w8f_channel, w7f_channel>);
  CHECK_FALSE(is_lossless_v<w8a_channel, w4a_channel>);
}

TEST_CASE("lossless: rules, groups and scales each have their say") {
  CHECK(is_lossless_v<w4_tensor, w4_channel>);
  CHECK_FALSE(is_lossless_v<w4_channel, w4_tensor>);
  CHECK(is_lossless_v<w4_g128, w4_g32>);
  CHECK_FALSE(is_lossless_v<w4_g32, w4_g128>);
  CHECK_FALSE(is_lossless_v<w4_channel, w4_g32>);  // float scales in halves
  CHECK(is_lossless_v<w4_g128, affine<4, code_rule::symmetric, grouped<64>, float>>);
  CHECK_FALSE(is_lossless_v<w4_g128, w4_g128_bf16>);
  CHECK(is_lossless_v<w4_g128, w4a_g128>);
  CHECK_FALSE(is_lossless_v<w4a_g128, w4_g128>);
  CHECK_FALSE(is_lossless_v<w4a_g128, w4o_g128>);
  CHECK_FALSE(is_lossless_v<w4m_g128, w8_g128>);
  CHECK(is_lossless_v<w4m_g128, codebook<user_table<4>, grouped<128>, half>>);
  CHECK(is_lossless_v<nf4_flat64, codebook<user_table<4>, flat<64>>>);
  CHECK_FALSE(is_lossless_v<nf4_flat64, fp4_flat64>);
  CHECK_FALSE(is_lossless_v<nf4_flat64, nf4_g64>);
  CHECK(is_lossless_v<nf4_flat64_dq, nf4_flat64>);
  CHECK_FALSE(is_lossless_v<nf4_flat64, nf4_flat64_dq>);
}

TEST_CASE("lossless: blocks of GGUF files are formats of nibble, and some formats are blocks") {
  CHECK(is_lossless_v<w4_g32, ggml::q4_0>);
  CHECK(is_lossless_v<w3_g64, ggml::q4_0>);
  CHECK(is_lossless_v<w5_g128, ggml::q8_0>);
  CHECK(is_lossless_v<w4o_g128, ggml::q4_1>);
  CHECK(is_lossless_v<w5o_g128, ggml::q5_1>);
  CHECK_FALSE(is_lossless_v<w4a_g128, ggml::q4_1>);  // scale times zero point is no half
  CHECK_FALSE(is_lossless_v<w8_g32, ggml::q4_0>);
  CHECK_FALSE(is_lossless_v<w4_channel, ggml::q4_0>);
  CHECK(is_lossless_v<ggml::q6_k, w6f_g16_sb>);
  CHECK(is_lossless_v<ggml::q6_k, affine<6, code_rule::symmetric_full, grouped<16>>>);
  CHECK_FALSE(is_lossless_v<w6f_g16_sb, ggml::q6_k>);  // its own blocks aside, scales may be greater
  CHECK(is_lossless_v<ggml::iq4_xs, codebook<user_table<4>, grouped<32>>>);
  CHECK_FALSE(is_lossless_v<ggml::q6_k, ggml::q8_0>);
  CHECK_FALSE(is_lossless_v<ggml::f32, w8_channel>);
}

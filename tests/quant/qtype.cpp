// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <nibble/quant/qtype.hpp>

#include <set>
#include <string>

using namespace nibble;

TEST_CASE("qtype: names are unique and lead back to their type") {
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < quant::qtype_count; ++i) {
    const auto type = static_cast<qtype>(i);
    CHECK(names.insert(quant::name_of(type)).second);
    CHECK(quant::qtype_from_name(quant::name_of(type)) == type);
  }
  CHECK_FALSE(quant::qtype_from_name("w9_channel").has_value());
  CHECK_FALSE(quant::qtype_from_name("").has_value());
  CHECK(quant::qtype_from_name("w4_g128") == qtype::w4_g128);
}

namespace {

void check_entry(const quant::qtype_info& info, const format_desc& format) {
  CAPTURE(info.name);
  CHECK(quant::same_format(info.format, format));
  CHECK_NOTHROW(quant::check_format(info.format, "test"));
  CHECK((info.book.bits != 0) == (info.format.rule == code_rule::codebook));
  if (info.format.rule == code_rule::codebook) CHECK(info.book.bits == info.format.bits);
  // The name says the width.
  CHECK(info.name.find(std::to_string(info.format.bits)) != std::string_view::npos);
}

}  // namespace

TEST_CASE("qtype: the run-time entry of every format is its policy's") {
  std::size_t visited = 0;
  quant::for_each_qtype([&]<class P>(qtype type) {
    if (static_cast<std::size_t>(type) == visited) ++visited;
    check_entry(quant::info_of(type), P::format());
  });
  CHECK(visited == quant::qtype_count);
}

TEST_CASE("qtype: every width has every affine rule, per channel and in groups") {
  for (int bits = 2; bits <= 8; ++bits) {
    const std::string width = "w" + std::to_string(bits);
    for (const char* rest : {"_tensor", "_channel", "_g32", "_g64", "_g128", "f_channel", "m_channel", "m_g128",
                             "a_channel", "a_g128", "o_channel", "o_g128"})
      CHECK(quant::qtype_from_name(width + rest).has_value());
    CHECK(quant::qtype_from_name("lloyd" + std::to_string(bits) + "_channel").has_value());
  }
  CHECK(quant::info_of(qtype::w3m_g128).format.rule == code_rule::mid_rise);
  CHECK(quant::info_of(qtype::w3f_channel).format.rule == code_rule::symmetric_full);
  CHECK(quant::info_of(qtype::w4_g128).format.scale == scale_storage::f16);
  CHECK(quant::info_of(qtype::nf4_flat64_dq).format.scale == scale_storage::double_quant);
}

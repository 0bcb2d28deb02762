// SPDX-License-Identifier: MIT
#include <nibble/nn/config.hpp>

#include <limits>
#include <string>

#include <doctest/doctest.h>

#include "support/tiny_model.hpp"

namespace {

using namespace nibble;

/// The message of the error with `code` that f raises.
template <class F>
std::string refusal(errc code, F&& f) {
  try {
    f();
  } catch (const error& e) {
    CHECK(e.code() == code);
    return e.what();
  }
  return "";
}
bool says(const std::string& message, const std::string& part) { return message.find(part) != message.npos; }

}  // namespace

TEST_CASE("config: metadata read back is the same configuration") {
  for (nn::model_config c : test::all_configs()) {
    c.norm_eps = 1.1e-5f;
    c.rope_theta = 12345.678901234567;
    CHECK(nn::from_metadata(nn::to_metadata(c), "file") == c);
  }
}

TEST_CASE("config: numbers and names as other writers put them") {
  auto metadata = nn::to_metadata(test::llama_config());
  metadata["norm_eps"] = "1e-05";
  metadata["rope_theta"] = "1e+06";
  metadata["activation"] = "gelu_tanh";
  metadata["unknown"] = "is ignored";
  const nn::model_config c = nn::from_metadata(metadata, "file");
  CHECK(c.norm_eps == 1e-5f);
  CHECK(c.rope_theta == 1e6);
  CHECK(c.activation == nn::activation_kind::gelu_tanh);
}

TEST_CASE("config: metadata that is missing or malformed is refused by key") {
  const auto good = nn::to_metadata(test::llama_config());
  for (const auto& [key, value] : good) {
    auto metadata = good;
    metadata.erase(key);
    CHECK(says(refusal(errc::bad_file, [&] { nn::from_metadata(metadata, "m"); }),
               "m: metadata key '" + key + "' is missing"));
    for (const char* wrong : {"", "x", "-1x", "1 "}) {
      metadata[key] = wrong;
      CHECK(says(refusal(errc::bad_file, [&] { nn::from_metadata(metadata, "m"); }),
                 "metadata '" + key + "' is '" + std::string{wrong} + "', not "));
    }
  }
  auto metadata = good;
  metadata["d_ff"] = "1.5";
  CHECK(says(refusal(errc::bad_file, [&] { nn::from_metadata(metadata, "m"); }),
             "'d_ff' is '1.5', not an unsigned integer"));
  metadata["d_ff"] = "99999999999999999999";
  CHECK(says(refusal(errc::bad_file, [&] { nn::from_metadata(metadata, "m"); }), "'d_ff'"));
  metadata = good;
  metadata["norm"] = "group";
  CHECK(says(refusal(errc::bad_file, [&] { nn::from_metadata(metadata, "m"); }), "not one of 'rms', 'layer'"));
  metadata = good;
  metadata["format"] = "nibble.transformer.v2";
  CHECK(says(refusal(errc::bad_file, [&] { nn::from_metadata(metadata, "m"); }), "not nibble.transformer.v1"));
}

TEST_CASE("config: a configuration that describes no model is refused by field") {
  const auto check_with = [](auto&& change) {
    nn::model_config c = test::llama_config();
    change(c);
    return refusal(errc::bad_value, [&] { nn::check(c); });
  };
  CHECK(check_with([](auto&) {}).empty());
  CHECK(says(check_with([](auto& c) { c.n_layers = 0; }), "n_layers is 0"));
  CHECK(says(check_with([](auto& c) { c.vocab_size = 0; }), "vocab_size is 0"));
  CHECK(says(check_with([](auto& c) { c.d_ff = std::size_t{1} << 29; }), "d_ff is 536870912"));
  CHECK(says(check_with([](auto& c) { c.n_heads = c.n_kv_heads = c.head_dim = 1 << 20; }), "n_heads * head_dim"));
  CHECK(says(check_with([](auto& c) { c.n_kv_heads = 3; }), "n_kv_heads is 3; it must divide n_heads, 4"));
  CHECK(says(check_with([](auto& c) { c.rope_dims = 10; }), "rope_dims is 10"));
  CHECK(says(check_with([](auto& c) { c.rope_dims = 3; }), "rope_dims is 3"));
  CHECK(says(check_with([](auto& c) { c.norm_eps = -1.0f; }), "norm_eps is -1"));
  CHECK(says(check_with([](auto& c) { c.norm_eps = std::numeric_limits<float>::quiet_NaN(); }), "norm_eps is"));
  CHECK(says(check_with([](auto& c) { c.rope_theta = 0.0; }), "rope_theta is 0"));
  CHECK(says(check_with([](auto& c) { c.rope_theta = std::numeric_limits<double>::infinity(); }), "rope_theta is inf"));
}

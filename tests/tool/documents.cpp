// SPDX-License-Identifier: MIT
// What the program nibble prints: one JSON document with --json whatever happens, and no control characters of a file.

#include <sys/wait.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <nibble/io/safetensors.hpp>

#include "support/run_tool.hpp"
#include "support/temporary_file.hpp"

namespace {

using nibble::test::run_tool;
using nibble::test::temporary_file;
using nibble::test::tool_result;

void save(const std::string& path, const std::string& name = "x") {
  const std::array<float, 2> values{1.0f, 0.1f};
  nibble::io::safetensors_writer w;
  w.metadata["a\033key"] = "a\033value";
  w.add<float>(name, {2}, std::span{values});
  w.save(path);
}

/// The document of a run that ended with `code`, which is its exit code too; its error is what standard error says.
nlohmann::json error_of(const tool_result& r, int code) {
  CAPTURE(r.out);
  CHECK(r.code == code);
  const auto j = nlohmann::json::parse(r.out, nullptr, false);
  REQUIRE(j.is_object());
  CHECK(j["exit"] == code);
  CHECK(r.says(j["error"].get<std::string>()));
  return j;
}

}  // namespace

TEST_CASE("nibble --json: an error, mistaken arguments and a refusal are one JSON document each") {
  const temporary_file bad{"bad.gguf"}, from{"from.safetensors"}, to{"to.safetensors"};
  std::ofstream(bad.path) << "GGUFxxxx";
  save(from.path);
  CHECK(error_of(run_tool("inspect --json '" + bad.path + "'"), 1)["error"].get<std::string>().find(bad.path) !=
        std::string::npos);
  error_of(run_tool("compare --json /nowhere /nowhere"), 1);
  error_of(run_tool("inspect --json --no-such-flag x"), 2);
  error_of(run_tool("quantize --json a b Q4_K_X"), 2);
  error_of(run_tool("convert --json '" + from.path + "' no_end"), 2);
  const tool_result refused = run_tool("convert --json --strict --to F16 '" + from.path + "' '" + to.path + "'");
  CHECK(refused.code == 4);
  CHECK(nlohmann::json::parse(refused.out)["error"].get<std::string>().starts_with("tensor 'x' is rounded"));
}

TEST_CASE("nibble: without --json an error leaves standard output empty") {
  CHECK(run_tool("inspect /nowhere").out.empty());
  CHECK(run_tool("quantize a b Q4_K_X").out.empty());
}

TEST_CASE("nibble --json: bytes of a file's name that are not UTF-8 are replaced") {
  const temporary_file file{"name_\xff.safetensors"}, to{"copy_\xff.safetensors"};
  save(file.path);
  for (const std::string& command :
       {"inspect --json '" + file.path + "'", "compare --json '" + file.path + "' '" + file.path + "'",
        "convert --json '" + file.path + "' '" + to.path + "'", "inspect --json '" + file.path + "' --no"}) {
    CAPTURE(command);
    const tool_result r = run_tool(command);
    CHECK(r.code == (command.ends_with("--no") ? 2 : 0));
    CHECK(nlohmann::json::parse(r.out, nullptr, false).is_object());
  }
}

TEST_CASE("nibble: standard output that cannot be written is an error") {
  if (!std::filesystem::exists("/dev/full")) return;
  const temporary_file file{"a.safetensors"};
  save(file.path);
  for (const char* const flags : {"", "--json"}) {
    CAPTURE(flags);
    const temporary_file err{"err"};
    const int status = std::system(
        ("'" NIBBLE_TOOL "' inspect '" + file.path + "' " + flags + " >/dev/full 2>'" + err.path + "' </dev/null")
            .c_str());
    CHECK(WEXITSTATUS(status) == 1);
    CHECK(nibble::test::text_of(err.path).find("cannot write to standard output") != std::string::npos);
  }
}

TEST_CASE("nibble: names in tables and messages have no control characters") {
  const temporary_file a{"a.safetensors"}, b{"b.safetensors"}, to{"to.safetensors"};
  save(a.path, "x\033[31m\nfake row");
  save(b.path, "y\033[31m");
  const std::string one = "'" + a.path + "'", other = "'" + b.path + "'";
  for (const std::string& command :
       {"inspect --metadata " + one, "compare " + one + " " + one, "compare " + one + " " + other,
        "convert --to F16 " + one + " '" + to.path + "'", "convert --strict --to F16 " + one + " '" + to.path + "'"}) {
    CAPTURE(command);
    const tool_result r = run_tool(command);
    CHECK((r.out + r.err).find('\033') == std::string::npos);
    CHECK((r.out + r.err).find("\nfake") == std::string::npos);
    CHECK((r.out + r.err).find("x\\x1b[31m\\x0afake row") != std::string::npos);
  }
}

TEST_CASE("nibble quantize --json: bytes of a file's name that are not UTF-8 are replaced") {
  const temporary_file from{"name_\xff.safetensors"}, to{"to.gguf"};
  save(from.path);
  const auto r = run_tool("quantize --json '" + from.path + "' '" + to.path + "' F16");
  CHECK(r.code == 0);
  CHECK(nlohmann::json::parse(r.out, nullptr, false).is_object());
}

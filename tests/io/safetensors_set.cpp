// SPDX-License-Identifier: MIT
#include <nibble/io/safetensors_set.hpp>

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "support/refusal.hpp"
#include "support/temporary_folder.hpp"

namespace {

using namespace nibble;
using io::safetensors_set;
using io::safetensors_writer;

const std::vector<float> values{1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f};

void write_shard(const test::temporary_folder& folder, const std::string& name,
                 const std::vector<std::string>& tensors) {
  safetensors_writer writer;
  for (std::size_t i = 0; i < tensors.size(); ++i) writer.add<float>(tensors[i], {i + 1}, {values.data(), i + 1});
  writer.save(folder / name);
}
/// Two shards, a and b in the first, c in the second.
void write_two(const test::temporary_folder& folder) {
  write_shard(folder, "one.safetensors", {"a", "b"});
  write_shard(folder, "two.safetensors", {"c"});
}
constexpr const char* index_name = "model.safetensors.index.json";
const std::string good_index =
    R"({"metadata": {"total_size": 16}, "weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}})";

test::refusal refusal(const test::temporary_folder& folder, const std::string& index) {
  folder.write(index_name, index);
  const test::refusal r = test::refusal_of([&] { safetensors_set{folder / index_name}; });
  CHECK(r.code == errc::bad_file);
  return r;
}

}  // namespace

TEST_CASE("safetensors_set: an index, its folder and a single file open alike") {
  const test::temporary_folder folder("set");
  write_two(folder);
  folder.write(index_name, good_index);
  for (const std::string& path : {folder / index_name, folder.path.string()}) {
    const safetensors_set set{path};
    REQUIRE(set.tensors().size() == 3);
    CHECK(set.shards().size() == 2);
    CHECK(set.total_size() == 16u);
    CHECK(set.read_f32("b")[1] == 2.0f);
    CHECK(set.read_f32("c")[0] == 1.0f);
    CHECK(set.shard_of(set.at("c")).contains("c"));
    CHECK_FALSE(set.contains("d"));
    CHECK(set.find("d") == nullptr);
    CHECK(set.view(set.at("b")).bytes.size() == 8);
    set.release(set.at("b"));
    CHECK(set.read_f32("b")[0] == 1.0f);
  }
  const safetensors_set one{folder / "one.safetensors"};
  CHECK(one.tensors().size() == 2);
  CHECK_FALSE(one.total_size().has_value());
  CHECK(test::refusal_of([&] { one.at("c"); }).says("has no tensor 'c'"));
}

TEST_CASE("safetensors_set: a folder needs one model: named as usual, or alone") {
  const test::temporary_folder folder("set_folder");
  CHECK(test::refusal_of([&] { safetensors_set{folder.path.string()}; }).says("and 0 other safetensors files"));
  write_shard(folder, "gptq_model-4bit.safetensors", {"a"});
  CHECK(safetensors_set{folder.path.string()}.contains("a"));
  write_shard(folder, "other.safetensors", {"b"});
  CHECK(test::refusal_of([&] { safetensors_set{folder.path.string()}; }).says("and 2 other safetensors files"));
  write_shard(folder, "model.safetensors", {"c"});
  CHECK(safetensors_set{folder.path.string()}.contains("c"));
}

TEST_CASE("safetensors_set: a shard that is missing") {
  const test::temporary_folder folder("set_missing");
  write_shard(folder, "one.safetensors", {"a", "b"});
  CHECK(refusal(folder, good_index).says("shard 'two.safetensors', which has 1 tensors of the index, is missing"));
}

TEST_CASE("safetensors_set: a tensor that its shard does not have") {
  const test::temporary_folder folder("set_lacking");
  write_two(folder);
  CHECK(refusal(folder, R"({"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "d": "one.safetensors"}})")
            .says("tensor 'd' is not in its shard 'one.safetensors'"));
}

TEST_CASE("safetensors_set: a tensor in two shards, in the map or in the files") {
  const test::temporary_folder folder("set_twice");
  write_two(folder);
  CHECK(refusal(folder, R"({"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}})")
            .says("the key 'a' occurs twice"));
  write_shard(folder, "two.safetensors", {"c", "b"});
  const test::refusal r = refusal(folder, good_index);
  CHECK(r.says("tensor 'b' is in '"));
  CHECK(r.says("one.safetensors' and in '"));
  write_shard(folder, "two.safetensors", {"a"});
  write_shard(folder, "one.safetensors", {"b", "c"});
  CHECK(refusal(folder, good_index).says("tensor 'c' is in '"));
}

TEST_CASE("safetensors_set: a shard whose name ends like another one's is another shard") {
  const test::temporary_folder folder("set_suffix");
  write_shard(folder, "one.safetensors", {"a"});
  write_shard(folder, "xone.safetensors", {"b"});
  CHECK(refusal(folder, R"({"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "xone.safetensors"}})")
            .says("tensor 'b' is in '"));
}

TEST_CASE("safetensors_set: a tensor that the index does not list") {
  const test::temporary_folder folder("set_unlisted");
  write_two(folder);
  CHECK(refusal(folder, R"({"weight_map": {"a": "one.safetensors", "c": "two.safetensors"}})")
            .says("does not list tensor 'b' of"));
}

TEST_CASE("safetensors_set: file names of an index do not leave its folder") {
  const test::temporary_folder folder("set_names");
  for (const std::string name :
       {"../one.safetensors", "/etc/passwd", "sub/one.safetensors", "..", ".", "", "a\\\\b", "a\\u0000b"}) {
    CAPTURE(name);
    CHECK(
        refusal(folder, R"({"weight_map": {"a": ")" + name + R"("}})").says("rule: the name of a file of this folder"));
  }
}

TEST_CASE("safetensors_set: every rule of the index is one error") {
  const test::temporary_folder folder("set_rules");
  write_two(folder);
  CHECK(refusal(folder, "[]").says("rule: one JSON object"));
  CHECK(refusal(folder, "{").says("not JSON at byte"));
  CHECK(refusal(folder, "{}").says("rule: 'weight_map' is an object"));
  CHECK(refusal(folder, R"({"weight_map": []})").says("rule: 'weight_map' is an object"));
  CHECK(refusal(folder, R"({"weight_map": {"a": 1}})").says("tensor 'a' is mapped to 1; rule: a file name"));
  CHECK(refusal(folder, R"({"metadata": 1, "weight_map": {}})").says("rule: 'metadata' is an object"));
  CHECK(refusal(folder, R"({"metadata": {"total_size": -1}, "weight_map": {}})").says("total_size is -1"));
  CHECK(refusal(folder, R"({"metadata": {"total_size": 1.5}, "weight_map": {}})").says("total_size is 1.5"));
  for (std::size_t n = 0; n < good_index.size(); ++n) refusal(folder, good_index.substr(0, n));
  folder.write(index_name, R"({"metadata": {"total_size": 16.0}, "weight_map": {}})");
  CHECK(safetensors_set{folder / index_name}.total_size() == 16u);
}

TEST_CASE("safetensors_set: what save_shards wrote opens as one, split at the limit") {
  const test::temporary_folder folder("set_shards");
  safetensors_writer writer;
  writer.metadata["k"] = "v";
  for (const std::string name : {"a", "b", "c", "d"})  // 24, 24, 24 and 8 bytes
    writer.add<float>(name, {name == "d" ? std::size_t{2} : 6}, std::span{values}.first(name == "d" ? 2 : 6));
  const std::vector<std::string> names = writer.save_shards(folder.path.string(), 48);
  REQUIRE(names == std::vector<std::string>{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                                            "model.safetensors.index.json"});
  const safetensors_set set{folder.path.string()};
  CHECK(set.tensors().size() == 4);
  CHECK(set.total_size() == 80u);
  CHECK(set.shard_of(set.at("b")).tensors().size() == 2);
  CHECK(set.shard_of(set.at("d")).metadata().at("k") == "v");
  CHECK(set.read_f32("c")[5] == 6.0f);
}

TEST_CASE("safetensors_set: tensors larger than the limit of save_shards have files of their own, few one file") {
  const test::temporary_folder folder("set_large");
  safetensors_writer writer;
  for (const std::string name : {"a", "b", "c"}) writer.add<float>(name, {6}, values);
  CHECK(writer.save_shards(folder.path.string(), 8).size() == 4);
  CHECK(safetensors_set{folder.path.string()}.shards().size() == 3);
  CHECK(writer.save_shards(folder.path.string(), 1000) == std::vector<std::string>{"model.safetensors"});
  writer.add<float>("a", {6}, values);
  CHECK(test::refusal_of([&] { writer.save_shards(folder.path.string(), 24); }).says("'a' occurs twice"));
}

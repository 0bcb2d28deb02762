// SPDX-License-Identifier: MIT
#include <nibble/io/checkpoint.hpp>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "support/checkpoint_golden.hpp"
#include "support/refusal.hpp"
#include "support/temporary_folder.hpp"

namespace {

using namespace nibble;
using io::checkpoint;
using io::checkpoint_options;
using io::layer_layout;
using test::golden_layer;

constexpr const char* packed_config =
    R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized", "version": "0.17.1", "config_groups":)"
    R"( {"group_0": {"targets": ["Linear"], "weights": {"num_bits": BITS, "group_size": SIZE, "symmetric": SYM}}}}})";

std::string packed(const std::string& bits, const std::string& size) {
  std::string s = packed_config;
  s.replace(s.find("BITS"), 4, bits);
  s.replace(s.find("SIZE"), 4, size);
  s.replace(s.find("SYM"), 3, "true");
  return s;
}
std::string gptq(int bits, int size, const std::string& more = "") {
  return R"({"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": )" + std::to_string(bits) +
         R"(, "group_size": )" + std::to_string(size) + R"(, "desc_act": true, "sym": false)" + more + "}}";
}

/// A folder with one golden file and, unless empty, its config.json.
struct model {
  test::temporary_folder folder;
  model(const std::string& golden, const std::string& config) : folder("checkpoint_" + golden) {
    std::filesystem::copy_file(golden_layer::path_of(golden), folder.path / "model.safetensors");
    if (!config.empty()) folder.write("config.json", config);
  }
  test::refusal refusal(const checkpoint_options& options = {}) const {
    return test::refusal_of([&] { checkpoint{folder.path.string(), options}; });
  }
};

void check_layer(const model& m, const golden_layer& golden, layer_layout layout, int bits, std::size_t group_size) {
  const checkpoint file{m.folder.path.string()};
  REQUIRE(file.layers().size() == 1);
  const io::checkpoint_layer& l = file.layers()[0];
  CHECK(l.name == "l");
  CHECK(l.layout == layout);
  CHECK(l.bits == bits);
  CHECK(l.group_size == group_size);
  CHECK(l.tensors.size() + 1 == golden.file.tensors().size());
  REQUIRE(file.others().size() == 1);
  CHECK(file.others()[0]->name == "dense");
  const io::checkpoint_matrix layer = file.read(l);
  CHECK(l.N == layer.matrix.N());
  CHECK(l.K == layer.matrix.K());
  CHECK(test::same_bits(test::values_of(layer), golden.dense()));
  test::check_written(golden, file.write(l, layer));
  file.release(l);
}

/// A file of one layer "l", and what its readers have to be told.
struct small_file {
  std::string name;
  layer_layout layout;
  checkpoint_options options;
  std::string bytes;
};

/// One for each layout: the tensors of a golden file without its values as floats, or what a writer makes of them.
std::vector<small_file> every_layout() {
  const test::temporary_folder folder("checkpoint_small");
  const auto saved = [&](io::safetensors_writer& writer) {
    writer.save(folder / "l");
    const io::mapped_file file{folder / "l"};
    return std::string{reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
  };
  const auto saved_all = [&](const std::vector<io::tensor_bytes>& tensors) {
    io::safetensors_writer writer;
    for (const io::tensor_bytes& t : tensors) writer.add(t);
    return saved(writer);
  };
  std::vector<small_file> out;
  const auto add = [&](const char* name, layer_layout layout, const checkpoint_options& options) {
    const golden_layer golden(name);
    std::vector<io::tensor_bytes> tensors;
    for (const io::tensor_info& t : golden.file.tensors())
      if (std::string_view{t.name} != "dense") tensors.push_back(test::copy_of(golden.file.view(t)));
    out.push_back({name, layout, options, saved_all(tensors)});
  };
  add("gptq3", layer_layout::gptq, {.version = io::gptq_version::v1});
  add("gptq8", layer_layout::gptq, {.version = io::gptq_version::v1});
  add("awq", layer_layout::awq, {});
  const checkpoint_options whole{.bits = 3, .group_size = 16, .packing = io::word_packing::whole};
  add("packed3", layer_layout::pack_quantized, whole);
  add("nf4", layer_layout::bitsandbytes, {});
  add("nf4_nested", layer_layout::bitsandbytes, {});
  add("int8", layer_layout::llm_int8, {});

  const checkpoint packed{golden_layer::path_of("packed3"), whole};
  const io::checkpoint_matrix layer = packed.read(packed.layers()[0]);
  out.push_back({"packed3 as a stream",
                 layer_layout::pack_quantized,
                 {.bits = 3, .group_size = 16, .packing = io::word_packing::stream},
                 saved_all(io::write_pack_quantized(
                     layer, "l", {.g_idx = !layer.column_order.empty(), .packing = io::word_packing::stream}))});
  const checkpoint gptq{golden_layer::path_of("gptq3"), {.version = io::gptq_version::v1}};
  io::safetensors_writer own;
  io::add_quantized(own, "l", gptq.read(gptq.layers()[0]));
  out.push_back({"nibble's own", layer_layout::nibble, {}, saved(own)});
  return out;
}

/// CHECKs that a layer which was read from `file` is written to the tensors that it was read from. Of nibble's own layout,
/// which is written to files only, that its codes are the file's.
void check_same_tensors(const checkpoint& file, const io::checkpoint_layer& l, const io::checkpoint_matrix& layer) {
  if (l.layout == layer_layout::nibble) {
    CHECK(test::same_bytes(layer.matrix.codes(), file.files().bytes(file.files().at(l.name + ".nibble.codes"))));
    return;
  }
  for (const io::tensor_bytes& t : file.write(l, layer)) {
    REQUIRE(file.files().contains(t.name));
    const io::tensor_info& was = file.files().at(t.name);
    CHECK(t.type == was.type);
    CHECK(t.shape == was.shape);
    CHECK(test::same_bytes(t.bytes, file.files().bytes(was)));
  }
}

}  // namespace

TEST_CASE("checkpoint: the layers of every layout are found, read, and written back byte for byte") {
  const struct {
    const char* name;
    std::string config;
    layer_layout layout;
    int bits;
    std::size_t group_size;
  } cases[] = {
      {"gptq2", gptq(2, 16), layer_layout::gptq, 2, 16},
      {"gptq3", gptq(3, 32, R"(, "checkpoint_format": "gptq")"), layer_layout::gptq, 3, 32},
      {"gptq4", gptq(4, 16, R"(, "checkpoint_format": "gptq_v2")"), layer_layout::gptq, 4, 16},
      {"gptq8", gptq(8, -1), layer_layout::gptq, 8, 0},
      {"awq", R"({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "GEMM"}})",
       layer_layout::awq, 4, 32},
      {"packed3", packed("3", "16"), layer_layout::pack_quantized, 3, 16},
      {"packed4", packed("4", "20"), layer_layout::pack_quantized, 4, 20},
      {"packed8", packed("8", "null"), layer_layout::pack_quantized, 8, 0},
      {"nf4", R"({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}})",
       layer_layout::bitsandbytes, 4, 64},
      {"nf4_nested", "", layer_layout::bitsandbytes, 4, 64},
      {"fp4", "", layer_layout::bitsandbytes, 4, 128},
      {"int8", "{}", layer_layout::llm_int8, 8, 0},
  };
  for (const auto& c : cases) {
    CAPTURE(c.name);
    check_layer(model(c.name, c.config), golden_layer(c.name), c.layout, c.bits, c.group_size);
  }
}

TEST_CASE("checkpoint: the files of AutoGPTQ and AutoAWQ stand for the configuration") {
  model m("gptq4", R"({"model_type": "llama"})");
  std::filesystem::remove(m.folder.path / "config.json");
  m.folder.write("quantize_config.json",
                 R"({"bits": 4, "group_size": 16, "desc_act": true, "checkpoint_format": "gptq_v2"})");
  check_layer(m, golden_layer("gptq4"), layer_layout::gptq, 4, 16);
  model a("awq", "");
  a.folder.write("quant_config.json", R"({"zero_point": true, "q_group_size": 32, "w_bit": 4, "version": "GEMM"})");
  check_layer(a, golden_layer("awq"), layer_layout::awq, 4, 32);
}

TEST_CASE("checkpoint: without a configuration shapes say bits and groups, and options the version") {
  const model m("gptq4", "");
  const test::refusal r = m.refusal();
  CHECK(r.code == errc::bad_file);
  CHECK(r.says("layer 'l': no configuration in"));
  CHECK(r.says("rule: checkpoint_options::version does"));
  const checkpoint file{m.folder.path.string(), {.version = io::gptq_version::v2}};
  CHECK(file.layers()[0].bits == 4);
  CHECK(file.layers()[0].group_size == 16);
  CHECK(test::same_bits(test::values_of(file.read(file.layers()[0])), golden_layer("gptq4").dense()));
}

TEST_CASE("checkpoint: options go before the configuration") {
  const model m("gptq4", gptq(8, 128, R"(, "checkpoint_format": "gptq")"));
  const checkpoint file{m.folder.path.string(), {.bits = 4, .group_size = 16, .version = io::gptq_version::v2}};
  CHECK(test::same_bits(test::values_of(file.read(file.layers()[0])), golden_layer("gptq4").dense()));
}

TEST_CASE("checkpoint: a configuration that contradicts the tensors is refused") {
  const auto says = [](const char* golden, const std::string& config, const char* part, errc code = errc::bad_file) {
    const test::refusal r = model(golden, config).refusal();
    CAPTURE(r.message);
    CHECK(r.code == code);
    CHECK(r.says(part));
  };
  says("gptq4", gptq(8, 16), "layer 'l': the shapes are those of 4 bits, the configuration says 8");
  says("gptq4", gptq(4, 32), "groups of 32 (configuration) in rows of 64 are 2; the file has 4");
  says("gptq4", gptq(4, -1), "groups of 0 (configuration) in rows of 64 are 1; the file has 4");
  says("gptq4", gptq(4, 16, R"(, "checkpoint_format": "marlin")"), "checkpoint_format 'marlin'",
       errc::unsupported_format);
  says("gptq4", gptq(4, 16, R"(, "is_marlin_format": true)"), "checkpoint_format 'marlin'", errc::unsupported_format);
  says("gptq4", R"({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 16}})",
       "the shapes are those of gptq, the configuration says awq");
  says("awq", R"({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemv"}})",
       "AWQ version 'gemv'", errc::unsupported_format);
  says("packed3", packed("4", "16"),
       "8 words and 5 scales for rows of 76 columns fit 0 schemes of the configuration; rule: one");
  says("packed3", packed("3", "20"), "fit 0 schemes of the configuration");
  says("gptq4", R"({"quantization_config": {"bits": "4"}})", "'bits' is \"4\"; rule: 1 to 64");
  says("gptq4", R"({"quantization_config": {"bits": 4, "group_size": -2}})", "'group_size' is -2");
  says("gptq4", R"({"quantization_config": 4})", "the configuration is no object");
  says("gptq4", R"({"quantization_config": {"quant_method": 4}})", "'quant_method' is no string");
  says("gptq4", R"({"quantization_config": {"desc_act": "yes"}})", "'desc_act' is neither true nor false");
  says("packed3", R"({"quantization_config": {"config_groups": {"g": {"weights": 1}}}})", "has no object 'weights'");
}

TEST_CASE("checkpoint: several groups of compressed-tensors leave each layer's width to its shapes") {
  const std::string two =
      R"({"quantization_config": {"format": "pack-quantized", "version": "0.12.2", "config_groups": {"a": {"weights": {"num_bits": 8}},)"
      R"( "b": {"weights": {"num_bits": 3, "group_size": 16}}}}})";
  check_layer(model("packed3", two), golden_layer("packed3"), layer_layout::pack_quantized, 3, 16);
}

TEST_CASE("checkpoint: files of compressed-tensors before 0.18 and after it are read by the shapes of their layers") {
  for (const std::string tool : {"compressed_tensors", "compressed_tensors_dense"}) {
    const test::temporary_folder folder("checkpoint_" + tool);
    std::filesystem::copy_file(test::original_layer::path_of(tool), folder.path / "model.safetensors");
    std::string groups;
    const bool dense = tool.ends_with("dense");
    for (const char* const bits : {"3", dense ? "5" : "4", dense ? "7" : "8"})
      for (const char* const size : {"32", "null"})
        groups += std::string(groups.empty() ? "" : ", ") + "\"" + bits + size + R"(": {"weights": {"num_bits": )" +
                  bits + R"(, "group_size": )" + size + "}}";
    folder.write("config.json", R"({"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {)" +
                                    groups + "}}}");
    const checkpoint file{folder.path.string()};
    CHECK(file.layers().size() == 12);
    for (const io::checkpoint_layer& l : file.layers()) {
      CAPTURE(l.name);
      const test::original_layer original(tool, l.name);
      CHECK(l.bits == l.name[1] - '0');
      const io::checkpoint_matrix layer = file.read(l);
      CHECK(test::same_bits(original.in_its_dtype(test::values_of(layer)), original.dequantized()));
      test::check_written(original, file.write(l, layer));
    }
  }
}

TEST_CASE("checkpoint: where shapes do not say how codes of 3 bits lie in words, version or options do") {
  const auto config = [](const std::string& version) {
    return R"({"quantization_config": {"format": "pack-quantized", )" + version +
           R"("config_groups": {"g": {"weights": {"num_bits": 3, "group_size": 16}}}}})";
  };
  const auto says = [&](const std::string& version, const char* part) {
    const model m("packed3", config(version));
    const test::refusal r = test::refusal_of([&] {
      const checkpoint file{m.folder.path.string()};
      file.read(file.layers()[0]);
    });
    CAPTURE(r.message);
    CHECK(r.says(part));
  };
  CHECK(model("packed3", config("\"version\": \"0.17.1\", ")).refusal().code == errc::ok);
  CHECK(model("packed3", config("")).refusal({.packing = io::word_packing::whole}).code == errc::ok);
  says("", "rows of 76 codes of 3 bits have 8 words whether codes straddle words or not");
  says("\"version\": \"new\", ", "rows of 76 codes of 3 bits have 8 words whether codes straddle words or not");
  says("\"version\": \"0.18.0\", ", "has bits that belong to no code");
  says("\"version\": \"1.0\", ", "has bits that belong to no code");
}

TEST_CASE("checkpoint: a group size that the shapes leave open is not guessed") {
  CHECK(model("packed4", "").refusal().says("4 groups in rows of 76 do not say how many columns a group has"));
  const model m("packed4", "");
  CHECK(m.refusal({.group_size = 20}).code == errc::ok);
  CHECK(m.refusal({.group_size = 40}).says("groups of 40 (options) in rows of 76 are 2; the file has 4"));
  // 7 and 8 bits have four codes in a word.
  const test::refusal r = model("packed8", "").refusal();
  CHECK(r.says("19 words and 1 scales for rows of 76 columns fit 2 schemes of 2 to 8 bits; rule: one"));
}

TEST_CASE("checkpoint: a layer that lacks a tensor is refused by its name") {
  const golden_layer golden("awq");
  const test::temporary_folder folder("checkpoint_lacks");
  io::safetensors_writer writer;
  writer.add(test::copy_of(golden.view(".qweight")));
  writer.add(test::copy_of(golden.view(".scales")));
  writer.save(folder / "model.safetensors");
  const checkpoint file{folder.path.string()};
  CHECK(test::refusal_of([&] { file.read(file.layers()[0]); }).says("has no tensor 'l.qzeros'"));
}

TEST_CASE("checkpoint: nibble's own layers are found, and every layout converts to them and back without loss") {
  const test::temporary_folder folder("checkpoint_own");
  for (const char* const name : {"gptq3", "awq", "packed4", "nf4_nested", "int8"}) {
    CAPTURE(name);
    const golden_layer golden(name);
    checkpoint_options options{.version = io::gptq_version::v1};
    if (std::string_view{name} == "packed4") options.group_size = 20;
    const checkpoint from{golden_layer::path_of(name), options};
    io::safetensors_writer writer;
    for (const io::checkpoint_layer& l : from.layers()) io::add_quantized(writer, l.name, [&] { return from.read(l); });
    writer.save(folder / "model.safetensors");
    const checkpoint own{folder.path.string()};
    REQUIRE(own.layers().size() == 1);
    CHECK(own.layers()[0].layout == layer_layout::nibble);
    CHECK(own.layers()[0].N == from.layers()[0].N);
    CHECK(own.others().empty());
    test::check_written(golden, from.write(from.layers()[0], own.read(own.layers()[0])));
  }
}

TEST_CASE("checkpoint: a file cut at any byte is an error, whatever its layout") {
  for (const small_file& small : every_layout()) {
    CAPTURE(small.name);
    const test::temporary_folder folder("checkpoint_cut");
    const std::string path = folder / "model.safetensors";
    folder.write("model.safetensors", small.bytes);
    {
      const checkpoint whole{path, small.options};
      REQUIRE(whole.layers().size() == 1);
      CHECK(whole.layers()[0].layout == small.layout);
    }
    for (std::size_t n = small.bytes.size(); n-- > 0;) {
      CAPTURE(n);
      std::filesystem::resize_file(path, n);
      const test::refusal r = test::refusal_of([&] { checkpoint{path, small.options}; });
      CHECK(r.code == errc::bad_file);
      CHECK(r.says("model.safetensors"));
    }
  }
}

TEST_CASE(
    "checkpoint: with any bit of the header or the data wrong, a layer is refused or written back as it was read") {
  for (const small_file& small : every_layout()) {
    CAPTURE(small.name);
    const test::temporary_folder folder("checkpoint_flip");
    const std::string path = folder / "model.safetensors";
    folder.write("model.safetensors", small.bytes);
    std::fstream bytes(path, std::ios::binary | std::ios::in | std::ios::out);  // in place: one file, not thousands
    const auto set = [&](std::size_t i, char byte) {
      bytes.seekp(static_cast<std::streamoff>(i));
      bytes.put(byte).flush();
    };
    std::uint64_t header = 0;
    std::memcpy(&header, small.bytes.data(), 8);
    std::size_t refused = 0, accepted = 0;
    for (std::size_t i = 0; i < small.bytes.size(); i += i < 8 + header ? 1 : 8)
      for (unsigned bit = 0; bit < 8; ++bit) {
        CAPTURE(i);
        CAPTURE(bit);
        set(i, static_cast<char>(small.bytes[i] ^ 1 << bit));
        try {
          const checkpoint file{path, small.options};
          for (const io::checkpoint_layer& l : file.layers()) {
            check_same_tensors(file, l, file.read(l));
            ++accepted;
          }
        } catch (const error& e) {
          CAPTURE(e.what());
          CHECK((e.code() == errc::bad_file || e.code() == errc::unsupported_format));
          ++refused;
        }
        set(i, small.bytes[i]);
      }
    REQUIRE(bytes.good());
    // Wrong scales and codes are values like others; the header has its rules.
    CHECK(accepted > 0);
    CHECK(refused > header);
  }
}

// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Model files: one safetensors file with canonical tensor names and the configuration as metadata.

#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/half.hpp>
#include <nibble/core/round.hpp>
#include <nibble/io/safetensors.hpp>
#include <nibble/nn/model.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace nn {

/// The model in a file; F32, F16 and BF16 tensors become float exactly. Throws bad_file with tensor, expected and found
/// shape when the tensors are not those of the configuration (one is missing, misshapen, unknown, or holds a value that
/// is not finite), bad_value when the configuration describes no model. Nothing is allocated before the shapes match.
inline model load_model(const io::safetensors_reader& file) {
  const std::string place = "model " + file.place();
  const model_config config = from_metadata(file.metadata(), place);
  // Each layer has tensors of its own, so a hostile n_layers cannot make the loop below long.
  if (config.n_layers > file.tensors().size())
    core::fail(errc::bad_file, place, ": n_layers is ", config.n_layers, ", but there are ", file.tensors().size(),
               " tensors");
  model m = model_without_values(config);
  std::size_t used = 0;
  for_each_tensor(std::as_const(m), [&](const tensor_slot& slot, const aligned_vector<float>&) {
    if (slot.optional && !file.contains(slot.name)) return;
    if (!file.contains(slot.name))
      core::fail(errc::bad_file, place, ": tensor '", slot.name, "' ", io::shape_text(slot.shape), " is missing");
    const io::tensor_info& t = file.at(slot.name);
    if (t.shape != slot.shape)
      core::fail(errc::bad_file, place, ": tensor '", slot.name, "' has shape ", io::shape_text(t.shape), ", expected ",
                 io::shape_text(slot.shape));
    ++used;
  });
  if (used != file.tensors().size()) {
    std::map<std::string, bool> known;
    for_each_tensor(std::as_const(m),
                    [&](const tensor_slot& slot, const aligned_vector<float>&) { known[slot.name] = true; });
    for (const io::tensor_info& t : file.tensors())
      if (!known.contains(t.name))
        core::fail(errc::bad_file, place, ": tensor '", io::printable(t.name), "' ", io::shape_text(t.shape),
                   " is not part of the configuration");
  }
  for_each_tensor(m, [&](const tensor_slot& slot, aligned_vector<float>& values) {
    if (slot.optional && !file.contains(slot.name)) return;
    const io::tensor_info& t = file.at(slot.name);
    values = file.read_f32(t);
    for (std::size_t i = 0; i < values.size(); ++i)
      if (!is_finite(values[i]))
        core::fail(errc::bad_file, place, ": tensor '", slot.name, "' holds ", values[i], " at element ", i);
    file.release(t);
  });
  return m;
}
inline model load_model(std::string path) { return load_model(io::safetensors_reader{std::move(path)}); }

/// Writes the model as one file, values rounded to `type` (F32, F16 or BF16). `more` is added to the metadata. Throws
/// bad_value for another type or a value that overflows it.
inline void save_model(const std::string& path, const model& m, io::dtype type = io::dtype::f32,
                       const std::map<std::string, std::string>& more = {}) {
  if (type != io::dtype::f32 && type != io::dtype::f16 && type != io::dtype::bf16)
    core::fail(errc::bad_value, "save_model: type ", io::name_of(type), "; F32, F16 or BF16");
  io::safetensors_writer writer;
  writer.metadata = to_metadata(m.config);
  writer.metadata.insert(more.begin(), more.end());
  std::vector<std::vector<half>> halves;  // converted tensors, kept until save()
  std::vector<std::vector<bfloat16>> bfloats;
  const auto add = [&]<class T>(const tensor_slot& slot, const aligned_vector<float>& values,
                                std::vector<std::vector<T>>& keep) {
    std::vector<T> converted(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      converted[i] = round_to<T>(values[i]);
      if (!is_finite(to_float(converted[i])))
        core::fail(errc::bad_value, "save_model: '", slot.name, "' element ", i, " is ", values[i], ", too large for ",
                   io::name_of(type));
    }
    keep.push_back(std::move(converted));
    writer.add(slot.name, slot.shape, std::span<const T>{keep.back()});
  };
  for_each_tensor(m, [&](const tensor_slot& slot, const aligned_vector<float>& values) {
    if (slot.optional && values.empty()) return;
    if (type == io::dtype::f16) add(slot, values, halves);
    else if (type == io::dtype::bf16) add(slot, values, bfloats);
    else writer.add(slot.name, slot.shape, std::span<const float>{values});
  });
  writer.save(path);
}

}  // namespace nn
}  // namespace NIBBLE_ABI
}  // namespace nibble

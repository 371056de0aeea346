#include "backbones/imported.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/enum_tag.h>

#include <algorithm>

#include "files/file_kind.h"
#include "numbers.h"
#include "options.h"

namespace le {

ImportOptions ImportOptions::from(const Json& config) {
  static const std::vector<std::string> known = {"kind",   "file",       "image",      "inputs",
                                                 "output", "inChannels", "spatialAxes"};
  for (const auto& [key, value] : config.object("backbone"))
    if (std::find(known.begin(), known.end(), key) == known.end())
      fail(code::kOption,
           "Expected one of image, inputs, output, inChannels, spatialAxes for an option of an imported ",
           "network but received '", key, "'.");
  ImportOptions options;
  options.file = config.at("file").string("file");
  if (config.has("image")) {
    const Json& image = config.at("image");
    options.image = image.is_string() ? image.string("image") : std::to_string(image.integer("image"));
  }
  if (config.has("inputs")) options.inputs = config.at("inputs").object("inputs");
  if (config.has("output")) {
    const Json& output = config.at("output");
    options.output = output.is_array() ? output.array("output") : Json::Array{output};
  }
  options.in_channels = config.integer_or("inChannels", 0);
  options.spatial_axes = config.integer_or("spatialAxes", 0);
  if (options.in_channels < 0 || options.in_channels > 4096)
    fail(code::kOption, "Expected 1 to 4096 for option 'inChannels' but received ", options.in_channels, ".");
  if (options.spatial_axes != 0 && options.spatial_axes != 2 && options.spatial_axes != 3)
    fail(code::kOption, "Expected 2 or 3 for option 'spatialAxes' but received ", options.spatial_axes, ".");
  return options;
}

Json::Object ImportOptions::json() const {
  Json::Object result{{"file", file}, {"inChannels", in_channels}, {"spatialAxes", spatial_axes}};
  if (!image.empty()) result.emplace("image", image);
  if (!inputs.empty()) result.emplace("inputs", inputs);
  if (!output.empty()) result.emplace("output", output);
  return result;
}

size_t own_output(const std::vector<std::string>& keys) {
  for (const char* usual : {"out", "logits"})
    if (const auto found = std::find(keys.begin(), keys.end(), usual); found != keys.end())
      return static_cast<size_t>(found - keys.begin());
  std::vector<size_t> own;
  for (size_t i = 0; i < keys.size(); ++i)
    if (!keys[i].starts_with("aux")) own.push_back(i);
  if (own.size() == 1) return own[0];
  fail(code::kOption, "Expected option 'output' to say which of its results is the network's own (", listed(keys),
       ") but received none.");
}

bool draws_always(const c10::FunctionSchema& schema) {
  const auto op = c10::Dispatcher::singleton().findSchema(schema.operator_name());
  if (!op || !op->hasTag(at::Tag::nondeterministic_seeded)) return false;
  return std::none_of(schema.arguments().begin(), schema.arguments().end(), [](const c10::Argument& argument) {
    return argument.name() == "training" || argument.name() == "train" || argument.name() == "dropout_p";
  });
}

namespace {

std::unique_ptr<Backbone> load_any(const Json& config, const ImportOptions& options) {
  const std::string& kind = config.at("kind").string("kind");
  if (kind == "torchscript") return load_script(options);
  if (kind == "exported") return load_exported(options);
  switch (file_kind(options.file)) {
    case FileKind::kScript:
      return load_script(options);
    case FileKind::kExported:
      return load_exported(options);
    case FileKind::kStateDict:
    case FileKind::kSafetensors:
      fail(code::kCheckpoint, "Expected a network (TorchScript or torch.export) in ", options.file,
           " but received weights alone: build the network with Backbone.create and use loadWeights, or export the ",
           "network itself.");
    case FileKind::kUnknown:
      break;
  }
  fail(code::kCheckpoint, "Expected a TorchScript or torch.export file at ", options.file,
       " but received another kind of file.");
}

}  // namespace

std::unique_ptr<Backbone> load_imported(const Json& config) {
  const ImportOptions options = ImportOptions::from(config);
  auto backbone = load_any(config, options);
  check_numbers(*backbone, options.file);
  return backbone;
}

}  // namespace le

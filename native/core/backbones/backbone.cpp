#include "backbones/backbone.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>

#include <algorithm>
#include <sstream>

#include "backbones/imported.h"
#include "backbones/zoo/zoo.h"
#include "error.h"
#include "numbers.h"

namespace le {

std::unique_ptr<Backbone> make_backbone(const Json& config) {
  const std::string& kind = config.at("kind").string("kind");
  return kind == "torchscript" || kind == "exported" || kind == "file" ? load_imported(config) : make_of_zoo(config);
}

void Backbone::save(const std::string& path) const {
  fail(code::kOption, "Expected a network that came from a model file but received one of this package's own for ",
       path, ": save its weights as .safetensors.");
}

NamedTensors state_of(const Backbone& backbone) {
  NamedTensors all = backbone.parameters();
  for (auto& buffer : backbone.buffers()) all.push_back(std::move(buffer));
  const auto others = backbone.other_names();
  if (others.empty()) return all;
  const std::map<std::string, at::Tensor> listed(all.begin(), all.end());
  for (const auto& [other, name] : others) all.emplace_back(other, listed.at(name));
  return all;
}

std::map<std::string, at::Tensor> weights_below(const Backbone& backbone, const std::string& part) {
  std::map<std::string, at::Tensor> all;
  for (const auto& [name, tensor] : state_of(backbone))
    if (name.starts_with(part)) all.emplace(name.substr(part.size()), tensor);
  return all;
}

LoadReport load_weights(Backbone& backbone, const std::vector<StateDict>& file, const LoadOptions& options) {
  MatchOptions how;
  how.prefix = options.prefix;
  how.part = !options.part.empty();
  return load_match(backbone, match_names(file, weights_below(backbone, options.part), how), options);
}

LoadReport load_match(Backbone& backbone, Match match, const LoadOptions& options) {
  const NamedTensors buffers = backbone.buffers();
  const auto is_buffer = [&](const std::string& name) {
    return std::any_of(buffers.begin(), buffers.end(), [&](const auto& buffer) { return buffer.first == name; });
  };
  LoadReport report{{}, std::move(match.unexpected), match.prefix, match.tensors.size()};
  std::vector<std::pair<at::Tensor, at::Tensor>> copies;
  std::vector<std::string> other_shapes;
  NamedTensors as_parameters, as_buffers;
  NamedTensors absent;
  for (const auto& [name, target] : weights_below(backbone, options.part)) {
    const std::string full = options.part + name;
    const auto found = match.tensors.find(name);
    if (found == match.tensors.end()) {
      absent.emplace_back(full, target);
      continue;
    }
    const at::Tensor& tensor = found->second;
    if (target.sizes() != tensor.sizes()) {
      std::ostringstream shapes;
      shapes << "'" << full << "' (expected " << target.sizes() << ", received " << tensor.sizes() << ")";
      other_shapes.push_back(shapes.str());
      continue;
    }
    if (target.is_floating_point() != tensor.is_floating_point())
      fail(code::kCheckpoint, "Expected ", c10::toString(target.scalar_type()), " for weight '", full,
           "' but received ", c10::toString(tensor.scalar_type()), ".");
    // As they will be: a double may be beyond a float.
    at::Tensor converted = tensor.to(target.scalar_type());
    for (const auto& [to, from] : copies)
      if (to.is_same(target) && !at::equal(from, converted))
        fail(code::kCheckpoint, "Expected one value for weight '", full,
             "', which the network shares with another of its names, but received two.");
    (is_buffer(full) ? as_buffers : as_parameters).emplace_back(full, converted);
    copies.emplace_back(target, std::move(converted));
  }
  for (const auto& [name, target] : absent)
    if (!name.ends_with("num_batches_tracked") &&
        std::none_of(copies.begin(), copies.end(), [&](const auto& copy) { return copy.first.is_same(target); }))
      report.missing.push_back(name);
  if (!other_shapes.empty())
    fail(code::kCheckpoint, "Expected weights of this network's shapes but received other shapes for ",
         shortened(other_shapes), ".");
  if (options.strict && !(report.missing.empty() && report.unexpected.empty()))
    fail(code::kCheckpoint, "Expected weights of this architecture but received some with ", report.missing.size(),
         " missing (", shortened(report.missing), ") and ", report.unexpected.size(), " unexpected (",
         shortened(report.unexpected), ").");
  check_numbers(as_parameters, as_buffers, code::kCheckpoint, "the network", kDamagedWeights);
  const at::NoGradGuard no_grad;
  for (const auto& [to, from] : copies) to.copy_(from);
  backbone.end_inference();
  return report;
}

}  // namespace le

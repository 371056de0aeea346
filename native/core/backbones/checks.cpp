#include "backbones/checks.h"

#include <c10/util/accumulate.h>

#include <ATen/ops/cat.h>

#include <algorithm>
#include <iterator>

#include "backbones/layout.h"
#include "error.h"
#include "taps/hooks.h"

namespace le {

std::vector<int> tap_slots(const std::vector<std::string>& names, const std::vector<Layer>& layers) {
  std::vector<int> slots(layers.size(), -1);
  for (size_t i = 0; i < names.size(); ++i) {
    size_t index = 0;
    while (index < layers.size() && layers[index].name != names[i]) ++index;
    if (index == layers.size()) {
      std::vector<std::string> candidates;
      for (const Layer& layer : layers)
        if (layer.tappable) candidates.push_back(layer.name);
      std::string nearest;
      for (const auto& name : nearest_names(names[i], candidates)) nearest += (nearest.empty() ? "" : ", ") + name;
      fail(code::kTap, "Expected the name of a layer for tap but received '", names[i], "'. Nearest: ", nearest, ".");
    }
    if (!layers[index].tappable)
      fail(code::kTap, "Expected a layer that can be tapped but received '", names[i], "': ", layers[index].why_not,
           ".");
    const auto first = [&](size_t layer) {
      return layers[layer].alias_of.empty() ? layers[layer].name : layers[layer].alias_of;
    };
    for (size_t j = 0; j < layers.size(); ++j)
      if (slots[j] >= 0 && j != index && first(j) == first(index))
        fail(code::kTap, "Expected distinct taps but received '", layers[j].name, "' and '", names[i],
             "', which are names of one layer.");
    if (slots[index] >= 0) fail(code::kTap, "Expected distinct taps but received '", names[i], "' twice.");
    slots[index] = static_cast<int>(i);
  }
  return slots;
}

void check_norm_input(NormKind kind, at::IntArrayRef sizes, int64_t groups) {
  if (sizes.size() < 2) return;
  const int64_t channels = sizes[1];
  const auto places = c10::multiply_integers(sizes.slice(2));
  const auto refuse = [&](const char* what, const char* advice) {
    fail(code::kShape, "Expected more than one value per ", what, " but received shape ", sizes, ": ", advice, ".");
  };
  if (kind == NormKind::kBatch && sizes[0] * places == 1)
    refuse("channel to train batch norm", "use a larger batch or larger images");
  if (kind == NormKind::kInstance && places == 1) refuse("channel for instance norm", "use larger images");
  if (kind == NormKind::kGroup && sizes[0] * (channels / std::max<int64_t>(groups, 1)) * places == 1)
    refuse("group for group norm", "use a larger batch or larger images");
}

Pass in_batches(const at::Tensor& input, int64_t batch, const std::function<Pass(const at::Tensor&)>& run) {
  std::vector<std::vector<at::Tensor>> parts;  // by value: the output, then the taps
  const int64_t images = input.size(0);
  for (int64_t begin = 0; begin < images; begin += batch) {
    const int64_t count = std::min(batch, images - begin);
    at::Tensor part = input.narrow(0, begin, count);
    if (count < batch) {
      std::vector<at::Tensor> filled{part};
      filled.insert(filled.end(), static_cast<size_t>(batch - count), part.narrow(0, count - 1, 1));
      part = at::cat(filled);
    }
    Pass pass = run(part);
    std::vector<at::Tensor> values{std::move(pass.output)};
    std::move(pass.taps.begin(), pass.taps.end(), std::back_inserter(values));
    parts.resize(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      if (!values[i].defined()) continue;
      if (values[i].dim() == 0 || values[i].size(0) != batch)
        fail(code::kShape, "Expected a result for each of ", batch, " images but received ", values[i].sizes(),
             ": the network works on batches of ", batch, ".");
      parts[i].push_back(count < batch ? values[i].narrow(0, 0, count) : values[i]);
    }
  }
  const auto joined = [](const std::vector<at::Tensor>& all) {
    return all.empty() ? at::Tensor() : all.size() == 1 ? all[0] : at::cat(all);
  };
  Pass result;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i == 0)
      result.output = joined(parts[i]);
    else
      result.taps.push_back(joined(parts[i]));
  }
  return result;
}

at::Tensor as_feature(at::Tensor value) {
  if (!value.defined() || !value.is_floating_point()) return value;
  const at::ScalarType type = value.scalar_type();
  return type == at::kFloat || type == at::kBFloat16 ? value : value.to(at::kFloat);
}

at::MemoryFormat layout(int64_t axes, bool channels_last) {
  if (!channels_last) return at::MemoryFormat::Contiguous;
  return axes == 4   ? at::MemoryFormat::ChannelsLast
         : axes == 5 ? at::MemoryFormat::ChannelsLast3d
                     : at::MemoryFormat::Contiguous;
}

at::Tensor checked_input(const at::Tensor& input, int64_t in_channels, int64_t spatial_axes, c10::Device device,
                         bool channels_last) {
  if (!input.defined() || input.dim() != spatial_axes + 2 || input.size(1) != in_channels || input.numel() == 0)
    fail(code::kShape, "Expected an input of N×", in_channels, spatial_axes == 3 ? "×D" : "", "×H×W but received ",
         input.defined() ? input.sizes() : at::IntArrayRef(), ".");
  if (!input.is_floating_point())
    fail(code::kShape, "Expected floating-point numbers for the input but received ",
         c10::toString(input.scalar_type()), ".");
  const at::Tensor x = input.to(device);
  return channels_last ? with_channels_last(x) : x;
}

}  // namespace le

#include "backbones/output_flow.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "error.h"
#include "platform/default_generator.h"

namespace le {

namespace {

using torch::autograd::Node;

// What an operation gave: the operation as autograd remembers it, and which of its results.
using Value = std::pair<Node*, uint32_t>;

std::vector<int64_t> shape_of(const Value& value) {
  const auto sizes = value.first->input_metadata(value.second).shape_as_dim_vector();
  std::vector<int64_t> shape;
  for (const auto& size : sizes) shape.push_back(size.maybe_as_int().value_or(-1));
  return shape;
}

bool contains_any(std::string_view name, std::initializer_list<std::string_view> parts) {
  return std::any_of(parts.begin(), parts.end(), [&](std::string_view part) { return name.find(part) != name.npos; });
}

bool is_convolution(const Node& node) { return contains_any(node.name(), {"Convolution", "Conv2D", "Conv3D"}); }

// Mixes channels by learned weights.
bool is_linear(const Node& node) {
  return is_convolution(node) || contains_any(node.name(), {"Addmm", "MmBackward", "BmmBackward", "Baddbmm", "Addbmm",
                                                            "MvBackward", "DotBackward", "LinearBackward"});
}

// One operation of many layers' work: what of its inputs its output is made of, nobody can say from outside.
bool is_opaque(const Node& node) {
  return contains_any(node.name(), {"Attention", "Lstm", "LSTM", "Gru", "GRU", "Rnn", "RNN", "Differentiable"});
}

// Neither mixes channels nor bends values.
bool only_moves(const Node& node) {
  return contains_any(node.name(), {"Upsample", "View",      "Reshape",      "Slice",       "Select",    "Split",
                                    "Unbind",   "Narrow",    "Clone",        "Copy",        "Pad",       "AvgPool",
                                    "Permute",  "Transpose", "TBackward",    "Squeeze",     "Unsqueeze", "Expand",
                                    "Alias",    "AsStrided", "PixelShuffle", "GridSampler", "Index"});
}

// A convolution of each channel by itself.
bool is_depthwise(const Node& node) {
  if (node.name() != "ConvolutionBackward0" || node.num_outputs() == 0) return false;
  const auto& convolution = static_cast<const torch::autograd::generated::ConvolutionBackward0&>(node);
  const auto groups = convolution.groups.maybe_as_int();
  const auto shape = shape_of({const_cast<Node*>(&node), 0});
  return groups && shape.size() > 1 && *groups > 1 && *groups == shape[1];
}

// Dropout that draws, so that what it gives is not what it took; libtorch's generator goes on as if it had not.
class Sampling {
 public:
  explicit Sampling(Backbone& backbone, c10::Device device) : backbone_(backbone), seeded_(device, 0) {
    backbone_.train(false);
    backbone_.sample(true);
  }
  ~Sampling() { backbone_.sample(false); }
  Sampling(const Sampling&) = delete;
  Sampling& operator=(const Sampling&) = delete;

 private:
  Backbone& backbone_;
  const SeededDefaultGenerator seeded_;
};

// One pass, as autograd saw it.
class Flow {
 public:
  Flow(Backbone& backbone, const at::Tensor& image, const std::vector<std::string>& layers)
      : layers_(layers), axes_(image.dim()) {
    const c10::InferenceMode normal(false);
    const at::AutoGradMode recording(true);
    const auto taps = backbone.tap(layers);
    const Sampling sampling(backbone, image.device());
    // Not a leaf: a network may work in place on its image.
    source_ = image.detach().clone().set_requires_grad(true).clone();
    pass_ = backbone.forward(source_, taps.get());
    if (!pass_.output.defined() || !pass_.output.grad_fn()) return;
    mark_dependents();
    for (size_t i = 0; i < layers.size(); ++i) {
      const at::Tensor& tap = pass_.taps[i];
      if (!tap.defined() || !tap.grad_fn() || !le::is_map(tap, image)) continue;
      Node* const node = tap.grad_fn().get();
      layer_of_[{node, tap.output_nr()}] = i;
      // A tap that is written over later is a copy.
      if (node->name().starts_with("CloneBackward"))
        layer_of_.try_emplace({node->next_edge(0).function.get(), node->next_edge(0).input_nr}, i);
    }
  }

  bool recorded() const { return pass_.output.defined() && pass_.output.grad_fn(); }
  Value output() const { return {pass_.output.grad_fn().get(), pass_.output.output_nr()}; }

  // What of a value's inputs is made of the image.
  std::vector<Value> inputs(const Value& value) const {
    std::vector<Value> all;
    for (const auto& edge : value.first->next_edges())
      if (edge.is_valid() && dependents_.contains(edge.function.get()))
        all.emplace_back(edge.function.get(), edge.input_nr);
    return all;
  }

  Features features() const {
    if (!recorded()) return {"", "autograd does not see how it is computed from the image"};
    const std::vector<int64_t> shape = shape_of(output());
    Value map = output();
    if (has_places(shape)) {
      std::set<Value> seen, maps;
      std::vector<Value> open{output()};
      while (!open.empty()) {
        const Value value = open.back();
        open.pop_back();
        if (!seen.insert(value).second) continue;
        if (is_source(value)) return {"", "the image itself is a part of it"};
        if (is_opaque(*value.first))
          return {"", "it comes out of one operation that is many layers (" + name(value) + ")"};
        const std::vector<Value> from = inputs(value);
        if (!is_linear(*value.first) || is_depthwise(*value.first)) {
          open.insert(open.end(), from.begin(), from.end());
        } else if (from.size() != 1) {
          return {"", "it is a product of things that are all made of the image"};
        } else if (follows_classifier(value, from[0])) {
          open.push_back(from[0]);
        } else {
          maps.insert(from[0]);
        }
      }
      if (maps.size() > 1)
        return {"", "it is put together of what " + std::to_string(maps.size()) + " classifiers make of as many maps"};
      if (maps.empty()) return {"", "no classifier is found in it"};
      map = *maps.begin();
    }
    // The layer that gives this map, or else the last one before it.
    for (;;) {
      const bool place = has_places(shape_of(map));
      const bool pooled = contains_any(map.first->name(), {"Pool"});
      if (const auto found = layer_of_.find(map); found != layer_of_.end() && !pooled)
        return {layers_[found->second], ""};
      const std::vector<Value> from = inputs(map);
      const bool mixes = is_opaque(*map.first) || (place && is_linear(*map.first) && !is_depthwise(*map.first));
      if (is_source(map) || from.size() != 1 || mixes)
        return {"", "the map that it is computed from is no layer's output (it comes from " + name(map) + ")"};
      map = from[0];
    }
  }

  // Whether nothing but moving about comes after a softmax or sigmoid.
  bool ends_in_probabilities() const {
    if (!recorded()) return false;
    for (Value value = output();;) {
      const std::string name = value.first->name();
      if (name.find("LogSoftmax") != name.npos || name.find("LogSigmoid") != name.npos) return false;
      if (contains_any(name, {"Softmax", "Sigmoid", "Hardsigmoid"})) return true;
      const std::vector<Value> from = inputs(value);
      if (from.size() != 1 || !(only_moves(*value.first) || contains_any(name, {"Clamp"}))) return false;
      value = from[0];
    }
  }

 private:
  // Every operation that the output is made of and that the image reaches.
  void mark_dependents() {
    std::unordered_map<Node*, std::vector<Node*>> users;
    std::unordered_set<Node*> seen;
    std::vector<Node*> open{pass_.output.grad_fn().get()};
    seen.insert(open.back());
    while (!open.empty()) {
      Node* const node = open.back();
      open.pop_back();
      for (const auto& edge : node->next_edges()) {
        if (!edge.is_valid()) continue;
        users[edge.function.get()].push_back(node);
        if (seen.insert(edge.function.get()).second) open.push_back(edge.function.get());
      }
    }
    open = {source_.grad_fn().get()};
    while (!open.empty()) {
      Node* const node = open.back();
      open.pop_back();
      if (!dependents_.insert(node).second) continue;
      for (Node* const user : users[node]) open.push_back(user);
    }
  }

  bool is_source(const Value& value) const { return value.first == source_.grad_fn().get(); }
  bool has_places(const std::vector<int64_t>& shape) const {
    return static_cast<int64_t>(shape.size()) == axes_ &&
           std::any_of(shape.begin() + 2, shape.end(), [](int64_t side) { return side > 1; });
  }
  static std::string name(const Value& value) {
    const std::string name = value.first->name();
    return name.substr(0, name.find("Backward"));
  }

  // Whether a convolution has as many channels before as after it, and a linear layer gave it those: as one that learns
  // to enlarge. The two together are one classifier.
  bool follows_classifier(const Value& convolution, Value from) const {
    const auto before = shape_of(from), after = shape_of(convolution);
    if (!is_convolution(*convolution.first) || before.size() < 2 || before[1] != after[1]) return false;
    while (only_moves(*from.first)) {
      const std::vector<Value> next = inputs(from);
      if (next.size() != 1) return false;
      from = next[0];
    }
    return is_linear(*from.first) && !is_depthwise(*from.first);
  }

  const std::vector<std::string>& layers_;
  const int64_t axes_;  // of the image, with N and C
  at::Tensor source_;
  Pass pass_;
  std::unordered_set<Node*> dependents_;
  std::map<Value, size_t> layer_of_;  // of those that give one value, the one that returned last
};

}  // namespace

bool is_map(const at::Tensor& output, const at::Tensor& image) {
  if (!output.defined() || output.dim() != image.dim() || output.size(0) != image.size(0)) return false;
  const auto has_places = [](const at::Tensor& tensor) {
    return std::any_of(tensor.sizes().begin() + 2, tensor.sizes().end(), [](int64_t side) { return side > 1; });
  };
  return output.is_floating_point() && (has_places(output) || !has_places(image));
}

Features find_features(Backbone& backbone, const at::Tensor& image) {
  std::set<std::string> tappable;
  for (const Layer& layer : backbone.layers())
    if (layer.tappable && layer.alias_of.empty()) tappable.insert(layer.name);
  // In the order in which they (last) returned.
  std::vector<std::string> layers;
  const std::vector<Call> calls = backbone.trace(image);
  for (auto call = calls.rbegin(); call != calls.rend(); ++call)
    if (tappable.erase(call->name)) layers.push_back(call->name);
  std::reverse(layers.begin(), layers.end());
  return Flow(backbone, image, layers).features();
}

bool gives_probabilities(Backbone& backbone, const at::Tensor& image, const at::Tensor& output) {
  const at::NoGradGuard no_grad;
  const auto from_0_to_1 = [](const at::Tensor& values) {
    return values.min().item<double>() >= 0 && values.max().item<double>() <= 1;
  };
  if (output.dim() < 2 || output.numel() == 0) return false;
  const at::Tensor values = output.detach().to(at::kDouble);
  if (!from_0_to_1(values)) return false;
  if ((values.sum(1) - 1).abs().max().item<double>() <= 1e-3) return true;
  if (Flow(backbone, image, {}).ends_in_probabilities()) return true;
  // Squashed in another way: what is there for an image stays between 0 and 1 for the same image with far larger
  // numbers.
  const at::Tensor places = values.flatten(2);
  if (at::equal(places, places.narrow(2, 0, 1).expand_as(places))) return false;  // such as a classifier of zeros
  backbone.train(false);
  return from_0_to_1(backbone.forward(image * 1e3, nullptr).output.detach().to(at::kDouble));
}

}  // namespace le

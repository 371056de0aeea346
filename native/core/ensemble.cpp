#include "ensemble.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/alias.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <set>

#include "backbones/output_flow.h"
#include "convolutions/guard.h"
#include "error.h"
#include "numbers.h"
#include "options.h"
#include "taps/statistics.h"
#include "version.h"

namespace le {

namespace {
std::string head_prefix(size_t index) { return "heads." + std::to_string(index) + "."; }

// The same numbers, through which a gradient goes back times `factor`.
at::Tensor scale_gradient(const at::Tensor& x, double factor) {
  if (factor == 1 || !x.requires_grad()) return x;
  if (factor == 0) return x.detach();
  const at::Tensor same = at::alias(x);
  same.register_hook([factor](const at::Tensor& gradient) { return gradient * factor; });
  return same;
}

void check_ran(const at::Tensor& features, const std::string& tap) {
  if (!features.defined())
    fail(code::kTap, "Expected tap '", tap, "' to run in the forward pass but it did not for this input.");
}

void check_map(const at::Tensor& features, const std::string& tap, const at::Tensor& input) {
  check_ran(features, tap);
  if (features.dim() != input.dim() || features.size(0) != input.size(0) || features.numel() == 0 ||
      !features.is_floating_point())
    fail(code::kTap, "Expected a feature map of the image, of ", input.dim(), " axes, for tap '", tap,
         "' but received shape ", features.sizes(), ": only maps have statistics.");
}
}  // namespace

EnsembleOptions EnsembleOptions::from(const Json& options) {
  EnsembleOptions result;
  result.taps = options.strings_or("taps", {});
  result.classes = in_range(options, "classes", result.classes, {2, 255});
  if (options.has("final") && !options.at("final").is_string())
    result.final = options.at("final").boolean("final") ? Final::kYes : Final::kNo;
  result.heads_per_tap = in_range(options, "headsPerTap", result.heads_per_tap, {1, 1000});
  result.order_given = options.string_or("order", "execution") == "given";
  result.dropout = in_range(options, "dropout", result.dropout, {0, 1, kBelow});
  result.freeze_backbone = options.boolean_or("freezeBackbone", false);
  result.input_size = options.integers_or("inputSize", result.input_size);
  result.seed = static_cast<uint64_t>(options.integer_or("seed", 0));
  for (const int64_t side : result.input_size)
    if (side < 1 || side > 1 << 16)
      fail(code::kOption, "Expected positive sides for option 'inputSize' but received ", side, ".");
  return result;
}

Ensemble::Ensemble(std::shared_ptr<Backbone> backbone, const EnsembleOptions& options)
    : backbone_(std::move(backbone)), options_(options) {
  guard_convolutions();
  const int64_t axes = backbone_->spatial_axes();
  if (options_.input_size.empty()) options_.input_size.assign(axes, axes == 3 ? 32 : 128);
  if (static_cast<int64_t>(options_.input_size.size()) != axes)
    fail(code::kOption, "Expected ", axes, " sides for option 'inputSize' (the network works on ",
         axes == 3 ? "volumes" : "images", ") but received ", options_.input_size.size(), ".");
  std::set<std::string> distinct;
  for (const auto& tap : options_.taps)
    if (!distinct.insert(tap).second) fail(code::kTap, "Expected distinct taps but received '", tap, "' twice.");
  taps_ = backbone_->tap(options_.taps);  // before the probe: an unknown name has the better message there

  std::vector<int64_t> shape = {1, backbone_->in_channels()};
  shape.insert(shape.end(), options_.input_size.begin(), options_.input_size.end());
  const std::vector<Call> calls = backbone_->trace(at::zeros(shape));

  // A module that runs several times is placed where it ran last, because that output is the one tapped.
  std::map<std::string, size_t> last;
  for (size_t i = 0; i < calls.size(); ++i) last[calls[i].name] = i;
  for (const auto& tap : options_.taps) {
    const auto found = last.find(tap);
    if (found == last.end())
      fail(code::kTap, "Expected tap '", tap, "' to run in the forward pass but it did not: choose a layer that runs.");
    const auto& tapped = calls[found->second].shape;
    if (static_cast<int64_t>(tapped.size()) != axes + 2)
      fail(code::kTap, "Expected an output of ", axes + 2, " axes for tap '", tap, "' but received ", tapped.size(),
           ": a segmentation head needs a feature map.");
    if (tapped[0] != 1)
      fail(code::kTap, "Expected an output for each image for tap '", tap, "' but received ", tapped[0],
           " for one: a segmentation head needs a feature map of the image.");
    heads_.push_back({tap, tap, tapped[1], {tapped.begin() + 2, tapped.end()}});
  }
  if (!options_.order_given) {
    std::stable_sort(heads_.begin(), heads_.end(),
                     [&](const HeadInfo& a, const HeadInfo& b) { return last[a.name] < last[b.name]; });
    std::vector<std::string> names;
    for (const auto& head : heads_) names.push_back(head.name);
    taps_ = backbone_->tap(names);
  }

  if (options_.heads_per_tap > 1) {
    std::vector<HeadInfo> all;
    for (const HeadInfo& head : heads_)
      for (int64_t i = 1; i <= options_.heads_per_tap; ++i) {
        all.push_back(head);
        all.back().name.append("#").append(std::to_string(i));
      }
    heads_ = std::move(all);
  }

  for (const auto& [name, tensor] : backbone_->parameters())
    for (size_t k = 0; k < heads_.size(); ++k)
      if (name.starts_with(head_prefix(k)))
        fail(code::kOption, "Expected a network without a module '", head_prefix(k),
             "' for a layer ensemble, whose own ", "weights have that name, but received '", name,
             "': rename the network's module.");
  at::Generator generator = at::detail::createCPUGenerator(options_.seed);
  for (const auto& head : heads_)
    segmentation_.emplace_back(head.channels, options_.classes, axes, options_.dropout, generator);

  const at::Tensor image = at::randn(shape, generator);
  at::Tensor output;
  {
    at::NoGradGuard no_grad;
    backbone_->train(false);
    output = backbone_->forward(image, nullptr).output;
  }
  const bool fits = is_map(output, image) && output.size(1) == options_.classes;
  if (options_.final == EnsembleOptions::Final::kYes && !fits)
    fail(code::kOption, "Expected a backbone whose output is a map of ", options_.classes,
         " channels for option 'final' but received one of shape ",
         output.defined() ? output.sizes() : at::IntArrayRef(), ".");
  has_final_ = fits && options_.final != EnsembleOptions::Final::kNo;
  if (has_final_ && gives_probabilities(*backbone_, image, output))
    fail(code::kOption,
         "Expected logits from the network for its head 'final' but received probabilities (numbers from 0 to 1 behind "
         "a ",
         "softmax or sigmoid), of which a softmax would be taken once more: export the network without it, or leave "
         "its ",
         "output out by option 'final': false (of Plain and Monte Carlo dropout: 'tap').");
  // Numbers of heads are told apart by name, and a tapped layer may have this one.
  std::string name = kFinalHead;
  while (std::any_of(heads_.begin(), heads_.end(), [&](const HeadInfo& head) { return head.name == name; }))
    name += "#output";
  if (has_final_) heads_.push_back({name, "", output.size(1), output.sizes().slice(2).vec()});
  if (heads_.empty())
    fail(code::kOption, "Expected at least one tap, or a backbone whose output has ", options_.classes,
         " channels, but received neither.");
}

// A set of taps is kept, as a network may have prepared its passes for it.
const TapSet& Ensemble::watch(const std::vector<std::string>& taps) {
  std::vector<std::string> names = taps_->names;
  for (const std::string& tap : taps)
    if (!image_statistics(tap) && std::find(names.begin(), names.end(), tap) == names.end()) names.push_back(tap);
  if (names == taps_->names) return *taps_;
  if (!watched_ || watched_->names != names) watched_ = backbone_->tap(names);
  return *watched_;
}

std::vector<at::Tensor> Ensemble::logits(const at::Tensor& input, at::Generator* dropout, double head_gradient,
                                         TapStatistics* statistics) {
  const TapSet& taps = statistics ? watch(statistics->taps) : *taps_;
  Pass pass;
  if (options_.freeze_backbone) {
    at::NoGradGuard no_grad;
    pass = backbone_->forward(input, &taps);
  } else {
    pass = backbone_->forward(input, &taps);
  }
  if (statistics) {
    statistics->values.clear();
    for (const std::string& tap : statistics->taps) {
      if (const ImageStatistics measure = image_statistics(tap)) {
        statistics->values.push_back(measure(input));
        continue;
      }
      const auto place = std::find(taps.names.begin(), taps.names.end(), tap) - taps.names.begin();
      const at::Tensor& features = pass.taps[place];
      check_map(features, tap, input);
      statistics->values.push_back(tap_statistics(features));
    }
  }
  std::vector<at::Tensor> all;
  all.reserve(heads_.size());
  for (size_t k = 0; k < segmentation_.size(); ++k) {
    at::Tensor& features = pass.taps[k / options_.heads_per_tap];
    check_ran(features, heads_[k].tap);
    const double factor = k + 1 < heads_.size() ? head_gradient : 1;
    all.push_back(segmentation_[k].forward(scale_gradient(features, factor), dropout));
    if ((k + 1) % options_.heads_per_tap == 0) features = at::Tensor();
  }
  if (has_final_) all.push_back(std::move(pass.output));
  return all;
}

NamedTensors Ensemble::heads_parameters() const {
  NamedTensors all;
  for (size_t k = 0; k < segmentation_.size(); ++k) {
    all.emplace_back(head_prefix(k) + "weight", segmentation_[k].weight);
    all.emplace_back(head_prefix(k) + "bias", segmentation_[k].bias);
  }
  return all;
}

NamedTensors Ensemble::parameters() const {
  NamedTensors all = backbone_->parameters();
  for (auto& head : heads_parameters()) all.push_back(std::move(head));
  return all;
}

NamedTensors Ensemble::trainable() const { return options_.freeze_backbone ? heads_parameters() : parameters(); }

NamedTensors Ensemble::state() const {
  NamedTensors all = state_of(*backbone_);
  for (auto& head : heads_parameters()) all.push_back(std::move(head));
  return all;
}

void Ensemble::load_state(const std::map<std::string, at::Tensor>& tensors) {
  const NamedTensors mine = state();
  std::string wrong;
  size_t known = 0;
  for (const auto& [name, tensor] : mine) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) {
      const bool shared = std::any_of(mine.begin(), mine.end(), [&](const auto& other) {
        return other.second.is_same(tensor) && tensors.contains(other.first);
      });
      if (!shared) wrong += " missing " + name + ";";
    } else if (found->second.sizes() != tensor.sizes()) {
      std::ostringstream shapes;
      shapes << " " << name << " is " << found->second.sizes() << ", not " << tensor.sizes() << ";";
      wrong += shapes.str();
    } else {
      ++known;
    }
    if (wrong.size() > 2000) break;
  }
  if (known != tensors.size())
    for (const auto& [name, tensor] : tensors)
      if (std::none_of(mine.begin(), mine.end(), [&](const auto& entry) { return entry.first == name; })) {
        wrong += " unexpected " + name + ";";
        if (wrong.size() > 2000) break;
      }
  if (!wrong.empty()) fail(code::kCheckpoint, "Expected the weights of this architecture but received others:", wrong);
  at::NoGradGuard no_grad;
  const auto in_file = [&](NamedTensors live) {
    for (auto& [name, tensor] : live) tensor = tensors.at(name).to(tensor.scalar_type());
    return live;
  };
  check_numbers(in_file(parameters()), in_file(backbone_->buffers()), code::kCheckpoint, "a trained network",
                kDamagedWeights);
  backbone_->end_inference();
  for (const auto& [name, tensor] : mine)
    if (const auto found = tensors.find(name); found != tensors.end()) tensor.copy_(found->second);
}

std::map<std::string, std::string> Ensemble::metadata() const {
  Json::Array names;
  for (const auto& head : heads_) names.emplace_back(head.name);
  return {{"format", "pt"}, {"layer-ensembles", kVersion}, {"heads", Json(std::move(names)).dump()}};
}

void Ensemble::train(bool on) { backbone_->train(on && !options_.freeze_backbone); }

int64_t Ensemble::parameter_count() const {
  int64_t count = 0;
  for (const auto& [name, tensor] : backbone_->parameters()) count += tensor.numel();
  for (const SegmentationHead& head : segmentation_) count += head.weight.numel() + head.bias.numel();
  return count;
}

bool Ensemble::has_dropout() {
  const bool any = backbone_->sample(true);
  backbone_->sample(false);
  return any || (options_.dropout > 0 && !segmentation_.empty());
}

void Ensemble::to(c10::Device device, bool channels_last) {
  backbone_->to(device, channels_last);
  device_ = device;
  channels_last_ = channels_last;
  at::NoGradGuard no_grad;
  for (auto& head : segmentation_) {
    // set_data keeps the tensor's identity: an optimiser may already hold it.
    head.weight.set_data(head.weight.to(device));
    head.bias.set_data(head.bias.to(device));
    head.weight.set_data(head.weight.contiguous(memory_format()));
  }
}

at::MemoryFormat Ensemble::memory_format() const {
  if (!channels_last_) return at::MemoryFormat::Contiguous;
  return options_.input_size.size() == 3 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast;
}

Evaluation::Evaluation(Ensemble& ensemble, at::ScalarType dtype, bool sampling) : ensemble_(ensemble) {
  ensemble_.train(false);
  if (sampling) ensemble_.backbone_->sample(true);
  ensemble_.backbone_->begin_inference(dtype);
  at::NoGradGuard no_grad;
  for (auto& head : ensemble_.segmentation_) {
    head.inference_weight = head.weight.to(dtype);
    head.inference_bias = head.bias.to(dtype);
  }
}

Evaluation::~Evaluation() {
  ensemble_.backbone_->sample(false);
  for (auto& head : ensemble_.segmentation_) head.inference_weight = head.inference_bias = at::Tensor();
}

Autocast::Autocast(c10::Device device, at::ScalarType dtype) : type_(device.type()) {
  if (dtype == at::kFloat) return;
  active_ = true;
  before_ = at::autocast::is_autocast_enabled(type_);
  dtype_before_ = at::autocast::get_autocast_dtype(type_);
  at::autocast::set_autocast_dtype(type_, dtype);
  at::autocast::set_autocast_enabled(type_, true);
  at::autocast::increment_nesting();
}

Autocast::~Autocast() {
  if (!active_) return;
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(type_, before_);
  at::autocast::set_autocast_dtype(type_, dtype_before_);
}

}  // namespace le

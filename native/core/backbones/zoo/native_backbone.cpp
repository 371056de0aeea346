#include "backbones/zoo/native_backbone.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <utility>

#include "backbones/checks.h"
#include "backbones/zoo/layers.h"
#include "error.h"

namespace le {

namespace {

// Names resolved to module indices.
class NativeTapSet final : public TapSet {
 public:
  NativeTapSet(std::vector<std::string> names, std::vector<int> slots)
      : TapSet(std::move(names)), slots(std::move(slots)) {}
  const std::vector<int> slots;  // by module index: the place in `names`, or -1
};

}  // namespace

NativeBackbone::NativeBackbone(std::unique_ptr<UnaryModule> root, Json config, int64_t in_channels,
                               int64_t spatial_axes)
    : root_(std::move(root)),
      config_(std::move(config)),
      in_channels_(in_channels),
      spatial_axes_(spatial_axes),
      modules_(root_->enumerate()),
      fates_(modules_.size(), Fate::kUnknown) {}

std::vector<Layer> NativeBackbone::layers() const {
  std::vector<Layer> all;
  for (size_t i = 1; i < modules_.size(); ++i) {
    const auto& [name, module] = modules_[i];
    Layer layer;
    layer.name = name;
    layer.type = module->type();
    if (const char* why = module->why_not_tappable()) layer.tappable = false, layer.why_not = why;
    // Parents come first: what is below is what follows with this name and a dot.
    for (size_t j = i; j < modules_.size() && (j == i || modules_[j].name.starts_with(name + ".")); ++j)
      for (const auto& [key, tensor] : modules_[j].module->own_parameters()) layer.parameters += tensor.numel();
    all.push_back(std::move(layer));
  }
  return all;
}

at::Tensor NativeBackbone::run(const at::Tensor& input) {
  const at::Tensor x = checked_input(input, in_channels_, spatial_axes(), device(), channels_last_);
  if (!derived_ || root_->training() || at::GradMode::is_enabled()) return (*root_)(x);
  // Derived weights have their type already. Autocast would look at each operation again, and do some of them in float.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  return (*root_)(x.to(derived_->dtype));
}

std::vector<Call> NativeBackbone::trace(const at::Tensor& input) {
  // Normal tensors are needed for their version counters, even where the caller is in inference mode.
  const c10::InferenceMode normal(false);
  const at::NoGradGuard no_grad;
  const bool training = root_->training();
  root_->train(false);
  Trace trace;
  try {
    run(input.is_inference() ? input.clone() : input);
  } catch (...) {
    root_->train(training);
    throw;
  }
  root_->train(training);

  std::vector<Call> calls;
  std::vector<Fate> fates(modules_.size(), Fate::kUnknown);
  for (const auto& [module, output, version] : trace.calls()) {
    if (output.defined()) {
      const bool kept = static_cast<uint32_t>(output._version()) == version;
      // A module that ran more than once shares only what every call allows.
      Fate& fate = fates[module->index()];
      if (!kept)
        fate = Fate::kOverwritten;
      else if (fate == Fate::kUnknown)
        fate = Fate::kKept;
    }
    if (module != root_.get())
      calls.push_back(
          {modules_[module->index()].name, output.defined() ? output.sizes().vec() : std::vector<int64_t>()});
  }
  fates_ = std::move(fates);
  return calls;
}

std::shared_ptr<TapSet> NativeBackbone::tap(std::vector<std::string> names) {
  std::vector<int> slots = tap_slots(names, layers());
  slots.insert(slots.begin(), -1);  // the root
  return std::make_shared<NativeTapSet>(std::move(names), std::move(slots));
}

Pass NativeBackbone::forward(const at::Tensor& input, const TapSet* taps) {
  const auto* set = dynamic_cast<const NativeTapSet*>(taps);
  if (taps && (!set || set->slots.size() != modules_.size()))
    fail(code::kInternal, "Expected taps made by this backbone but received another's.");
  if (!set) return {run(input), {}};
  Capture capture(set->slots, set->names.size(), fates_);
  Pass pass;
  pass.output = run(input);
  pass.taps = capture.take();
  return pass;
}

NamedTensors NativeBackbone::parameters() const {
  NamedTensors all;
  for (const auto& [name, module] : modules_)
    for (const auto& [key, tensor] : module->own_parameters())
      all.emplace_back(name.empty() ? key : name + "." + key, tensor);
  return all;
}

NamedTensors NativeBackbone::buffers() const {
  NamedTensors all;
  for (const auto& [name, module] : modules_)
    for (const auto& [key, tensor] : module->own_buffers())
      all.emplace_back(name.empty() ? key : name + "." + key, tensor);
  return all;
}

c10::Device NativeBackbone::device() const {
  for (const auto& [name, module] : modules_)
    if (!module->own_parameters().empty()) return module->own_parameters().front().second.device();
  return c10::kCPU;
}

bool NativeBackbone::draws_in_training() const {
  return std::any_of(modules_.begin(), modules_.end(), [](const Module::Named& named) {
    const auto* dropout = dynamic_cast<const Dropout*>(named.module);
    return dropout && dropout->p() > 0;
  });
}

bool NativeBackbone::sample(bool on) {
  for (const auto& [name, module] : modules_)
    if (auto* dropout = dynamic_cast<Dropout*>(module)) dropout->train(on);
  return draws_in_training();
}

void NativeBackbone::train(bool on) {
  if (on) end_inference();
  root_->train(on);
}

void NativeBackbone::to(c10::Device device, bool channels_last) {
  end_inference();
  const at::NoGradGuard no_grad;
  channels_last_ = channels_last;
  const auto format = layout(spatial_axes_ + 2, channels_last);
  // set_data keeps each tensor's identity: an optimiser may already hold it.
  for (auto& [name, tensor] : parameters()) {
    at::Tensor moved = tensor.detach().to(device);
    tensor.set_data(tensor.dim() == spatial_axes_ + 2 ? moved.contiguous(format) : moved);
  }
  for (auto& [name, tensor] : buffers()) tensor.set_data(tensor.detach().to(device));
}

std::vector<std::pair<const void*, int64_t>> NativeBackbone::versions() const {
  std::vector<std::pair<const void*, int64_t>> all;
  for (const auto& [name, module] : modules_) {
    for (const auto& [key, tensor] : module->own_parameters()) all.emplace_back(tensor.data_ptr(), tensor._version());
    for (const auto& [key, tensor] : module->own_buffers()) all.emplace_back(tensor.data_ptr(), tensor._version());
  }
  return all;
}

void NativeBackbone::begin_inference(at::ScalarType dtype) {
  auto now = versions();
  if (derived_ && derived_->dtype == dtype && derived_->versions == now) return;
  for (const auto& [name, module] : modules_) module->begin_inference(dtype);
  derived_ = std::make_unique<Derived>(Derived{dtype, std::move(now)});
}

void NativeBackbone::end_inference() {
  if (!derived_) return;
  for (const auto& [name, module] : modules_) module->end_inference();
  derived_.reset();
}

}  // namespace le

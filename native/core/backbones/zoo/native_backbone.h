#pragma once
// The zoo's networks as backbones: a tree of hookable modules behind the common interface.
#include <memory>
#include <string>
#include <vector>

#include "backbones/backbone.h"
#include "taps/hooks.h"

namespace le {

class NativeBackbone final : public Backbone {
 public:
  // `config` must make an equal network through make_backbone().
  NativeBackbone(std::unique_ptr<UnaryModule> root, Json config, int64_t in_channels, int64_t spatial_axes = 2);

  Json config() const override { return config_; }
  int64_t in_channels() const override { return in_channels_; }
  int64_t spatial_axes() const override { return spatial_axes_; }
  std::vector<Layer> layers() const override;
  std::vector<Call> trace(const at::Tensor& input) override;
  std::shared_ptr<TapSet> tap(std::vector<std::string> names) override;
  Pass forward(const at::Tensor& input, const TapSet* taps) override;
  NamedTensors parameters() const override;
  NamedTensors buffers() const override;
  void train(bool on) override;
  bool draws_in_training() const override;
  bool sample(bool on) override;
  void to(c10::Device device, bool channels_last) override;
  void begin_inference(at::ScalarType dtype) override;
  void end_inference() override;

 private:
  // Checks and lays out the input, and runs the network with whichever weights apply.
  at::Tensor run(const at::Tensor& input);
  c10::Device device() const;

  const std::unique_ptr<UnaryModule> root_;
  const Json config_;
  const int64_t in_channels_, spatial_axes_;
  const std::vector<Module::Named> modules_;  // the root first
  std::vector<Fate> fates_;                   // by module index
  bool channels_last_ = false;

  // The weights that the derived ones were made from: counts of in-place changes tell whether they are still those.
  struct Derived {
    at::ScalarType dtype;
    std::vector<std::pair<const void*, int64_t>> versions;
  };
  std::unique_ptr<Derived> derived_;
  std::vector<std::pair<const void*, int64_t>> versions() const;
};

}  // namespace le

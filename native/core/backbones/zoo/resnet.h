#pragma once
// Residual networks (He et al. 2016), with torchvision's names.
#include <ATen/core/Generator.h>

#include <array>
#include <vector>

#include "backbones/zoo/layers.h"

namespace le {

// Blocks per stage, and whether they are bottlenecks.
struct ResNetSpec {
  std::array<int64_t, 4> blocks;
  bool bottleneck;
  // Channels of the feature maps at strides 2, 4, 8, 16 and 32.
  std::array<int64_t, 5> channels() const;
};
// name: "resnet18", "resnet34", "resnet50" or "resnet101"; ERR_LE_OPTION otherwise.
ResNetSpec resnet_spec(const std::string& name);

// Two 3×3 convolutions beside a shortcut. One ReLU module runs twice.
class BasicBlock final : public UnaryModule {
 public:
  BasicBlock(int64_t in, int64_t width, int64_t stride, int64_t dilation);
  const char* type() const override { return "BasicBlock"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override;

 private:
  Conv& conv1_;
  BatchNorm2d& bn1_;
  ReLU& relu_;
  Conv& conv2_;
  BatchNorm2d& bn2_;
  Sequential* const downsample_;
};

// 1×1, 3×3 (strided) and 1×1 convolutions to four times the width, beside a shortcut. One ReLU module runs three times.
class Bottleneck final : public UnaryModule {
 public:
  static constexpr int64_t kExpansion = 4;
  Bottleneck(int64_t in, int64_t width, int64_t stride, int64_t dilation);
  const char* type() const override { return "Bottleneck"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override;

 private:
  Conv2d& conv1_;
  BatchNorm2d& bn1_;
  Conv& conv2_;
  BatchNorm2d& bn2_;
  Conv2d& conv3_;
  BatchNorm2d& bn3_;
  ReLU& relu_;
  Sequential* const downsample_;
};

// conv1 to layer4, registered in the module that owns it. Convolutions start kaiming normal (fan out).
class ResNetTrunk {
 public:
  // output_stride: 32; or 16 or 8, where the last stage or two keep their size and dilate their convolutions instead
  // (Chen et al. 2017).
  ResNetTrunk(Module& owner, const ResNetSpec& spec, int64_t in_channels, int64_t output_stride,
              at::Generator& generator);
  // The feature maps at strides 2, 4, 8, 16 and 32, or output_stride. Sizes are rounded up at each stride.
  std::array<at::Tensor, 5> operator()(const at::Tensor& x) const;

 private:
  Conv2d& conv1_;
  BatchNorm2d& bn1_;
  ReLU& relu_;
  MaxPool& maxpool_;
  std::array<Sequential*, 4> layers_;
};

// N×in×H×W → N×classes; with classes = 0 there is no `fc`, and the output is the pooled features.
class ResNet final : public UnaryModule {
 public:
  ResNet(const ResNetSpec& spec, int64_t in_channels, int64_t classes, at::Generator& generator);
  const char* type() const override { return "ResNet"; }

 protected:
  at::Tensor forward(const at::Tensor& x) override;

 private:
  const ResNetTrunk trunk_;
  AdaptiveAvgPool2d& avgpool_;
  Linear* const fc_;
};

}  // namespace le

#include "backbones/resnet.h"

#include <ATen/ops/flatten.h>

#include "error.h"

namespace le {

namespace {

Sequential* make_downsample(Module& block, int64_t in, int64_t out, int64_t stride) {
  if (in == out && stride == 1) return nullptr;
  auto& downsample = block.child<Sequential>("downsample");
  downsample.add<Conv2d>(in, out, 1, stride);
  downsample.add<BatchNorm2d>(out);
  return &downsample;
}

}  // namespace

std::array<int64_t, 5> ResNetSpec::channels() const {
  const int64_t k = bottleneck ? Bottleneck::kExpansion : 1;
  return {64, 64 * k, 128 * k, 256 * k, 512 * k};
}

ResNetSpec resnet_spec(const std::string& name) {
  if (name == "resnet18") return {{2, 2, 2, 2}, false};
  if (name == "resnet34") return {{3, 4, 6, 3}, false};
  if (name == "resnet50") return {{3, 4, 6, 3}, true};
  fail(code::kOption, "Expected resnet18, resnet34 or resnet50 for option 'encoder' but received '", name, "'.");
}

BasicBlock::BasicBlock(int64_t in, int64_t width, int64_t stride)
    : conv1_(child<Conv2d>("conv1", in, width, 3, stride, 1)),
      bn1_(child<BatchNorm2d>("bn1", width)),
      relu_(child<ReLU>("relu")),
      conv2_(child<Conv2d>("conv2", width, width, 3, 1, 1)),
      bn2_(child<BatchNorm2d>("bn2", width)),
      downsample_(make_downsample(*this, in, width, stride)) {
  conv1_.folds_into(bn1_);
  conv2_.folds_into(bn2_);
}

at::Tensor BasicBlock::forward(const at::Tensor& x) {
  const at::Tensor y = conv_norm_relu(conv1_, bn1_, relu_, x);
  return conv_norm_relu(conv2_, bn2_, relu_, y, downsample_ ? (*downsample_)(x) : x);
}

Bottleneck::Bottleneck(int64_t in, int64_t width, int64_t stride)
    : conv1_(child<Conv2d>("conv1", in, width, 1)),
      bn1_(child<BatchNorm2d>("bn1", width)),
      conv2_(child<Conv2d>("conv2", width, width, 3, stride, 1)),
      bn2_(child<BatchNorm2d>("bn2", width)),
      conv3_(child<Conv2d>("conv3", width, width * kExpansion, 1)),
      bn3_(child<BatchNorm2d>("bn3", width * kExpansion)),
      relu_(child<ReLU>("relu")),
      downsample_(make_downsample(*this, in, width * kExpansion, stride)) {
  conv1_.folds_into(bn1_);
  conv2_.folds_into(bn2_);
  conv3_.folds_into(bn3_);
}

at::Tensor Bottleneck::forward(const at::Tensor& x) {
  at::Tensor y = conv_norm_relu(conv1_, bn1_, relu_, x);
  y = conv_norm_relu(conv2_, bn2_, relu_, y);
  return conv_norm_relu(conv3_, bn3_, relu_, y, downsample_ ? (*downsample_)(x) : x);
}

ResNetTrunk::ResNetTrunk(Module& owner, const ResNetSpec& spec, int64_t in_channels, at::Generator& generator)
    : conv1_(owner.child<Conv2d>("conv1", in_channels, 64, 7, 2, 3)),
      bn1_(owner.child<BatchNorm2d>("bn1", 64)),
      relu_(owner.child<ReLU>("relu")),
      maxpool_(owner.child<MaxPool2d>("maxpool", 3, 2, 1)) {
  conv1_.folds_into(bn1_);
  int64_t in = 64;
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i] = &owner.child<Sequential>("layer" + std::to_string(i + 1));
    const int64_t width = int64_t{64} << i, out = spec.channels()[i + 1];
    for (int64_t block = 0; block < spec.blocks[i]; ++block, in = out) {
      const int64_t stride = block == 0 && i > 0 ? 2 : 1;
      if (spec.bottleneck)
        layers_[i]->add<Bottleneck>(in, width, stride);
      else
        layers_[i]->add<BasicBlock>(in, width, stride);
    }
  }
  for (const auto& [name, module] : owner.enumerate())
    if (auto* conv = dynamic_cast<Conv2d*>(module)) init_kaiming_normal_fan_out(conv->weight, generator);
}

std::array<at::Tensor, 5> ResNetTrunk::operator()(const at::Tensor& x) const {
  std::array<at::Tensor, 5> features;
  features[0] = conv_norm_relu(conv1_, bn1_, relu_, x);
  at::Tensor y = maxpool_(features[0]);
  for (size_t i = 0; i < layers_.size(); ++i) features[i + 1] = y = (*layers_[i])(y);
  return features;
}

ResNet::ResNet(const ResNetSpec& spec, int64_t in_channels, int64_t classes, at::Generator& generator)
    : trunk_(*this, spec, in_channels, generator),
      avgpool_(child<AdaptiveAvgPool2d>("avgpool")),
      fc_(classes > 0 ? &child<Linear>("fc", spec.channels().back(), classes) : nullptr) {
  if (fc_) init_linear(*fc_, generator);
}

at::Tensor ResNet::forward(const at::Tensor& x) {
  const at::Tensor y = at::flatten(avgpool_(trunk_(x).back()), 1);
  return fc_ ? (*fc_)(y) : y;
}

}  // namespace le

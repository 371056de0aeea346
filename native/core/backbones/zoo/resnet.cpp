#include "backbones/zoo/resnet.h"

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
  if (name == "resnet101") return {{3, 4, 23, 3}, true};
  fail(code::kOption, "Expected resnet18, resnet34, resnet50 or resnet101 for option 'encoder' but received '", name,
       "'.");
}

BasicBlock::BasicBlock(int64_t in, int64_t width, int64_t stride, int64_t dilation)
    : conv1_(child<Conv>("conv1", 2, in, width, 3, ConvOptions{stride, dilation, dilation})),
      bn1_(child<BatchNorm2d>("bn1", width)),
      relu_(child<ReLU>("relu")),
      conv2_(child<Conv>("conv2", 2, width, width, 3, ConvOptions{1, dilation, dilation})),
      bn2_(child<BatchNorm2d>("bn2", width)),
      downsample_(make_downsample(*this, in, width, stride)) {
  conv1_.folds_into(bn1_);
  conv2_.folds_into(bn2_);
}

at::Tensor BasicBlock::forward(const at::Tensor& x) {
  const at::Tensor y = conv_norm_relu(conv1_, bn1_, relu_, x);
  return conv_norm_relu(conv2_, bn2_, relu_, y, downsample_ ? (*downsample_)(x) : x);
}

Bottleneck::Bottleneck(int64_t in, int64_t width, int64_t stride, int64_t dilation)
    : conv1_(child<Conv2d>("conv1", in, width, 1)),
      bn1_(child<BatchNorm2d>("bn1", width)),
      conv2_(child<Conv>("conv2", 2, width, width, 3, ConvOptions{stride, dilation, dilation})),
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

ResNetTrunk::ResNetTrunk(Module& owner, const ResNetSpec& spec, int64_t in_channels, int64_t output_stride,
                         at::Generator& generator)
    : conv1_(owner.child<Conv2d>("conv1", in_channels, 64, 7, 2, 3)),
      bn1_(owner.child<BatchNorm2d>("bn1", 64)),
      relu_(owner.child<ReLU>("relu")),
      maxpool_(owner.child<MaxPool>("maxpool", 2, 3, 2, 1)) {
  conv1_.folds_into(bn1_);
  int64_t in = 64, reached = 4, dilation = 1;
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i] = &owner.child<Sequential>("layer" + std::to_string(i + 1));
    const int64_t width = int64_t{64} << i, out = spec.channels()[i + 1];
    const bool narrows = i > 0 && reached < output_stride;
    if (narrows) reached *= 2;
    if (i > 0 && !narrows) dilation *= 2;
    for (int64_t block = 0; block < spec.blocks[i]; ++block, in = out) {
      const int64_t stride = block == 0 && narrows ? 2 : 1;
      if (spec.bottleneck)
        layers_[i]->add<Bottleneck>(in, width, stride, dilation);
      else
        layers_[i]->add<BasicBlock>(in, width, stride, dilation);
    }
  }
  for (const auto& [name, module] : owner.enumerate())
    if (auto* conv = dynamic_cast<Conv*>(module)) init_kaiming_normal_fan_out(conv->weight, generator);
}

std::array<at::Tensor, 5> ResNetTrunk::operator()(const at::Tensor& x) const {
  std::array<at::Tensor, 5> features;
  features[0] = conv_norm_relu(conv1_, bn1_, relu_, x);
  at::Tensor y = maxpool_(features[0]);
  for (size_t i = 0; i < layers_.size(); ++i) features[i + 1] = y = (*layers_[i])(y);
  return features;
}

ResNet::ResNet(const ResNetSpec& spec, int64_t in_channels, int64_t classes, at::Generator& generator)
    : trunk_(*this, spec, in_channels, 32, generator),
      avgpool_(child<AdaptiveAvgPool2d>("avgpool")),
      fc_(classes > 0 ? &child<Linear>("fc", spec.channels().back(), classes) : nullptr) {
  if (fc_) init_linear(*fc_, generator);
}

at::Tensor ResNet::forward(const at::Tensor& x) {
  const at::Tensor y = at::flatten(avgpool_(trunk_(x).back()), 1);
  return fc_ ? (*fc_)(y) : y;
}

}  // namespace le

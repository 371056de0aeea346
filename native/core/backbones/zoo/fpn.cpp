#include "backbones/zoo/fpn.h"

#include <ATen/TensorOperators.h>

namespace le {

namespace {

// One level of the pyramid: the one below it enlarged, plus the encoder's map.
class FPNBlock final : public Module {
 public:
  FPNBlock(int64_t pyramid, int64_t skip)
      : skip_conv_(child<Conv>("skip_conv", 2, skip, pyramid, 1, ConvOptions{.bias = true})) {}
  const char* type() const override { return "FPNBlock"; }
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& skip) {
    return report(resized(x, skip.sizes().slice(2), Upsampling::kNearest) + skip_conv_(skip));
  }

 private:
  Conv& skip_conv_;
};

class Conv3x3GNReLU final : public Module {
 public:
  Conv3x3GNReLU(int64_t in, int64_t out) : block_(child<Sequential>("block")) {
    block_.add<Conv2d>(in, out, 3, 1, 1);
    block_.add<GroupNorm>(Fpn::kNormGroups, out);
    block_.add<ReLU>();
  }
  const char* type() const override { return "Conv3x3GNReLU"; }
  at::Tensor operator()(const at::Tensor& x, at::IntArrayRef size) {
    return report(resized(block_(x), size, Upsampling::kLinearAlignedCorners));
  }

 private:
  Sequential& block_;
};

// A list of the package's that is called as one; its members need sizes.
class SizedSequence final : public Module {
 public:
  const char* type() const override { return "Sequential"; }
  void add(int64_t in, int64_t out) { steps_.push_back(&child<Conv3x3GNReLU>(std::to_string(steps_.size()), in, out)); }
  // sizes: of each step's output.
  at::Tensor operator()(const at::Tensor& x, const std::vector<at::IntArrayRef>& sizes) {
    at::Tensor y = x;
    for (size_t i = 0; i < steps_.size(); ++i) y = (*steps_[i])(y, sizes[i]);
    return report(y);
  }

 private:
  std::vector<Conv3x3GNReLU*> steps_;
};

// From one level of the pyramid to the size of the largest.
class SegmentationBlock final : public Module {
 public:
  SegmentationBlock(int64_t in, int64_t out, int64_t steps) : block_(child<SizedSequence>("block")) {
    for (int64_t i = 0; i < steps; ++i) block_.add(i == 0 ? in : out, out);
  }
  const char* type() const override { return "SegmentationBlock"; }
  at::Tensor operator()(const at::Tensor& x, const std::vector<at::IntArrayRef>& sizes) {
    return report(block_(x, sizes));
  }

 private:
  SizedSequence& block_;
};

class MergeBlock final : public Module {
 public:
  const char* type() const override { return "MergeBlock"; }
  at::Tensor operator()(const std::vector<at::Tensor>& maps) {
    at::Tensor sum = maps[0];
    for (size_t i = 1; i < maps.size(); ++i) sum = sum + maps[i];
    return report(sum);
  }
};

}  // namespace

class Fpn::Decoder final : public Module {
 public:
  Decoder(const std::array<int64_t, 5>& encoder, const FpnOptions& options, at::Generator& generator)
      : p5_(child<Conv>("p5", 2, encoder[4], options.pyramid_channels, 1, ConvOptions{.bias = true})),
        p4_(child<FPNBlock>("p4", options.pyramid_channels, encoder[3])),
        p3_(child<FPNBlock>("p3", options.pyramid_channels, encoder[2])),
        p2_(child<FPNBlock>("p2", options.pyramid_channels, encoder[1])) {
    auto& list = child<ModuleList>("seg_blocks");
    for (const int64_t steps : {3, 2, 1, 1})
      blocks_.push_back(&list.add<SegmentationBlock>(options.pyramid_channels, options.segmentation_channels, steps));
    merge_ = &child<MergeBlock>("merge");
    dropout_ = &child<Dropout>("dropout", options.dropout, Dropout::Of::kChannels);
    init_decoder(*this, generator);
  }
  const char* type() const override { return "FPNDecoder"; }

  at::Tensor operator()(const std::array<at::Tensor, 5>& features) {
    const at::Tensor p5 = p5_(features[4]), p4 = p4_(p5, features[3]), p3 = p3_(p4, features[2]),
                     p2 = p2_(p3, features[1]);
    const auto size = [](const at::Tensor& map) { return map.sizes().slice(2); };
    return report((*dropout_)(
        (*merge_)({(*blocks_[0])(p5, {size(p4), size(p3), size(p2)}), (*blocks_[1])(p4, {size(p3), size(p2)}),
                   (*blocks_[2])(p3, {size(p2)}), (*blocks_[3])(p2, {size(p2)})})));
  }

 private:
  Conv& p5_;
  FPNBlock &p4_, &p3_, &p2_;
  std::vector<SegmentationBlock*> blocks_;
  MergeBlock* merge_;
  Dropout* dropout_;
};

Fpn::Fpn(const FpnOptions& options, at::Generator& generator)
    : encoder_(child<ResNetEncoder>("encoder", resnet_spec(options.encoder), options.in_channels, 32, generator)),
      decoder_(child<Decoder>("decoder", resnet_spec(options.encoder).channels(), options, generator)),
      segmentation_head_(child<SegmentationHeadModule>("segmentation_head", options.segmentation_channels,
                                                       options.classes, 1, true, generator)) {}

at::Tensor Fpn::forward(const at::Tensor& x) { return segmentation_head_(decoder_(encoder_(x)), x.sizes().slice(2)); }

}  // namespace le

#include "backbones/zoo/segmentation.h"

namespace le {

SegmentationHeadModule::SegmentationHeadModule(int64_t in, int64_t classes, int64_t kernel, bool upsamples,
                                               at::Generator& generator)
    : conv_(child<Conv2d>("0", in, classes, kernel, 1, kernel / 2, true)),
      up_(upsamples ? &child<UpsamplingBilinear2d>("1") : nullptr),
      no_up_(upsamples ? nullptr : &child<Identity>("1")),
      activation_(child<Activation>("2")) {
  init_xavier_uniform(conv_.weight, generator);
}

at::Tensor SegmentationHeadModule::operator()(const at::Tensor& x, at::IntArrayRef size) {
  const at::Tensor y = conv_(x);
  return report(activation_(up_ ? (*up_)(y, size) : (*no_up_)(y)));
}

Sequential& add_conv_norm_relu(Module& owner, const std::string& name, const char* type, int64_t in, int64_t out,
                               int64_t kernel) {
  auto& sequence = owner.child<Sequential>(name, type);
  sequence.add<Conv2d>(in, out, kernel, 1, kernel / 2);
  sequence.add<BatchNorm2d>(out);
  sequence.add<ReLU>();
  return sequence;
}

void init_decoder(Module& decoder, at::Generator& generator) {
  for (const auto& [name, module] : decoder.enumerate())
    if (auto* conv = dynamic_cast<Conv*>(module)) init_kaiming_uniform_fan_in(conv->weight, generator);
}

}  // namespace le

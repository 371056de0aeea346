#include "backbones/zoo/plain_unet.h"

#include <ATen/ops/cat.h>

namespace le {

namespace {

Sequential* add_double_conv(ModuleList& list, const PlainUnetOptions& options, int64_t in, int64_t out, bool drops) {
  auto& level = list.add<Sequential>();
  for (const int64_t channels : {in, out}) {
    // Instance norm takes away what a bias adds, as batch norm does.
    level.add<Conv>(options.axes, channels, out, 3, ConvOptions{.padding = 1});
    if (options.instance_norm)
      level.add<InstanceNorm>(options.axes, out);
    else
      level.add<BatchNorm>(options.axes, out);
    level.add<ReLU>();
  }
  if (drops && options.dropout > 0) level.add<Dropout>(options.dropout, Dropout::Of::kChannels);
  return &level;
}

MaxPool& add_levels(Module& owner, const PlainUnetOptions& options, std::vector<Sequential*>& encoder,
                    std::vector<Sequential*>& decoder) {
  const auto channels = [&](int64_t level) { return options.width << level; };
  auto& down = owner.child<ModuleList>("encoder");
  for (int64_t level = 0; level < options.depth; ++level)
    encoder.push_back(
        add_double_conv(down, options, level ? channels(level - 1) : options.in_channels, channels(level), level > 0));
  auto& pool = owner.child<MaxPool>("pool", options.axes, 2, 2, 0, true);
  auto& up = owner.child<ModuleList>("decoder");
  for (int64_t level = options.depth - 2; level >= 0; --level)
    decoder.push_back(add_double_conv(up, options, channels(level + 1) + channels(level), channels(level), level > 0));
  return pool;
}

}  // namespace

PlainUnet::PlainUnet(const PlainUnetOptions& options, at::Generator& generator)
    : axes_(options.axes),
      upsampling_(options.upsampling),
      pool_(add_levels(*this, options, encoder_, decoder_)),
      head_(child<Conv>("head", options.axes, options.width, options.classes, 1, ConvOptions{.bias = true})) {
  for (const auto& [name, module] : enumerate())
    if (auto* conv = dynamic_cast<Conv*>(module); conv && conv != &head_)
      init_kaiming_uniform_fan_in(conv->weight, generator);
  init_xavier_uniform(head_.weight, generator);
}

at::Tensor PlainUnet::forward(const at::Tensor& x) {
  std::vector<at::Tensor> maps;
  for (Sequential* level : encoder_) maps.push_back((*level)(maps.empty() ? x : pool_(maps.back())));
  at::Tensor y = std::move(maps.back());
  maps.pop_back();
  for (Sequential* level : decoder_) {
    y = (*level)(at::cat({resized(y, maps.back().sizes().slice(2), upsampling_), maps.back()}, 1));
    maps.pop_back();
  }
  return head_(y);
}

}  // namespace le

#include "convolutions/convolution.h"

#include <algorithm>
#include <sstream>

#include "error.h"

namespace le {

namespace {

std::string times(const std::vector<int64_t>& values) {
  std::string all;
  for (const int64_t value : values) all += (all.empty() ? "" : "×") + std::to_string(value);
  return all;
}

// "2" where all are 2, else "1×2×2".
std::string brief(const std::vector<int64_t>& values) {
  const bool same = std::all_of(values.begin(), values.end(), [&](int64_t value) { return value == values.front(); });
  return same ? std::to_string(values.front()) : times(values);
}

Json numbers(const std::vector<int64_t>& values) { return Json::Array(values.begin(), values.end()); }

// Values for each spatial axis, or one for all.
ConvolutionCall::Axes spread(at::IntArrayRef values, int64_t axes, int64_t unused) {
  ConvolutionCall::Axes all{unused, unused, unused};
  for (int64_t axis = 0; axis < axes; ++axis)
    all[3 - axes + axis] = values[values.size() == 1 ? 0 : static_cast<size_t>(axis)];
  return all;
}

}  // namespace

ConvolutionCall::Axes ConvolutionCall::output_size() const {
  Axes out{1, 1, 1};
  for (size_t axis = 3 - static_cast<size_t>(axes); axis < 3; ++axis) {
    const int64_t reach = dilation[axis] * (kernel[axis] - 1);
    out[axis] = transposed ? (size[axis] - 1) * stride[axis] - 2 * padding[axis] + reach + output_padding[axis] + 1
                           : (size[axis] + 2 * padding[axis] - reach - 1) / stride[axis] + 1;
  }
  return out;
}

std::vector<int64_t> ConvolutionCall::input_shape() const {
  std::vector<int64_t> shape{batch, in_channels};
  for (const int64_t side : counting(size)) shape.push_back(side);
  return shape;
}

std::vector<int64_t> ConvolutionCall::weight_shape() const {
  std::vector<int64_t> shape{transposed ? in_channels : out_channels,
                             (transposed ? out_channels : in_channels) / groups};
  for (const int64_t side : counting(kernel)) shape.push_back(side);
  return shape;
}

std::vector<int64_t> ConvolutionCall::output_shape() const {
  std::vector<int64_t> shape{batch, out_channels};
  for (const int64_t side : counting(output_size())) shape.push_back(side);
  return shape;
}

std::string ConvolutionCall::describe() const {
  std::ostringstream text;
  text << (bf16 ? "bfloat16 " : "float32 ");
  if (backward) {
    const char* names[] = {"input", "weight", "bias"};
    std::string which;
    for (size_t i = 0; i < 3; ++i)
      if (wanted[i]) which += (which.empty() ? "" : ", ") + std::string(names[i]);
    text << "gradients (" << which << ") of a ";
  }
  text << times(counting(kernel)) << (transposed ? " transposed" : "") << " convolution";
  if (counting(stride) != std::vector<int64_t>(axes, 1)) text << ", stride " << brief(counting(stride));
  if (counting(dilation) != std::vector<int64_t>(axes, 1)) text << ", dilation " << brief(counting(dilation));
  if (groups > 1) text << ", " << groups << " groups";
  text << ", from " << in_channels << " to " << out_channels << " channels, of " << times(input_shape())
       << (input_last || weight_last ? ", channels_last" : "");
  return text.str();
}

Json ConvolutionCall::json() const {
  return Json::Object{{"backward", backward},
                      {"transposed", transposed},
                      {"bias", bias},
                      {"type", bf16 ? "bf16" : "fp32"},
                      {"channelsLast", Json::Array{input_last, weight_last, gradient_last}},
                      {"wanted", Json::Array{wanted[0], wanted[1], wanted[2]}},
                      {"batch", batch},
                      {"channels", Json::Array{in_channels, out_channels}},
                      {"groups", groups},
                      {"size", numbers(counting(size))},
                      {"kernel", numbers(counting(kernel))},
                      {"stride", numbers(counting(stride))},
                      {"padding", numbers(counting(padding))},
                      {"dilation", numbers(counting(dilation))},
                      {"outputPadding", numbers(counting(output_padding))}};
}

ConvolutionCall ConvolutionCall::from(const Json& json) {
  ConvolutionCall call;
  const auto flags = [&](const char* name) {
    const Json::Array& given = json.at(name).array(name);
    std::array<bool, 3> all{};
    for (size_t i = 0; i < std::min<size_t>(3, given.size()); ++i) all[i] = given[i].boolean(name);
    return all;
  };
  const auto list = [&](const char* name, int64_t unused, int64_t least, int64_t most) {
    const std::vector<int64_t> given = json.integers_or(name, {});
    if (static_cast<int64_t>(given.size()) != call.axes)
      fail(code::kOption, "Expected ", call.axes, " numbers for '", name, "' of a convolution but received ",
           given.size(), ".");
    for (const int64_t value : given)
      if (value < least || value > most)
        fail(code::kOption, "Expected ", least, " to ", most, " for '", name, "' of a convolution but received ", value,
             ".");
    return spread(given, call.axes, unused);
  };
  const auto count = [](const Json& value, const char* name) {
    const int64_t number = value.integer(name);
    if (number < 1 || number > 1 << 20)
      fail(code::kOption, "Expected a positive '", name, "' of a convolution but received ", number, ".");
    return number;
  };
  call.backward = json.at("backward").boolean("backward");
  call.transposed = json.at("transposed").boolean("transposed");
  call.bias = json.at("bias").boolean("bias");
  call.bf16 = json.at("type").string("type") == "bf16";
  const std::array<bool, 3> last = flags("channelsLast");
  call.input_last = last[0];
  call.weight_last = last[1];
  call.gradient_last = last[2];
  call.wanted = flags("wanted");
  call.axes = static_cast<int64_t>(json.integers_or("size", {}).size());
  if (call.axes < 1 || call.axes > 3)
    fail(code::kOption, "Expected 1 to 3 axes of a convolution but received ", call.axes, ".");
  call.batch = count(json.at("batch"), "batch");
  const Json::Array& channels = json.at("channels").array("channels");
  if (channels.size() != 2) fail(code::kOption, "Expected 2 'channels' of a convolution.");
  call.in_channels = count(channels[0], "channels");
  call.out_channels = count(channels[1], "channels");
  call.groups = count(json.at("groups"), "groups");
  if (call.in_channels % call.groups != 0 || call.out_channels % call.groups != 0)
    fail(code::kOption, "Expected channels that are multiples of the groups of a convolution but received others.");
  call.size = list("size", 1, 1, 1 << 16);
  call.kernel = list("kernel", 1, 1, 1 << 10);
  call.stride = list("stride", 1, 1, 1 << 10);
  call.padding = list("padding", 0, 0, 1 << 12);
  call.dilation = list("dilation", 1, 1, 1 << 10);
  call.output_padding = list("outputPadding", 0, 0, 1 << 10);
  for (const int64_t side : call.output_size())
    if (side < 1) fail(code::kOption, "Expected a convolution with an output but received ", call.describe(), ".");
  return call;
}

bool is_channels_last(const at::Tensor& tensor) {
  // libtorch computes a convolution of one axis as one of two.
  const at::MemoryFormat format = (tensor.dim() == 3 ? tensor.unsqueeze(2) : tensor).suggest_memory_format();
  return format == at::MemoryFormat::ChannelsLast || format == at::MemoryFormat::ChannelsLast3d;
}

at::MemoryFormat channels_last_format(int64_t axes) {
  return axes == 3   ? at::MemoryFormat::ChannelsLast3d
         : axes == 2 ? at::MemoryFormat::ChannelsLast
                     : at::MemoryFormat::Contiguous;
}

std::optional<ConvolutionCall> convolution_call(const at::Tensor& input, const at::Tensor& weight, bool bias,
                                                at::IntArrayRef stride, at::IntArrayRef padding,
                                                at::IntArrayRef dilation, bool transposed,
                                                at::IntArrayRef output_padding, int64_t groups) {
  const at::ScalarType type = input.scalar_type();
  const int64_t axes = input.dim() - 2;
  if (!input.is_cpu() || input.layout() != at::kStrided || weight.layout() != at::kStrided || axes < 1 || axes > 3 ||
      weight.dim() != input.dim() || weight.scalar_type() != type || (type != at::kFloat && type != at::kBFloat16) ||
      groups < 1 || input.numel() == 0)
    return std::nullopt;
  for (const at::IntArrayRef values : {stride, padding, dilation, output_padding})
    if (values.size() != 1 && static_cast<int64_t>(values.size()) != axes) return std::nullopt;
  ConvolutionCall call;
  call.transposed = transposed;
  call.bias = bias;
  call.bf16 = type == at::kBFloat16;
  call.input_last = is_channels_last(input);
  call.weight_last = is_channels_last(weight);
  call.axes = axes;
  call.batch = input.size(0);
  call.in_channels = input.size(1);
  call.out_channels = transposed ? weight.size(1) * groups : weight.size(0);
  call.groups = groups;
  call.size = spread(input.sizes().slice(2), axes, 1);
  call.kernel = spread(weight.sizes().slice(2), axes, 1);
  call.stride = spread(stride, axes, 1);
  call.padding = spread(padding, axes, 0);
  call.dilation = spread(dilation, axes, 1);
  call.output_padding = spread(output_padding, axes, 0);
  return call;
}

}  // namespace le

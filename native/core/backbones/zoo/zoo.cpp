#include "backbones/zoo/zoo.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <array>

#include "backbones/zoo/deeplabv3plus.h"
#include "backbones/zoo/dynunet.h"
#include "backbones/zoo/fpn.h"
#include "backbones/zoo/native_backbone.h"
#include "backbones/zoo/plain_unet.h"
#include "backbones/zoo/resnet.h"
#include "backbones/zoo/unet.h"
#include "options.h"

namespace le {

namespace {

void check_known(const Json& config, const std::string& kind, const std::vector<std::string>& known) {
  for (const auto& [key, value] : config.object("backbone"))
    if (key != "kind" && key != "seed" && std::find(known.begin(), known.end(), key) == known.end())
      fail(code::kOption, "Expected one of ", listed(known), ", seed for an option of '", kind, "' but received '", key,
           "': did you mean '", nearest_names(key, known, 1).front(), "'?");
}

constexpr int64_t kMaxChannels = 4096;

std::unique_ptr<Backbone> make_resnet(const std::string& kind, const Json& config, int64_t seed,
                                      at::Generator& generator) {
  check_known(config, kind, {"inChannels", "classes"});
  const int64_t in = in_range(config, "inChannels", int64_t{3}, {1, kMaxChannels});
  const int64_t classes = in_range(config, "classes", int64_t{1000}, {0, 1'000'000});
  return std::make_unique<NativeBackbone>(
      std::make_unique<ResNet>(resnet_spec(kind), in, classes, generator),
      Json::Object{{"kind", kind}, {"inChannels", in}, {"classes", classes}, {"seed", seed}}, in);
}

void read_encoder_options(const Json& config, EncoderOptions& options) {
  options.encoder = config.string_or("encoder", options.encoder);
  options.in_channels = in_range(config, "inChannels", options.in_channels, {1, kMaxChannels});
  options.classes = in_range(config, "classes", options.classes, {1, kMaxChannels});
}

std::unique_ptr<Backbone> make_unet(const Json& config, int64_t seed, at::Generator& generator) {
  check_known(config, "unet",
              {"encoder", "inChannels", "classes", "decoderChannels", "attention", "preset", "dropout"});
  UnetOptions options;
  if (config.has("preset")) {
    const std::string& preset = config.at("preset").string("preset");
    one_of("preset", preset, std::array{"paper", "deep"});
    if (preset == "deep") options.encoder = "resnet101";
    options.in_channels = 1;
    options.classes = 2;
    options.decoder_channels = {1024, 512, 256, 128, 64};
    options.scse = true;
  }
  read_encoder_options(config, options);
  options.decoder_channels = config.integers_or("decoderChannels", options.decoder_channels);
  if (options.decoder_channels.size() != 5)
    fail(code::kOption, "Expected 5 integers for option 'decoderChannels' but received ",
         options.decoder_channels.size(), ".");
  // Attention named null is no attention, also beside the preset.
  if (const auto& all = config.object("backbone"); all.contains("attention")) {
    options.scse = !all.at("attention").is_null();
    if (options.scse && all.at("attention").string("attention") != "scse")
      fail(code::kOption, "Expected 'scse' or null for option 'attention' but received '",
           all.at("attention").string("attention"), "'.");
  }
  options.dropout = in_range(config, "dropout", options.dropout, {0, 1, kBelow});
  Json::Array channels;
  for (const int64_t c : options.decoder_channels)
    channels.emplace_back(in_range("decoderChannels", c, {options.scse ? 16 : 1, kMaxChannels}));
  Json::Object made{{"kind", "unet"},
                    {"encoder", options.encoder},
                    {"inChannels", options.in_channels},
                    {"classes", options.classes},
                    {"decoderChannels", std::move(channels)},
                    {"attention", options.scse ? Json("scse") : Json()},
                    {"seed", seed}};
  if (options.dropout > 0) made["dropout"] = options.dropout;
  return std::make_unique<NativeBackbone>(std::make_unique<Unet>(options, generator), std::move(made),
                                          options.in_channels);
}

std::unique_ptr<Backbone> make_deeplabv3plus(const Json& config, int64_t seed, at::Generator& generator) {
  check_known(config, "deeplabv3plus",
              {"encoder", "inChannels", "classes", "decoderChannels", "outputStride", "atrousRates", "dropout"});
  DeepLabV3PlusOptions options;
  read_encoder_options(config, options);
  options.decoder_channels = in_range(config, "decoderChannels", options.decoder_channels, {1, kMaxChannels});
  options.output_stride = config.integer_or("outputStride", options.output_stride);
  if (options.output_stride != 8 && options.output_stride != 16)
    fail(code::kOption, "Expected 8 or 16 for option 'outputStride' but received ", options.output_stride, ".");
  const auto rates = config.integers_or("atrousRates", {options.atrous_rates.begin(), options.atrous_rates.end()});
  if (rates.size() != options.atrous_rates.size())
    fail(code::kOption, "Expected 3 integers for option 'atrousRates' but received ", rates.size(), ".");
  for (size_t i = 0; i < rates.size(); ++i) options.atrous_rates[i] = in_range("atrousRates", rates[i], {1, 1024});
  options.dropout = in_range(config, "dropout", options.dropout, {0, 1, kBelow});
  return std::make_unique<NativeBackbone>(std::make_unique<DeepLabV3Plus>(options, generator),
                                          Json::Object{{"kind", "deeplabv3plus"},
                                                       {"encoder", options.encoder},
                                                       {"inChannels", options.in_channels},
                                                       {"classes", options.classes},
                                                       {"decoderChannels", options.decoder_channels},
                                                       {"outputStride", options.output_stride},
                                                       {"atrousRates", Json::Array(rates.begin(), rates.end())},
                                                       {"dropout", options.dropout},
                                                       {"seed", seed}},
                                          options.in_channels);
}

std::unique_ptr<Backbone> make_fpn(const Json& config, int64_t seed, at::Generator& generator) {
  check_known(config, "fpn",
              {"encoder", "inChannels", "classes", "pyramidChannels", "segmentationChannels", "dropout"});
  FpnOptions options;
  read_encoder_options(config, options);
  options.pyramid_channels = in_range(config, "pyramidChannels", options.pyramid_channels, {1, kMaxChannels});
  options.segmentation_channels =
      in_range(config, "segmentationChannels", options.segmentation_channels, {1, kMaxChannels});
  if (options.segmentation_channels % Fpn::kNormGroups != 0)
    fail(code::kOption, "Expected a multiple of ", Fpn::kNormGroups, " for option 'segmentationChannels' but received ",
         options.segmentation_channels, ".");
  options.dropout = in_range(config, "dropout", options.dropout, {0, 1, kBelow});
  return std::make_unique<NativeBackbone>(std::make_unique<Fpn>(options, generator),
                                          Json::Object{{"kind", "fpn"},
                                                       {"encoder", options.encoder},
                                                       {"inChannels", options.in_channels},
                                                       {"classes", options.classes},
                                                       {"pyramidChannels", options.pyramid_channels},
                                                       {"segmentationChannels", options.segmentation_channels},
                                                       {"dropout", options.dropout},
                                                       {"seed", seed}},
                                          options.in_channels);
}

// "plain-unet" and "unet3d".
std::unique_ptr<Backbone> make_plain_unet(const std::string& kind, const Json& config, int64_t seed,
                                          at::Generator& generator) {
  PlainUnetOptions options;
  std::vector<std::string> known = {"inChannels", "classes", "width", "depth", "dropout"};
  if (kind == "unet3d") {
    known.insert(known.end(), {"norm", "upsampling"});
    options.axes = 3;
  }
  check_known(config, kind, known);
  options.in_channels = in_range(config, "inChannels", options.in_channels, {1, kMaxChannels});
  options.classes = in_range(config, "classes", options.classes, {1, kMaxChannels});
  options.width = in_range(config, "width", options.width, {1, 512});
  options.depth = in_range(config, "depth", options.depth, {1, 8});
  in_range("width", options.width << (options.depth - 1), {1, kMaxChannels});
  options.dropout = in_range(config, "dropout", options.dropout, {0, 1, kBelow});
  Json::Object made{{"kind", kind},
                    {"inChannels", options.in_channels},
                    {"classes", options.classes},
                    {"width", options.width},
                    {"depth", options.depth},
                    {"seed", seed}};
  if (options.dropout > 0) made["dropout"] = options.dropout;
  if (options.axes == 3) {
    const auto norm = config.string_or("norm", "batch"), upsampling = config.string_or("upsampling", "nearest");
    one_of("norm", norm, std::array{"batch", "instance"});
    one_of("upsampling", upsampling, std::array{"nearest", "trilinear"});
    options.instance_norm = norm == "instance";
    options.upsampling = upsampling == "trilinear" ? Upsampling::kLinear : Upsampling::kNearest;
    made["norm"] = norm;
    made["upsampling"] = upsampling;
  }
  return std::make_unique<NativeBackbone>(std::make_unique<PlainUnet>(options, generator), std::move(made),
                                          options.in_channels, options.axes);
}

// A number for each axis of each stage: what `config` has under `name`, of so many stages, or `fallback`.
std::vector<std::vector<int64_t>> stages_of(const Json& config, const char* name, int64_t axes, int64_t depth,
                                            std::vector<std::vector<int64_t>> fallback, const Range<int64_t>& range) {
  if (!config.has(name)) return fallback;
  const auto& given = config.at(name).array(name);
  if (static_cast<int64_t>(given.size()) != depth)
    fail(code::kOption, "Expected ", depth, " stages for option '", name, "' but received ", given.size(), ".");
  std::vector<std::vector<int64_t>> stages;
  for (const Json& stage : given) {
    std::vector<int64_t> sides;
    for (const Json& side : stage.array(name)) sides.push_back(in_range(name, side.integer(name), range));
    if (static_cast<int64_t>(sides.size()) != axes)
      fail(code::kOption, "Expected ", axes, " numbers for each stage of option '", name, "' but received ",
           sides.size(), ".");
    stages.push_back(std::move(sides));
  }
  return stages;
}

Json::Array json_of(const std::vector<std::vector<int64_t>>& stages) {
  Json::Array all;
  for (const auto& sides : stages) all.emplace_back(Json::Array(sides.begin(), sides.end()));
  return all;
}

// "dynunet" and "dynunet2d".
std::unique_ptr<Backbone> make_dynunet(const std::string& kind, const Json& config, int64_t seed,
                                       at::Generator& generator) {
  check_known(config, kind,
              {"inChannels", "classes", "width", "widest", "depth", "convolutions", "strides", "kernels", "dropout"});
  DynUnetOptions options;
  options.axes = kind == "dynunet" ? 3 : 2;
  options.in_channels = in_range(config, "inChannels", options.in_channels, {1, kMaxChannels});
  options.classes = in_range(config, "classes", options.classes, {1, kMaxChannels});
  options.width = in_range(config, "width", options.width, {1, kMaxChannels});
  options.widest = in_range(config, "widest", std::max(options.width, options.widest), {options.width, kMaxChannels});
  options.convolutions = in_range(config, "convolutions", options.convolutions, {1, 16});
  const int64_t stages = config.has("strides")   ? std::ssize(config.at("strides").array("strides"))
                         : config.has("kernels") ? std::ssize(config.at("kernels").array("kernels"))
                                                 : 5;
  const int64_t depth = in_range("depth", config.integer_or("depth", stages), {2, 10});
  const auto axes = static_cast<size_t>(options.axes);
  std::vector<std::vector<int64_t>> halves(depth, std::vector<int64_t>(axes, 2));
  halves[0].assign(axes, 1);
  options.strides = stages_of(config, "strides", options.axes, depth, std::move(halves), {1, 8});
  if (options.strides[0] != std::vector<int64_t>(axes, 1))
    fail(code::kOption, "Expected a stride of 1 along each axis of the first stage for option 'strides' but received ",
         Json(json_of(options.strides)).dump(), ": the output has the image's size.");
  options.kernels =
      stages_of(config, "kernels", options.axes, depth, std::vector(depth, std::vector<int64_t>(axes, 3)), {1, 15});
  for (const auto& sides : options.kernels)
    for (const int64_t side : sides)
      if (side % 2 == 0) fail(code::kOption, "Expected odd numbers for option 'kernels' but received ", side, ".");
  options.dropout = in_range(config, "dropout", options.dropout, {0, 1, kBelow});
  Json::Object made{{"kind", kind},
                    {"inChannels", options.in_channels},
                    {"classes", options.classes},
                    {"width", options.width},
                    {"widest", options.widest},
                    {"depth", depth},
                    {"convolutions", options.convolutions},
                    {"strides", json_of(options.strides)},
                    {"kernels", json_of(options.kernels)},
                    {"seed", seed}};
  if (options.dropout > 0) made["dropout"] = options.dropout;
  return std::make_unique<NativeBackbone>(std::make_unique<DynUnet>(options, generator), std::move(made),
                                          options.in_channels, options.axes);
}

}  // namespace

std::vector<std::string> backbone_kinds() {
  return {"unet",      "deeplabv3plus", "fpn",      "plain-unet", "unet3d",   "dynunet",
          "dynunet2d", "resnet18",      "resnet34", "resnet50",   "resnet101"};
}

std::unique_ptr<Backbone> make_of_zoo(const Json& config) {
  const std::string& kind = config.at("kind").string("kind");
  const int64_t seed = config.integer_or("seed", 0);
  at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(seed));
  if (kind == "unet") return make_unet(config, seed, generator);
  if (kind == "deeplabv3plus") return make_deeplabv3plus(config, seed, generator);
  if (kind == "fpn") return make_fpn(config, seed, generator);
  if (kind == "plain-unet" || kind == "unet3d") return make_plain_unet(kind, config, seed, generator);
  if (kind == "dynunet" || kind == "dynunet2d") return make_dynunet(kind, config, seed, generator);
  const auto kinds = backbone_kinds();
  if (std::find(kinds.begin(), kinds.end(), kind) != kinds.end()) return make_resnet(kind, config, seed, generator);
  fail(code::kOption, "Expected one of ", listed(kinds), " for option 'kind' but received '", kind, "': did you mean '",
       nearest_names(kind, kinds, 1).front(), "'?");
}

}  // namespace le

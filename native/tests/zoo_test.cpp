#include "backbones/zoo/zoo.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <set>

#include "backbones/encoder_weights.h"
#include "error.h"
// After libtorch, which has a CHECK of its own.
#include "check.h"

using namespace le;

namespace {

LoadReport load_weights(Backbone& backbone, const std::map<std::string, at::Tensor>& tensors, bool strict,
                        const std::string& part = "") {
  return le::load_weights(backbone, {{"", tensors}}, {strict, part, {}});
}
LoadReport load_encoder(Backbone& backbone, const std::map<std::string, at::Tensor>& tensors) {
  return le::load_encoder(backbone, {{"", tensors}});
}

Json config(const std::string& text) { return Json::parse(text, code::kOption); }
std::unique_ptr<Backbone> make(const std::string& text) { return make_backbone(config(text)); }

const char* const kSmallUnet = R"({"kind":"unet","inChannels":1,"classes":2,"decoderChannels":[32,16,16,16,16]})";
const char* const kSmall = R"({"kind":"plain-unet","width":4,"depth":3})";

int64_t count(const NamedTensors& tensors) {
  int64_t total = 0;
  for (const auto& [name, tensor] : tensors) total += tensor.numel();
  return total;
}

std::map<std::string, at::Tensor> state(const Backbone& backbone) {
  std::map<std::string, at::Tensor> all;
  for (const auto& list : {backbone.parameters(), backbone.buffers()})
    for (const auto& [name, tensor] : list) all.emplace(name, tensor.detach().clone());
  return all;
}

bool same(const std::map<std::string, at::Tensor>& a, const std::map<std::string, at::Tensor>& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [name, tensor] : a)
    if (!b.contains(name) || !at::equal(tensor, b.at(name))) return false;
  return true;
}

at::Tensor evaluate(Backbone& backbone, const at::Tensor& x) {
  const at::NoGradGuard no_grad;
  backbone.train(false);
  return backbone.forward(x, nullptr).output;
}

double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  return ((actual.to(at::kFloat) - expected).abs().max() / expected.abs().max()).item<double>();
}

std::string message_of(const std::function<void()>& run, const char* code) {
  try {
    run();
  } catch (const Error& error) {
    CHECK(error.code() == code);
    return error.what();
  }
  test::failed(__FILE__, __LINE__, "nothing was thrown");
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST("zoo: parameter counts are those of torchvision and segmentation_models_pytorch") {
  CHECK(count(make(R"({"kind":"resnet18"})")->parameters()) == 11'689'512);
  CHECK(count(make(R"({"kind":"resnet34"})")->parameters()) == 21'797'672);
  CHECK(count(make(R"({"kind":"resnet50"})")->parameters()) == 25'557'032);
  CHECK(count(make(R"({"kind":"resnet101"})")->parameters()) == 44'549'160);
  CHECK(count(make(R"({"kind":"deeplabv3plus","encoder":"resnet50","classes":21})")->parameters()) == 26'682'725);
  CHECK(count(make(R"({"kind":"deeplabv3plus","encoder":"resnet34"})")->parameters()) == 22'437'457);
  CHECK(count(make(R"({"kind":"fpn","encoder":"resnet34"})")->parameters()) == 23'155'393);
  CHECK(count(make(R"({"kind":"unet"})")->parameters()) == 14'328'209);
  CHECK(count(make(R"({"kind":"unet","encoder":"resnet34"})")->parameters()) == 24'436'369);
  CHECK(count(make(R"({"kind":"unet","encoder":"resnet50"})")->parameters()) == 32'521'105);
}

TEST("zoo: state-dict names") {
  const auto names = state(*make(R"({"kind":"unet","attention":"scse","inChannels":1})"));
  for (const char* name :
       {"encoder.conv1.weight", "encoder.bn1.num_batches_tracked", "encoder.layer1.0.conv1.weight",
        "encoder.layer2.0.downsample.0.weight", "encoder.layer2.0.downsample.1.running_var",
        "decoder.blocks.0.conv1.0.weight", "decoder.blocks.0.conv1.1.bias", "decoder.blocks.4.conv2.0.weight",
        "decoder.blocks.0.attention1.attention.cSE.1.weight", "decoder.blocks.0.attention1.attention.cSE.3.bias",
        "decoder.blocks.4.attention2.attention.sSE.0.weight", "segmentation_head.0.weight", "segmentation_head.0.bias"})
    if (!names.contains(name)) test::failed(__FILE__, __LINE__, "no ", name);
  CHECK(names.at("decoder.blocks.0.conv1.0.weight").sizes() == at::IntArrayRef({256, 768, 3, 3}));
  CHECK(!names.contains("encoder.fc.weight") && !names.contains("decoder.blocks.0.conv1.0.bias"));
  CHECK(!state(*make(R"({"kind":"resnet18","classes":0})")).contains("fc.weight"));
  CHECK(state(*make(kSmall)).contains("encoder.2.4.running_mean"));
}

TEST("zoo: state-dict names of DeepLabV3Plus and FPN") {
  const auto check = [](const char* text,
                        std::initializer_list<std::pair<const char*, std::vector<int64_t>>> expected) {
    const auto names = state(*make(text));
    for (const auto& [name, shape] : expected)
      if (!names.contains(name) || names.at(name).sizes() != at::IntArrayRef(shape))
        test::failed(__FILE__, __LINE__, "no ", name, ", or of another shape");
  };
  check(R"({"kind":"deeplabv3plus","classes":5})", {{"encoder.layer4.1.conv2.weight", {512, 512, 3, 3}},
                                                    {"decoder.aspp.0.convs.0.0.weight", {256, 512, 1, 1}},
                                                    {"decoder.aspp.0.convs.1.0.0.weight", {512, 1, 3, 3}},
                                                    {"decoder.aspp.0.convs.3.0.1.weight", {256, 512, 1, 1}},
                                                    {"decoder.aspp.0.convs.3.1.running_mean", {256}},
                                                    {"decoder.aspp.0.convs.4.1.weight", {256, 512, 1, 1}},
                                                    {"decoder.aspp.0.project.0.weight", {256, 1280, 1, 1}},
                                                    {"decoder.aspp.1.0.weight", {256, 1, 3, 3}},
                                                    {"decoder.aspp.2.bias", {256}},
                                                    {"decoder.block1.0.weight", {48, 64, 1, 1}},
                                                    {"decoder.block2.0.0.weight", {304, 1, 3, 3}},
                                                    {"decoder.block2.0.1.weight", {256, 304, 1, 1}},
                                                    {"segmentation_head.0.weight", {5, 256, 1, 1}}});
  check(R"({"kind":"fpn","classes":5})", {{"decoder.p5.weight", {256, 512, 1, 1}},
                                          {"decoder.p4.skip_conv.bias", {256}},
                                          {"decoder.p2.skip_conv.weight", {256, 64, 1, 1}},
                                          {"decoder.seg_blocks.0.block.2.block.0.weight", {128, 128, 3, 3}},
                                          {"decoder.seg_blocks.0.block.0.block.1.weight", {128}},
                                          {"decoder.seg_blocks.3.block.0.block.0.weight", {128, 256, 3, 3}},
                                          {"segmentation_head.0.weight", {5, 128, 1, 1}}});
}

TEST("zoo: the deeper U-Net is resnet101 with wide scSE blocks") {
  const auto layers = make(R"({"kind":"unet","preset":"deep"})");
  CHECK(layers->config().at("encoder").string("encoder") == "resnet101");
  CHECK(layers->config().at("attention").string("attention") == "scse");
  CHECK(layers->in_channels() == 1);
  CHECK(state(*layers).at("decoder.blocks.0.conv1.0.weight").sizes() == at::IntArrayRef({1024, 3072, 3, 3}));
}

TEST("zoo: volumes of any size, and nothing else, for unet3d") {
  for (const char* text : {R"({"kind":"unet3d","width":4,"depth":3})",
                           R"({"kind":"unet3d","width":4,"depth":2,"norm":"instance","upsampling":"trilinear"})"}) {
    const auto backbone = make(text);
    CHECK(backbone->spatial_axes() == 3);
    CHECK_THROWS(evaluate(*backbone, at::randn({1, 1, 8, 8})), code::kShape);
    for (const bool channels_last : {false, true}) {
      backbone->to(at::kCPU, channels_last);
      for (const auto& size : {std::vector<int64_t>{1, 1, 1}, {3, 7, 5}, {8, 16, 12}}) {
        std::vector<int64_t> shape{2, 1};
        shape.insert(shape.end(), size.begin(), size.end());
        const at::Tensor x = at::randn(shape), y = evaluate(*backbone, x);
        CHECK(y.sizes().slice(2) == at::IntArrayRef(size) && y.size(1) == 2);
        backbone->begin_inference(at::kFloat);
        CHECK(relative_error(evaluate(*backbone, x), y) < 1e-4);
        backbone->begin_inference(at::kBFloat16);
        CHECK(evaluate(*backbone, x).scalar_type() == at::kBFloat16);
        backbone->end_inference();
      }
    }
  }
}

TEST("zoo: layers have names, types and counts, and say which cannot be tapped") {
  const auto unet = make(R"({"kind":"unet"})");
  std::map<std::string, Layer> layers;
  for (const auto& layer : unet->layers()) CHECK(layers.emplace(layer.name, layer).second);
  CHECK(layers.at("encoder.conv1").type == "Conv2d" && layers.at("encoder.conv1").parameters == 3 * 64 * 49);
  CHECK(layers.at("encoder.layer1.0").type == "BasicBlock" && layers.at("encoder.layer1.0").tappable);
  CHECK(layers.at("encoder.layer1.0.relu").parameters == 0);
  CHECK(layers.at("encoder.layer1").type == "Sequential");
  CHECK(layers.at("encoder").parameters == 11'689'512 - 513'000);
  CHECK(layers.at("decoder.blocks.0.conv1").type == "Conv2dReLU");
  CHECK(layers.at("decoder.blocks").type == "ModuleList" && !layers.at("decoder.blocks").tappable);
  CHECK(!layers.at("encoder").tappable && !layers.at("encoder").why_not.empty());
  CHECK(!layers.contains(""));
  // Everything that is said to be tappable runs, but for the attention of a block that has no skip.
  std::set<std::string> ran;
  for (const auto& call : unet->trace(at::zeros({1, 3, 32, 32}))) ran.insert(call.name);
  for (const auto& [name, layer] : layers)
    if (layer.tappable && !name.starts_with("decoder.blocks.4.attention1")) CHECK(ran.contains(name));
}

TEST("zoo: initial weights depend on the seed alone") {
  const auto seeded = [](int64_t seed) {
    Json::Object options = config(kSmallUnet).object("config");
    options["seed"] = seed;
    return state(*make_backbone(options));
  };
  at::manual_seed(5);
  const at::Tensor undisturbed = at::rand({4});
  at::manual_seed(5);
  const auto first = seeded(1);
  CHECK(at::equal(at::rand({4}), undisturbed));
  CHECK(same(first, seeded(1)));
  CHECK(!same(first, seeded(2)));
  // kaiming normal (fan out) in the encoder; kaiming uniform (fan in) in the decoder.
  const auto deep = first.at("encoder.layer4.1.conv2.weight");
  CHECK_NEAR(deep.std().item<double>(), std::sqrt(2.0 / (512 * 9)), 1e-4);
  const auto wide = first.at("decoder.blocks.0.conv1.0.weight");
  CHECK_NEAR(wide.abs().max().item<double>(), std::sqrt(6.0 / (768 * 9)), 1e-5);
  CHECK(first.at("segmentation_head.0.bias").abs().max().item<double>() == 0);
}

TEST("zoo: any size of input") {
  const auto unet = make(kSmallUnet), plain = make(kSmall);
  const auto deeplab = make(R"({"kind":"deeplabv3plus","inChannels":1,"classes":2,"decoderChannels":8})");
  const auto fpn = make(R"({"kind":"fpn","inChannels":1,"classes":2,"pyramidChannels":8,"segmentationChannels":32})");
  for (const auto& [height, width] : {std::pair(1, 1), {3, 7}, {32, 32}, {97, 130}, {33, 64}}) {
    const at::Tensor x = at::randn({2, 1, height, width});
    for (Backbone* backbone : {unet.get(), plain.get(), deeplab.get(), fpn.get()}) {
      const at::Tensor y = evaluate(*backbone, x);
      CHECK(y.sizes() == at::IntArrayRef({2, 2, height, width}));
      CHECK(y.isfinite().all().item<bool>());
    }
  }
  CHECK(evaluate(*make(R"({"kind":"resnet18","classes":5})"), at::randn({1, 3, 41, 30})).sizes() ==
        at::IntArrayRef({1, 5}));
  CHECK(evaluate(*make(R"({"kind":"resnet18","classes":0})"), at::randn({1, 3, 41, 30})).sizes() ==
        at::IntArrayRef({1, 512}));
}

TEST("zoo: input that does not fit is named") {
  const auto unet = make(kSmallUnet);
  for (const at::Tensor& x : {at::zeros({1, 3, 32, 32}), at::zeros({1, 32, 32}), at::zeros({0, 1, 32, 32}),
                              at::zeros({1, 1, 0, 32}), at::zeros({1, 1, 32, 32}, at::kLong), at::Tensor()})
    CHECK_THROWS(unet->forward(x, nullptr), code::kShape);
  unet->train(true);
  CHECK_THROWS(unet->forward(at::zeros({1, 1, 32, 32}), nullptr), code::kShape);  // one value per channel at the bottom
  CHECK(state(*unet).at("encoder.layer4.0.bn1.running_var").isfinite().all().item<bool>());
}

TEST("zoo: options that are wrong are named, with the right one where it is near") {
  CHECK(contains(message_of([] { make(R"({"kind":"unet","encodr":"resnet18"})"); }, code::kOption), "'encoder'"));
  CHECK(contains(message_of([] { make(R"({"kind":"une"})"); }, code::kOption), "did you mean 'unet'"));
  for (const char* text :
       {R"({})", R"({"kind":1})", R"({"kind":"unet","encoder":"vgg"})", R"({"kind":"unet","inChannels":0})",
        R"({"kind":"unet","inChannels":1.5})", R"({"kind":"unet","classes":-1})", R"({"kind":"unet","classes":1e9})",
        R"({"kind":"unet","decoderChannels":[1,2,3]})", R"({"kind":"unet","decoderChannels":[1,2,3,4,0]})",
        R"({"kind":"unet","decoderChannels":256})", R"({"kind":"unet","attention":"se"})",
        R"({"kind":"unet","attention":"scse","decoderChannels":[32,32,32,32,8]})",
        R"({"kind":"unet","preset":"papers"})", R"({"kind":"plain-unet","depth":0})",
        R"({"kind":"plain-unet","depth":9})", R"({"kind":"plain-unet","width":0})",
        R"({"kind":"plain-unet","width":512,"depth":8})", R"({"kind":"resnet18","width":4})",
        R"({"kind":"unet","seed":"x"})"})
    CHECK_THROWS(make(text), code::kOption);
}

TEST("zoo: the paper's preset") {
  const auto unet = make(R"({"kind":"unet","preset":"paper","classes":4})");
  CHECK(unet->config().dump() == R"({"attention":"scse","classes":4,"decoderChannels":[1024,512,256,128,64],)"
                                 R"("encoder":"resnet18","inChannels":1,"kind":"unet","seed":0})");
  CHECK(make(R"({"kind":"unet","preset":"paper","attention":null})")->config().at("attention").is_null());
}

TEST("zoo: the configuration and the state of a network make an equal one, which is independent") {
  const auto unet = make(kSmallUnet);
  unet->to(at::kCPU, true);
  evaluate(*unet, at::randn({1, 1, 32, 32}));
  unet->train(true);
  unet->forward(at::randn({2, 1, 64, 64}), nullptr);  // moves the running statistics
  const auto copy = make_backbone(unet->config());
  load_weights(*copy, state(*unet), true);
  copy->to(at::kCPU, true);
  CHECK(same(state(*unet), state(*copy)));
  CHECK(copy->config().dump() == unet->config().dump());
  const at::Tensor x = at::randn({1, 1, 64, 64});
  CHECK(at::equal(evaluate(*unet, x), evaluate(*copy, x)));
  {
    const at::NoGradGuard no_grad;
    copy->parameters().front().second.zero_();
  }
  CHECK(!same(state(*unet), state(*copy)));
}

TEST("zoo: moving keeps every parameter's identity") {
  const auto unet = make(kSmallUnet);
  const auto before = unet->parameters();
  const auto values = state(*unet);
  unet->to(at::kCPU, true);
  const auto after = unet->parameters();
  for (size_t i = 0; i < before.size(); ++i) CHECK(before[i].second.is_same(after[i].second));
  CHECK(after.front().second.is_contiguous(at::MemoryFormat::ChannelsLast));
  CHECK(same(values, state(*unet)));
  unet->forward(at::randn({2, 1, 64, 64}), nullptr).output.sum().backward();
  CHECK(before.front().second.grad().defined());
}

TEST("zoo: channels_last holds from the first layer on, for one channel too") {
  for (const int64_t channels : {1, 3}) {
    const auto backbone = make_backbone(Json::Object{{"kind", "unet"}, {"inChannels", channels}});
    const at::Tensor x = at::randn({2, channels, 64, 48});
    const at::Tensor expected = evaluate(*backbone, x);
    const auto taps = backbone->tap({"encoder.conv1", "encoder.relu", "decoder.blocks.0", "segmentation_head"});
    for (const bool training : {false, true}) {
      backbone->to(at::kCPU, true);
      backbone->train(training);
      for (const at::Tensor& tap : backbone->forward(x, taps.get()).taps)
        CHECK(tap.is_contiguous(at::MemoryFormat::ChannelsLast) && (tap.size(1) == 1 || !tap.is_contiguous()));
      if (!training) CHECK(relative_error(evaluate(*backbone, x), expected) < 1e-4);
    }
  }
}

TEST("zoo: loading is strict, all or nothing, and lists what is wrong") {
  const auto unet = make(kSmallUnet);
  Json::Object options = config(kSmallUnet).object("config");
  options["seed"] = 9;
  auto other = state(*make_backbone(options));
  const auto before = state(*unet);

  auto wrong = other;
  wrong.erase("encoder.conv1.weight");
  wrong.emplace("surplus", at::zeros({1}));
  const auto message = message_of([&] { load_weights(*unet, wrong, true); }, code::kCheckpoint);
  CHECK(contains(message, "encoder.conv1.weight") && contains(message, "surplus"));
  CHECK(same(before, state(*unet)));

  wrong = other;
  wrong["segmentation_head.0.weight"] = at::zeros({3, 16, 3, 3});
  CHECK(contains(message_of([&] { load_weights(*unet, wrong, false); }, code::kCheckpoint),
                 "segmentation_head.0.weight"));
  wrong = other;
  wrong["segmentation_head.0.bias"] = at::zeros({2}, at::kLong);
  CHECK_THROWS(load_weights(*unet, wrong, false), code::kCheckpoint);
  CHECK(same(before, state(*unet)));

  auto partial = other;
  partial.erase("encoder.bn1.num_batches_tracked");
  CHECK(load_weights(*unet, partial, true).missing.empty());
  CHECK(same(other, state(*unet)));

  partial.erase("encoder.conv1.weight");
  partial.emplace("surplus", at::zeros({1}));
  const LoadReport report = load_weights(*unet, partial, false);
  CHECK(report.missing == std::vector<std::string>{"encoder.conv1.weight"});
  CHECK(report.unexpected == std::vector<std::string>{"surplus"});
}

TEST("zoo: an encoder loads alone, from its own file or from a whole network's") {
  const auto donor = make(R"({"kind":"resnet18","inChannels":1,"classes":0,"seed":3})");
  const auto unet = make(kSmallUnet);
  const auto before = state(*unet);
  CHECK(load_weights(*unet, state(*donor), true, "encoder.").missing.empty());
  const auto after = state(*unet);
  CHECK(at::equal(after.at("encoder.layer4.1.conv2.weight"), state(*donor).at("layer4.1.conv2.weight")));
  CHECK(at::equal(after.at("segmentation_head.0.weight"), before.at("segmentation_head.0.weight")));

  const auto target = make(kSmallUnet);
  load_weights(*target, after, true, "encoder.");
  CHECK(at::equal(state(*target).at("encoder.conv1.weight"), after.at("encoder.conv1.weight")));

  auto with_classifier = state(*make(R"({"kind":"resnet18","inChannels":1,"classes":3})"));
  CHECK(contains(message_of([&] { load_weights(*unet, with_classifier, true, "encoder."); }, code::kCheckpoint),
                 "fc.weight"));
  CHECK(load_weights(*unet, with_classifier, false, "encoder.").unexpected.size() == 2);
}

TEST("zoo: a classifier becomes an encoder, whatever the number of its input channels") {
  const std::string head = R"("classes":3,"decoderChannels":[8,8,8,8,8])";
  const auto donor = state(*make(R"({"kind":"resnet18","inChannels":3,"classes":4,"seed":3})"));
  const at::Tensor filters = donor.at("conv1.weight");
  for (const int64_t channels : {1, 2, 3, 5}) {
    const auto unet = make(R"({"kind":"unet",)" + head + R"(,"inChannels":)" + std::to_string(channels) + "}");
    const auto before = state(*unet);
    load_encoder(*unet, donor);
    const auto after = state(*unet);
    CHECK(at::equal(after.at("encoder.layer4.1.conv2.weight"), donor.at("layer4.1.conv2.weight")));
    CHECK(at::equal(after.at("decoder.blocks.0.conv1.0.weight"), before.at("decoder.blocks.0.conv1.0.weight")));
    const at::Tensor adapted = after.at("encoder.conv1.weight");
    if (channels == 3) {
      CHECK(at::equal(adapted, filters));
      continue;
    }
    CHECK(at::allclose(adapted, (filters.mean(1, true) * (3.0 / double(channels))).expand_as(adapted), 1e-6, 1e-7));
    // A grey image in every channel gives the response that it gave before.
    const at::Tensor grey = at::rand({1, 1, 16, 16});
    const auto response = [&](const at::Tensor& weight) {
      return at::conv2d(grey.expand({1, weight.size(1), 16, 16}).contiguous(), weight);
    };
    CHECK(at::allclose(response(adapted), response(filters), 1e-4, 1e-5));
    // From a whole network with such an encoder too.
    const auto other = make(R"({"kind":"unet",)" + head + R"(,"inChannels":3})");
    load_encoder(*other, after);
    CHECK(at::equal(state(*other).at("encoder.layer4.1.conv2.weight"), donor.at("layer4.1.conv2.weight")));
  }
  const auto unet = make(R"({"kind":"unet",)" + head + "}");
  const auto before = state(*unet);
  auto wrong = donor;
  wrong.erase("layer1.0.conv1.weight");
  CHECK(contains(message_of([&] { load_encoder(*unet, wrong); }, code::kCheckpoint), "layer1.0.conv1.weight"));
  CHECK_THROWS(load_encoder(*unet, state(*make(R"({"kind":"resnet34"})"))), code::kCheckpoint);
  CHECK_THROWS(load_encoder(*unet, std::map<std::string, at::Tensor>()), code::kCheckpoint);
  CHECK(same(before, state(*unet)));
  CHECK_THROWS(load_encoder(*make(kSmall), donor), code::kOption);
}

TEST("zoo: derived weights give the same, follow the weights, and end with training") {
  for (const char* text : {kSmallUnet, kSmall, R"({"kind":"resnet18","inChannels":1,"classes":4})",
                           R"({"kind":"unet","inChannels":1,"attention":"scse","decoderChannels":[32,16,16,16,16]})",
                           R"({"kind":"deeplabv3plus","inChannels":1,"decoderChannels":8})",
                           R"({"kind":"fpn","inChannels":1,"pyramidChannels":8,"segmentationChannels":32})"}) {
    const auto backbone = make(text);
    backbone->to(at::kCPU, true);
    backbone->train(true);
    const at::Tensor x = at::randn({2, 1, 64, 48});
    for (int i = 0; i < 3; ++i) backbone->forward(x, nullptr);
    at::Tensor expected = evaluate(*backbone, x);
    backbone->begin_inference(at::kFloat);
    CHECK(relative_error(evaluate(*backbone, x), expected) < 1e-4);
    backbone->begin_inference(at::kBFloat16);
    const at::Tensor brief = evaluate(*backbone, x);
    CHECK(brief.scalar_type() == at::kBFloat16);
    CHECK(relative_error(brief, expected) < 0.1);

    backbone->begin_inference(at::kFloat);
    {
      const at::NoGradGuard no_grad;
      for (const auto& [name, tensor] : backbone->parameters()) tensor.mul_(0.9);
    }
    backbone->begin_inference(at::kFloat);
    const at::Tensor derived = evaluate(*backbone, x);
    CHECK(relative_error(derived, expected) > 1e-3);
    backbone->end_inference();
    CHECK(relative_error(derived, evaluate(*backbone, x)) < 1e-4);

    backbone->begin_inference(at::kBFloat16);
    backbone->train(true);
    CHECK(backbone->forward(x, nullptr).output.scalar_type() == at::kFloat);
    CHECK(evaluate(*backbone, x).scalar_type() == at::kFloat);
  }
}

TEST("zoo: derived weights have the norm's epsilon, which counts where a channel hardly varies") {
  const auto backbone = make(kSmall);
  backbone->train(false);
  {
    const at::NoGradGuard no_grad;
    for (auto& [name, tensor] : backbone->buffers())
      if (name.starts_with("encoder.0.") && name.ends_with("running_var")) tensor.fill_(1e-5);
  }
  const at::Tensor x = at::randn({1, 1, 32, 48});
  const at::Tensor expected = evaluate(*backbone, x);
  backbone->begin_inference(at::kFloat);
  CHECK(relative_error(evaluate(*backbone, x), expected) < 1e-4);
}

TEST("zoo: gradients in evaluation mode come from the parameters, not from derived weights") {
  const auto backbone = make(kSmall);
  backbone->train(false);
  backbone->begin_inference(at::kBFloat16);
  const at::Tensor y = backbone->forward(at::randn({1, 1, 16, 16}), nullptr).output;
  CHECK(y.scalar_type() == at::kFloat);
  y.sum().backward();
  for (const auto& [name, tensor] : backbone->parameters()) CHECK(tensor.grad().defined());
}

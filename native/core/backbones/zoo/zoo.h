#pragma once
// The native networks by name, and the options of each. make_of_zoo() takes these as JSON:
//
// clang-format off
//   "resnet18" | "resnet34" | "resnet50" | "resnet101"  {"inChannels": 3, "classes": 1000 (0: no fc)}
//   "unet"           {"decoderChannels": [256, 128, 64, 32, 16], "attention": null | "scse", "preset": "paper" | "deep",
//                     "dropout": 0}
//   "deeplabv3plus"  {"decoderChannels": 256, "outputStride": 16 | 8, "atrousRates": [12, 24, 36], "dropout": 0.5}
//   "fpn"            {"pyramidChannels": 256, "segmentationChannels": 128, "dropout": 0.2}
//   "plain-unet"     {"inChannels": 1, "classes": 2, "width": 16, "depth": 4, "dropout": 0}
//   "unet3d"         {as "plain-unet", "norm": "batch" | "instance", "upsampling": "nearest" | "trilinear"}
//   "dynunet" | "dynunet2d"  {"inChannels": 1, "classes": 2, "width": 32, "widest": 320, "depth": 5, "convolutions": 2,
//                     "strides": [[1, 1, 1], [2, 2, 2], ...], "kernels": [[3, 3, 3], ...], "dropout": 0}
// clang-format on
//
// "unet", "deeplabv3plus" and "fpn" have {"encoder": "resnet18" | ... | "resnet101", "inChannels": 3, "classes": 1}
// too, and each has "kind" and "seed" (0). "preset": "paper" (SPEC section 2) gives the unet's defaults as encoder
// resnet18, 1 input channel, 2 classes, decoder channels 1024-512-256-128-64 and scSE attention; "deep" is the same on
// resnet101. Options given beside a preset win. ERR_LE_OPTION for anything unknown, of the wrong type or out of range.
#include "backbones/backbone.h"

namespace le {

std::unique_ptr<Backbone> make_of_zoo(const Json& config);

// Every kind of the zoo.
std::vector<std::string> backbone_kinds();

}  // namespace le

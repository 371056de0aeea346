#pragma once
// The native networks by name, and the options of each. make_backbone() of backbone.h takes these as JSON:
//
//   "resnet18" | "resnet34" | "resnet50"  {"inChannels": 3, "classes": 1000 (0: no fc)}
//   "unet"        {"encoder": "resnet18" | "resnet34" | "resnet50", "inChannels": 3, "classes": 1,
//                  "decoderChannels": [256, 128, 64, 32, 16], "attention": null | "scse", "preset": "paper"}
//   "plain-unet"  {"inChannels": 1, "classes": 2, "width": 16, "depth": 4}
//
// and "kind" and "seed" (0) for each. "preset": "paper" (SPEC section 2) gives the unet's defaults as encoder resnet18,
// 1 input channel, decoder channels 1024-512-256-128-64 and scSE attention; options given beside it win.
// ERR_LE_OPTION for anything unknown, of the wrong type or out of range.
#include "backbones/backbone.h"

namespace le {

// Every kind that make_backbone() knows.
std::vector<std::string> backbone_kinds();

}  // namespace le

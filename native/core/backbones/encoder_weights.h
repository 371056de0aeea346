#pragma once
// Pretrained classifiers as encoders of segmentation networks.
#include <optional>
#include <string>
#include <vector>

#include "backbones/backbone.h"

namespace le {

// Loads the state dict of a classifier (torchvision's ResNets), or of a network with an encoder of that kind, into the
// part of `backbone` below "encoder.". The classifier's own last layer (fc.*) is left out. Where the number of input
// channels differs, each of the first convolution's filters becomes its mean over its input channels, repeated for each
// new channel and scaled by old/new channels: a grey image in every channel gives the response that it gave before, and
// one channel takes the sum over red, green and blue. `prefix`: as in MatchOptions. ERR_LE_CHECKPOINT as load_weights()
// when strict; ERR_LE_OPTION for a network without an encoder.
LoadReport load_encoder(Backbone& backbone, const std::vector<StateDict>& file,
                        const std::optional<std::string>& prefix = {});

}  // namespace le

#pragma once
// What a network's own output is made of, found by data flow: autograd records which operation took which value, in the
// same way for every kind of backbone.
#include <string>
#include <vector>

#include "backbones/backbone.h"

namespace le {

// The features of a network are the feature map that its own output is computed from by one learned linear layer, its
// classifier: whatever comes after that (resizing, activations, norms, slices, sums of what is made of the same map)
// only makes the output of it. A layer that smooths or enlarges each channel by itself is no classifier; nor is one
// that follows a classifier of as many channels with nothing but resizing between. Where the map itself is no layer's
// output, it is the last layer's before it that only activations, norms, dropout, pooling or resizing lie behind. An
// output without places, such as a class for each image, has for features the last map that it was pooled from.
struct Features {
  std::string layer;   // empty where data flow cannot say
  std::string reason;  // then: why, as the end of "…, because "
};
// `image`: as forward takes it, on the backbone's device.
Features find_features(Backbone& backbone, const at::Tensor& image);

// Whether an output is probabilities already: all from 0 to 1, and over the channels sums of 1 everywhere; or made by a
// softmax or sigmoid; or from 0 to 1 also for an image a thousand times as large. `image`: random numbers, of which
// `output` is what forward gives.
bool gives_probabilities(Backbone& backbone, const at::Tensor& image, const at::Tensor& output);

// Whether `output` is a map of an image of `axes` spatial axes: N×C and so many more, with more than one place where
// the image has.
bool is_map(const at::Tensor& output, const at::Tensor& image);

}  // namespace le

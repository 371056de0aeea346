#include "heads.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bernoulli.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/conv3d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>

#include <cmath>

namespace le {

SegmentationHead::SegmentationHead(int64_t channels, int64_t classes, int64_t spatial_axes, double dropout,
                                   at::Generator& generator)
    : dropout_(dropout) {
  std::vector<int64_t> shape(spatial_axes + 2, 3);
  shape[0] = classes;
  shape[1] = channels;
  const double bound = 1.0 / std::sqrt(static_cast<double>(channels) * std::pow(3.0, spatial_axes));
  weight = at::empty(shape).uniform_(-bound, bound, generator).set_requires_grad(true);
  bias = at::empty({classes}).uniform_(-bound, bound, generator).set_requires_grad(true);
}

at::Tensor SegmentationHead::forward(const at::Tensor& features, at::Generator* generator) const {
  at::Tensor x = features;
  if (generator && dropout_ > 0) {
    // One draw per channel and image would be Dropout2d; this is Dropout, element by element. The mask comes from this
    // ensemble's own generator, so that other work in the process does not change a training run.
    at::Tensor keep = at::empty(x.sizes(), x.options().requires_grad(false));
    keep.bernoulli_(1.0 - dropout_, *generator);
    x = x * keep / (1.0 - dropout_);
  }
  const bool inference = inference_weight.defined();
  const at::Tensor& w = inference ? inference_weight : weight;
  const at::Tensor& b = inference ? inference_bias : bias;
  // Not at::convolution, which autocast does not know on the CPU.
  return w.dim() == 5 ? at::conv3d(x, w, b, 1, at::IntArrayRef(1)) : at::conv2d(x, w, b, 1, at::IntArrayRef(1));
}

}  // namespace le

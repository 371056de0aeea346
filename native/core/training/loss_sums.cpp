#include "training/loss_sums.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/expm1.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <vector>

#include "error.h"
#include "kernels/interpolation.h"
#include "kernels/isa.h"
#include "kernels/loss_kernel.h"

namespace le {

namespace {

at::Tensor interpolated(const at::Tensor& logits, at::IntArrayRef size) {
  if (logits.sizes().slice(2) == size) return logits;
  const at::Tensor wide = logits.scalar_type() == at::kBFloat16 ? logits.to(at::kFloat) : logits;
  return resized(wide.contiguous(), size, Upsampling::kLinear);
}

void check_shapes(const at::Tensor& logits, const at::Tensor& target) {
  const bool fits = logits.dim() >= 2 && target.dim() == logits.dim() - 1 && logits.size(0) == target.size(0) &&
                    logits.size(1) >= 2 && logits.numel() > 0 && target.numel() > 0;
  const bool interpolates = logits.dim() == 4 || logits.dim() == 5;
  if (!fits || (!interpolates && logits.sizes().slice(2) != target.sizes().slice(1)))
    fail(code::kShape, "Expected a target N × S for logits N × C × S but received ", target.sizes(), " for ",
         logits.sizes(), ".");
}

struct Kernel {
  kernel::LossForward forward;
  kernel::LossBackward backward;
};

Kernel chosen_kernel() {
#if defined(__x86_64__)
  const std::string isa = chosen_isa();
  if (isa == "avx512") return {kernel::loss_forward_avx512, kernel::loss_backward_avx512};
  if (isa == "avx2") return {kernel::loss_forward_avx2, kernel::loss_backward_avx2};
#endif
  return {kernel::loss_forward_generic, kernel::loss_backward_generic};
}

// The kernel's view of a batch: logits N×C×h×w (or of the target's size, whatever its axes), target N×H×W.
struct Plan {
  AxisPlan rows, columns;
  kernel::LossTask task{};
  int64_t images, items;

  Plan(const at::Tensor& logits, const at::Tensor& target, const at::Tensor& weights, const PixelSumsOptions& options)
      : rows(source_rows(logits, target), target_rows(target), kernel::kLossPadding),
        columns(logits.size(-1), target.size(-1), kernel::kLossPadding) {
    images = logits.size(0);
    task.classes = logits.size(1);
    task.rows = rows.axis();
    task.columns = columns.axis();
    task.same = logits.sizes().slice(2) == target.sizes().slice(1);
    task.logits = logits.const_data_ptr<float>();
    task.target = target.const_data_ptr();
    task.byte_target = target.scalar_type() == at::kByte;
    task.ignore_index = static_cast<int32_t>(options.ignore_index);
    task.class_weights = weights.const_data_ptr<float>();
    task.nll = options.nll;
    task.all_nll = options.all_nll;
    task.focal = options.focal;
    task.gamma = static_cast<float>(options.gamma);
    // Fixed by the shape alone, so that sums are added in the same order whatever the thread count.
    task.bands =
        std::clamp<int64_t>(task.rows.size * task.columns.size / 4096, 1, std::min<int64_t>(8, task.rows.size));
    items = images * task.bands;
  }

 private:
  static int64_t target_rows(const at::Tensor& target) {
    return target.numel() / std::max<int64_t>(1, target.size(0) * target.size(-1));
  }
  // More than two spatial axes come here at the target's size only, where rows are rows.
  static int64_t source_rows(const at::Tensor& logits, const at::Tensor& target) {
    return logits.dim() == 4 ? logits.size(2) : target_rows(target);
  }
};

// The same sums by the kernel, and their gradient.
class FusedSums : public torch::autograd::Function<FusedSums> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const at::Tensor& logits,
                                                const at::Tensor& target, const at::Tensor& weights,
                                                const PixelSumsOptions& options) {
    const at::Tensor z = logits.detach().to(at::kFloat).contiguous(), y = target.contiguous();
    const Plan plan(z, y, weights, options);
    const int64_t c = plan.task.classes, columns = plan.task.sums();
    const at::Tensor partial = at::empty({plan.items, columns}, at::kDouble);
    double* out = partial.mutable_data_ptr<double>();
    const Kernel run = chosen_kernel();
    at::parallel_for(0, plan.items, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> scratch(plan.task.scratch());
      for (int64_t item = begin; item < end; ++item) run.forward(plan.task, item, scratch.data(), out + item * columns);
    });
    const at::Tensor sums = at::zeros({plan.images, columns}, at::kDouble);
    double* sum = sums.mutable_data_ptr<double>();
    for (int64_t item = 0; item < plan.items; ++item)
      for (int64_t j = 0; j < columns; ++j) sum[item / plan.task.bands * columns + j] += out[item * columns + j];
    for (int64_t image = 0; image < plan.images; ++image) {
      double labelled = 0;
      for (int64_t k = 0; k < c; ++k) labelled += sum[image * columns + 2 * c + k];
      if (labelled != sum[image * columns + 3 * c])
        fail(code::kValue, "Expected labels from 0 to ", c - 1, " or ", options.ignore_index,
             " for the target but received ", sum[image * columns + 3 * c] - labelled, " others in image ", image,
             " of the batch.");
    }
    context->save_for_backward({z, y, weights});
    context->saved_data["ignore_index"] = options.ignore_index;
    context->saved_data["nll"] = options.nll;
    context->saved_data["all_nll"] = options.all_nll;
    context->saved_data["focal"] = options.focal;
    context->saved_data["gamma"] = options.gamma;
    context->saved_data["type"] = static_cast<int64_t>(logits.scalar_type());
    const at::Tensor narrow = sums.to(at::kFloat);
    at::Tensor truth = narrow.narrow(1, 2 * c, c).contiguous(), counted = narrow.select(1, 3 * c).contiguous();
    context->mark_non_differentiable({truth, counted});
    return {narrow.narrow(1, 0, c).contiguous(),
            narrow.narrow(1, c, c).contiguous(),
            narrow.select(1, 3 * c + 1).contiguous(),
            narrow.select(1, 3 * c + 2).contiguous(),
            narrow.select(1, 3 * c + 3).contiguous(),
            truth,
            counted};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &z = saved[0], &y = saved[1], &weights = saved[2];
    const auto option = [&](const char* name) { return context->saved_data.at(name); };
    const Plan plan(z, y, weights,
                    {option("ignore_index").toInt(), option("nll").toBool(), option("all_nll").toBool(),
                     option("focal").toBool(), option("gamma").toDouble()});
    const kernel::LossTask& task = plan.task;
    std::vector<at::Tensor> columns;
    for (int i = 0; i < 5; ++i) {
      const int64_t width = i < 2 ? task.classes : 1;
      columns.push_back(gradients[i].defined() ? gradients[i].to(at::kFloat).reshape({plan.images, width})
                                               : at::zeros({plan.images, width}, at::kFloat));
    }
    const at::Tensor coefficients = at::cat(columns, 1);
    const float* factors = coefficients.const_data_ptr<float>();
    const Kernel run = chosen_kernel();
    at::Tensor result = at::empty(z.sizes(), z.options());
    float* out = result.mutable_data_ptr<float>();
    // Neighbouring bands share source rows: each has its own copy, and these are added in the bands' order.
    const int64_t width = task.columns.source;
    std::vector<int64_t> offset(task.bands + 1);  // within an image
    for (int64_t band = 0; band < task.bands; ++band) {
      const int64_t rows = task.same ? 0 : task.last_source(band) - task.first_source(band) + 1;
      offset[band + 1] = offset[band] + task.classes * rows * width;
    }
    const at::Tensor partial = at::empty({plan.images * offset.back()}, at::kFloat);
    float* pieces = partial.mutable_data_ptr<float>();
    at::parallel_for(0, plan.items, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> scratch(task.scratch());
      for (int64_t item = begin; item < end; ++item) {
        const int64_t band = item % task.bands;
        float* piece = pieces + item / task.bands * offset.back() + offset[band];
        std::fill_n(piece, offset[band + 1] - offset[band], 0.0f);
        run.backward(task, item, factors, scratch.data(), task.same ? out : piece);
      }
    });
    if (!task.same) {
      at::parallel_for(0, plan.images * task.classes, 1, [&](int64_t begin, int64_t end) {
        const int64_t plane = task.rows.source * width;
        for (int64_t i = begin; i < end; ++i) {
          float* to = out + i * plane;
          std::fill_n(to, plane, 0.0f);
          for (int64_t band = 0; band < task.bands; ++band) {
            const int64_t size = (offset[band + 1] - offset[band]) / task.classes;
            const float* from = pieces + i / task.classes * offset.back() + offset[band] + i % task.classes * size;
            float* start = to + task.first_source(band) * width;
            for (int64_t j = 0; j < size; ++j) start[j] += from[j];
          }
        }
      });
    }
    const auto type = static_cast<at::ScalarType>(option("type").toInt());
    return {result.to(type), {}, {}, {}};
  }
};

}  // namespace

Pixels probabilities(const at::Tensor& logits, const at::Tensor& target, int64_t ignore_index) {
  check_shapes(logits, target);
  const at::Tensor y = target.to(at::kLong);
  const at::Tensor wrong = y.ne(ignore_index).logical_and(y.lt(0).logical_or(y.ge(logits.size(1))));
  if (const auto others = wrong.sum().item<int64_t>())
    fail(code::kValue, "Expected labels from 0 to ", logits.size(1) - 1, " or ", ignore_index,
         " for the target but received ", others, " others in the batch.");
  const at::Tensor z = interpolated(logits, target.sizes().slice(1)).flatten(2);
  return {(z.scalar_type() == at::kBFloat16 ? z.to(at::kFloat) : z).softmax(1), y};
}

PixelSums sum_pixels_reference(const at::Tensor& logits, const at::Tensor& target, const at::Tensor& class_weights,
                               const PixelSumsOptions& options) {
  check_shapes(logits, target);
  const at::Tensor z =
      interpolated(logits, target.sizes().slice(1)).flatten(2).reshape({logits.size(0), logits.size(1), -1});
  const at::Tensor log_p = (z.scalar_type() == at::kBFloat16 ? z.to(at::kFloat) : z).log_softmax(1);
  const at::Tensor y = target.reshape({target.size(0), 1, -1}).to(at::kLong);
  const at::Tensor counted = y.ne(options.ignore_index);
  const at::Tensor label = at::where(counted, y, at::zeros_like(y));
  const auto constant = log_p.options().requires_grad(false);
  const at::Tensor one_hot = at::zeros(log_p.sizes(), constant).scatter_(1, label, 1.0) * counted;
  const at::Tensor p = log_p.exp() * counted;
  const at::Tensor w = class_weights.to(constant).view({1, -1, 1});
  // Not 1 - p, whose power has no derivative where p rounds to 1.
  const at::Tensor others = (-log_p.expm1()).clamp_min(1e-12);
  constexpr std::array<int64_t, 2> all = {1, 2};
  PixelSums sums;
  sums.hits = (p * one_hot).sum(2);
  sums.predicted = p.sum(2);
  sums.truth = one_hot.sum(2);
  sums.counted = counted.to(constant.dtype()).sum(all);
  sums.nll = -(log_p * one_hot * w).sum(all);
  sums.all_nll = -(log_p * counted * w).sum(all);
  sums.focal = -(log_p * one_hot * w * others.pow(options.gamma)).sum(all);
  return sums;
}

PixelSums sum_pixels(const at::Tensor& logits, const at::Tensor& target, const at::Tensor& class_weights,
                     const PixelSumsOptions& options) {
  check_shapes(logits, target);
  const bool fused = logits.device().is_cpu() && logits.dim() > 2 &&
                     (logits.scalar_type() == at::kFloat || logits.scalar_type() == at::kBFloat16) &&
                     (target.scalar_type() == at::kLong || target.scalar_type() == at::kByte);
  if (!fused) return sum_pixels_reference(logits, target, class_weights, options);
  const bool volume = logits.dim() == 5;
  const auto all = FusedSums::apply(volume ? interpolated(logits, target.sizes().slice(1)) : logits, target,
                                    class_weights.to(at::kFloat).contiguous(), options);
  return {all[0], all[1], all[2], all[3], all[4], all[5], all[6]};
}

}  // namespace le

#include "data/dataset.h"

#include <ATen/ops/empty.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "error.h"

namespace le {

namespace {

std::string joined(const std::vector<int64_t>& size) {
  std::string all;
  for (const int64_t side : size) all += (all.empty() ? "" : "×") + std::to_string(side);
  return all;
}

}  // namespace

void Dataset::validate(const std::string& what, int64_t channels, int64_t axes, int64_t classes,
                       int64_t ignore_index) const {
  if (samples.empty()) fail(code::kShape, "Expected at least one sample for ", what, " but received none.");
  for (size_t i = 0; i < samples.size(); ++i) {
    const Sample& sample = samples[i];
    const auto name = [&] { return what + "[" + std::to_string(i) + "]"; };
    if (sample.channels != channels)
      fail(code::kShape, "Expected ", channels, " channels for ", name(), " but received ", sample.channels, ".");
    if (static_cast<int64_t>(sample.size.size()) != axes)
      fail(code::kShape, "Expected ", axes, " spatial axes for ", name(), " but received ", sample.size.size(), ".");
    if (sample.size != samples[0].size)
      fail(code::kShape, "Expected ", joined(samples[0].size), " for ", name(), " but received ", joined(sample.size),
           ": give the dataset one size.");
    for (const float value : sample.image)
      if (!std::isfinite(value))
        fail(code::kValue, "Expected finite numbers for ", name(), " but received ", value, ".");
    for (const uint8_t label : sample.mask)
      if (label >= classes && label != ignore_index)
        fail(code::kValue, "Expected labels from 0 to ", classes - 1, " for ", name(), " but received ",
             static_cast<int>(label), ".");
  }
}

Batch collate(const std::vector<const Sample*>& samples, bool pinned) {
  const Sample& first = *samples.front();
  const int64_t n = static_cast<int64_t>(samples.size());
  const auto host = at::TensorOptions().pinned_memory(pinned);
  std::vector<int64_t> images{n, first.channels}, targets{n};
  images.insert(images.end(), first.size.begin(), first.size.end());
  targets.insert(targets.end(), first.size.begin(), first.size.end());
  Batch batch{at::empty(images, host.dtype(at::kFloat)), at::empty(targets, host.dtype(at::kLong))};
  float* image = batch.images.mutable_data_ptr<float>();
  int64_t* target = batch.targets.mutable_data_ptr<int64_t>();
  for (const Sample* sample : samples) {
    std::memcpy(image, sample->image.data(), sample->image.size() * sizeof(float));
    image += sample->image.size();
    for (const uint8_t label : sample->mask) *target++ = label;
  }
  return batch;
}

std::vector<std::vector<size_t>> epoch_batches(size_t samples, size_t batch_size, uint64_t seed, int64_t epoch) {
  std::vector<size_t> order(samples);
  std::iota(order.begin(), order.end(), size_t{0});
  Random random(seed, kShuffle, static_cast<uint64_t>(epoch));
  for (size_t i = samples; i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  const size_t count = (samples + batch_size - 1) / batch_size;
  std::vector<std::vector<size_t>> batches(count);
  for (size_t b = 0; b < count; ++b)
    batches[b].assign(order.begin() + samples * b / count, order.begin() + samples * (b + 1) / count);
  return batches;
}

Loader::Loader(const Dataset& data, std::vector<std::vector<size_t>> batches, const AugmentOptions& augmentation,
               uint64_t seed, int64_t epoch, bool pinned, size_t ahead)
    : data_(data),
      batches_(std::move(batches)),
      augmentation_(augmentation),
      seed_(seed),
      epoch_(epoch),
      pinned_(pinned),
      ahead_(ahead),
      thread_([this] { run(); }) {}

Loader::~Loader() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Loader::run() {
  try {
    const bool augmented = augmentation_.any();
    for (const auto& indices : batches_) {
      std::vector<Sample> copies;
      std::vector<const Sample*> samples;
      copies.reserve(indices.size());
      for (const size_t index : indices) {
        if (!augmented) {
          samples.push_back(&data_.samples[index]);
          continue;
        }
        Random random(seed_, kAugment, static_cast<uint64_t>(epoch_), index);
        copies.push_back(data_.samples[index]);
        augment(copies.back(), augmentation_, random);
        samples.push_back(&copies.back());
      }
      Batch batch = collate(samples, pinned_);
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stop_ || ready_.size() < ahead_; });
      if (stop_) return;
      ready_.push_back(std::move(batch));
      changed_.notify_all();
    }
  } catch (...) {
    std::lock_guard lock(mutex_);
    failure_ = std::current_exception();
    changed_.notify_all();
  }
}

Batch Loader::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return failure_ || !ready_.empty(); });
  if (ready_.empty()) std::rethrow_exception(failure_);
  Batch batch = std::move(ready_.front());
  ready_.pop_front();
  changed_.notify_all();
  return batch;
}

}  // namespace le

#include "data/dataset.h"

#include <ATen/ops/empty.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "data/patches.h"
#include "error.h"

namespace le {

namespace {

std::string joined(const std::vector<int64_t>& size) {
  std::string all;
  for (const int64_t side : size) all += (all.empty() ? "" : "×") + std::to_string(side);
  return all;
}

}  // namespace

SampleView view_of(const Sample& sample) {
  return {sample.channels, sample.size, sample.image.data(), sample.mask.data(), nullptr};
}

Sample copy_of(const SampleView& view) {
  return {view.channels, view.size, {view.image, view.image + view.values()}, {view.mask, view.mask + view.pixels()}};
}

SampleView Dataset::view(size_t index) const { return view_of(samples[index]); }

void Dataset::validate(const std::string& what, int64_t channels, int64_t axes, int64_t classes, int64_t ignore_index,
                       bool any_size) const {
  if (size() == 0) fail(code::kShape, "Expected at least one sample for ", what, " but received none.");
  std::vector<int64_t> first;
  for (size_t i = 0; i < size(); ++i) {
    const SampleView sample = view(i);
    const auto name = [&] { return what + "[" + std::to_string(i) + "]"; };
    if (sample.channels != channels)
      fail(code::kShape, "Expected ", channels, " channels for ", name(), " but received ", sample.channels, ".");
    if (static_cast<int64_t>(sample.size.size()) != axes)
      fail(code::kShape, "Expected ", axes, " spatial axes for ", name(), " but received ", sample.size.size(), ".");
    if (i == 0) first = sample.size;
    if (!any_size && sample.size != first)
      fail(code::kShape, "Expected ", joined(first), " for ", name(), " but received ", joined(sample.size),
           ": give the dataset one size.");
    for (const float *value = sample.image, *end = value + sample.values(); value != end; ++value)
      if (!std::isfinite(*value))
        fail(code::kValue, "Expected finite numbers for ", name(), " but received ", *value, ".");
    for (const uint8_t *label = sample.mask, *end = label + sample.pixels(); label != end; ++label)
      if (*label >= classes && *label != ignore_index)
        fail(code::kValue, "Expected labels from 0 to ", classes - 1, " for ", name(), " but received ",
             static_cast<int>(*label), ".");
  }
}

Batch empty_batch(size_t count, int64_t channels, const std::vector<int64_t>& size, bool pinned) {
  const auto host = at::TensorOptions().pinned_memory(pinned);
  const auto n = static_cast<int64_t>(count);
  std::vector<int64_t> images{n, channels}, targets{n};
  images.insert(images.end(), size.begin(), size.end());
  targets.insert(targets.end(), size.begin(), size.end());
  return {at::empty(images, host.dtype(at::kFloat)), at::empty(targets, host.dtype(at::kLong))};
}

void put(const SampleView& sample, size_t place, Batch& batch) {
  const auto values = static_cast<size_t>(sample.values()), pixels = static_cast<size_t>(sample.pixels());
  std::memcpy(batch.images.mutable_data_ptr<float>() + place * values, sample.image, values * sizeof(float));
  std::copy(sample.mask, sample.mask + pixels, batch.targets.mutable_data_ptr<int64_t>() + place * pixels);
}

Batch collate(const Dataset& data, const std::vector<size_t>& indices, bool pinned) {
  Batch batch;
  for (size_t place = 0; place < indices.size(); ++place) {
    const SampleView sample = data.view(indices[place]);
    if (place == 0) batch = empty_batch(indices.size(), sample.channels, sample.size, pinned);
    put(sample, place, batch);
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

Loader::Loader(const Dataset& data, const Patches* patches, std::vector<std::vector<size_t>> batches,
               const AugmentOptions& augmentation, uint64_t seed, int64_t epoch, bool pinned, size_t ahead)
    : data_(data),
      patches_(patches),
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

Batch Loader::made(const std::vector<size_t>& numbers) const {
  if (!patches_ && !augmentation_.any()) return collate(data_, numbers, pinned_);
  Batch batch;
  for (size_t place = 0; place < numbers.size(); ++place) {
    const size_t number = numbers[place];
    Random random(seed_, kAugment, static_cast<uint64_t>(epoch_), number);
    Sample sample = patches_ ? patches_->draw(number, epoch_) : copy_of(data_.view(number));
    if (augmentation_.any()) augment(sample, augmentation_, random);
    if (place == 0) batch = empty_batch(numbers.size(), sample.channels, sample.size, pinned_);
    put(view_of(sample), place, batch);
  }
  return batch;
}

void Loader::run() {
  try {
    for (const auto& indices : batches_) {
      Batch batch = made(indices);
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

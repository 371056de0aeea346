#include "training/train.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <set>

#include "convolutions/guard.h"
#include "files/checkpoint.h"
#include "kernels/interpolation.h"
#include "numbers.h"
#include "options.h"
#include "platform/default_generator.h"
#include "prediction/predict.h"
#include "prediction/reduce.h"
#include "training/optim.h"
#include "training/schedule.h"
#include "training/validation.h"

namespace le {

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Of the tiles by which a training by patches is validated: enough for a tile to see around what is judged in it.
constexpr double kValidationOverlap = 0.25;

}  // namespace

TrainOptions TrainOptions::from(const Json& options) {
  TrainOptions result{};
  const Range<int64_t> positive = at_least<int64_t>(1);
  const Range<double> from_zero = at_least(0.0);
  result.epochs = in_range(options, "epochs", positive);
  result.batch_size = in_range(options, "batchSize", positive);
  result.accumulate = in_range(options, "accumulate", positive);
  result.checkpoint_every = in_range(options, "checkpointEvery", positive);
  result.learning_rate = in_range(options, "learningRate", from_zero);
  result.loss = options.at("loss");
  result.optimizer = options.at("optimizer");
  result.schedule = options.at("schedule");
  result.head_weights = options.numbers_or("headWeights", {});
  result.head_gradient = in_range(options, "headGradient", Range<double>{0, 1});
  result.clip_norm = in_range(options, "clipNorm", from_zero);
  result.early_stopping = options.at("earlyStopping").integer("earlyStopping");
  result.augmentation = AugmentOptions::from(options.at("augment"));
  result.patches = PatchOptions::from(options);
  result.seed = static_cast<uint64_t>(options.at("seed").integer("seed"));
  result.ignore_index = options.at("ignoreIndex").integer("ignoreIndex");
  result.augmentation.fill_mask =
      static_cast<uint8_t>(result.ignore_index >= 0 && result.ignore_index < 256 ? result.ignore_index : 0);
  Json::Object decisive = options.object("training options");
  for (const char* name : {"epochs", "run", "resume", "checkpointEvery", "earlyStopping", "restoreBest"})
    decisive.erase(name);
  result.decisive = std::move(decisive);
  result.run = options.string_or("run", "");
  result.resume = options.boolean_or("resume", false);
  result.restore_best = options.at("restoreBest").boolean("restoreBest");
  return result;
}

Loss external_loss(std::function<LossAndGradient(const at::Tensor&, const at::Tensor&)> compute) {
  return [compute = std::move(compute)](const at::Tensor& small, const at::Tensor& target) {
    const at::Tensor logits = interpolate(small, target.sizes().slice(1));
    const auto [value, gradient] = compute(logits.detach(), target);
    if (gradient.sizes() != logits.sizes())
      fail(code::kShape, "Expected a gradient of shape ", logits.sizes(), " from the loss but received ",
           gradient.sizes(), ".");
    // A scalar whose gradient is the given one and whose value is the given one.
    const at::Tensor linear = (logits * gradient.to(logits.device())).sum();
    return linear + (value - linear.detach());
  };
}

namespace {

class Trainer {
 public:
  Trainer(Ensemble& ensemble, const Dataset& training, const Dataset* validation, const TrainOptions& options,
          const std::optional<Loss>& custom_loss, const Control& control)
      : ensemble_(ensemble),
        training_(training),
        validation_(validation && validation->size() > 0 ? validation : nullptr),
        options_(options),
        control_(control),
        loss_(custom_loss ? *custom_loss : make_loss(options.loss, options.ignore_index)),
        optimizer_(make_optimizer(options.optimizer, ensemble.trainable())),
        schedule_(make_schedule(options.schedule)),
        weights_(options.head_weights),
        dtype_(options.dtype),
        dropout_(make_generator()) {
    const auto channels = ensemble.backbone().in_channels();
    const auto axes = ensemble.backbone().spatial_axes();
    if (const auto momentum = schedule_->momentum(0, 1)) optimizer_->set_momentum(*momentum);
    const bool by_patches = options.patches.any();
    training_.validate("training", channels, axes, ensemble.classes(), options.ignore_index, by_patches);
    if (by_patches) patches_.emplace(training_, options.patches, options.ignore_index, options.seed);
    if (validation_) {
      validation_->validate("validation", channels, axes, ensemble.classes(), options.ignore_index, by_patches);
      judged_ = judged_tiles(*validation_, options.patches.size, kValidationOverlap);
    }
    draws_ = !ensemble.options().freeze_backbone && ensemble.backbone().draws_in_training();
    if (weights_.empty()) weights_.assign(ensemble.heads().size(), 1.0);
    if (weights_.size() != ensemble.heads().size())
      fail(code::kOption, "Expected ", ensemble.heads().size(),
           " numbers, one per head, for option 'headWeights' but "
           "received ",
           weights_.size(), ".");
    for (const double weight : weights_) in_range("headWeights", weight, at_least(0.0));
    Json::Array heads;
    for (const auto& head : ensemble.heads()) heads.emplace_back(head.name);
    fingerprint_ = Json(Json::Object{{"options", options.decisive},
                                     {"bf16", options.dtype == at::kBFloat16},
                                     {"heads", std::move(heads)},
                                     {"samples", static_cast<int64_t>(training.samples.size())}})
                       .dump();
    const size_t batches = epoch_batches(epoch_size(), options_.batch_size, 0, 0).size();
    if (const int64_t needed = ensemble.options().freeze_backbone ? 0 : ensemble.backbone().training_batch();
        needed > 0)
      for (const int64_t size : batch_sizes())
        if (size != needed)
          fail(code::kOption, "Expected batches of ", needed, " images for a network that was recorded with these but ",
               "received one of ", size, ": use batchSize ", needed, " and a number of training images that it ",
               "divides, or export the network with a dynamic batch.");
    steps_per_epoch_ = static_cast<int64_t>((batches + options_.accumulate - 1) / options_.accumulate);
  }

  Json run() {
    std::error_code ignored;  // what cannot be looked at is there: reading it says what is wrong
    const auto state = std::filesystem::symlink_status(state_path(), ignored);
    if (options_.resume && state.type() != std::filesystem::file_type::not_found) load();
    std::string stopped = "epochs";
    start_ = std::chrono::steady_clock::now();
    first_epoch_ = epoch_;
    send({{"type", "start"}, {"epoch", epoch_}, {"epochs", options_.epochs}, {"before", history_}});
    while (epoch_ < options_.epochs) {
      if (exhausted()) {
        stopped = "early";
        break;
      }
      run_epoch();
    }
    if (options_.restore_best && best_epoch_ >= 0)
      ensemble_.load_state(best_.empty() ? read_safetensors(weights_path()).tensors : best_);
    ensemble_.train(false);
    Json best = nullptr;
    if (best_epoch_ >= 0) best = Json::Object{{"epoch", best_epoch_}, {"loss", best_loss_}};
    return Json::Object{{"epochs", history_}, {"best", std::move(best)}, {"stopped", stopped}};
  }

  std::vector<ConvolutionCall> kernels() {
    Recording recording;
    const Rehearsal rehearsal(*this);
    for (const int64_t size : batch_sizes()) {
      control_.check();
      rehearsal.step(first_batch(size));
    }
    if (validation_) {
      std::set<size_t> sizes;
      const size_t all = judged_.size(), most = static_cast<size_t>(options_.batch_size);
      for (size_t begin = 0; begin < all; begin += most) sizes.insert(std::min(most, all - begin));
      for (const size_t size : sizes)
        rehearsal.evaluation(judged_batch(*validation_, judged_, 0, size, options_.ignore_index, false));
    }
    return recording.calls();
  }

  StepSeconds time_steps() {
    constexpr int kMostRounds = 4;
    constexpr double kEnough = 2;  // seconds, after which no further round begins
    StepSeconds shortest;
    const Rehearsal rehearsal(*this);
    const Batch batch = first_batch(*batch_sizes().rbegin());
    const auto begin = std::chrono::steady_clock::now();
    for (int round = 0; round < kMostRounds && (round == 0 || seconds_since(begin) < kEnough); ++round)
      for (const auto& [dtype, seconds] : {std::pair(at::kFloat, &shortest.fp32), {at::kBFloat16, &shortest.bf16}}) {
        control_.check();
        dtype_ = dtype;
        const auto start = std::chrono::steady_clock::now();
        rehearsal.step(batch);
        *seconds = std::min(*seconds, seconds_since(start));
      }
    dtype_ = options_.dtype;
    return shortest;
  }

 private:
  // Passes of a training ahead of it. When it ends, the network is as it was before.
  class Rehearsal {
   public:
    explicit Rehearsal(Trainer& trainer) : trainer_(trainer) {
      trainer_.ensemble_.backbone().end_inference();
      for (const auto& [name, buffer] : buffers()) before_.push_back(buffer.clone());
    }
    ~Rehearsal() {
      const at::NoGradGuard no_grad;
      trainer_.optimizer_->zero_grad();
      trainer_.ensemble_.train(false);
      const NamedTensors now = buffers();
      for (size_t i = 0; i < before_.size(); ++i) now[i].second.copy_(before_[i]);
    }
    Rehearsal(const Rehearsal&) = delete;
    Rehearsal& operator=(const Rehearsal&) = delete;

    void step(const Batch& batch) const {
      trainer_.ensemble_.train(true);
      trainer_.seed_dropout(0);
      trainer_.forward_and_back(batch, 1);
      trainer_.optimizer_->zero_grad();
    }
    void evaluation(const Batch& batch) const {
      const Autocast autocast(trainer_.ensemble_.device(), trainer_.dtype_);
      const at::NoGradGuard no_grad;
      const Evaluation evaluation(trainer_.ensemble_, trainer_.dtype_);
      trainer_.ensemble_.logits(trainer_.to_evaluate(batch));
    }

   private:
    NamedTensors buffers() const { return trainer_.ensemble_.backbone().buffers(); }
    Trainer& trainer_;
    std::vector<at::Tensor> before_;
  };

  // Of an epoch's batches.
  std::set<int64_t> batch_sizes() const {
    std::set<int64_t> sizes;
    for (const auto& batch : epoch_batches(epoch_size(), options_.batch_size, 0, 0))
      sizes.insert(static_cast<int64_t>(batch.size()));
    return sizes;
  }

  // Samples of an epoch, or patches.
  size_t epoch_size() const { return patches_ ? patches_->count() : training_.size(); }

  // So many of them.
  Batch first_batch(int64_t count) const {
    std::vector<size_t> numbers(static_cast<size_t>(count));
    std::iota(numbers.begin(), numbers.end(), size_t{0});
    return Loader(training_, patches(), {numbers}, AugmentOptions{}, options_.seed, 0, false).next();
  }

  const Patches* patches() const { return patches_ ? &*patches_ : nullptr; }

  bool exhausted() const {
    return validation_ && options_.early_stopping > 0 && best_epoch_ >= 0 &&
           epoch_ - 1 - best_epoch_ >= options_.early_stopping;
  }

  void run_epoch() {
    const auto epoch_start = std::chrono::steady_clock::now();
    const Json losses = train_epoch();
    check_weights();
    Json::Object event{{"type", "epoch"},     {"epoch", epoch_},  {"epochs", options_.epochs},
                       {"loss", epoch_loss_}, {"losses", losses}, {"learningRate", learning_rate_}};
    const double training_seconds = seconds_since(epoch_start);
    double monitored = epoch_loss_;
    if (validation_) event["validation"] = validate(monitored);
    schedule_->epoch_end(monitored);
    // Without validation there is no ground to prefer an earlier epoch: the last one is kept.
    const bool improved = !validation_ || best_epoch_ < 0 || monitored < best_loss_;
    if (improved) {
      best_loss_ = monitored;
      best_epoch_ = epoch_;
      keep_best();
    }
    ++epoch_;
    const double seconds = seconds_since(epoch_start);
    event["seconds"] = seconds;
    event["imagesPerSecond"] = static_cast<double>(epoch_size()) / training_seconds;
    event["secondsLeft"] = seconds_since(start_) / static_cast<double>(epoch_ - first_epoch_) *
                           static_cast<double>(options_.epochs - epoch_);
    event["best"] = Json::Object{{"epoch", best_epoch_}, {"loss", best_loss_}};
    event["improved"] = improved;
    history_.push_back(event);
    if (!options_.run.empty() &&
        (epoch_ % options_.checkpoint_every == 0 || epoch_ == options_.epochs || exhausted())) {
      control_.check();  // whoever stopped this may have begun another run there
      save();
    }
    send(event);
  }

  Json train_epoch() {
    ensemble_.backbone().end_inference();
    ensemble_.train(true);
    const bool cuda = ensemble_.device().is_cuda();
    Loader loader(training_, patches(), epoch_batches(epoch_size(), options_.batch_size, options_.seed, epoch_),
                  options_.augmentation, options_.seed, epoch_, cuda);
    const auto batches = static_cast<int64_t>(loader.batches());
    const auto start = std::chrono::steady_clock::now();
    auto last_event = start - std::chrono::seconds(1);
    std::vector<double> sums(weights_.size(), 0.0);
    std::vector<at::Tensor> unread;  // losses still on the device: reading one waits for it
    std::vector<int64_t> unread_sizes;
    std::vector<double> latest(weights_.size(), 0.0);
    int64_t images = 0;
    const auto read = [&](int64_t batch) {
      if (unread.empty()) return;
      const at::Tensor all = at::stack(unread).to(at::kCPU, at::kDouble);
      for (int64_t row = 0; row < all.size(0); ++row)
        for (size_t k = 0; k < weights_.size(); ++k) {
          latest[k] = all[row][static_cast<int64_t>(k)].item<double>();
          if (!std::isfinite(latest[k]))
            fail(code::kDiverged, "Expected a finite loss for head '", ensemble_.heads()[k].name, "' but received ",
                 latest[k], " in epoch ", epoch_, " by batch ", batch,
                 ": lower the learning rate, clip gradients (clipNorm), or use fp32.");
          sums[k] += latest[k] * static_cast<double>(unread_sizes[row]);
        }
      unread.clear();
      unread_sizes.clear();
    };
    const int64_t total_steps = steps_per_epoch_ * options_.epochs;

    for (int64_t b = 0; b < batches; ++b) {
      control_.check();
      Batch batch = loader.next();
      const int64_t group_begin = b - b % options_.accumulate;
      const int64_t group = std::min(batches, group_begin + options_.accumulate) - group_begin;
      seed_dropout(b);
      unread.push_back(forward_and_back(batch, group));
      unread_sizes.push_back(batch.size());
      images += batch.size();

      if (b + 1 == group_begin + group) {
        if (options_.clip_norm > 0) clip_gradients(ensemble_.trainable(), options_.clip_norm);
        learning_rate_ = options_.learning_rate * schedule_->factor(step_, total_steps);
        if (const auto momentum = schedule_->momentum(step_, total_steps)) optimizer_->set_momentum(*momentum);
        optimizer_->step(learning_rate_);
        optimizer_->zero_grad();
        ++step_;
      }
      const auto now = std::chrono::steady_clock::now();
      if (now - last_event >= std::chrono::milliseconds(100) || b + 1 == batches || unread.size() >= 64) {
        last_event = now;
        read(b);
        const double rate = static_cast<double>(images) / seconds_since(start);
        const double done = static_cast<double>(epoch_ - first_epoch_) + static_cast<double>(b + 1) / batches;
        Json::Object per_head;
        for (size_t k = 0; k < weights_.size(); ++k) per_head[ensemble_.heads()[k].name] = latest[k];
        send({{"type", "batch"},
              {"epoch", epoch_},
              {"epochs", options_.epochs},
              {"batch", b},
              {"batches", batches},
              {"loss", weighted(latest)},
              {"losses", std::move(per_head)},
              {"learningRate", learning_rate_},
              {"imagesPerSecond", rate},
              {"secondsLeft",
               seconds_since(start_) / done * (static_cast<double>(options_.epochs - first_epoch_) - done)}});
      }
    }
    Json::Object per_head;
    for (size_t k = 0; k < sums.size(); ++k) {
      sums[k] /= static_cast<double>(images);
      per_head[ensemble_.heads()[k].name] = sums[k];
    }
    epoch_loss_ = weighted(sums);
    return per_head;
  }

  // Adds the gradients of one of `group` batches. Returns the loss of each head.
  at::Tensor forward_and_back(const Batch& batch, int64_t group) {
    const at::Tensor input = batch.images.to(ensemble_.device(), at::kFloat, true, false, ensemble_.memory_format());
    const at::Tensor target = batch.targets.to(ensemble_.device(), true);
    const std::vector<at::Tensor> losses = head_losses(input, target);
    at::Tensor total;
    for (size_t k = 0; k < losses.size(); ++k)
      if (weights_[k] > 0) total = total.defined() ? total + losses[k] * weights_[k] : losses[k] * weights_[k];
    if (!total.defined()) fail(code::kOption, "Expected a positive number in option 'headWeights' but received none.");
    go_back(group > 1 ? total / static_cast<double>(group) : total);
    return at::stack(losses).detach();
  }

  // backward(), which only then finds out that an operation of an imported network has no way back.
  void go_back(const at::Tensor& loss) {
    if (!loss.requires_grad())
      fail(code::kOption, "Expected weights to train but received a network whose weights are all frozen and no head ",
           "of its own: add taps, or save the network with requires_grad.");
    try {
      loss.backward();
    } catch (const c10::OutOfMemoryError&) {
      throw;
    } catch (const c10::Error& error) {
      const std::string cause = error.what_without_backtrace();
      if (cause.find("derivative for") != std::string::npos)
        throw Error(code::kOption,
                    "Expected a network whose operations have derivatives but received one that has been recorded "
                    "for inference alone (such as a transformer's fast path): trace or export it with gradients on "
                    "and torch.backends.mha.set_fastpath_enabled(False), or train the heads alone (freezeBackbone).",
                    cause);
      if (cause.find("BFloat16") != std::string::npos)
        throw Error(code::kOption,
                    "Expected operations whose derivatives libtorch has in bfloat16 but received one that it has "
                    "not: use precision 'fp32'.",
                    cause);
      throw;
    }
  }

  std::vector<at::Tensor> head_losses(const at::Tensor& input, const at::Tensor& target) {
    std::vector<at::Tensor> logits;
    {
      std::optional<SeededDefaultGenerator> seeded;
      if (draws_) seeded.emplace(ensemble_.device(), batch_seed_);
      const Autocast autocast(ensemble_.device(), dtype_);
      logits = ensemble_.logits(input, ensemble_.options().dropout > 0 ? &dropout_ : nullptr, options_.head_gradient);
    }
    std::vector<at::Tensor> losses;
    for (auto& head : logits) {
      losses.push_back(loss_(head, target));
      head = at::Tensor();
    }
    return losses;
  }

  // Sets `monitored` to the validation loss, Σ_k w_k · L(z_k, y) averaged over images (tiles).
  Json validate(double& monitored) {
    const Autocast autocast(ensemble_.device(), dtype_);
    const at::NoGradGuard no_grad;
    const Evaluation evaluation(ensemble_, dtype_);
    const size_t count = ensemble_.heads().size();
    std::vector<double> losses(count, 0.0);
    // Of each head, and at last of all together.
    std::vector<Scores> scores;
    for (size_t k = 0; k <= count; ++k)
      scores.emplace_back(validation_->size(), ensemble_.classes(), options_.ignore_index);
    const size_t n = judged_.size();
    for (size_t begin = 0; begin < n; begin += options_.batch_size) {
      control_.check();
      const size_t end = std::min<size_t>(n, begin + options_.batch_size);
      const JudgedBatch batch =
          judged_batch(*validation_, judged_, begin, end, options_.ignore_index, ensemble_.device().is_cuda());
      const auto images = static_cast<double>(batch.size());
      const at::Tensor target = batch.targets.to(ensemble_.device(), true),
                       judged = batch.judged.to(ensemble_.device(), true);
      const auto size = batch.images.sizes().slice(2);
      auto logits = ensemble_.logits(to_evaluate(batch));
      for (size_t k = 0; k < count; ++k) {
        const at::Tensor full = interpolate(logits[k], size);
        losses[k] += loss_(logits[k], target).item<double>() * images;
        scores[k].add(full.argmax(1), full.softmax(1), judged, batch.sample);
      }
      ReduceOptions reduction;
      reduction.maps = 0;
      const Reduced reduced = reduce(logits, size, reduction);
      scores[count].add(reduced.mask, reduced.probabilities, batch.judged, batch.sample);
    }
    for (double& loss : losses) loss /= static_cast<double>(n);
    monitored = weighted(losses);
    if (!std::isfinite(monitored))
      fail(code::kDiverged, "Expected a finite validation loss but received ", monitored, " in epoch ", epoch_,
           ": lower the learning rate, clip gradients (clipNorm), or use fp32.");
    Json::Object heads;
    for (size_t k = 0; k < count; ++k) {
      const Json score = scores[k].means();
      heads[ensemble_.heads()[k].name] =
          Json::Object{{"dice", score.at("dice")}, {"nll", score.at("nll")}, {"loss", losses[k]}};
    }
    return Json::Object{{"loss", monitored}, {"heads", std::move(heads)}, {"fused", scores[count].means()}};
  }

  at::Tensor to_evaluate(const Batch& batch) const {
    return batch.images.to(ensemble_.device(), dtype_, true, false, ensemble_.memory_format());
  }

  double weighted(const std::vector<double>& losses) const {
    double sum = 0;
    for (size_t k = 0; k < losses.size(); ++k) sum += weights_[k] * losses[k];
    return sum;
  }

  // Before anything is measured with them or written over what is good. A loss can stay finite without: no gradient
  // need reach what a step has spoilt, and batch norm takes its statistics from each batch.
  void check_weights() const {
    static constexpr const char* kAdvice = "lower the learning rate, clip gradients (clipNorm), or use fp32";
    const std::string when = " after epoch " + std::to_string(epoch_);
    check_numbers(ensemble_.parameters(), ensemble_.backbone().buffers(), code::kDiverged, "the network" + when,
                  kAdvice);
    check_numbers(optimizer_->state(), {}, code::kDiverged, "the optimizer" + when, kAdvice);
  }

  void keep_best() {
    const at::NoGradGuard no_grad;
    best_.clear();
    for (const auto& [name, tensor] : ensemble_.state()) best_.emplace(name, tensor.detach().clone());
    best_is_written_ = false;
  }

  std::string state_path() const { return options_.run + "/state.safetensors"; }
  std::string weights_path() const { return options_.run + "/weights.safetensors"; }

  void save() {
    // Weights before state: a run killed between the two repeats the epoch and writes the same weights again.
    if (!best_is_written_) {
      write_safetensors(weights_path(), {best_.begin(), best_.end()}, ensemble_.metadata());
      best_is_written_ = true;
    }
    write_training_state(state_path(), {ensemble_.state(), optimizer_->state(),
                                        Json::Object{{"epoch", epoch_},
                                                     {"step", step_},
                                                     {"schedule", schedule_->state()},
                                                     {"bestEpoch", best_epoch_},
                                                     {"bestLoss", best_loss_},
                                                     {"history", history_},
                                                     {"fingerprint", fingerprint_}}});
  }

  void load() {
    const LoadedTrainingState state = read_training_state(state_path());
    const std::string before = state.progress.string_or("fingerprint", "");
    if (before != fingerprint_)
      fail(code::kCheckpoint, "Expected the options with which ", options_.run, " was begun, ", before,
           ", but received ", fingerprint_, ": resume with the same options, or start a new run.");
    ensemble_.load_state(state.model);
    schedule_->load_state(state.progress.at("schedule"));
    if (!schedule_->momentum(0, 1)) optimizer_ = make_optimizer(options_.optimizer, ensemble_.trainable());
    optimizer_->load_state(state.optimizer);
    epoch_ = state.progress.at("epoch").integer("epoch");
    step_ = state.progress.at("step").integer("step");
    best_epoch_ = state.progress.at("bestEpoch").integer("bestEpoch");
    best_loss_ = state.progress.at("bestLoss").number("bestLoss");
    history_ = state.progress.at("history").array("history");
    if (epoch_ < 0 || step_ != epoch_ * steps_per_epoch_ || best_epoch_ < 0 || best_epoch_ >= epoch_ ||
        static_cast<int64_t>(history_.size()) != epoch_)
      fail(code::kCheckpoint, "Expected the state of a training in ", state_path(),
           " but received one whose epochs, steps and history do not fit each other.");
  }

  at::Generator make_generator() const {
    if (!ensemble_.device().is_cuda()) return at::detail::createCPUGenerator();
    return at::globalContext().getAcceleratorHooksInterface(c10::kCUDA).getNewGenerator(ensemble_.device().index());
  }
  void seed_dropout(int64_t batch) {
    Random random(options_.seed, kDropout, static_cast<uint64_t>(epoch_), static_cast<uint64_t>(batch));
    dropout_.set_current_seed(random.bits());
    batch_seed_ = random.bits();
  }

  void send(Json::Object event) const {
    if (control_.report) control_.report(Json(std::move(event)));
  }

  Ensemble& ensemble_;
  const Dataset& training_;
  const Dataset* validation_;
  std::optional<Patches> patches_;  // of the training
  std::vector<JudgedTile> judged_;  // of the validation
  const TrainOptions options_;
  const Control& control_;
  const Loss loss_;
  std::unique_ptr<Optimizer> optimizer_;
  const std::unique_ptr<Schedule> schedule_;
  std::vector<double> weights_;
  at::ScalarType dtype_;
  at::Generator dropout_;    // of the heads
  bool draws_ = false;       // whether the backbone has dropout of its own
  uint64_t batch_seed_ = 0;  // of that
  std::string fingerprint_;  // what decides the numbers of a run: resuming under other options would be neither run
  int64_t steps_per_epoch_ = 0;
  int64_t epoch_ = 0, first_epoch_ = 0, step_ = 0, best_epoch_ = -1;
  double best_loss_ = 0, epoch_loss_ = 0, learning_rate_ = 0;
  bool best_is_written_ = true;
  std::map<std::string, at::Tensor> best_;
  Json::Array history_;  // every epoch event, those before a resumed run was interrupted too
  std::chrono::steady_clock::time_point start_;
};

}  // namespace

Json train(Ensemble& ensemble, const Dataset& training, const Dataset* validation, const TrainOptions& options,
           const std::optional<Loss>& custom_loss, const Control& control) {
  return Trainer(ensemble, training, validation, options, custom_loss, control).run();
}

std::vector<ConvolutionCall> training_kernels(Ensemble& ensemble, const Dataset& training, const Dataset* validation,
                                              const TrainOptions& options, const Control& control) {
  if (!ensemble.device().is_cpu()) return {};
  return Trainer(ensemble, training, validation, options, std::nullopt, control).kernels();
}

StepSeconds time_steps(Ensemble& ensemble, const Dataset& training, const TrainOptions& options,
                       const Control& control) {
  return Trainer(ensemble, training, nullptr, options, std::nullopt, control).time_steps();
}

}  // namespace le

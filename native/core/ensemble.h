#pragma once
// One network and its heads: a backbone, its taps, and segmentation heads on each. Of a layer ensemble there is one on
// each tap; of a plain network the backbone's own output is the only head; of a multi-head one tap has them all.
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backbones/backbone.h"
#include "heads.h"

namespace le {

struct EnsembleOptions {
  std::vector<std::string> taps;
  int64_t classes = 2;
  enum class Final { kAuto, kYes, kNo } final = Final::kAuto;
  int64_t heads_per_tap = 1;  // of different first weights
  bool order_given = false;   // keep the caller's order of taps; else the order of execution
  double dropout = 0;
  bool freeze_backbone = false;
  std::vector<int64_t> input_size;  // spatial size of the probe's dummy image; empty: 128×128, or 32×32×32
  uint64_t seed = 0;

  // {"taps", "classes", "final": "auto" | true | false, "headsPerTap", "order": "execution" | "given", "dropout",
  //  "freezeBackbone", "inputSize", "seed"}
  static EnsembleOptions from(const Json& options);
};

// One head as the probe found it. It is called as its tap, of several on one tap with "#1", "#2", … behind; the
// backbone's own output is called "final" ("final#output" where a tapped layer has that name).
struct HeadInfo {
  std::string name, tap;
  int64_t channels = 0;
  std::vector<int64_t> size;  // spatial size of its features at the probe's input size
};

inline constexpr const char* kFinalHead = "final";

// Layers whose features a pass measures beside its logits: any that can be tapped, with a head or without; and its
// input, by the names that image_statistics() knows, which no layer can have.
struct TapStatistics {
  std::vector<std::string> taps;
  std::vector<at::Tensor> values;  // of each, once a pass is done: see taps/statistics.h
};

class Ensemble {
 public:
  // Runs the probe: ERR_LE_TAP for a tap that is unknown, did not run or has no spatial axes; ERR_LE_OPTION where there
  // would be no head at all.
  Ensemble(std::shared_ptr<Backbone> backbone, const EnsembleOptions& options);

  Backbone& backbone() { return *backbone_; }
  const std::vector<HeadInfo>& heads() const { return heads_; }
  int64_t classes() const { return options_.classes; }
  const EnsembleOptions& options() const { return options_; }

  // Logits of every head, in head order, each at its features' own size, float or bfloat16.
  // `dropout`: generator of the heads' dropout in training; null in evaluation. `head_gradient`, 0 to 1: factor of the
  // gradient that every head but the last sends into the backbone; the heads' own is whole. `statistics`: what else to
  // bring out; ERR_LE_TAP for a layer that is unknown or has no feature map.
  std::vector<at::Tensor> logits(const at::Tensor& input, at::Generator* dropout = nullptr, double head_gradient = 1,
                                 TapStatistics* statistics = nullptr);

  // Backbone and heads: "heads.<i>.weight", "heads.<i>.bias". What `freezeBackbone` leaves out is left out here too.
  NamedTensors trainable() const;
  // All parameters of backbone and heads.
  NamedTensors parameters() const;
  // Every parameter and buffer, as saved.
  NamedTensors state() const;
  // State by name; strict as load_weights. Nothing is changed where anything is wrong.
  void load_state(const std::map<std::string, at::Tensor>& tensors);
  // {"layer-ensembles": version, "taps": JSON array of head names, ...} for the file's metadata.
  std::map<std::string, std::string> metadata() const;

  void train(bool on);
  // Trainable numbers, those of a frozen backbone too.
  int64_t parameter_count() const;
  // Whether anything draws when dropout is on: what Monte Carlo dropout needs.
  bool has_dropout();
  void to(c10::Device device, bool channels_last);
  c10::Device device() const { return device_; }
  // What an input batch should be laid out as.
  at::MemoryFormat memory_format() const;

 private:
  NamedTensors heads_parameters() const;
  const TapSet& watch(const std::vector<std::string>& taps);

  friend class Evaluation;
  std::shared_ptr<Backbone> backbone_;
  EnsembleOptions options_;
  std::vector<HeadInfo> heads_;
  std::vector<SegmentationHead> segmentation_;  // one per head on a tap; final has none
  std::shared_ptr<TapSet> taps_;
  std::shared_ptr<TapSet> watched_;  // those of the heads, and behind them what watch() was asked for last
  bool has_final_ = false;
  c10::Device device_ = c10::kCPU;
  bool channels_last_ = false;
};

// While it lives, the ensemble evaluates without gradients, with folded weights of type `dtype`; where `sampling`, its
// backbone's dropout draws nevertheless.
class Evaluation {
 public:
  Evaluation(Ensemble& ensemble, at::ScalarType dtype, bool sampling = false);
  ~Evaluation();
  Evaluation(const Evaluation&) = delete;
  Evaluation& operator=(const Evaluation&) = delete;

 private:
  Ensemble& ensemble_;
};

// Autocast for the lives of these objects. It must be switched outside of any gradient-mode guard: such guards restore
// thread-local state that includes autocast, and later fp32 work would silently become bfloat16.
class Autocast {
 public:
  Autocast(c10::Device device, at::ScalarType dtype);  // does nothing for float
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  c10::DeviceType type_;
  bool active_ = false, before_ = false;
  at::ScalarType dtype_before_ = at::kFloat;
};

}  // namespace le

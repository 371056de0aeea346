#include "backbones/script/file.h"

#include <ATen/core/grad_mode.h>
#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/serialization/import.h>

#include <string_view>
#include <unordered_set>

#include "error.h"
#include "files/archive.h"

namespace le::script {

std::string message_of(const std::exception& error) {
  const auto* from_libtorch = dynamic_cast<const c10::Error*>(&error);
  return from_libtorch ? from_libtorch->what_without_backtrace() : error.what();
}

namespace {

// Looks through the file before libtorch's reader does. Loading runs what a file brings along as __setstate__, and
// rebuilds objects of C++ classes from bytes that their code trusts: neither belongs in a network that can be tapped.
void check_file(const std::string& path) {
  const Archive archive(path);
  archive.check_all();
  if (!archive.has_folder("code") || !archive.find("data.pkl") || !archive.find("constants.pkl"))
    fail(code::kCheckpoint, "Expected a TorchScript file (torch.jit.script or torch.jit.trace, then .save) at ", path,
         " but received another archive.");
  constexpr uint64_t kMostText = 64 << 20;
  caffe2::serialize::PyTorchStreamReader reader(path);
  for (const Archive::Entry& entry : archive.entries()) {
    const bool source = entry.name.starts_with("code/") && entry.name.ends_with(".py");
    const bool text_of_it = source || entry.name == "data.pkl" || entry.name == "constants.pkl";
    if (!text_of_it && !entry.compressed) continue;
    if (entry.size > kMostText)
      fail(code::kCheckpoint, "Expected at most ", kMostText, " bytes for ", entry.name, " in ", path, " but received ",
           entry.size, ".");
    const auto [data, size] = reader.getRecord(entry.name);
    archive.check(entry, data.get(), size);  // libtorch's reader is built without
    if (!text_of_it) continue;
    const std::string_view text(static_cast<const char*>(data.get()), size);
    const auto refuse = [&](const char* what) {
      fail(code::kCheckpoint, "Expected a network of torch.nn modules in ", path, " but received one with ", what,
           ": export the network without (not quantised, not compiled for a backend).");
    };
    if (source && text.find("__setstate__") != text.npos)
      refuse("a __setstate__ method, which would run while it loads");
    if (text.find("torch.classes") != text.npos) refuse("objects of C++ classes");
  }
}

// Every tensor of a network once, in an order that its copies share.
std::vector<at::Tensor> all_tensors(const torch::jit::Module& module) {
  std::vector<at::Tensor> all;
  std::unordered_set<const void*> seen;
  c10::IValue(module._ivalue()).visit([&](const c10::IValue& value) {
    if (value.isTensor() && value.toTensor().defined() && seen.insert(value.toTensor().unsafeGetTensorImpl()).second)
      all.push_back(value.toTensor());
    return false;
  });
  return all;
}

}  // namespace

torch::jit::Module load_module(const std::string& path) {
  try {
    check_file(path);
    // Without the debug files: they hold the names of the exporter's sources, which nobody needs here.
    return torch::jit::load(path, c10::kCPU, /*load_debug_files=*/false);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw Error(code::kCheckpoint,
                "Expected a TorchScript module in " + path +
                    " but libtorch could not read it: export it again with torch.jit.script or torch.jit.trace, "
                    "with a version of PyTorch not newer than this libtorch.",
                message_of(error));
  }
}

void Widened::undo(const torch::jit::Module& copy) const {
  const auto all = all_tensors(copy);
  for (const auto& [place, type] : tensors) all.at(place).set_data(all.at(place).detach().to(type));
}

Widened widen(const torch::jit::Module& module, const std::string& file) {
  const at::NoGradGuard no_grad;
  Widened widened;
  const auto refuse_complex = [&](const auto& named) {
    if (named.value.is_complex())
      fail(code::kCheckpoint, "Expected real numbers for ", named.name, " in ", file, " but received ",
           c10::toString(named.value.scalar_type()), ", which is neither trained nor saved here: keep its parts as ",
           "real tensors (torch.view_as_real) and join them in forward (torch.view_as_complex).");
  };
  for (const auto& parameter : module.named_parameters()) {
    refuse_complex(parameter);
    if (const auto type = parameter.value.scalar_type(); c10::isFloatingType(type) && type != at::kFloat)
      widened.types.insert(type);
  }
  for (const auto& buffer : module.named_buffers()) refuse_complex(buffer);
  if (widened.types.empty()) return widened;
  const auto all = all_tensors(module);
  for (size_t i = 0; i < all.size(); ++i)
    if (const auto type = all[i].scalar_type(); widened.types.contains(type)) {
      widened.tensors.emplace_back(i, type);
      all[i].set_data(all[i].detach().to(at::kFloat));
    }
  return widened;
}

}  // namespace le::script

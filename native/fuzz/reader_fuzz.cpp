// Feeds damaged files to a reader: reader_fuzz KIND CORPUS_DIR SECONDS [SEED [FAILURES_DIR]]
//
// KIND is safetensors, weights, exported or torchscript. Input n is a function of the seed and n alone. Readers run in
// child processes with 2 GB of memory and 10 seconds for each input, so that a crash costs one input. What crashed,
// hung, asked for too much memory or raised anything but le::Error is written to FAILURES_DIR (default: fuzz-failures).
// Exit code: 0 where nothing failed, 1 where something did, 2 for a wrong command line.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <caffe2/serialize/inline_container.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "backbones/imported.h"
#include "error.h"
#include "files/archive.h"
#include "files/safetensors.h"
#include "files/weights_file.h"
#include "random.h"

namespace le {
namespace {

namespace fs = std::filesystem;

constexpr rlim_t kMemory = rlim_t{2} << 30;  // beside what libtorch itself has mapped
constexpr unsigned kSecondsPerInput = 10;
constexpr uint64_t kBatch = 500;  // inputs for each child
constexpr size_t kMaxInput = 4 << 20;

using Entries = std::vector<std::pair<std::string, std::string>>;  // name and unpacked bytes

struct Seed {
  std::string bytes;
  Entries entries;  // of a zip archive
};

// Any tensor that is small is looked at, so that memory which is not there is noticed.
void touch(const std::map<std::string, at::Tensor>& tensors) {
  for (const auto& [name, tensor] : tensors)
    if (tensor.numel() < 100'000) tensor.contiguous();
}

std::function<void(const std::string&)> reader_of(std::string_view kind) {
  const auto options = [](const std::string& path) {
    ImportOptions result;
    result.file = path;
    return result;
  };
  if (kind == "safetensors") return [](const std::string& path) { touch(read_safetensors(path).tensors); };
  if (kind == "weights")
    return [](const std::string& path) {
      for (const StateDict& dict : read_state_dicts(path)) touch(dict.tensors);
    };
  if (kind == "exported") return [=](const std::string& path) { load_exported(options(path)); };
  if (kind == "torchscript") return [=](const std::string& path) { load_script(options(path)); };
  return nullptr;
}

std::string read_bytes(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_bytes(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

std::vector<Seed> read_corpus(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& file : fs::directory_iterator(folder))
    if (file.is_regular_file()) files.push_back(file.path());
  std::sort(files.begin(), files.end());
  std::vector<Seed> corpus;
  for (const auto& file : files) {
    Seed seed{read_bytes(file), {}};
    if (seed.bytes.starts_with("PK\3\4")) {
      // libtorch's own reader, because it unpacks what is compressed.
      caffe2::serialize::PyTorchStreamReader reader(file.string());
      for (const std::string& name : reader.getAllRecords()) {
        const auto [data, size] = reader.getRecord(name);
        seed.entries.emplace_back(name, std::string(static_cast<const char*>(data.get()), size));
      }
    }
    corpus.push_back(std::move(seed));
  }
  return corpus;
}

// ---- mutations ----

size_t place(const std::string& bytes, Random& random) { return random.below(bytes.size() + 1); }

// A piece of at most `limit` bytes: mostly short ones.
std::pair<size_t, size_t> piece(const std::string& bytes, Random& random, size_t limit) {
  const size_t begin = place(bytes, random);
  const size_t size = random.below(std::min(limit, size_t{1} << (1 + random.below(12))) + 1);
  return {begin, std::min(size, bytes.size() - begin)};
}

// Numbers at which checks of lengths, offsets and counts tend to be wrong.
uint64_t edge_number(const std::string& bytes, Random& random) {
  const uint64_t edges[] = {0,
                            1,
                            2,
                            0x7f,
                            0x80,
                            0xff,
                            0x7fff,
                            0xffff,
                            0x10000,
                            0x7fffffff,
                            0x80000000,
                            0xfffffffe,
                            0xffffffff,
                            0x100000000,
                            ~0ull >> 1,
                            ~(~0ull >> 1),
                            ~0ull,
                            ~0ull - 1,
                            1ull << 40,
                            bytes.size(),
                            bytes.size() - 1,
                            bytes.size() + 1,
                            random.below(bytes.size() + 1),
                            random.bits()};
  return edges[random.below(std::size(edges))];
}

// Replaces the decimal number at or after a random place, as JSON and Python's sources have them.
void edit_decimal(std::string& bytes, Random& random) {
  const size_t begin = bytes.find_first_of("0123456789", place(bytes, random));
  if (begin == std::string::npos) return;
  const size_t end = std::min(bytes.find_first_not_of("0123456789", begin), bytes.size());
  std::string number = std::to_string(edge_number(bytes, random));
  if (random.chance(0.2)) number.insert(0, "-");
  if (random.chance(0.1)) number += ".5e9";
  bytes.replace(begin, end - begin, number);
}

void mutate(std::string& bytes, const std::vector<const std::string*>& others, Random& random) {
  switch (random.below(9)) {
    case 0:
    case 1:
      for (uint64_t n = 1 + random.below(8); n-- && !bytes.empty();)
        bytes[random.below(bytes.size())] ^= static_cast<char>(1 << random.below(8));
      break;
    case 2:
      bytes.resize(place(bytes, random));
      break;
    case 3: {  // a length field, little-endian or big-endian
      const size_t width = size_t{1} << random.below(4);
      if (bytes.size() < width) break;
      const size_t at = random.below(bytes.size() - width + 1);
      const uint64_t number = edge_number(bytes, random);
      const bool big = random.chance(0.2);
      for (size_t i = 0; i < width; ++i) bytes[at + (big ? width - 1 - i : i)] = static_cast<char>(number >> (8 * i));
      break;
    }
    case 4: {  // over what is there, from another place or file
      const std::string& other = *others[random.below(others.size())];
      const auto [begin, size] = piece(other, random, 4096);
      const std::string part = other.substr(begin, size);
      bytes.replace(place(bytes, random), part.size(), part);
      break;
    }
    case 5: {  // between what is there
      const std::string& other = *others[random.below(others.size())];
      const auto [begin, size] = piece(other, random, 4096);
      const std::string part = other.substr(begin, size);
      bytes.insert(place(bytes, random), part);
      break;
    }
    case 6: {
      const auto [begin, size] = piece(bytes, random, 4096);
      bytes.erase(begin, size);
      break;
    }
    case 7:
      edit_decimal(bytes, random);
      break;
    case 8: {  // one piece many times
      const auto [begin, size] = piece(bytes, random, 64);
      const std::string part = bytes.substr(begin, size);
      std::string many;
      for (uint64_t n = random.below(200); n--;) many += part;
      bytes.insert(begin, many);
      break;
    }
  }
}

std::string mutated(const std::string& from, const std::vector<const std::string*>& others, Random& random) {
  std::string bytes = from;
  do mutate(bytes, others, random);
  while (random.chance(0.4));
  bytes.resize(std::min(bytes.size(), kMaxInput));
  return bytes;
}

// A zip archive with damaged entries whose checksums are right, so that readers get to see them.
void write_archive(const fs::path& path, Entries entries, Random& random) {
  std::vector<const std::string*> others;
  for (const auto& [name, bytes] : entries) others.push_back(&bytes);
  do {
    auto& [name, bytes] = entries[random.below(entries.size())];
    if (random.chance(0.05))
      name = entries[random.below(entries.size())].first;
    else if (random.chance(0.05))
      name = mutated(name, others, random).substr(0, 100);
    else
      bytes = mutated(std::string(bytes), others, random);
  } while (random.chance(0.3));
  if (random.chance(0.05)) entries.erase(entries.begin() + static_cast<ptrdiff_t>(random.below(entries.size())));
  ArchiveWriter writer(path.string(), "net");
  for (const auto& [name, bytes] : entries) {
    try {
      writer.add(name, bytes.data(), bytes.size());
    } catch (const Error&) {
      // Two of one name, or one that no archive may have.
    }
  }
  writer.finish();
}

void write_input(const fs::path& path, const std::vector<Seed>& corpus, uint64_t seed, uint64_t index) {
  Random random(seed, index);
  const Seed& chosen = corpus[random.below(corpus.size())];
  if (!chosen.entries.empty() && random.chance(0.7)) return write_archive(path, chosen.entries, random);
  std::vector<const std::string*> others;
  for (const Seed& other : corpus) others.push_back(&other.bytes);
  write_bytes(path, mutated(chosen.bytes, others, random));
}

// ---- children ----

constexpr const char* kCodes[] = {code::kShape,      code::kValue,    code::kOption,  code::kTap,
                                  code::kCheckpoint, code::kIo,       code::kAborted, code::kDevice,
                                  code::kMemory,     code::kInternal, "another code"};

// Shared between parent and child.
struct Shared {
  uint64_t next;  // the input after the one that is read
  uint64_t accepted, refused[std::size(kCodes)];
  enum { kReading, kMemory, kForeign } state;
  char what[400];
};

size_t index_of(const std::string& code) {
  size_t i = 0;
  while (i + 1 < std::size(kCodes) && code != kCodes[i]) ++i;
  return i;
}

// Memory that is mapped now.
rlim_t mapped() {
  std::ifstream statm("/proc/self/statm");
  rlim_t pages = 0;
  statm >> pages;
  return pages * static_cast<rlim_t>(::sysconf(_SC_PAGESIZE));
}

// What ends the child tells the parent what happened: exit code 0 at the end of a batch, 1 for an input that failed.
[[noreturn]] void run_child(const std::function<void(const std::string&)>& reader, const std::vector<Seed>& corpus,
                            uint64_t seed, uint64_t end, const fs::path& path, Shared& shared) {
#ifndef __SANITIZE_ADDRESS__  // which maps terabytes
  const rlim_t limit = mapped() + kMemory;
  const rlimit memory{limit, limit};
  ::setrlimit(RLIMIT_AS, &memory);
#endif
  const rlimit none{0, 0};
  ::setrlimit(RLIMIT_CORE, &none);
  at::set_num_threads(1);
  const auto failed = [&](decltype(Shared::state) state, const char* what) {
    shared.state = state;
    std::strncpy(shared.what, what, sizeof shared.what - 1);
    ::_exit(1);
  };
  while (shared.next < end) {
    write_input(path, corpus, seed, shared.next++);
    shared.state = Shared::kReading;
    ::alarm(kSecondsPerInput);
    try {
      reader(path.string());
      ++shared.accepted;
    } catch (const Error& error) {
      ++shared.refused[index_of(error.code())];
      // The inputs are small: nothing in them is worth 2 GB.
      if (error.code() == code::kMemory) failed(Shared::kMemory, error.what());
    } catch (const std::bad_alloc& error) {
      failed(Shared::kMemory, error.what());
    } catch (const std::exception& error) {
      failed(Shared::kForeign, error.what());
    }
    ::alarm(0);
  }
  ::_exit(0);
}

struct Failures {
  uint64_t crashed = 0, hung = 0, over_memory = 0, foreign = 0;
  uint64_t all() const { return crashed + hung + over_memory + foreign; }
};

int run(const std::string& kind, const fs::path& folder, double seconds, uint64_t seed, const fs::path& failures_at) {
  const auto reader = reader_of(kind);
  const std::vector<Seed> corpus = read_corpus(folder);
  if (!reader || corpus.empty()) {
    std::cerr << "Expected safetensors, weights, exported or torchscript and a folder with some, but received " << kind
              << " and " << folder << ".\n";
    return 2;
  }
  void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 2;
  Shared& shared = *new (memory) Shared{};
  const fs::path base = fs::exists("/dev/shm") ? fs::path("/dev/shm") : fs::temp_directory_path();
  const fs::path input = base / ("reader_fuzz-" + std::to_string(::getpid()));

  Failures failures;
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  while (elapsed() < seconds) {
    const uint64_t end = shared.next + kBatch;
    const pid_t child = ::fork();
    if (child < 0) return 2;
    if (child == 0) {
      // What readers and libtorch print is not wanted here.
      if (!::freopen("/dev/null", "w", stderr)) ::_exit(2);
      run_child(reader, corpus, seed, end, input, shared);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
    std::string what = "failed";
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
      ++failures.hung, what = "hung";
    } else if (WIFEXITED(status) && WEXITSTATUS(status) == 1 && shared.state == Shared::kMemory) {
      ++failures.over_memory, what = "memory";
    } else if (WIFEXITED(status) && WEXITSTATUS(status) == 1 && shared.state == Shared::kForeign) {
      ++failures.foreign, what = "exception";
    } else {
      ++failures.crashed, what = "crashed";
      shared.what[0] = '\0';
      if (WIFSIGNALED(status)) std::strncpy(shared.what, ::strsignal(WTERMSIG(status)), sizeof shared.what - 1);
    }
    const uint64_t index = shared.next - 1;
    fs::create_directories(failures_at);
    const std::string name = kind + "-" + what + "-" + std::to_string(seed) + "-" + std::to_string(index);
    write_input(failures_at / name, corpus, seed, index);
    std::cout << "  " << name << ": " << shared.what << std::endl;
    std::memset(shared.what, 0, sizeof shared.what);
  }
  fs::remove(input);

  uint64_t refused = 0;
  std::string codes;
  for (size_t i = 0; i < std::size(kCodes); ++i) {
    refused += shared.refused[i];
    if (shared.refused[i])
      codes += (codes.empty() ? " (" : ", ") + std::string(kCodes[i]) + " " + std::to_string(shared.refused[i]);
  }
  std::cout << kind << ", seed " << seed << ": " << shared.next << " inputs in " << static_cast<int64_t>(elapsed())
            << " s: " << shared.accepted << " accepted, " << refused << " refused" << codes
            << (codes.empty() ? "" : ")") << ", " << failures.crashed << " crashed, " << failures.hung << " hung, "
            << failures.over_memory << " over memory, " << failures.foreign << " with another exception" << std::endl;
  return failures.all() ? 1 : 0;
}

}  // namespace
}  // namespace le

int main(int argc, char** argv) {
  if (argc < 4 || argc > 6 || std::atof(argv[3]) <= 0 || !std::filesystem::is_directory(argv[2])) {
    std::cerr
        << "usage: reader_fuzz safetensors|weights|exported|torchscript CORPUS_DIR SECONDS [SEED [FAILURES_DIR]]\n";
    return 2;
  }
  try {
    return le::run(argv[1], argv[2], std::atof(argv[3]), argc > 4 ? std::strtoull(argv[4], nullptr, 10) : 1,
                   argc > 5 ? argv[5] : "fuzz-failures");
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 2;
  }
}

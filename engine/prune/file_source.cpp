#include "engine/prune/file_source.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <thread>

#include "engine/prune/mask_file.hpp"
#include "engine/prune/zero_cut.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

constexpr size_t kNone = ~size_t{0};
constexpr int64_t kLine = SelectionOps::kSampleLine;
constexpr int64_t kLinesAtOnce = 1024;

// Large enough that a read and a parallel region cost little beside it, small enough for the last cache.
constexpr int64_t kBlockBytes = int64_t{2} << 20;
constexpr int64_t kLeastBlockBytes = int64_t{64} << 10;
constexpr size_t kSlots = 3;                           // one is read, one scored and cut, one written
constexpr int64_t kReadyElements = int64_t{16} << 20;  // their mask takes 2 MiB
constexpr int64_t kScratchBytes = int64_t{256} << 20;

std::string dimensions(const std::vector<int64_t>& shape) {
  return fmt::format("{}", fmt::join(shape, ", "));
}

int64_t words_of(int64_t begin, int64_t count) {
  return (begin % 64 + count + 63) / 64;
}

const char* suffix_of(Statistic statistic) {
  return statistic == Statistic::sum ? ".sum" : statistic == Statistic::absolute ? ".absolute" : ".squared";
}

std::string_view name_of(Statistic statistic) {
  return statistic == Statistic::sum        ? "sum of the gradients"
         : statistic == Statistic::absolute ? "sum of the gradients' absolute values"
                                            : "sum of the squared gradients";
}

/// Where element `begin` lies in memory, or null.
std::byte* elements_in_memory(const WeightFile& file, size_t tensor, int64_t begin) {
  std::byte* const data = file.memory(tensor);
  const int64_t width = size_of(file.tensors()[tensor].dtype);
  const bool aligned = reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(width) == 0;
  return data != nullptr && aligned ? data + begin * width : nullptr;
}

template <class T>
void read_as(const WeightFile& file, size_t tensor, int64_t begin, int64_t count, T* out) {
  if constexpr (std::is_same_v<T, double>) {
    file.read_f64(tensor, begin, count, out);
  } else {
    file.read_f32(tensor, begin, count, out);
  }
}

/// Calls visit(i) for the elements begin + i of a run that lie on the diagonal of a gate's block.
template <class Visit>
void for_diagonal(const SourceTensor& tensor, int64_t begin, int64_t count, Visit visit) {
  const int64_t cols = tensor.cols(), rows = tensor.rows() / tensor.gates;
  for (int64_t row = begin / cols; row * cols < begin + count; ++row) {
    const int64_t col = row % rows, at = row * cols + col;
    if (col < cols && at >= begin && at < begin + count) visit(at - begin);
  }
}

/// The elements of a run, of type `dtype`, that lie on the diagonal become infinite.
void set_diagonal(const SourceTensor& tensor, DType dtype, int64_t begin, int64_t count, std::byte* values) {
  const auto set = [&](auto infinity) {
    const auto width = static_cast<int64_t>(sizeof(infinity));
    for_diagonal(tensor, begin, count,
                 [&](int64_t i) { std::memcpy(values + i * width, &infinity, sizeof(infinity)); });
  };
  switch (dtype) {
    case DType::f64:
      return set(std::numeric_limits<double>::infinity());
    case DType::f16:
      return set(uint16_t{0x7c00});
    case DType::bf16:
      return set(uint16_t{0x7f80});
    default:
      return set(std::numeric_limits<float>::infinity());
  }
}

/// The diagonal scores infinity, and only a cut that leaves nothing else reaches it.
void check_diagonal(const SourceTensor& tensor, int64_t begin, int64_t count, const uint64_t* mask,
                    const uint64_t* kept) {
  for_diagonal(tensor, begin, count, [&](int64_t at) {
    const int64_t bit = begin % 64 + at;
    const auto is_set = [bit](const uint64_t* words) { return (words[bit / 64] >> (bit % 64) & 1) != 0; };
    if (is_set(mask) || (kept != nullptr && !is_set(kept))) return;
    bad_input("--keep-diagonal: so much is to be cut of '{}' that its diagonal can't be kept", tensor.name);
  });
}

}  // namespace

/// One block in memory: as it lies in the file, and as selection sees it.
struct FileSource::Slot {
  /// Host memory that only grows, aligned for vectors, untouched until it is written; or somebody else's.
  class HostBuffer {
   public:
    std::byte* of(int64_t bytes) {
      borrowed_ = nullptr;
      if (bytes > bytes_) {
        bytes_ = (bytes + kAlignment - 1) / kAlignment * kAlignment;
        data_.reset();
        data_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, static_cast<size_t>(bytes_))));
        if (data_ == nullptr) {
          throw Error(ErrorKind::out_of_memory, fmt::format("no memory for a block of {} bytes", bytes_));
        }
      }
      return data_.get();
    }
    void borrow(std::byte* data) { borrowed_ = data; }
    bool borrowed() const { return borrowed_ != nullptr; }
    std::byte* data() const { return borrowed_ != nullptr ? borrowed_ : data_.get(); }

   private:
    struct Free {
      void operator()(std::byte* data) const { std::free(data); }
    };
    std::byte* borrowed_ = nullptr;
    std::unique_ptr<std::byte, Free> data_;
    int64_t bytes_ = 0;
  };

  HostBuffer raw, values, statistic, summand, kept, mask;
  DType statistic_dtype = DType::f32;
  StatisticForm statistic_form = StatisticForm::as_is;
  bool own_values = false;  // `values` hold the weights with their diagonal infinite; else `raw` does
  bool has_statistic = false, has_kept = false;
  Buffer device_values, device_statistic, device_kept, device_mask;

  std::byte* weights() { return own_values ? values.data() : raw.data(); }
};

/// A thread that does one thing at a time while the caller does another.
class FileSource::Worker {
 public:
  Worker() : thread_([this] { work(); }) {}
  ~Worker() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  void start(std::function<void()> task) {
    {
      const std::lock_guard lock(mutex_);
      task_ = std::move(task);
      busy_ = true;
    }
    changed_.notify_all();
  }
  /// Waits for what was started and passes its exception on.
  void finish() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !busy_; });
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }
  /// Waits, whatever became of it.
  void settle() noexcept {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !busy_; });
    error_ = nullptr;
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return stop_ || task_; });
      if (stop_) return;
      const std::function<void()> task = std::exchange(task_, nullptr);
      lock.unlock();
      std::exception_ptr error;
      try {
        task();
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      error_ = error;
      busy_ = false;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> task_;
  std::exception_ptr error_;
  bool busy_ = false, stop_ = false;
  std::thread thread_;
};

FileSource::FileSource(Backend& backend, const WeightFile& weights, const ScoreFiles& files,
                       std::vector<FileTensorOptions> options, int64_t memory)
    : backend_(backend), weights_(weights), files_(files), slots_(kSlots) {
  // Three slots hold a block as it lies and once more, its statistic and a summand of that as float32: 36
  // bytes an element of half precision, 18 times the block.
  block_bytes_ = memory == 0 ? kBlockBytes : std::clamp(memory / 32, kLeastBlockBytes, kBlockBytes);
  scratch_ = memory == 0 ? kScratchBytes : memory / 4;
  staged_ = backend.device().type != Device::Type::cpu;
  const std::vector<FileTensor>& tensors = weights.tensors();
  if (options.size() != tensors.size()) failure("{} options for {} tensors", options.size(), tensors.size());
  if (files.masks != nullptr) check_masks(*files.masks, weights);
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (options[i].is_tied) continue;
    SourceTensor& info = infos_.emplace_back();
    info.name = tensors[i].name;
    info.shape = tensors[i].shape;
    const DType type = tensors[i].dtype;
    info.dtype = type;
    info.gates = options[i].gates;
    info.gate_names = options[i].gate_names;
    info.prunable = options[i].prunable;
    for (size_t other : options[i].tied) info.aliases.push_back(tensors[other].name);
    numbers_.push_back(i);
    mask_numbers_.push_back(kNone);
    if (files.masks != nullptr) {
      for (size_t other : options[i].tied) {
        if (files.masks->contains(tensors[other].name))
          mask_numbers_.back() = files.masks->index(tensors[other].name);
      }
      if (files.masks->contains(info.name)) mask_numbers_.back() = files.masks->index(info.name);
    }
    options_.push_back(std::move(options[i]));
  }
  carry_.assign(infos_.size(), ~uint64_t{0});
  written_.assign(infos_.size(), false);
}

FileSource::~FileSource() = default;

int64_t FileSource::block_elements(size_t tensor) const {
  const int64_t elements = block_bytes_ / size_of(weights_.tensors()[numbers_[tensor]].dtype);
  // A statistic that is added up takes more than the weights' bytes; f64 and its summands as much as they
  // can.
  return std::max<int64_t>(64, std::min(elements, int64_t{1} << 20) / 64 * 64);
}

bool FileSource::masked(size_t tensor) const {
  return mask_numbers_[tensor] != kNone;
}

std::vector<FileSource::StatisticPart> FileSource::statistic_parts(size_t tensor, Statistic statistic) {
  if (statistic == Statistic::none) return {};
  const SourceTensor& info = infos_[tensor];
  if (files_.activations != nullptr) {
    load_norms(tensor);
    return {};
  }
  std::vector<StatisticPart> parts;
  std::string carries;  // what a file has instead
  for (const WeightFile* file : files_.gradients) {
    std::vector<std::string> names = {info.name};
    names.insert(names.end(), info.aliases.begin(), info.aliases.end());
    for (const std::string& name : names) {
      const bool whole = file->contains(name + suffix_of(statistic));
      if (!whole && !file->contains(name)) {
        for (Statistic other : {Statistic::sum, Statistic::absolute, Statistic::squared}) {
          if (file->contains(name + suffix_of(other)))
            carries += fmt::format(" {}{}", name, suffix_of(other));
        }
        continue;
      }
      const size_t number = file->index(whole ? name + suffix_of(statistic) : name);
      const FileTensor& found = file->tensors()[number];
      if (found.shape != info.shape || !is_floating(found.dtype)) {
        bad_input(
            "{}: tensor \"{}\" is {} of shape [{}], expected that of \"{}\" in {}: floats of shape [{}]",
            file->path(), found.name, to_string(found.dtype), dimensions(found.shape), info.name,
            weights_.path(), dimensions(info.shape));
      }
      parts.push_back({file, number, !whole});
      break;
    }
  }
  if (parts.empty()) {
    if (files_.gradients.empty()) {
      bad_input("the criterion needs the {} for '{}', and there is no file of gradients", name_of(statistic),
                info.name);
    }
    bad_input("{}{}: the criterion needs the {} for '{}': expected a tensor \"{}{}\" or \"{}\", found{}",
              files_.gradients.front()->path(), files_.gradients.size() > 1 ? ", ..." : "",
              name_of(statistic), info.name, info.name, suffix_of(statistic), info.name,
              carries.empty() ? " none" : carries);
  }
  // A tensor with fewer summands than the others would look less important than it is.
  if (summands_ == 0) summands_ = parts.size(), summands_name_ = info.name;
  if (parts.size() != summands_) {
    bad_input("{} of the {} files of gradients hold '{}', but {} hold '{}'; expected the same number",
              parts.size(), files_.gradients.size(), info.name, summands_, summands_name_);
  }
  return parts;
}

void FileSource::load_norms(size_t tensor) {
  if (norms_of_ == tensor) return;
  const SourceTensor& info = infos_[tensor];
  const WeightFile& file = *files_.activations;
  std::string name = info.name;
  for (const std::string& known : info.aliases) {
    if (!file.contains(name) && !file.contains(name + ".norm")) name = known;
  }
  if (file.contains(name + ".norm")) name += ".norm";
  if (!file.contains(name)) {
    bad_input("{}: expected a tensor \"{}\" of the {} norms of its inputs, found none", file.path(),
              info.name, info.cols());
  }
  const size_t number = file.index(name);
  const FileTensor& found = file.tensors()[number];
  if (found.shape != std::vector<int64_t>{info.cols()} || !is_floating(found.dtype)) {
    bad_input("{}: tensor \"{}\" is {} of shape [{}], expected {} floats: a norm for each input of '{}'",
              file.path(), name, to_string(found.dtype), dimensions(found.shape), info.cols(), info.name);
  }
  norms_of_ = kNone;
  norms_ = file.read_f64(name);
  for (size_t i = 0; i < norms_.size(); ++i) {
    if (norms_[i] >= 0.0) continue;  // false for NaN
    bad_input("{}: tensor \"{}\" holds {} at {}, expected norms of 0 or more", file.path(), name, norms_[i],
              i);
  }
  norms_of_ = tensor;
}

void FileSource::read_weights(size_t tensor, int64_t begin, int64_t count, Slot& slot, int64_t at) const {
  const size_t number = numbers_[tensor];
  if (slot.raw.borrowed()) return;
  weights_.read(number, begin, count, slot.raw.data() + at * size_of(weights_.tensors()[number].dtype));
}

void FileSource::copy_weights(size_t tensor, int64_t begin, int64_t count, const std::byte* raw,
                              std::byte* values) const {
  const DType type = infos_[tensor].dtype;
  std::memcpy(values, raw, static_cast<size_t>(count * size_of(type)));
  set_diagonal(infos_[tensor], type, begin, count, values);
}

bool FileSource::lies_as_scored(size_t tensor, Statistic statistic,
                                std::span<const StatisticPart> parts) const {
  if (parts.size() != 1 || options_[tensor].keep_diagonal) return false;
  const DType type = parts[0].file->tensors()[parts[0].tensor].dtype;
  if (type == DType::f64 && form_of(statistic, parts) != StatisticForm::as_is) return false;
  return score_type(type) == score_type(infos_[tensor].dtype);
}

StatisticForm FileSource::form_of(Statistic statistic, std::span<const StatisticPart> parts) {
  if (parts.size() != 1 || !parts[0].plain) return StatisticForm::as_is;
  return statistic == Statistic::absolute  ? StatisticForm::absolute
         : statistic == Statistic::squared ? StatisticForm::squared
                                           : StatisticForm::as_is;
}

void FileSource::describe(size_t tensor, Statistic statistic, std::span<const StatisticPart> parts,
                          Slot& slot) const {
  const bool as_scored = lies_as_scored(tensor, statistic, parts);
  slot.own_values = options_[tensor].keep_diagonal;
  slot.has_statistic = statistic != Statistic::none;
  slot.has_kept = masked(tensor);
  slot.statistic_dtype =
      as_scored ? parts[0].file->tensors()[parts[0].tensor].dtype : score_type(infos_[tensor].dtype);
  slot.statistic_form = as_scored ? form_of(statistic, parts) : StatisticForm::as_is;
}

void FileSource::read_statistic(size_t tensor, int64_t begin, int64_t count, Statistic statistic,
                                std::span<const StatisticPart> parts, Slot& slot, int64_t at) const {
  std::byte* const bytes = slot.statistic.data() + at * size_of(slot.statistic_dtype);
  if (lies_as_scored(tensor, statistic, parts)) {
    parts[0].file->read(parts[0].tensor, begin, count, bytes);
    return;
  }
  const auto read = [&]<class T>(T*) {
    T* const out = reinterpret_cast<T*>(bytes);
    if (files_.activations != nullptr) {
      const int64_t cols = infos_[tensor].cols();
      for (int64_t i = 0, col = begin % cols; i < count; ++i, col = col + 1 == cols ? 0 : col + 1) {
        out[i] = static_cast<T>(norms_[static_cast<size_t>(col)]);
      }
    }
    for (size_t p = 0; p < parts.size(); ++p) {
      T* const here = p == 0 ? out : reinterpret_cast<T*>(slot.summand.data()) + at;
      read_as(*parts[p].file, parts[p].tensor, begin, count, here);
      if (parts[p].plain && statistic == Statistic::absolute) {
        for (int64_t i = 0; i < count; ++i) here[i] = criteria::absolute(here[i]);
      } else if (parts[p].plain && statistic == Statistic::squared) {
        for (int64_t i = 0; i < count; ++i) here[i] = here[i] * here[i];
      }
      for (int64_t i = 0; p > 0 && i < count; ++i) out[i] += here[i];
    }
    if (options_[tensor].keep_diagonal)
      set_diagonal(infos_[tensor], slot.statistic_dtype, begin, count, bytes);
  };
  if (infos_[tensor].dtype == DType::f64) {
    read(static_cast<double*>(nullptr));
  } else {
    read(static_cast<float*>(nullptr));
  }
}

void FileSource::read_kept(size_t tensor, int64_t begin, int64_t count, uint64_t* words) const {
  const size_t number = mask_numbers_[tensor];
  const int64_t first = begin / 64 * 8, bytes = (begin + count + 7) / 8 - first;
  words[words_of(begin, count) - 1] = ~uint64_t{0};
  files_.masks->read(number, first, bytes, words);
}

std::byte* FileSource::statistic_in_memory(size_t tensor, int64_t begin, Statistic statistic,
                                           std::span<const StatisticPart> parts) const {
  if (!lies_as_scored(tensor, statistic, parts)) return nullptr;
  return elements_in_memory(*parts[0].file, parts[0].tensor, begin);
}

bool FileSource::lies_ready(size_t tensor, Statistic statistic, std::span<const StatisticPart> parts) const {
  return !masked(tensor) && !options_[tensor].keep_diagonal &&
         elements_in_memory(weights_, numbers_[tensor], 0) != nullptr &&
         (statistic == Statistic::none || statistic_in_memory(tensor, 0, statistic, parts) != nullptr);
}

void FileSource::fill(size_t tensor, int64_t begin, int64_t count, Statistic statistic,
                      std::span<const StatisticPart> parts, Slot& slot) const {
  const DType type = infos_[tensor].dtype;
  describe(tensor, statistic, parts, slot);
  if (std::byte* const memory = elements_in_memory(weights_, numbers_[tensor], begin)) {
    slot.raw.borrow(memory);
  } else {
    slot.raw.of(count * size_of(type));
  }
  read_weights(tensor, begin, count, slot, 0);
  if (slot.has_statistic) {
    if (std::byte* const memory = statistic_in_memory(tensor, begin, statistic, parts)) {
      slot.statistic.borrow(memory);
    } else {
      slot.statistic.of(count * size_of(slot.statistic_dtype));
      if (parts.size() > 1) slot.summand.of(count * size_of(slot.statistic_dtype));
      read_statistic(tensor, begin, count, statistic, parts, slot, 0);
    }
  }
  if (slot.has_kept) {
    read_kept(tensor, begin, count, reinterpret_cast<uint64_t*>(slot.kept.of(words_of(begin, count) * 8)));
  }
}

ParameterSource::Run FileSource::run_of(size_t tensor, int64_t begin, int64_t count, Slot& slot,
                                        bool writing) {
  const int64_t bytes = count * size_of(infos_[tensor].dtype), mask_bytes = words_of(begin, count) * 8;
  Run run;
  run.begin = begin;
  run.count = count;
  run.statistic_dtype = slot.statistic_dtype;
  run.statistic_form = slot.statistic_form;
  uint64_t* mask = nullptr;
  if (writing) {
    mask = reinterpret_cast<uint64_t*>(slot.mask.of(mask_bytes));
    mask[0] = carry_[tensor];
    std::fill(mask + 1, mask + mask_bytes / 8, ~uint64_t{0});
  }
  if (!staged_) {
    run.weights = slot.weights();
    if (slot.has_statistic) run.statistic = slot.statistic.data();
    if (slot.has_kept) run.kept = reinterpret_cast<const uint64_t*>(slot.kept.data());
    // Where the block lies there it is cut as it is scored. (A dry run cuts buffers.)
    const bool may_cut = !slot.raw.borrowed() || output_ != nullptr;
    if (writing && !slot.own_values && may_cut) run.output = slot.raw.data();
    run.mask = mask;
    return run;
  }
  const auto stage = [&](Buffer& buffer, const void* host, int64_t size) {
    if (buffer.bytes() < size) buffer = Buffer(backend_, size, "a block of a file");
    backend_.upload(host, buffer.data(), size);
    return buffer.data();
  };
  run.weights = stage(slot.device_values, slot.weights(), bytes);
  if (slot.has_statistic) {
    run.statistic =
        stage(slot.device_statistic, slot.statistic.data(), count * size_of(slot.statistic_dtype));
  }
  if (slot.has_kept) {
    run.kept = static_cast<const uint64_t*>(stage(slot.device_kept, slot.kept.data(), mask_bytes));
  }
  if (writing) run.mask = static_cast<uint64_t*>(stage(slot.device_mask, mask, mask_bytes));
  return run;
}

void FileSource::put(size_t tensor, int64_t begin, int64_t count, const Slot& slot, const uint64_t* mask) {
  const int64_t first = begin / 64 * 8, bytes = (begin + count + 7) / 8 - first;
  std::vector<size_t> targets = {numbers_[tensor]};
  targets.insert(targets.end(), options_[tensor].tied.begin(), options_[tensor].tied.end());
  for (size_t target : targets) {
    output_->write(target, begin, count, slot.raw.data());
    if (mask != nullptr) output_->write_mask(target, first, bytes, mask);
  }
}

void FileSource::stream(size_t tensor, int64_t begin, int64_t count, Statistic statistic,
                        const std::function<void(int64_t, int64_t, Slot&)>& visit,
                        const std::function<void(int64_t, int64_t, Slot&)>& write) {
  if (count == 0) return;
  const std::vector<StatisticPart> parts = statistic_parts(tensor, statistic);
  // Where nothing has to be fetched, longer runs and no other threads: each handing over costs more than it
  // gains.
  const bool ready = lies_ready(tensor, statistic, parts);
  const int64_t block = ready ? kReadyElements : block_elements(tensor), end = begin + count;
  // Runs end at multiples of their length, wherever the first one starts: a run that was seen is one again.
  const auto end_of = [&](int64_t at) { return std::min(end, (at / block + 1) * block); };
  const auto fill_from = [&](int64_t at, Slot& slot) {
    fill(tensor, at, end_of(at) - at, statistic, parts, slot);
  };
  if (!ready && reader_ == nullptr) reader_ = std::make_unique<Worker>();
  if (!ready && write && writer_ == nullptr) writer_ = std::make_unique<Worker>();
  struct Settle {
    Worker* worker;
    ~Settle() {
      if (worker != nullptr) worker->settle();
    }
  } const reading{reader_.get()}, writing{writer_.get()};
  size_t current = 0;
  fill_from(begin, slots_[0]);
  for (int64_t at = begin; at < end;) {
    if (!cutting_memory_) progress_->check();
    const int64_t next = end_of(at);
    Slot &slot = slots_[current], &other = slots_[(current + 1) % kSlots];
    if (next < end && !ready) {
      reader_->start([&fill_from, next, &other] { fill_from(next, other); });
    }
    visit(at, next - at, slot);
    if (write && ready) write(at, next - at, slot);
    if (write && !ready) {
      writer_->finish();
      writer_->start([&write, at, next, &slot] { write(at, next - at, slot); });
    }
    progress_->advance(next - at);
    if (next < end && !ready) reader_->finish();
    if (next < end && ready) fill_from(next, other);
    at = next;
    current = (current + 1) % kSlots;
  }
  if (write && !ready) writer_->finish();
}

void FileSource::enter_stage(bool writing) {
  // Patterns select some blocks again just before these are cut.
  cutting_ = cutting_ || writing;
  int64_t weights = cutting_ ? 0 : selected_;
  for (size_t t = 0; cutting_ && t < infos_.size(); ++t) weights += infos_[t].size();
  progress_->enter(cutting_ ? "cut" : "select", weights);
}

void FileSource::read(size_t tensor, int64_t begin, int64_t count, Statistic statistic, bool writing,
                      const std::function<void(const Run&)>& visit) {
  enter_stage(writing);
  // Arrays are cut all or not at all.
  if (writing && output_ != nullptr &&
      (output_->in_place() || weights_.memory(numbers_[tensor]) != nullptr)) {
    cutting_memory_ = true;
  }
  const auto cut = [&](int64_t at, int64_t size, Slot& slot) {
    if (slot.own_values) {
      copy_weights(tensor, at, size, slot.raw.data(), slot.values.of(size * size_of(infos_[tensor].dtype)));
    }
    const Run run = run_of(tensor, at, size, slot, writing);
    visit(run);
    if (!writing) return;
    const int64_t words = words_of(at, size);
    uint64_t* const mask = reinterpret_cast<uint64_t*>(slot.mask.data());
    if (staged_) backend_.download(run.mask, mask, words * 8);
    if (options_[tensor].keep_diagonal)
      check_diagonal(infos_[tensor], at, size, mask,
                     run.kept != nullptr ? reinterpret_cast<const uint64_t*>(slot.kept.data()) : nullptr);
    // The next run may start in the middle of a word.
    const bool inside = (at + size) % 64 != 0 && at + size != infos_[tensor].size();
    carry_[tensor] = inside ? mask[words - 1] : ~uint64_t{0};
    written_[tensor] = true;
    if (output_ == nullptr) return;
    if (run.output == nullptr) {
      const int64_t width = size_of(weights_.tensors()[numbers_[tensor]].dtype);
      zero_cut(width, slot.raw.data(), size, mask, at % 64);
    }
  };
  const auto put_cut = [&](int64_t at, int64_t size, Slot& slot) {
    put(tensor, at, size, slot, reinterpret_cast<const uint64_t*>(slot.mask.data()));
  };
  if (writing && output_ != nullptr) {
    stream(tensor, begin, count, statistic, cut, put_cut);
  } else {
    stream(tensor, begin, count, statistic, cut);
  }
}

bool FileSource::random_access() const {
  const auto slow = [](const WeightFile* file) { return file != nullptr && !file->random_access(); };
  return !slow(&weights_) && !slow(files_.masks) &&
         std::none_of(files_.gradients.begin(), files_.gradients.end(), slow);
}

void FileSource::read_lines(size_t tensor, int64_t begin, int64_t count, std::span<const int64_t> lines,
                            Statistic statistic,
                            const std::function<void(const Run&, std::span<const int64_t>)>& visit) {
  const std::vector<StatisticPart> parts = statistic_parts(tensor, statistic);
  const DType type = infos_[tensor].dtype;
  Slot& slot = slots_[0];
  std::vector<int64_t> starts;
  // A device gets the lines alone.
  if (!staged_ && lies_ready(tensor, statistic, parts)) {
    fill(tensor, begin, count, statistic, parts, slot);
    for (int64_t line : lines) starts.push_back(line - begin);
    visit(run_of(tensor, begin, count, slot, false), starts);
    return;
  }
  describe(tensor, statistic, parts, slot);
  slot.raw.of(kLinesAtOnce * kLine * size_of(type));
  if (slot.own_values) slot.values.of(kLinesAtOnce * kLine * size_of(type));
  if (slot.has_statistic) {
    slot.statistic.of(kLinesAtOnce * kLine * size_of(slot.statistic_dtype));
    slot.summand.of(kLinesAtOnce * kLine * size_of(slot.statistic_dtype));
  }
  if (slot.has_kept) slot.kept.of((kLinesAtOnce + 1) * 8);
  for (size_t next = 0; next < lines.size();) {
    // Whole lines that start on a word of bits are gathered; one that doesn't is a run of its own.
    starts.clear();
    const int64_t first = lines[next];
    int64_t gathered = 0;
    for (; next < lines.size() && starts.size() < kLinesAtOnce; ++next) {
      const int64_t at = lines[next], size = std::min(kLine, begin + count - at);
      const bool whole = size == kLine && at % 64 == 0;
      if (!whole && !starts.empty()) break;
      read_weights(tensor, at, size, slot, gathered);
      if (slot.own_values) {
        copy_weights(tensor, at, size, slot.raw.data() + gathered * size_of(type),
                     slot.values.data() + gathered * size_of(type));
      }
      if (slot.has_statistic) read_statistic(tensor, at, size, statistic, parts, slot, gathered);
      if (slot.has_kept) {
        read_kept(tensor, at, size, reinterpret_cast<uint64_t*>(slot.kept.data()) + gathered / 64);
      }
      starts.push_back(gathered);
      gathered += size;
      if (!whole) {
        ++next;
        break;
      }
    }
    visit(run_of(tensor, first, gathered, slot, false), starts);
  }
}

uint64_t FileSource::count_kept(size_t tensor, int64_t begin, int64_t count) {
  if (!masked(tensor)) return static_cast<uint64_t>(count);
  uint64_t kept = 0;
  const int64_t block = 8 * kLeastBlockBytes;
  std::vector<uint64_t> words;
  for (int64_t at = begin; at < begin + count;) {
    const int64_t size = std::min(begin + count, (at / block + 1) * block) - at;
    words.resize(static_cast<size_t>(words_of(at, size)));
    read_kept(tensor, at, size, words.data());
    words.front() &= ~uint64_t{0} << (at % 64);
    if ((at + size) % 64 != 0) words.back() &= (uint64_t{1} << ((at + size) % 64)) - 1;
    for (uint64_t word : words) kept += static_cast<uint64_t>(std::popcount(word));
    at += size;
  }
  return kept;
}

std::string_view FileSource::formula_of(Criterion criterion) const {
  return files_.activations != nullptr ? std::string_view("|w| * ||x||") : formula(criterion);
}

void FileSource::copy_rest() {
  if (output_ == nullptr) return;
  enter_stage(true);
  for (size_t t = 0; t < infos_.size(); ++t) {
    if (written_[t]) continue;
    if (output_->in_place() || weights_.memory(numbers_[t]) != nullptr) cutting_memory_ = true;
    const int64_t width = size_of(weights_.tensors()[numbers_[t]].dtype);
    const auto kept_of = [](const Slot& slot) {
      return slot.has_kept ? reinterpret_cast<const uint64_t*>(slot.kept.data()) : nullptr;
    };
    const auto cut = [&](int64_t at, int64_t size, Slot& slot) {
      if (slot.has_kept) zero_cut(width, slot.raw.data(), size, kept_of(slot), at % 64);
    };
    stream(t, 0, infos_[t].size(), Statistic::none, cut,
           [&](int64_t at, int64_t size, Slot& slot) { put(t, at, size, slot, kept_of(slot)); });
  }
}

}  // namespace coppice

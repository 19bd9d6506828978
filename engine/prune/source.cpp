#include "engine/prune/source.hpp"

#include <algorithm>

#include "engine/model/parameter_store.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

const void* advanced(const void* data, int64_t bytes) {
  return data == nullptr ? nullptr : static_cast<const char*>(data) + bytes;
}

const void* statistic_data(const MemoryTensor& tensor, Statistic statistic) {
  const void* data = nullptr;
  std::string_view name;
  switch (statistic) {
    case Statistic::none:
      return nullptr;
    case Statistic::sum:
      data = tensor.sum, name = "sum of the gradients";
      break;
    case Statistic::absolute:
      data = tensor.absolute, name = "sum of the gradients' absolute values";
      break;
    case Statistic::squared:
      data = tensor.squared, name = "sum of the squared gradients";
      break;
  }
  if (data == nullptr)
    bad_input("the criterion needs the {} for '{}', and there is none", name, tensor.info.name);
  return data;
}

class StoreSource final : public ParameterSource {
 public:
  StoreSource(ParameterStore& store, const StoreStatistics& statistics)
      : store_(store), statistics_(statistics) {
    for (const Segment& segment : store.segments()) {
      infos_.push_back(
          {segment.name, segment.shape, DType::f32, segment.gates, segment.gate_names, segment.prunable});
    }
  }

  Backend& backend() override { return store_.backend(); }
  std::span<const SourceTensor> tensors() const override { return infos_; }

  void read(size_t tensor, int64_t begin, int64_t count, Statistic statistic, bool writing,
            const std::function<void(const Run&)>& visit) override {
    if (writing && !store_.masked()) store_.enable_mask();
    const int64_t offset = store_.segments()[tensor].offset;
    const auto at_segment = [&](VectorView<const float> view) {
      return view.empty() ? nullptr : view.data + offset;
    };
    MemoryTensor memory;
    memory.info = infos_[tensor];
    memory.weights = memory.output = store_.values().data + offset;
    memory.sum = at_segment(statistics_.sum);
    memory.absolute = at_segment(statistics_.absolute);
    memory.squared = at_segment(statistics_.squared);
    if (store_.masked()) memory.kept = memory.mask = store_.mask().data + offset / 64;
    MemorySource(store_.backend(), {memory}).read(0, begin, count, statistic, writing, visit);
  }

  void finish_writing() override { store_.values_changed(); }

 private:
  ParameterStore& store_;
  StoreStatistics statistics_;
  std::vector<SourceTensor> infos_;
};

}  // namespace

void ParameterSource::read_lines(size_t tensor, int64_t begin, int64_t count, std::span<const int64_t> lines,
                                 Statistic statistic,
                                 const std::function<void(const Run&, std::span<const int64_t>)>& visit) {
  size_t next = 0;
  std::vector<int64_t> starts;
  read(tensor, begin, count, statistic, false, [&](const Run& run) {
    starts.clear();
    for (; next < lines.size() && lines[next] < run.begin + run.count; ++next) {
      starts.push_back(lines[next] - run.begin);
    }
    if (!starts.empty()) visit(run, starts);
  });
}

uint64_t ParameterSource::count_kept(size_t tensor, int64_t begin, int64_t count) {
  uint64_t kept = 0;
  if (count == 0) return kept;
  read(tensor, begin, count, Statistic::none, false, [&](const Run& run) {
    ScoreBlock block;
    block.dtype = tensors()[tensor].dtype;
    block.weights = run.weights;
    block.kept = run.kept;
    block.mask_bit = static_cast<int>(run.begin % 64);
    block.count = run.count;
    kept += backend().selection().count_kept(block);
  });
  return kept;
}

MemorySource::MemorySource(Backend& backend, std::vector<MemoryTensor> tensors, int64_t run)
    : backend_(&backend), tensors_(std::move(tensors)), run_(run) {
  if (run % 64 != 0 || run < 0) failure("a memory source's run must be a multiple of 64, not {}", run);
  for (const MemoryTensor& tensor : tensors_) infos_.push_back(tensor.info);
}

void MemorySource::read(size_t tensor, int64_t begin, int64_t count, Statistic statistic, bool writing,
                        const std::function<void(const Run&)>& visit) {
  const MemoryTensor& memory = tensors_[tensor];
  const void* data = statistic_data(memory, statistic);
  const int64_t bytes = size_of(memory.info.dtype);
  for (int64_t at = begin; at < begin + count;) {
    // Runs end at multiples of their length, wherever the first one starts.
    const int64_t end = run_ == 0 ? begin + count : std::min(begin + count, (at / run_ + 1) * run_);
    Run run;
    run.weights = advanced(memory.weights, at * bytes);
    run.statistic = advanced(data, at * bytes);
    run.statistic_dtype = memory.info.dtype;
    if (memory.kept != nullptr) run.kept = memory.kept + at / 64;
    if (writing) {
      run.output = const_cast<void*>(advanced(memory.output, at * bytes));
      if (memory.mask != nullptr) run.mask = memory.mask + at / 64;
    }
    run.begin = at;
    run.count = end - at;
    visit(run);
    at = end;
  }
}

std::unique_ptr<ParameterSource> store_source(ParameterStore& store, const StoreStatistics& statistics) {
  const auto check = [&](VectorView<const float> view, std::string_view name) {
    if (view.empty() || view.size == store.size()) return;
    failure("the statistic {} has {} elements, the parameter store {}", name, view.size, store.size());
  };
  check(statistics.sum, "sum");
  check(statistics.absolute, "absolute");
  check(statistics.squared, "squared");
  return std::make_unique<StoreSource>(store, statistics);
}

}  // namespace coppice

#include <coppice/coppice.h>

#include <cstddef>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>

#include "engine/c_api/arrays.hpp"
#include "engine/c_api/guard.hpp"
#include "engine/c_api/tensors.hpp"
#include "engine/prune/merged_selection.hpp"

using namespace coppice::c_api;

struct coppice_selection {
  ArrayOptions options;
  std::unique_ptr<coppice::Backend> backend;
  std::vector<CallersTensor> tensors;
  std::unique_ptr<TensorSource> source;  // once counting has begun
  std::unique_ptr<coppice::MergedSelection> selection;
  bool applied = false;

  /// No more tensors from here on.
  void begin() {
    if (selection != nullptr) return;
    auto arrays = open_tensors(*backend, tensors, options.wanda, options.keep_diagonal, true);
    std::vector<coppice::TensorPiece> pieces;
    for (size_t t = 0; t < tensors.size(); ++t) {
      const CallersTensor& tensor = tensors[t];
      coppice::TensorPiece& piece = pieces.emplace_back();
      piece.whole = {tensor.whole_name, tensor.whole_shape, arrays->source().tensors()[t].dtype,
                     tensor.gates,      tensor.gate_names,  true};
      piece.first = tensor.first;
      piece.count = tensor.size();
    }
    selection = std::make_unique<coppice::MergedSelection>(std::move(pieces), options.config, options.seed);
    source = std::move(arrays);
  }
  coppice::MergedSelection& begun() const {
    if (selection == nullptr) coppice::bad_input("the selection has counted nothing yet");
    return *selection;
  }
};

namespace {

std::span<const std::byte> bytes_of(const void* counts, size_t bytes) {
  if (bytes != 0) required(counts, "counts");
  return {static_cast<const std::byte*>(counts), bytes};
}

}  // namespace

extern "C" {

coppice_status coppice_selection_create(const char* const* options, size_t option_count,
                                        coppice_selection** selection) {
  return guarded([&] {
    required(selection, "selection");
    auto made = std::make_unique<coppice_selection>();
    made->options = array_options(options, option_count);
    made->backend = coppice::open_backend(made->options.device, {.threads = made->options.threads});
    *selection = made.release();
  });
}

coppice_status coppice_selection_add(coppice_selection* selection, const coppice_tensor* tensor) {
  return guarded([&] {
    if (required(selection, "selection")->selection != nullptr) {
      coppice::bad_input("a tensor was added after counting had begun");
    }
    selection->tensors.push_back(check_tensor(tensor));
  });
}

int coppice_selection_done(const coppice_selection* selection) {
  return selection != nullptr && selection->selection != nullptr && selection->selection->done() ? 1 : 0;
}

coppice_status coppice_selection_count(coppice_selection* selection) {
  return guarded([&] {
    required(selection, "selection")->begin();
    selection->selection->count(selection->source->source());
  });
}

coppice_status coppice_selection_counts(const coppice_selection* selection, void* buffer, size_t capacity,
                                        size_t* bytes) {
  return guarded([&] {
    required(bytes, "bytes");
    const std::vector<std::byte> counts = required(selection, "selection")->begun().counts();
    *bytes = counts.size();
    if (buffer == nullptr) return;
    if (capacity < counts.size()) {
      coppice::bad_input("a buffer of {} bytes; this round's counts take {}", capacity, counts.size());
    }
    std::copy(counts.begin(), counts.end(), static_cast<std::byte*>(buffer));
  });
}

coppice_status coppice_selection_merge(coppice_selection* selection, const void* counts, size_t bytes) {
  return guarded([&] { required(selection, "selection")->begun().add(bytes_of(counts, bytes)); });
}

coppice_status coppice_selection_adopt(coppice_selection* selection, const void* counts, size_t bytes) {
  return guarded([&] { required(selection, "selection")->begun().adopt(bytes_of(counts, bytes)); });
}

coppice_status coppice_selection_refine(coppice_selection* selection) {
  return guarded([&] { required(selection, "selection")->begun().refine(); });
}

coppice_status coppice_selection_apply(coppice_selection* selection, uint64_t* kept) {
  return guarded([&] {
    coppice::MergedSelection& merged = required(selection, "selection")->begun();
    if (selection->applied) coppice::bad_input("the selection was applied already");
    selection->source->write();
    const uint64_t left = merged.apply(selection->source->source());
    selection->source->finish(merged.selected());
    selection->applied = true;
    if (kept != nullptr) *kept = left;
  });
}

coppice_status coppice_selection_report(const coppice_selection* selection, char** json) {
  return guarded([&] {
    required(json, "json");
    const coppice::MergedSelection& merged = required(selection, "selection")->begun();
    if (!merged.done()) coppice::bad_input("round {} of the selection is not over", merged.round());
    nlohmann::ordered_json groups = nlohmann::ordered_json::array();
    const bool percentile = selection->options.config.percentile >= 0.0;
    for (const coppice::GroupOutcome& group : merged.groups()) {
      nlohmann::ordered_json cut = group.cut;
      groups.push_back({{"name", group.name},
                        {"units", group.units},
                        {"cut", percentile ? nlohmann::ordered_json(nullptr) : cut},
                        {"threshold", group.threshold},
                        {"threshold_text", group.threshold_text}});
    }
    const nlohmann::ordered_json report = {{"groups", std::move(groups)}};
    *json = copy_text(report.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
  });
}

void coppice_selection_free(coppice_selection* selection) {
  delete selection;
}

}  // extern "C"

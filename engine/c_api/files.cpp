#include <memory>

#include "engine/c_api/control.hpp"
#include "engine/c_api/guard.hpp"
#include "engine/c_api/options.hpp"
#include "engine/files/weight_file.hpp"
#include "engine/inspect.hpp"
#include "engine/report/json.hpp"
#include "engine/verbs.hpp"

using namespace coppice::c_api;

struct coppice_weights {
  std::unique_ptr<coppice::WeightFile> file;

  const coppice::FileTensor& tensor(size_t index) const {
    if (index >= file->tensors().size()) {
      coppice::bad_input("{}: tensor {} of {}", file->path(), index, file->tensors().size());
    }
    return file->tensors()[index];
  }
  /// The tensor, when [begin, begin + count) lies in it.
  const coppice::FileTensor& tensor(size_t index, int64_t begin, int64_t count) const {
    const coppice::FileTensor& found = tensor(index);
    if (begin < 0 || count < 0 || begin > found.size() - count) {
      coppice::bad_input("{}: {} elements from {} on of \"{}\", which has {}", file->path(), count, begin,
                         found.name, found.size());
    }
    return found;
  }
};

extern "C" {

coppice_status coppice_prune_file(const char* weights, const char* output, const char* const* options,
                                  size_t option_count, int force, const coppice_control* control,
                                  uint64_t* kept, char** report_json) {
  return guarded([&] {
    Options given(options, option_count);
    coppice::PruneFiles files;
    for (const std::string& path : given.take_all("gradients")) files.gradients.emplace_back(path);
    files.activations = given.take_or("activations", "");
    files.masks = given.take_or("masks", "");
    files.keep_diagonal = given.take_all("keep_diagonal");
    files.gates = given.take_counts("gates");
    files.memory = given.take_bytes("memory");
    files.sparse_encoding = given.take_flag("sparse_encoding");
    files.dry_run = given.take_flag("dry_run");
    const PruneOptions prune = take_prune_options(given);
    files.masks_only = !files.masks.empty() && !prune.criterion;
    Control told(control);
    const coppice::PruneReport report =
        coppice::prune_model(required(weights, "weights"), files, prune.recipe.prune, prune.recipe.seed,
                             files.dry_run && output == nullptr ? "" : required(output, "output"),
                             prune.recipe.device, prune.recipe.threads, told.options(force != 0));
    if (report_json != nullptr) *report_json = copy_text(coppice::prune_report_json(report));
    if (kept != nullptr) *kept = report.outcome.kept;
  });
}

coppice_status coppice_convert_file(const char* input, const char* form, const char* output, int force) {
  return guarded([&] {
    const std::string name = required(form, "form");
    if (name != "dense" && name != "sparse") {
      coppice::bad_input("the form is \"{}\"; expected dense or sparse", name);
    }
    const coppice::Encoding encoding =
        name == "sparse" ? coppice::Encoding::sparse : coppice::Encoding::dense;
    coppice::convert_model(required(input, "input"), encoding, required(output, "output"), {force != 0});
  });
}

coppice_status coppice_weights_open(const char* path, coppice_weights** weights) {
  return guarded([&] {
    required(weights, "weights");
    *weights = new coppice_weights{coppice::open_weights(required(path, "path"))};
  });
}

size_t coppice_weights_count(const coppice_weights* weights) {
  return weights == nullptr ? 0 : weights->file->tensors().size();
}

coppice_status coppice_weights_tensor(const coppice_weights* weights, size_t index,
                                      coppice_tensor_info* info) {
  return guarded([&] {
    const coppice::FileTensor& tensor = required(weights, "weights")->tensor(index);
    fill(info,
         {0, tensor.name.c_str(), static_cast<coppice_dtype>(tensor.dtype), tensor.shape.size(),
          tensor.shape.data(), tensor.size(), weights->file->stored_bytes(index)},
         "info");
  });
}

coppice_status coppice_weights_find(const coppice_weights* weights, const char* name, size_t* index) {
  return guarded([&] {
    required(index, "index");
    *index = required(weights, "weights")->file->index(required(name, "name"));
  });
}

coppice_status coppice_weights_read(const coppice_weights* weights, size_t index, int64_t begin,
                                    int64_t count, coppice_dtype dtype, void* elements) {
  return guarded([&] {
    const coppice::FileTensor& tensor = required(weights, "weights")->tensor(index, begin, count);
    if (count == 0) return;
    required(elements, "elements");
    if (dtype == static_cast<coppice_dtype>(tensor.dtype)) {
      weights->file->read(index, begin, count, elements);
    } else if (dtype == COPPICE_F32) {
      weights->file->read_f32(index, begin, count, static_cast<float*>(elements));
    } else if (dtype == COPPICE_F64) {
      weights->file->read_f64(index, begin, count, static_cast<double*>(elements));
    } else {
      coppice::bad_input("\"{}\" is read as its own {}, as f32 or as f64; found the dtype {}", tensor.name,
                         to_string(tensor.dtype), static_cast<int>(dtype));
    }
  });
}

coppice_status coppice_weights_nonzeros(const coppice_weights* weights, size_t index, int64_t* nonzeros) {
  return guarded([&] {
    const coppice::FileTensor& tensor = required(weights, "weights")->tensor(index);
    required(nonzeros, "nonzeros");
    constexpr int64_t kBlock = int64_t{1} << 16;
    std::vector<double> block(static_cast<size_t>(std::min(tensor.size(), kBlock)));
    int64_t found = 0;
    for (int64_t begin = 0; begin < tensor.size(); begin += kBlock) {
      const int64_t count = std::min(kBlock, tensor.size() - begin);
      weights->file->read_f64(index, begin, count, block.data());
      found += count - std::count(block.begin(), block.begin() + count, 0.0);
    }
    *nonzeros = found;
  });
}

void coppice_weights_close(coppice_weights* weights) {
  delete weights;
}

coppice_status coppice_inspect(const char* path, char** json) {
  return guarded([&] {
    required(json, "json");
    *json = copy_text(coppice::inspection_json(required(path, "path")));
  });
}

}  // extern "C"

// Writes a checkpoint of random weights with the tensor names and shapes of a published model:
//   make_checkpoint FAMILY FOLDER [width=1] [layers=all] [dtype=bf16] [shards=1] [seed=1]

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "bench/synthetic_checkpoint.hpp"
#include "kernels/error.hpp"

int main(int argc, char** argv) {
  using namespace coppice;
  try {
    if (argc < 3)
      bad_input("usage: make_checkpoint FAMILY FOLDER [width=W] [layers=N] [dtype=T] [shards=N] [seed=N]");
    bench::CheckpointOptions options;
    options.family = argv[1];
    for (int i = 3; i < argc; ++i) {
      const std::string text = argv[i];
      const size_t equals = text.find('=');
      const std::string key = text.substr(0, equals),
                        value = equals == text.npos ? "" : text.substr(equals + 1);
      if (key == "width") {
        options.width = std::atof(value.c_str());
      } else if (key == "layers") {
        options.layers = std::atoll(value.c_str());
      } else if (key == "shards") {
        options.shards = std::max(1ll, std::atoll(value.c_str()));
      } else if (key == "seed") {
        options.seed = static_cast<uint64_t>(std::atoll(value.c_str()));
      } else if (key == "dtype") {
        for (DType type : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
          if (to_string(type) == value) options.dtype = type;
        }
      } else {
        bad_input("'{}' is no option; expected width, layers, dtype, shards or seed", text);
      }
    }
    int64_t bytes = 0;
    for (const bench::CheckpointTensor& tensor : checkpoint_tensors(options)) bytes += tensor.tensor.bytes();
    fmt::print("{}: {} bytes of tensors\n", write_checkpoint(options, argv[2]).string(), bytes);
  } catch (const Error& error) {
    fmt::print(stderr, "make_checkpoint: {}\n", error.what());
    return error.kind() == ErrorKind::bad_input ? 2 : 1;
  }
}

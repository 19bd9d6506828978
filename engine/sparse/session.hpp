#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/model/model_folder.hpp"
#include "engine/sparse/layout_policy.hpp"
#include "kernels/random.hpp"

namespace coppice {

struct SessionOptions {
  int64_t streams = 1;  // B: sequences stepped side by side
  /// Of the recurrent and decoder matrices, each of them only where that takes less memory than dense.
  std::string layout = "dense";
  /// By tensor name: a matrix's own layout, whatever it takes.
  std::map<std::string, std::string, std::less<>> layouts{};
  /// What the layout "auto" goes by (engine/sparse/layout_policy.hpp); read while the session is opened.
  const LayoutCache* measured = nullptr;
  /// bf16: the recurrent and decoder matrices rounded, to half the bytes a value; on a processor alone.
  DType values = DType::f32;
};

/// A model that runs, without a store: no gradients, no masks, and of a matrix in a sparse layout no dense
/// values either, so that memory falls with the density. It steps B streams with their states carried, and
/// allocates nothing in a step.
class Session {
 public:
  /// From a model's folder, one tensor at a time: the dense model is never in memory as a whole.
  Session(Backend& backend, const std::filesystem::path& model, const SessionOptions& options = {});
  /// From a network, which may go afterwards.
  explicit Session(const Network& network, const SessionOptions& options = {});
  ~Session();
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;

  const ModelConfig& config() const { return config_; }
  const DataShape& data_shape() const { return data_; }
  int64_t streams() const { return options_.streams; }

  /// One time step: an id [B] or a vector of features [B · inputs] a stream. Returns the logits [B · classes]
  /// of this step (of a classifier: as if the sequences ended here), valid until the next call.
  std::span<const float> step(std::span<const int32_t> ids);
  std::span<const float> step(std::span<const float> features);

  /// Forgets what was read: every state is zero again, of all streams or of one.
  void reset();
  void reset(int64_t stream);

  /// Bytes of the matrices, table and biases as they execute, indices and packed copies included.
  int64_t weight_bytes() const;
  /// The layout in which a matrix executes. Throws Error(bad_input) for an unknown name.
  std::string_view layout(std::string_view tensor) const;

 private:
  struct Matrix;
  struct Recurrent;
  using Read = std::function<std::vector<float>(const Segment&)>;

  Session(Backend& backend, const ModelDescription& model, const SessionOptions& options);
  void load(std::span<const Segment> segments, const Read& read);
  Matrix make_matrix(const Segment& segment, std::span<const float> values);
  std::span<const float> run(MatrixView<const float> x);

  Backend* backend_;
  ModelConfig config_;
  DataShape data_;
  SessionOptions options_;
  Buffer table_;   // [vocabulary, embedding], or empty
  Buffer ids_;     // [B]
  Buffer input_;   // [B, embedding or inputs]
  Buffer logits_;  // [B, classes]
  Buffer decoder_bias_;
  std::vector<Recurrent> layers_;
  std::unique_ptr<Matrix> decoder_;
  std::vector<float> host_logits_;
};

/// Draws a class from softmax(logits / temperature), or takes the largest logit where temperature is 0. The
/// draw is number `index` of the stream, so that a text depends on the seed alone.
int32_t draw_class(std::span<const float> logits, double temperature, RandomStream random, uint64_t index);

}  // namespace coppice

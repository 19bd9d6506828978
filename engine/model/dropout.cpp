#include "engine/model/layers.hpp"
#include "kernels/random.hpp"

namespace coppice {

namespace {

// In place: neither the embedding nor a recurrent layer needs its own output for its backward pass.
class Dropout final : public Layer {
 public:
  Dropout(int64_t width, double probability, int64_t index)
      : width_(width), probability_(static_cast<float>(probability)), index_(static_cast<uint64_t>(index)) {}

  std::string_view kind() const override { return "dropout"; }
  int64_t outputs() const override { return width_; }
  void bind(ParameterStore& store) override { backend_ = &store.backend(); }
  bool in_place() const override { return true; }
  int64_t saved_bytes(const SequenceShape&, bool) const override { return 0; }

  void forward(const SequenceShape&, MatrixView<const float> x, MatrixView<float> y, Arena&,
               const Pass& pass) override {
    if (pass.dropout) drop(x, y, pass);
  }
  void backward(const SequenceShape&, MatrixView<const float>, MatrixView<const float> dy,
                MatrixView<float> dx, const Pass& pass) override {
    if (pass.dropout) drop(dy, dx, pass);
  }

 private:
  void drop(MatrixView<const float> x, MatrixView<float> y, const Pass& pass) {
    backend_->sequence().dropout(x, probability_, {derive_key(pass.random.key, index_), pass.random.counter},
                                 y);
  }

  int64_t width_;
  float probability_;
  uint64_t index_;
  Backend* backend_ = nullptr;
};

}  // namespace

std::unique_ptr<Layer> make_dropout(int64_t width, double probability, int64_t index) {
  return std::make_unique<Dropout>(width, probability, index);
}

}  // namespace coppice

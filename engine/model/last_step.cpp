#include "engine/model/layers.hpp"

namespace coppice {

namespace {

class LastStep final : public Layer {
 public:
  LastStep(int64_t width, bool bidirectional) : width_(width), forwards_(bidirectional ? width / 2 : width) {}

  std::string_view kind() const override { return "last_step"; }
  int64_t outputs() const override { return width_; }
  int64_t output_rows(const SequenceShape& shape, int64_t) const override { return shape.batch; }
  void bind(ParameterStore& store) override { backend_ = &store.backend(); }
  int64_t saved_bytes(const SequenceShape&, bool) const override { return 0; }

  void forward(const SequenceShape& shape, MatrixView<const float> x, MatrixView<float> y, Arena&,
               const Pass&) override {
    backend_->sequence().last_step(x.col_slice(0, forwards_), shape.lengths, y.col_slice(0, forwards_));
    if (backwards() == 0) return;
    backend_->copy(x.row_slice(0, shape.batch).col_slice(forwards_, backwards()),
                   y.col_slice(forwards_, backwards()));
  }
  void backward(const SequenceShape& shape, MatrixView<const float>, MatrixView<const float> dy,
                MatrixView<float> dx, const Pass& pass) override {
    if (!pass.input_gradient) return;
    if (backwards() != 0) {
      backend_->fill_zero(dx.data, dx.rows * dx.stride * static_cast<int64_t>(sizeof(float)));
      backend_->copy(dy.col_slice(forwards_, backwards()),
                     dx.row_slice(0, shape.batch).col_slice(forwards_, backwards()));
    }
    backend_->sequence().last_step_backward(dy.col_slice(0, forwards_), shape.lengths,
                                            dx.col_slice(0, forwards_));
  }

 private:
  int64_t backwards() const { return width_ - forwards_; }

  int64_t width_;
  int64_t forwards_;
  Backend* backend_ = nullptr;
};

}  // namespace

std::unique_ptr<Layer> make_last_step(int64_t width, bool bidirectional) {
  return std::make_unique<LastStep>(width, bidirectional);
}

}  // namespace coppice

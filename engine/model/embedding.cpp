#include <cmath>

#include "engine/model/initialise.hpp"
#include "engine/model/layers.hpp"

namespace coppice {

namespace {

class Embedding final : public Layer {
 public:
  Embedding(std::string name, int64_t vocabulary, int64_t width)
      : name_(std::move(name)), vocabulary_(vocabulary), width_(width) {}

  std::string_view kind() const override { return "embedding"; }
  int64_t outputs() const override { return width_; }
  std::vector<Segment> segments() const override {
    return {{.name = name_ + ".weight", .shape = {vocabulary_, width_}}};
  }
  void bind(ParameterStore& store) override {
    store_ = &store;
    table_ = &store.segment(name_ + ".weight");
  }
  void initialise(ParameterStore& store, std::string_view init, double range, uint64_t seed) override {
    if (init == "pytorch") {
      fill_normal(store, *table_, 1.0, seed);
    } else {
      fill_uniform(store, *table_, init == "keras" ? 0.05 : range, seed);
    }
  }
  int64_t saved_bytes(const SequenceShape&, bool) const override { return 0; }

  void forward(const SequenceShape& shape, MatrixView<const float>, MatrixView<float> y, Arena&,
               const Pass&) override {
    store_->backend().sequence().embed(store_->matrix(*table_), shape.ids, y);
  }
  void backward(const SequenceShape& shape, MatrixView<const float>, MatrixView<const float> dy,
                MatrixView<float>, const Pass&) override {
    store_->backend().sequence().embed_backward(shape.ids, dy, store_->gradient_matrix(*table_));
  }
  int64_t weight_bytes() const override { return table_->size() * static_cast<int64_t>(sizeof(float)); }

 private:
  std::string name_;
  int64_t vocabulary_;
  int64_t width_;
  ParameterStore* store_ = nullptr;
  const Segment* table_ = nullptr;
};

}  // namespace

std::unique_ptr<Layer> make_embedding(std::string name, int64_t vocabulary, int64_t width) {
  return std::make_unique<Embedding>(std::move(name), vocabulary, width);
}

}  // namespace coppice

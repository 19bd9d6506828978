#include <cmath>

#include "engine/model/initialise.hpp"
#include "engine/model/layers.hpp"
#include "engine/model/stored_weight.hpp"

namespace coppice {

namespace {

class Dense final : public Layer {
 public:
  Dense(std::string name, int64_t inputs, int64_t outputs)
      : name_(std::move(name)), inputs_(inputs), outputs_(outputs) {}

  std::string_view kind() const override { return "dense"; }
  int64_t outputs() const override { return outputs_; }
  std::vector<Segment> segments() const override {
    return {{.name = name_ + ".weight", .shape = {outputs_, inputs_}},
            {.name = name_ + ".bias", .shape = {outputs_}}};
  }
  void bind(ParameterStore& store) override {
    store_ = &store;
    weight_.bind(store, name_ + ".weight");
    bias_ = &store.segment(name_ + ".bias");
  }
  void initialise(ParameterStore& store, std::string_view init, double range, uint64_t seed) override {
    if (init == "keras") {
      fill_glorot(store, weight_.segment(), seed);
      fill_constant(store, *bias_, 0.0f);
      return;
    }
    // torch.nn.Linear: kaiming_uniform with a = √5, which is ±1/√inputs, for both.
    const double bound = init == "pytorch" ? 1.0 / std::sqrt(static_cast<double>(inputs_)) : range;
    fill_uniform(store, weight_.segment(), bound, seed);
    fill_uniform(store, *bias_, bound, seed);
  }
  int64_t saved_bytes(const SequenceShape&, bool) const override { return 0; }

  void forward(const SequenceShape&, MatrixView<const float> x, MatrixView<float> y, Arena&,
               const Pass&) override {
    weight_.current().multiply(x, store_->vector(*bias_), y);
  }
  void backward(const SequenceShape&, MatrixView<const float> x, MatrixView<const float> dy,
                MatrixView<float> dx, const Pass& pass) override {
    Weight& weight = weight_.current();
    if (pass.input_gradient) weight.multiply_transposed(dy, dx);
    weight.accumulate_gradient(dy, x, weight_.gradient());
    store_->backend().sequence().add_column_sums(dy, store_->gradient_vector(*bias_));
  }

  void use_layout(const LayoutPolicy& policy) override { weight_.use_layout(policy); }
  void use_masks(std::string_view layout, double from, MatrixCount& count) override {
    ++count.all;
    if (weight_.use_mask(layout, from)) ++count.sparse;
  }
  void add_layouts(std::map<std::string, std::string>& layouts) const override {
    weight_.add_layout(layouts);
  }
  int64_t weight_bytes() const override {
    return weight_.bytes() + outputs_ * static_cast<int64_t>(sizeof(float));
  }

 private:
  std::string name_;
  int64_t inputs_;
  int64_t outputs_;
  ParameterStore* store_ = nullptr;
  StoredWeight weight_;
  const Segment* bias_ = nullptr;
};

}  // namespace

std::unique_ptr<Layer> make_dense(std::string name, int64_t inputs, int64_t outputs) {
  return std::make_unique<Dense>(std::move(name), inputs, outputs);
}

}  // namespace coppice

#include "engine/prune/unit_select.hpp"

#include <algorithm>
#include <cmath>
#include <optional>

#include "engine/prune/host_scores.hpp"
#include "engine/prune/masks.hpp"
#include "kernels/error.hpp"
#include "kernels/ordered_key.hpp"

namespace coppice {
namespace {

/// What stands for each row and column of a tensor: of(layer, unit), or `none` where there is no unit.
template <class T, class Of>
void by_row_and_column(const Plan& plan, const UnitTensor& tensor, const SourceTensor& info, T none, Of of,
                       std::vector<T>& rows, std::vector<T>& cols) {
  rows.assign(static_cast<size_t>(info.rows()), none);
  cols.assign(static_cast<size_t>(info.cols()), none);
  if (tensor.row_layer) {
    const int64_t hidden = plan.wiring.layers[*tensor.row_layer].hidden;
    for (int64_t r = 0; r < info.rows(); ++r)
      rows[static_cast<size_t>(r)] = of(*tensor.row_layer, r % hidden);
  }
  for (const UnitTensor::Columns& columns : tensor.columns) {
    const int64_t hidden = plan.wiring.layers[columns.layer].hidden;
    for (int64_t u = 0; u < hidden; ++u) cols[static_cast<size_t>(columns.begin + u)] = of(columns.layer, u);
  }
}

/// Elements whose keys are held at a time.
constexpr int64_t kTogether = int64_t{1} << 16;

/// The score of element i, unless it is cut already.
std::optional<double> score_at(DType dtype, const HostKeys& keys, int64_t i) {
  const auto scored = [](auto key) { return key == 0 ? std::optional<double>() : value_of_key(key); };
  if (dtype == DType::f64) return scored(keys.as<uint64_t>()[i]);
  return scored(keys.as<uint32_t>()[i]);
}

/// Adds one element's score to its unit's.
void add_to_unit(Reduce reduce, UnitScore& unit, double score) {
  ++unit.kept;
  switch (reduce) {
    case Reduce::sum:
    case Reduce::mean:
      unit.mantissa += score;
      return;
    case Reduce::max:
      unit.mantissa = std::max(unit.mantissa, score);
      return;
    case Reduce::l2:
      unit.mantissa += score * score;
      return;
    case Reduce::product:
      multiply(unit, score);
  }
}

}  // namespace

std::vector<std::vector<UnitScore>> score_hidden_units(ParameterSource& source, const Plan& plan,
                                                       ReadingCost& cost) {
  std::vector<std::vector<UnitScore>> scores;
  for (const UnitLayer& layer : plan.wiring.layers) {
    scores.emplace_back(static_cast<size_t>(layer.hidden), start_unit(plan.reduce));
  }
  const auto unit_at = [&](size_t layer, int64_t unit) { return &scores[layer][static_cast<size_t>(unit)]; };
  std::vector<UnitScore*> rows, cols;
  HostKeys keys;
  for (const UnitTensor& tensor : plan.wiring.tensors) {
    const SourceTensor& info = source.tensors()[tensor.tensor];
    by_row_and_column<UnitScore*>(plan, tensor, info, nullptr, unit_at, rows, cols);
    source.read(tensor.tensor, 0, info.size(), plan.statistic, false, [&](const ParameterSource::Run& run) {
      cost.elements += static_cast<uint64_t>(run.count);
      const ScoreBlock block = block_of(plan, source.tensors(), tensor.tensor, run);
      int64_t row = run.begin / info.cols(), col = run.begin % info.cols();
      for (int64_t begin = 0; begin < run.count; begin += kTogether) {
        const int64_t count = std::min(run.count - begin, kTogether);
        keys.read(plan, source, tensor.tensor, part_of(block, begin, count));
        for (int64_t i = 0; i < count; ++i) {
          UnitScore* const of_row = rows[static_cast<size_t>(row)];
          UnitScore* const of_col = cols[static_cast<size_t>(col)];
          if (++col == info.cols()) col = 0, ++row;
          const std::optional<double> score = score_at(info.dtype, keys, i);
          if (!score) continue;
          if (of_row != nullptr) add_to_unit(plan.reduce, *of_row, *score);
          if (of_col != nullptr && of_col != of_row) add_to_unit(plan.reduce, *of_col, *score);
        }
      }
    });
  }
  for (size_t layer = 0; layer < scores.size(); ++layer) {
    for (size_t unit = 0; unit < scores[layer].size(); ++unit) {
      finish_unit(plan.reduce, scores[layer][unit]);
      if (!std::isnan(scores[layer][unit].mantissa)) continue;
      bad_input("the score of unit {} of '{}' is NaN: infinite element scores cancel", unit,
                source.tensors()[plan.wiring.layers[layer].recurrent].name);
    }
  }
  return scores;
}

void cut_hidden_units(ParameterSource& source, const Plan& plan,
                      const std::vector<std::vector<uint64_t>>& kept,
                      std::vector<std::vector<uint64_t>>& cut_by_gate) {
  const auto is_kept = [&](size_t layer, int64_t unit) {
    return static_cast<uint8_t>(kept[layer][static_cast<size_t>(unit / 64)] >> (unit % 64) & 1);
  };
  std::vector<uint8_t> rows, cols;
  std::vector<uint64_t> words;
  for (const UnitTensor& tensor : plan.wiring.tensors) {
    const SourceTensor& info = source.tensors()[tensor.tensor];
    by_row_and_column<uint8_t>(plan, tensor, info, 1, is_kept, rows, cols);
    for_gates(info, 0, info.size(), [&](size_t gate, int64_t begin, int64_t end) {
      source.read(tensor.tensor, begin, end - begin, Statistic::none, true,
                  [&](const ParameterSource::Run& run) {
                    const ScoreBlock block = block_of(plan, source.tensors(), tensor.tensor, run);
                    words.assign(static_cast<size_t>((block.mask_bit + run.count + 63) / 64), 0);
                    int64_t row = run.begin / info.cols(), col = run.begin % info.cols();
                    for (int64_t bit = block.mask_bit; bit < block.mask_bit + run.count; ++bit) {
                      const uint64_t keep = rows[static_cast<size_t>(row)] & cols[static_cast<size_t>(col)];
                      words[static_cast<size_t>(bit / 64)] |= keep << (bit % 64);
                      if (++col == info.cols()) col = 0, ++row;
                    }
                    cut_by_gate[tensor.tensor][gate] +=
                        apply_bits(source.backend(), block, words.data(), run.output, run.mask);
                  });
    });
  }
}

}  // namespace coppice

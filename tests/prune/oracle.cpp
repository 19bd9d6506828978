#include "tests/prune/oracle.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cfenv>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <tuple>

namespace coppice::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// m · 2^e with |m| in [0.5, 1), or m = 0 or infinite with e = 0.
struct Scaled {
  double m = 0.0;
  int64_t e = 0;
};

Scaled normalised(double m, int64_t e) {
  int shift = 0;
  const double mantissa = std::frexp(m, &shift);
  if (mantissa == 0.0 || std::isinf(mantissa)) return {mantissa, 0};
  return {mantissa, e + shift};
}

bool smaller(const Scaled& a, const Scaled& b) {
  // Exponents of unlike numbers are compared as extended exponents of their magnitudes.
  const auto class_of = [](const Scaled& x) {
    if (std::isinf(x.m)) return x.m < 0 ? -2 : 2;
    return x.m < 0 ? -1 : x.m > 0 ? 1 : 0;
  };
  if (class_of(a) != class_of(b)) return class_of(a) < class_of(b);
  if (class_of(a) != 1 && class_of(a) != -1) return false;
  if (a.e != b.e) return class_of(a) > 0 ? a.e < b.e : a.e > b.e;
  return a.m < b.m;
}

struct Unit {
  size_t tensor = 0;
  size_t piece = 0;                                 // gate, where that separates groups
  uint64_t order = 0;                               // by tensor name, then index
  std::vector<std::pair<size_t, size_t>> elements;  // (tensor, index)
  Scaled score;
  bool cut_already = false;
  bool safe = false;  // by the minimum density
};

template <class T>
double element_score(const std::string& criterion, const PrunableTensor& tensor, size_t i, uint64_t position,
                     uint64_t seed) {
  const T w = static_cast<T>(tensor.weights[i]);
  const auto at = [&](const std::vector<double>& v) { return v.empty() ? T(0) : static_cast<T>(v[i]); };
  if (criterion == "magnitude") return std::fabs(w);
  if (criterion == "gradient") return std::fabs(at(tensor.sum));
  if (criterion == "gradient-absolute") return std::fabs(at(tensor.absolute));
  if (criterion == "gradient-squared") return std::fabs(at(tensor.squared));
  if (criterion == "taylor") {
    const volatile T product = w * at(tensor.sum);
    return std::fabs(static_cast<T>(product));
  }
  if (criterion == "taylor-absolute") {
    const volatile T product = w * at(tensor.absolute);
    return std::fabs(static_cast<T>(product));
  }
  if (criterion == "fisher") {
    const volatile T square = w * w;
    const volatile T product = at(tensor.squared) * square;
    return product;
  }
  uint64_t z = position + seed * 11400714819323198485ull;  // random: SplitMix64's output function
  z = (z ^ (z >> 30)) * 13787848793156543929ull;
  z = (z ^ (z >> 27)) * 10723151780598845931ull;
  z = z ^ (z >> 31);
  return std::ldexp(static_cast<double>(z >> 40), -24);
}

Scaled reduced(const std::string& how, const std::vector<double>& scores) {
  if (scores.empty()) return {};
  double value = how == "max" ? -kInfinity : 0.0;
  if (how == "product") {
    double m = 1.0;
    int64_t e = 0;
    for (double score : scores) {
      int a = 0, b = 0;
      const double factor = std::frexp(score, &a);
      m = std::frexp(m * factor, &b);
      e += int64_t{a} + b;
      if (m == 0.0 || std::isinf(m)) e = 0;
    }
    return normalised(m, e);
  }
  for (double score : scores) {
    if (how == "max") {
      value = std::max(value, score);
    } else if (how == "l2") {
      const volatile double square = score * score;
      value += square;
    } else {
      value += score;
    }
  }
  if (how == "mean") value /= static_cast<double>(scores.size());
  if (how == "l2") value = std::sqrt(value);
  return normalised(value, 0);
}

/// "block:16x1" is {16, 1}; "2:4" is {2, 4} with another mark between.
std::pair<size_t, size_t> two_numbers(const std::string& text, char between) {
  const size_t mark = text.rfind(between), begin = text.find(':') < mark ? text.find(':') + 1 : 0;
  return {std::stoul(text.substr(begin, mark - begin)), std::stoul(text.substr(mark + 1))};
}

/// The elements of each unit of the rows [r0, r1) of a matrix, in the order of ties.
std::vector<std::vector<size_t>> units_of(const std::string& pattern, size_t r0, size_t r1, size_t cols) {
  std::vector<std::vector<size_t>> units;
  const auto [height, width] = pattern == "row"      ? std::pair{size_t{1}, cols}
                               : pattern == "column" ? std::pair{r1 - r0, size_t{1}}
                               : pattern[0] == 'b'   ? two_numbers(pattern, 'x')
                                                     : std::pair{size_t{1}, size_t{1}};
  for (size_t top = r0; top < r1; top += height) {
    for (size_t left = 0; left < cols; left += width) {
      std::vector<size_t>& elements = units.emplace_back();
      for (size_t r = top; r < std::min(r1, top + height); ++r) {
        for (size_t c = left; c < std::min(cols, left + width); ++c) elements.push_back(r * cols + c);
      }
    }
  }
  return units;
}

/// Everything of hidden unit `u` of the layer with this weight_hh ("rnn.weight_hh_l0_reverse"), of stacks
/// that "decoder.weight" reads: by a look at every element of every tensor.
std::vector<std::pair<size_t, size_t>> hidden_unit(const std::vector<PrunableTensor>& tensors,
                                                   const std::vector<size_t>& names, const std::string& hh,
                                                   size_t u, size_t hidden) {
  const bool reverse = hh.ends_with("_reverse");
  const int layer = hh[hh.rfind("_l") + 2] - '0';
  const auto is = [](const std::string& name, const char* kind, int l) {
    return name.find(fmt::format("{}_l{}", kind, l)) != std::string::npos;
  };
  bool last = true;
  for (const PrunableTensor& tensor : tensors) last = last && !is(tensor.name, "weight_ih", layer + 1);
  std::vector<std::pair<size_t, size_t>> elements;
  for (size_t t : names) {
    const std::string& name = tensors[t].name;
    const size_t cols = tensors[t].shape.size() < 2 ? 1 : static_cast<size_t>(tensors[t].shape[1]);
    bool own = false;
    for (const char* kind : {"weight_ih", "weight_hh", "bias_ih", "bias_hh"})
      own = own || is(name, kind, layer);
    own = own && name.ends_with("_reverse") == reverse;
    const bool reads = last ? name == "decoder.weight" : is(name, "weight_ih", layer + 1);
    for (size_t i = 0; i < tensors[t].size(); ++i) {
      const bool row = own && i / cols % hidden == u;
      const bool column = (name == hh && i % cols == u) || (reads && i % cols == u + (reverse ? hidden : 0));
      if (row || column) elements.push_back({t, i});
    }
  }
  return elements;
}

uint64_t half_even(double x) {
  const double below = std::floor(x), rest = x - below;
  if (rest > 0.5 || (rest == 0.5 && std::fmod(below, 2.0) == 1.0)) return static_cast<uint64_t>(below) + 1;
  return static_cast<uint64_t>(below);
}

double value_of(const Scaled& s) {
  return std::ldexp(s.m, static_cast<int>(std::clamp<int64_t>(s.e, -5000, 5000)));
}

/// np.percentile(..., method="linear") of sorted scores in float64, order statistics where infinite.
Scaled percentile_of(const std::vector<Unit*>& sorted, double p) {
  const auto at = [&](size_t i) { return sorted[i]->cut_already ? Scaled{-kInfinity, 0} : sorted[i]->score; };
  const double rank = (p / 100.0) * static_cast<double>(sorted.size() - 1);
  const size_t low = static_cast<size_t>(rank);
  const double t = rank - static_cast<double>(low);
  if (t == 0.0) return at(low);
  const Scaled a = at(low), b = at(low + 1);
  if (std::isinf(a.m) || std::isinf(b.m)) return b;
  if (a.m == 0.0 && b.m == 0.0) return a;
  const int64_t unit = std::max(a.m != 0 ? a.e : INT64_MIN, b.m != 0 ? b.e : INT64_MIN);
  const auto scaled = [&](const Scaled& s) {
    return s.m == 0 ? 0.0 : std::ldexp(s.m, static_cast<int>(std::max<int64_t>(s.e - unit, -5000)));
  };
  const double x = scaled(a), y = scaled(b);
  const volatile double step = (y - x) * (t < 0.5 ? t : 1.0 - t);
  return normalised(t < 0.5 ? x + step : y - step, unit);
}

}  // namespace

Expected expected_masks(const std::vector<PrunableTensor>& tensors, const PruneConfig& config,
                        uint64_t seed) {
  Expected expected;
  const bool n_of_m = config.pattern.find(':') != std::string::npos && config.pattern[0] != 'b';
  std::vector<size_t> names(tensors.size());
  std::iota(names.begin(), names.end(), size_t{0});
  std::sort(names.begin(), names.end(),
            [&](size_t a, size_t b) { return tensors[a].name < tensors[b].name; });

  std::vector<Unit> units;
  uint64_t order = 0;
  std::vector<uint64_t> base(tensors.size());  // position of a tensor's first element
  for (uint64_t position = 0; size_t t : names) {
    base[t] = position;
    position += tensors[t].size();
  }
  for (const PrunableTensor& tensor : tensors) {
    expected.kept.push_back(tensor.kept.empty() ? std::vector<bool>(tensor.size(), true) : tensor.kept);
  }
  const auto add_unit = [&](Unit unit) {
    std::vector<double> scores;
    for (const auto& [t, i] : unit.elements) {
      if (!expected.kept[t][i]) continue;
      scores.push_back(tensors[t].dtype == DType::f64
                           ? element_score<double>(config.criterion, tensors[t], i, base[t] + i, seed)
                           : element_score<float>(config.criterion, tensors[t], i, base[t] + i, seed));
    }
    unit.cut_already = scores.empty();
    unit.score = config.pattern != "element" ? reduced(config.reduce, scores)
                 : scores.empty()            ? Scaled{}
                                             : normalised(scores.front(), 0);
    unit.order = order++;
    units.push_back(std::move(unit));
  };
  for (size_t t : names) {
    const PrunableTensor& tensor = tensors[t];
    if (!tensor.prunable || tensor.size() == 0) continue;
    if (config.pattern == "unit") {
      const size_t hidden =
          tensor.name.find("weight_hh") == std::string::npos ? 0 : static_cast<size_t>(tensor.shape[1]);
      for (size_t u = 0; u < hidden; ++u)
        add_unit({t, 0, 0, hidden_unit(tensors, names, tensor.name, u, hidden)});
      continue;
    }
    const size_t rows = tensor.shape.empty() ? 1 : static_cast<size_t>(tensor.shape[0]);
    const size_t cols = tensor.size() / rows;
    const size_t pieces = config.scope == "gate"  ? static_cast<size_t>(tensor.gates)
                          : config.scope == "row" ? rows
                                                  : 1;
    for (size_t piece = 0; piece < pieces; ++piece) {
      const size_t r0 = rows / pieces * piece, r1 = rows / pieces * (piece + 1);
      for (const std::vector<size_t>& elements : units_of(config.pattern, r0, r1, cols)) {
        Unit unit{t, piece};
        for (size_t i : elements) unit.elements.push_back({t, i});
        add_unit(std::move(unit));
      }
    }
  }

  const auto before = [](const Unit* a, const Unit* b) {
    if (a->cut_already != b->cut_already) return a->cut_already;
    if (!a->cut_already) {
      if (smaller(a->score, b->score)) return true;
      if (smaller(b->score, a->score)) return false;
    }
    return a->order < b->order;
  };

  // Groups and, for the minimum density, segments: a tensor, or a gate where the scope is gates.
  using Id = std::pair<size_t, size_t>;
  std::vector<std::pair<std::string, std::vector<Unit*>>> groups;
  std::map<std::string, size_t> group_index;
  std::map<Id, std::vector<Unit*>> segments;
  if (config.scope == "global") groups.push_back({"all", {}});
  for (size_t t : names) {
    const PrunableTensor& tensor = tensors[t];
    if (!tensor.prunable || config.scope == "global") continue;
    if (config.pattern == "unit" && tensor.name.find("weight_hh") == std::string::npos) continue;
    if (config.scope == "row") {
      const size_t rows = tensor.shape.empty() ? 1 : static_cast<size_t>(tensor.shape[0]);
      for (size_t row = 0; row < std::max<size_t>(rows, 1); ++row)
        groups.push_back({fmt::format("{}[{}]", tensor.name, row), {}});
    } else if (config.scope == "tensor" || tensor.gates == 1) {
      groups.push_back({tensor.name, {}});
    } else {
      for (int64_t g = 0; g < tensor.gates; ++g)
        groups.push_back({tensor.name + ":" + std::to_string(g), {}});
    }
  }
  for (size_t g = 0; g < groups.size(); ++g) group_index[groups[g].first] = g;
  for (Unit& unit : units) {
    segments[{unit.tensor, unit.piece}].push_back(&unit);
    std::string name = "all";
    if (config.scope != "global") name = tensors[unit.tensor].name;
    if (config.scope == "gate" && tensors[unit.tensor].gates > 1) name += ":" + std::to_string(unit.piece);
    if (config.scope == "row") name += fmt::format("[{}]", unit.piece);
    groups[group_index.at(name)].second.push_back(&unit);
  }

  for (auto& [id, members] : segments) {
    std::sort(members.begin(), members.end(), before);
    const size_t protect =
        static_cast<size_t>(std::ceil(config.min_density * static_cast<double>(members.size())));
    for (size_t i = members.size() - protect; i < members.size(); ++i) {
      members[i]->safe = !members[i]->cut_already;
    }
  }

  for (auto& [name, members] : groups) {
    ExpectedGroup group{name, members.size(), 0, std::nan("")};
    std::vector<const Unit*> cut;
    if (n_of_m) {
      // Members are in index order still.
      const auto [keep, of] = two_numbers(config.pattern, ':');
      const auto place = [&](const Unit* unit) {
        const PrunableTensor& tensor = tensors[unit->tensor];
        const size_t cols = tensor.size() / (tensor.shape.empty() ? 1 : static_cast<size_t>(tensor.shape[0]));
        return std::tuple{unit->tensor, unit->elements[0].second / cols,
                          unit->elements[0].second % cols / of};
      };
      for (size_t begin = 0; begin < members.size();) {
        std::vector<Unit*> alike;
        for (size_t i = begin; i < members.size() && place(members[i]) == place(members[begin]); ++i)
          alike.push_back(members[i]);
        begin += alike.size();
        std::sort(alike.begin(), alike.end(), before);
        const double share = static_cast<double>(keep) / static_cast<double>(of);
        const size_t stay = static_cast<size_t>(std::ceil(static_cast<double>(alike.size()) * share - 1e-9));
        for (size_t i = 0; i < alike.size(); ++i) {
          if (i + stay < alike.size() || alike[i]->cut_already) cut.push_back(alike[i]);
        }
      }
      group.cut = cut.size();
      for (const Unit* unit : cut) expected.kept[unit->tensor][unit->elements[0].second] = false;
      expected.groups.push_back(group);
      continue;
    }
    std::sort(members.begin(), members.end(), before);
    for (const Unit* unit : members) {
      if (unit->cut_already) cut.push_back(unit);
    }
    if (config.percentile >= 0.0) {
      if (!members.empty()) {
        const Scaled threshold = percentile_of(members, config.percentile);
        group.threshold = value_of(threshold);
        for (const Unit* unit : members) {
          if (!unit->cut_already && !unit->safe && smaller(unit->score, threshold)) cut.push_back(unit);
        }
      }
    } else {
      const size_t k = half_even(config.sparsity * static_cast<double>(members.size()));
      for (const Unit* unit : members) {
        if (cut.size() >= k) break;
        if (unit->cut_already || unit->safe) continue;
        cut.push_back(unit);
        group.threshold = value_of(unit->score);
      }
      if (cut.size() < k) expected.infeasible = true;
    }
    group.cut = cut.size();
    for (const Unit* unit : cut) {
      for (const auto& [t, i] : unit->elements) expected.kept[t][i] = false;
    }
    expected.groups.push_back(group);
  }
  if (config.scope == "row") {  // reported by tensor
    std::vector<ExpectedGroup> rows = std::move(expected.groups);
    expected.groups.clear();
    for (const ExpectedGroup& row : rows) {
      const std::string tensor = row.name.substr(0, row.name.rfind('['));
      if (expected.groups.empty() || expected.groups.back().name != tensor) {
        expected.groups.push_back({tensor, 0, 0, std::nan("")});
      }
      expected.groups.back().units += row.units;
      expected.groups.back().cut += row.cut;
    }
  }
  return expected;
}

}  // namespace coppice::test

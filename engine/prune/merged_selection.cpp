#include "engine/prune/merged_selection.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "engine/prune/masks.hpp"
#include "engine/prune/percentile.hpp"
#include "engine/prune/select.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

static_assert(std::endian::native == std::endian::little, "counts are sent as they lie in memory");

constexpr uint64_t kMagic = 0x31746e63'65636970ull;  // "picecnt1"

/// What processes send: numbers, and in the first round names.
class Writer {
 public:
  void number(uint64_t value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), bytes, bytes + sizeof value);
  }
  void numbers(std::span<const uint64_t> values) {
    number(values.size());
    const auto bytes = std::as_bytes(values);
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  void text(const std::string& text) {
    number(text.size());
    const auto bytes = std::as_bytes(std::span(text));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  uint64_t number() {
    uint64_t value = 0;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  /// How many of something that takes at least `bytes` each.
  size_t count(size_t bytes) {
    const uint64_t value = number();
    if (value > bytes_.size() / bytes) damaged();
    return static_cast<size_t>(value);
  }
  std::string text() {
    const std::span<const std::byte> bytes = take(count(1));
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  std::span<const std::byte> numbers() { return take(count(sizeof(uint64_t)) * sizeof(uint64_t)); }
  void end() const {
    if (!bytes_.empty()) damaged();
  }
  [[noreturn]] static void damaged() {
    bad_input("counts of a merged selection: the bytes end too early, or are no such counts");
  }

 private:
  std::span<const std::byte> take(size_t size) {
    if (size > bytes_.size()) damaged();
    const std::span<const std::byte> taken = bytes_.first(size);
    bytes_ = bytes_.subspan(size);
    return taken;
  }
  std::span<const std::byte> bytes_;
};

void write(Writer& writer, const TensorPiece& piece) {
  writer.text(piece.whole.name);
  writer.number(static_cast<uint64_t>(piece.whole.dtype));
  writer.number(piece.whole.shape.size());
  for (int64_t extent : piece.whole.shape) writer.number(static_cast<uint64_t>(extent));
  writer.number(static_cast<uint64_t>(piece.whole.gates));
  writer.text(piece.whole.gate_names);
  writer.number(piece.whole.prunable ? 1 : 0);
  writer.number(static_cast<uint64_t>(piece.first));
  writer.number(static_cast<uint64_t>(piece.count));
}

TensorPiece read_piece(Reader& reader) {
  TensorPiece piece;
  piece.whole.name = reader.text();
  piece.whole.dtype = static_cast<DType>(reader.number());
  const size_t rank = reader.count(sizeof(uint64_t));
  for (size_t d = 0; d < rank; ++d) piece.whole.shape.push_back(static_cast<int64_t>(reader.number()));
  piece.whole.gates = static_cast<int64_t>(reader.number());
  piece.whole.gate_names = reader.text();
  piece.whole.prunable = reader.number() != 0;
  piece.first = static_cast<int64_t>(reader.number());
  piece.count = static_cast<int64_t>(reader.number());
  return piece;
}

/// A size that no process may lie about: the product of a shape that fits memory.
int64_t checked_size(const SourceTensor& tensor) {
  int64_t size = 1;
  for (int64_t extent : tensor.shape) {
    if (extent < 0 || __builtin_mul_overflow(size, extent, &size)) {
      bad_input("'{}': a shape of [{}] has no size", tensor.name, fmt::join(tensor.shape, ", "));
    }
  }
  return size;
}

std::string options_text(const PruneConfig& config, uint64_t seed) {
  return fmt::format(
      "criterion={} pattern={} scope={} sparsity={} percentile={} min_density={} by {} include=[{}] "
      "exclude=[{}] seed={}",
      config.criterion, config.pattern, config.scope, config.sparsity, config.percentile, config.min_density,
      config.min_density_scope, fmt::join(config.include, ", "), fmt::join(config.exclude, ", "), seed);
}

std::string threshold_text(double threshold) {
  return fmt::format("{}", threshold);
}

}  // namespace

MergedSelection::MergedSelection(std::vector<TensorPiece> pieces, const PruneConfig& config, uint64_t seed)
    : own_(std::move(pieces)), config_(config), seed_(seed), options_(options_text(config, seed)) {
  if (config.pattern != "element" || config.scope == "row") {
    bad_input(
        "a selection over several processes is one of elements, of scope global, tensor or gate; found "
        "pattern '{}' "
        "and scope '{}'",
        config.pattern, config.scope);
  }
  for (const TensorPiece& piece : own_) {
    const int64_t size = checked_size(piece.whole);
    if (piece.first < 0 || piece.count < 0 || piece.first > size - piece.count) {
      bad_input("'{}': a piece of {} elements from {} on does not lie in a tensor of {}", piece.whole.name,
                piece.count, piece.first, size);
    }
  }
}

template <class Visit>
void MergedSelection::for_pieces(const PlanPart& part, Visit visit) const {
  for (size_t i = pieces_of_[part.tensor]; i < pieces_of_[part.tensor + 1]; ++i) {
    const int64_t begin = std::max(part.begin, pieces_[i].first);
    const int64_t end = std::min(part.begin + part.count, pieces_[i].first + pieces_[i].count);
    if (begin < end) visit(i);
  }
}

PlanPart MergedSelection::own_part(const PlanPart& part, const Held& piece) const {
  PlanPart own = part;
  const int64_t begin = std::max(part.begin, piece.first);
  const int64_t end = std::min(part.begin + part.count, piece.first + piece.count);
  own.tensor = *piece.own;
  own.begin = begin - piece.first;
  own.count = end - begin;
  own.units = static_cast<uint64_t>(own.count);
  return own;
}

uint64_t MergedSelection::digit(const Search& search) const {
  const KeyWindow& window = search.window;
  return search.ranks.key() >> (64 - window.prefix_bits - window.digit_bits) &
         static_cast<uint64_t>(window.bins() - 1);
}

size_t MergedSelection::expected_counts() const {
  size_t size = 0;
  switch (phase_) {
    case Phase::describe:
    case Phase::done:
      break;
    case Phase::cut_already:
      for (const PlanGroup& group : plan_.groups) size += group.parts.size();
      break;
    case Phase::protect:
    case Phase::search:
      for (const Search& search : searches_) {
        size += static_cast<size_t>(search.ranks.rows() * search.ranks.window().bins());
      }
      break;
    case Phase::protect_ties:
    case Phase::search_ties:
      for (const Search& search : searches_) {
        for (const PlanPart& part : search.group.parts) for_pieces(part, [&](size_t) { ++size; });
      }
      break;
  }
  return size;
}

void MergedSelection::count_ties(ParameterSource& source, const Search& search, uint64_t*& next) {
  for (const PlanPart& part : search.group.parts) {
    for_pieces(part, [&](size_t i) {
      uint64_t& here = *next++;
      if (!pieces_[i].own) return;
      const PlanGroup alone{search.group.name, {own_part(part, pieces_[i])}, 0, 0};
      here += coppice::count(source, own_plan_, alone, search.window, {}).bins[digit(search)];
    });
  }
}

void MergedSelection::count(ParameterSource& source) {
  if (done()) bad_input("a merged selection that is done counts no more");
  if (counted_) bad_input("round {} of a merged selection is counted already", round_);
  if (source.tensors().size() != own_.size()) {
    failure("a source of {} tensors for {} pieces", source.tensors().size(), own_.size());
  }
  uint64_t* next = counts_.data();
  switch (phase_) {
    case Phase::describe:
      described_.insert(described_.begin(), own_.begin(), own_.end());
      for (size_t i = 0; i < own_.size() && !any_cut_; ++i) {
        any_cut_ = source.count_kept(i, 0, own_[i].count) != static_cast<uint64_t>(own_[i].count);
      }
      break;
    case Phase::cut_already:
      for (const PlanGroup& group : plan_.groups) {
        for (const PlanPart& part : group.parts) {
          uint64_t& here = *next++;
          for_pieces(part, [&](size_t i) {
            if (!pieces_[i].own) return;
            const PlanPart own = own_part(part, pieces_[i]);
            here += static_cast<uint64_t>(own.count) - source.count_kept(own.tensor, own.begin, own.count);
          });
        }
      }
      break;
    case Phase::protect:
    case Phase::search:
      for (const Search& search : searches_) {
        const KeyWindow& window = search.ranks.window();
        const size_t bins = static_cast<size_t>(window.bins());
        for (size_t p = 0; p < search.group.parts.size(); ++p) {
          uint64_t* const row = next + (search.ranks.rows() == 1 ? 0 : p * bins);
          for_pieces(search.group.parts[p], [&](size_t i) {
            if (!pieces_[i].own) return;
            const PlanGroup alone{search.group.name, {own_part(search.group.parts[p], pieces_[i])}, 0, 0};
            const Histogram here = coppice::count(source, own_plan_, alone, window, {});
            for (size_t b = 0; b < bins; ++b) row[b] += here.bins[b];
          });
        }
        next += static_cast<size_t>(search.ranks.rows()) * bins;
      }
      break;
    case Phase::protect_ties:
    case Phase::search_ties:
      for (const Search& search : searches_) count_ties(source, search, next);
      break;
    case Phase::done:
      break;
  }
  // A group of which nothing is cut is searched by nobody, but may hold no NaN either.
  if (phase_ == Phase::search) {
    ReadingCost cost;
    for (size_t g = 0; g < plan_.groups.size(); ++g) {
      if (lower_[g]) continue;
      PlanGroup own{plan_.groups[g].name, {}, 0, 0};
      for (const PlanPart& part : plan_.groups[g].parts) {
        for_pieces(part, [&](size_t i) {
          if (pieces_[i].own) own.parts.push_back(own_part(part, pieces_[i]));
        });
      }
      check_scores(source, own_plan_, own, cost);
    }
  }
  counted_ = true;
}

std::vector<std::byte> MergedSelection::counts() const {
  Writer writer;
  writer.number(kMagic);
  writer.number(static_cast<uint64_t>(round_));
  if (phase_ == Phase::describe) {
    writer.text(options_);
    writer.number(any_cut_ ? 1 : 0);
    writer.number(described_.size());
    for (const TensorPiece& piece : described_) write(writer, piece);
  } else {
    writer.numbers(counts_);
  }
  return writer.take();
}

void MergedSelection::add(std::span<const std::byte> counts) {
  if (done()) bad_input("a merged selection that is done takes no more counts");
  Reader reader(counts);
  if (reader.number() != kMagic) Reader::damaged();
  if (const uint64_t round = reader.number(); round != static_cast<uint64_t>(round_)) {
    bad_input("counts of round {} were added to round {} of a merged selection", round, round_);
  }
  if (phase_ == Phase::describe) {
    if (const std::string options = reader.text(); options != options_) {
      bad_input("another process selects by {}, this one by {}", options, options_);
    }
    const bool cut = reader.number() != 0;
    std::vector<TensorPiece> pieces;
    for (size_t left = reader.count(8 * sizeof(uint64_t)); left > 0; --left) {
      pieces.push_back(read_piece(reader));
    }
    reader.end();
    any_cut_ = any_cut_ || cut;
    described_.insert(described_.end(), pieces.begin(), pieces.end());
    return;
  }
  const std::span<const std::byte> numbers = reader.numbers();
  reader.end();
  if (numbers.size() != counts_.size() * sizeof(uint64_t)) {
    bad_input("round {} of a merged selection has {} counts, found {}: the processes hold other tensors",
              round_, counts_.size(), numbers.size() / sizeof(uint64_t));
  }
  for (size_t i = 0; i < counts_.size(); ++i) {
    uint64_t value = 0;
    std::memcpy(&value, numbers.data() + i * sizeof value, sizeof value);
    counts_[i] += value;
  }
}

void MergedSelection::adopt(std::span<const std::byte> total) {
  const auto described = std::exchange(described_, {});
  const auto counts = counts_;
  const bool any_cut = std::exchange(any_cut_, false);
  std::fill(counts_.begin(), counts_.end(), 0);
  try {
    add(total);
  } catch (...) {
    described_ = described;
    counts_ = counts;
    any_cut_ = any_cut;
    throw;
  }
  counted_ = true;
}

void MergedSelection::refine() {
  if (done()) bad_input("a merged selection that is done has no more rounds");
  if (!counted_) bad_input("round {} of a merged selection ends before it was counted", round_);
  switch (phase_) {
    case Phase::describe:
      describe_union();
      if (any_cut_) {
        start(Phase::cut_already);
      } else {
        start_protection();
      }
      break;
    case Phase::cut_already:
      already_ = counts_;
      start_protection();
      break;
    case Phase::protect:
    case Phase::search:
      refine_windows();
      break;
    case Phase::protect_ties:
      resolve_ties();
      protection_ = std::move(searches_);
      start_search();
      break;
    case Phase::search_ties:
      resolve_ties();
      finish();
      break;
    case Phase::done:
      break;
  }
}

void MergedSelection::start(Phase phase) {
  phase_ = phase;
  counted_ = false;
  ++round_;
  counts_.assign(expected_counts(), 0);
}

void MergedSelection::describe_union() {
  std::stable_sort(described_.begin(), described_.end(), [](const TensorPiece& a, const TensorPiece& b) {
    return a.whole.name != b.whole.name ? a.whole.name < b.whole.name : a.first < b.first;
  });
  int64_t next = 0;  // element of the last tensor
  const auto check_end = [&] {
    if (!tensors_.empty() && next != tensors_.back().size()) {
      bad_input("'{}': no process holds the elements from {} to {}", tensors_.back().name, next,
                tensors_.back().size());
    }
  };
  for (const TensorPiece& piece : described_) {
    const int64_t size = checked_size(piece.whole);
    if (tensors_.empty() || tensors_.back().name != piece.whole.name) {
      check_end();
      pieces_of_.push_back(pieces_.size());
      tensors_.push_back(piece.whole);
      next = 0;
    }
    const SourceTensor& tensor = tensors_.back();
    if (piece.whole.shape != tensor.shape || piece.whole.dtype != tensor.dtype ||
        piece.whole.gates != tensor.gates || piece.whole.prunable != tensor.prunable) {
      bad_input("'{}': one process says that it is {} of shape [{}], another {} of [{}]", tensor.name,
                to_string(tensor.dtype), fmt::join(tensor.shape, ", "), to_string(piece.whole.dtype),
                fmt::join(piece.whole.shape, ", "));
    }
    if (piece.count == 0) continue;
    if (piece.count < 0 || piece.first > size - piece.count || piece.first != next) {
      if (piece.first < next && piece.first >= 0) {
        bad_input("'{}': the elements from {} on are held twice", tensor.name, piece.first);
      }
      bad_input("'{}': no process holds the elements from {} to {}", tensor.name, next, piece.first);
    }
    pieces_.push_back({tensors_.size() - 1, piece.first, piece.count, std::nullopt});
    next = piece.first + piece.count;
  }
  check_end();
  pieces_of_.push_back(pieces_.size());

  plan_ = make_plan(tensors_, config_, seed_);
  own_plan_ = plan_;
  own_plan_.positions.assign(own_.size(), 0);
  for (size_t i = 0; i < own_.size(); ++i) {
    if (own_[i].count == 0) continue;
    const auto held = std::find_if(pieces_.begin(), pieces_.end(), [&](const Held& piece) {
      return piece.first == own_[i].first && tensors_[piece.tensor].name == own_[i].whole.name;
    });
    if (held == pieces_.end()) bad_input("the total that was adopted lacks '{}'", own_[i].whole.name);
    held->own = i;
    own_plan_.positions[i] = plan_.positions[held->tensor] + static_cast<uint64_t>(own_[i].first);
  }
  size_t parts = 0;
  for (const PlanGroup& group : plan_.groups) parts += group.parts.size();
  already_.assign(parts, 0);
  protected_by_.assign(parts, std::nullopt);
}

void MergedSelection::add_search(PlanGroup group, uint64_t rank, Limits limits) {
  RankSearch ranks(plan_.scoring, rank, limits);
  std::vector<uint64_t> expected;
  if (limits.empty()) {
    expected.push_back(0);
    for (const PlanPart& part : group.parts) expected[0] += part.units;
  } else {
    for (const PlanPart& part : group.parts) expected.push_back(part.units);
  }
  searches_.push_back({std::move(group), std::move(limits), std::move(ranks), {}, std::move(expected)});
}

void MergedSelection::start_protection() {
  searches_.clear();
  size_t index = 0;
  for (const PlanGroup& group : plan_.groups) {
    for (const PlanPart& part : group.parts) {
      const uint64_t limit = std::max(part.units - part.at_least, already_[index]);
      if (plan_.min_density > 0.0 && limit < part.units) {
        protected_by_[index] = searches_.size();
        add_search({group.name, {part}, part.units, 0}, limit, {});
      }
      ++index;
    }
  }
  if (searches_.empty()) {
    start_search();
  } else {
    start(Phase::protect);
  }
}

void MergedSelection::start_search() {
  searches_.clear();
  lower_.assign(plan_.groups.size(), std::nullopt);
  upper_ = lower_;
  cut_.assign(plan_.groups.size(), 0);
  size_t index = 0;
  for (size_t g = 0; g < plan_.groups.size(); ++g) {
    const PlanGroup& group = plan_.groups[g];
    Limits limits;
    uint64_t already = 0;
    for (const PlanPart& part : group.parts) {
      already += already_[index];
      if (plan_.min_density > 0.0) {
        limits.units.push_back(std::max(part.units - part.at_least, already_[index]));
      }
      ++index;
    }
    if (plan_.percentile) {
      if (group.units == 0) continue;
      // A percentile is one of all units, protected or not.
      const PercentileRank rank(*plan_.percentile, group.units);
      lower_[g] = upper_[g] = searches_.size();
      add_search(group, rank.lower, {});
      if (rank.upper == rank.lower) continue;
      upper_[g] = searches_.size();
      add_search(group, rank.upper, {});
      continue;
    }
    cut_[g] = std::max(group.cut, already);
    if (cut_[g] == 0) continue;
    lower_[g] = searches_.size();
    add_search(group, cut_[g] - 1, std::move(limits));
  }
  start(Phase::search);
}

void MergedSelection::refine_windows() {
  const uint64_t* next = counts_.data();
  for (Search& search : searches_) {
    search.window = search.ranks.window();
    Histogram histogram(search.window, search.ranks.rows());
    std::copy(next, next + histogram.bins.size(), histogram.bins.begin());
    next += histogram.bins.size();
    const size_t bins = static_cast<size_t>(search.window.bins());
    for (size_t row = 0; row < search.expected.size(); ++row) {
      const uint64_t* const begin = histogram.bins.data() + row * bins;
      const uint64_t found = std::accumulate(begin, begin + bins, uint64_t{0});
      if (found == search.expected[row]) continue;
      bad_input(
          "round {} of a merged selection counted {} elements of '{}', expected {}: the counts of a process "
          "are missing, or were added twice",
          round_, found, search.group.name, search.expected[row]);
    }
    search.ranks.refine(histogram);
    for (size_t row = 0; row < search.expected.size(); ++row) {
      search.expected[row] = histogram.bins[row * bins + digit(search)];
    }
  }
  const bool found = searches_.empty() || searches_.front().ranks.found();
  const Phase ties = phase_ == Phase::protect ? Phase::protect_ties : Phase::search_ties;
  start(found ? ties : phase_);
}

void MergedSelection::resolve_ties() {
  const uint64_t* next = counts_.data();
  for (Search& search : searches_) {
    uint64_t tie = search.ranks.tie();
    bool found = false;
    std::vector<uint64_t> in_row(search.expected.size(), 0);
    for (size_t p = 0; p < search.group.parts.size(); ++p) {
      const PlanPart& part = search.group.parts[p];
      std::vector<std::pair<size_t, uint64_t>> ties;  // by piece
      uint64_t all = 0;
      for_pieces(part, [&](size_t i) {
        ties.emplace_back(i, *next);
        all += *next++;
      });
      const size_t row = search.limits.empty() ? 0 : p;
      in_row[row] += all;
      uint64_t usable = all;
      if (!search.limits.empty()) {
        const uint64_t limit = search.limits.units[p], below = search.ranks.below(p);
        usable = std::min(below + all, limit) - std::min(below, limit);
      }
      if (found) continue;
      if (tie >= usable) {
        tie -= usable;
        continue;
      }
      for (const auto& [piece, count] : ties) {
        if (tie < count) {
          search.part = part;
          search.piece = piece;
          search.tie = tie;
          found = true;
          break;
        }
        tie -= count;
      }
    }
    if (!found || in_row != search.expected) {
      bad_input(
          "round {} of a merged selection counted {} ties in '{}', expected {}: the counts of a process are "
          "missing, or were added twice",
          round_, fmt::join(in_row, " + "), search.group.name, fmt::join(search.expected, " + "));
    }
  }
}

void MergedSelection::finish() {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto score = [&](size_t search) {
    const Key key = searches_[search].ranks.key();
    return key == kCutAlready ? -std::numeric_limits<double>::infinity() : score_of(plan_.scoring, key);
  };
  for (size_t g = 0; g < plan_.groups.size(); ++g) {
    const PlanGroup& group = plan_.groups[g];
    GroupOutcome outcome{group.name, group.units, cut_[g], nan, "none"};
    if (plan_.percentile && lower_[g]) {
      const PercentileRank rank(*plan_.percentile, group.units);
      outcome.threshold = interpolate(score(*lower_[g]), score(*upper_[g]), rank.fraction);
    } else if (lower_[g] && searches_[*lower_[g]].ranks.key() != kCutAlready) {
      outcome.threshold = score(*lower_[g]);
    }
    if (!std::isnan(outcome.threshold)) outcome.threshold_text = threshold_text(outcome.threshold);
    outcomes_.push_back(std::move(outcome));
  }
  start(Phase::done);
}

std::vector<bool> MergedSelection::selected() const {
  std::vector<bool> selected(own_.size(), false);
  for (const Held& piece : pieces_) {
    if (piece.own) selected[*piece.own] = plan_.selected[piece.tensor];
  }
  return selected;
}

Place MergedSelection::place_of(ParameterSource& source, const Search& search) const {
  const Held& piece = pieces_[search.piece];
  if (piece.own) {
    const PlanPart own = own_part(search.part, piece);
    return locate(source, own_plan_, own, own.begin, own.count, search.ranks.key(), search.tie);
  }
  // Another process holds the unit. Whatever is here lies before all of its piece, or behind.
  const int64_t begin = std::max(search.part.begin, piece.first);
  return {search.ranks.key(), plan_.positions[piece.tensor] + static_cast<uint64_t>(begin)};
}

uint64_t MergedSelection::apply(ParameterSource& source) {
  if (!done()) bad_input("round {} of a merged selection is not over: nothing can be cut yet", round_);
  // Every place is known before anything is written.
  struct Cut {
    PlanPart part;
    PartCut cut;
  };
  std::vector<Cut> cuts;
  size_t index = 0;
  for (size_t g = 0; g < plan_.groups.size(); ++g) {
    Place cut{};
    if (plan_.percentile && lower_[g]) {
      cut = {key_at_least(plan_.scoring, outcomes_[g].threshold), 0};
    } else if (lower_[g]) {
      cut = place_of(source, searches_[*lower_[g]]);
      ++cut.position;  // the unit goes, the next one stays
    }
    for (const PlanPart& part : plan_.groups[g].parts) {
      const std::optional<size_t> protection = protected_by_[index++];
      Place place = cut;
      if (protection) place = std::min(cut, place_of(source, protection_[*protection]));
      for_pieces(part, [&](size_t i) {
        if (!pieces_[i].own) return;
        Cut& own = cuts.emplace_back();
        own.part = own_part(part, pieces_[i]);
        own.cut.place = place;
      });
    }
  }
  uint64_t kept = 0;
  for (const Cut& cut : cuts) {
    std::vector<uint64_t> by_gate(static_cast<size_t>(source.tensors()[cut.part.tensor].gates), 0);
    kept += static_cast<uint64_t>(cut.part.count) -
            write_part(source, own_plan_, cut.part, cut.cut, by_gate).elements;
  }
  source.finish_writing();
  return kept;
}

}  // namespace coppice

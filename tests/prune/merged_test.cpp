#include <gmock/gmock.h>

#include <algorithm>
#include <map>

#include "engine/prune/merged_selection.hpp"
#include "tests/prune/harness.hpp"

namespace coppice::test {
namespace {

using ::testing::HasSubstr;

/// A contiguous piece of a tensor, as a tensor of its own.
PrunableTensor slice(const PrunableTensor& whole, size_t first, size_t count) {
  const auto part = [&](const auto& values) {
    auto copy = values;
    copy.clear();
    if (!values.empty()) {
      const auto begin = values.begin() + static_cast<ptrdiff_t>(first);
      copy.assign(begin, begin + static_cast<ptrdiff_t>(count));
    }
    return copy;
  };
  PrunableTensor piece = whole;
  piece.name = whole.name + "#" + std::to_string(first);
  piece.shape = {static_cast<int64_t>(count)};
  piece.gates = 1;
  piece.weights = part(whole.weights);
  piece.sum = part(whole.sum);
  piece.absolute = part(whole.absolute);
  piece.squared = part(whole.squared);
  piece.kept = part(whole.kept);
  return piece;
}

/// One process: what it holds, and its selection.
struct Process {
  struct Piece {
    size_t tensor, first, count;
  };
  std::vector<Piece> places;
  std::vector<PrunableTensor> held;
  std::vector<TensorPiece> pieces;
  std::unique_ptr<Arrays> arrays;
  std::unique_ptr<MemorySource> source;
  std::unique_ptr<MergedSelection> selection;

  void add(const std::vector<PrunableTensor>& tensors, Piece place) {
    const PrunableTensor& whole = tensors[place.tensor];
    places.push_back(place);
    held.push_back(slice(whole, place.first, place.count));
    pieces.push_back({{whole.name, whole.shape, whole.dtype, whole.gates, "", whole.prunable},
                      static_cast<int64_t>(place.first),
                      static_cast<int64_t>(place.count)});
  }
  void open(Backend& backend, const PruneConfig& config) {
    arrays = std::make_unique<Arrays>(backend, held, true);
    source = std::make_unique<MemorySource>(backend, arrays->memory(), 64);
    selection = std::make_unique<MergedSelection>(pieces, config, 7);
  }
  /// What is here of the whole is as expected.
  void expect(const Expected& whole) {
    Expected own;
    for (const Piece& piece : places) {
      const auto begin = whole.kept[piece.tensor].begin() + static_cast<ptrdiff_t>(piece.first);
      own.kept.emplace_back(begin, begin + static_cast<ptrdiff_t>(piece.count));
    }
    arrays->expect(own);
  }
};

/// Every tensor in up to `cuts` + 1 pieces at random places, dealt to the processes at random.
std::vector<Process> deal(const std::vector<PrunableTensor>& tensors, size_t processes, size_t cuts,
                          std::mt19937_64& random) {
  std::vector<Process> dealt(processes);
  for (size_t t = 0; t < tensors.size(); ++t) {
    std::vector<size_t> ends = {0, tensors[t].size()};
    for (size_t i = 0; i < cuts; ++i) ends.push_back(random() % (tensors[t].size() + 1));
    std::sort(ends.begin(), ends.end());
    for (size_t i = 1; i < ends.size(); ++i) {
      dealt[random() % processes].add(tensors, {t, ends[i - 1], ends[i] - ends[i - 1]});
    }
  }
  return dealt;
}

void exchange(std::vector<Process>& processes) {
  std::vector<std::vector<std::byte>> sent;
  for (Process& process : processes) {
    process.selection->count(*process.source);
    sent.push_back(process.selection->counts());
  }
  for (size_t p = 0; p < processes.size(); ++p) {
    for (size_t from = 0; from < processes.size(); ++from) {
      if (from != p) processes[p].selection->add(sent[from]);
    }
  }
  for (Process& process : processes) process.selection->refine();
}

class Merged : public OpsTest {
 protected:
  std::vector<PrunableTensor> tensors(Input input, bool cut_already, std::mt19937_64& random) {
    std::vector<PrunableTensor> list;
    list.push_back(make_tensor("b.weight", {12, 31}, 4, DType::f32, input, random));
    list.push_back(make_tensor("a.weight", {257}, 1, DType::f32, input, random));
    list.push_back(make_tensor("c.weight", {33, 5}, 1, DType::f32, input, random));
    list.push_back(make_tensor("d.bias", {31}, 1, DType::f32, input, random));
    list.push_back(make_tensor("e.empty", {0, 4}, 1, DType::f32, input, random));
    list[3].prunable = false;
    if (cut_already) {
      for (PrunableTensor& tensor : list) {
        for (size_t i = 0; i < tensor.size(); ++i) tensor.kept.push_back(random() % 5 != 0);
      }
    }
    return list;
  }
};

TEST_P(Merged, MasksAreThoseOfOneProcess) {
  std::mt19937_64 random(random_.seed());
  const std::vector<std::pair<const char*, double>> choices = {
      {"global", 0.0}, {"global", 0.1}, {"tensor", 0.0}, {"gate", 0.25}};
  for (size_t processes = 1; processes <= 7; ++processes) {
    for (Input input : kInputs) {
      for (const bool cut_already : {false, true}) {
        const std::vector<PrunableTensor> whole = tensors(input, cut_already, random);
        PruneConfig config;
        const auto& [scope, min_density] = choices[random() % choices.size()];
        config.scope = scope;
        config.min_density = min_density;
        config.criterion = random() % 2 == 0 ? "magnitude" : "fisher";
        const double sparsities[] = {0.0, 0.3, 0.5, 0.75, 1.0};
        config.sparsity = sparsities[random() % 4 + (min_density == 0.0 ? random() % 2 : 0)];
        if (random() % 4 == 0) config.percentile = 60.0;
        SCOPED_TRACE(testing::Message()
                     << processes << " processes, input " << static_cast<int>(input) << ", scope " << scope
                     << ", min_density " << min_density << ", " << config.criterion << ", sparsity "
                     << config.sparsity << ", percentile " << config.percentile << ", cut " << cut_already);

        const Expected expected = expected_masks(whole, config, 7);
        std::vector<Process> dealt = deal(whole, processes, random() % 4, random);
        for (Process& process : dealt) process.open(backend(), config);
        if (expected.infeasible) {
          EXPECT_THROW(exchange(dealt), Error);
          continue;
        }
        while (!dealt[0].selection->done()) ASSERT_NO_FATAL_FAILURE(exchange(dealt));
        uint64_t kept = 0, expected_kept = 0;
        for (Process& process : dealt) {
          ASSERT_TRUE(process.selection->done());
          kept += process.selection->apply(*process.source);
          ASSERT_NO_FATAL_FAILURE(process.expect(expected));
          const std::vector<GroupOutcome>& groups = process.selection->groups();
          ASSERT_EQ(groups.size(), expected.groups.size());
          for (size_t g = 0; g < groups.size(); ++g) {
            EXPECT_EQ(groups[g].name, expected.groups[g].name);
            EXPECT_EQ(groups[g].units, expected.groups[g].units);
            if (config.percentile < 0) {
              EXPECT_EQ(groups[g].cut, expected.groups[g].cut);
            }
            const double want = expected.groups[g].threshold, found = groups[g].threshold;
            EXPECT_TRUE(want == found || (std::isnan(want) && std::isnan(found))) << want << " " << found;
          }
        }
        for (size_t t = 0; t < whole.size(); ++t) {
          if (!whole[t].prunable) continue;
          expected_kept +=
              static_cast<uint64_t>(std::count(expected.kept[t].begin(), expected.kept[t].end(), true));
        }
        EXPECT_EQ(kept, expected_kept);
      }
    }
  }
}

TEST_P(Merged, DoublesAreSelectedWide) {
  std::mt19937_64 random(random_.seed());
  std::vector<PrunableTensor> whole;
  whole.push_back(make_tensor("double", {31, 9}, 1, DType::f64, Input::normal, random));
  whole.push_back(make_tensor("single", {257}, 1, DType::f32, Input::mass_ties, random));
  PruneConfig config;
  config.sparsity = 0.6;
  const Expected expected = expected_masks(whole, config, 7);
  std::vector<Process> dealt = deal(whole, 3, 2, random);
  for (Process& process : dealt) process.open(backend(), config);
  while (!dealt[0].selection->done()) exchange(dealt);
  for (Process& process : dealt) {
    process.selection->apply(*process.source);
    ASSERT_NO_FATAL_FAILURE(process.expect(expected));
  }
}

/// One process may add everything up and hand the total back.
TEST_P(Merged, ATotalCanBeAdopted) {
  std::mt19937_64 random(random_.seed());
  const std::vector<PrunableTensor> whole = tensors(Input::few_values, false, random);
  PruneConfig config;
  config.sparsity = 0.5;
  std::vector<Process> dealt = deal(whole, 3, 3, random);
  for (Process& process : dealt) process.open(backend(), config);
  while (!dealt[0].selection->done()) {
    for (Process& process : dealt) process.selection->count(*process.source);
    for (size_t p = 1; p < dealt.size(); ++p) dealt[0].selection->add(dealt[p].selection->counts());
    const std::vector<std::byte> total = dealt[0].selection->counts();
    for (size_t p = 1; p < dealt.size(); ++p) dealt[p].selection->adopt(total);
    for (Process& process : dealt) process.selection->refine();
  }
  const Expected expected = expected_masks(whole, config, 7);
  for (Process& process : dealt) {
    process.selection->apply(*process.source);
    ASSERT_NO_FATAL_FAILURE(process.expect(expected));
  }
}

std::string message_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_input);
    return error.what();
  }
  ADD_FAILURE() << "expected an error";
  return {};
}

TEST_P(Merged, ErrorsOfTheProtocolSayWhich) {
  std::mt19937_64 random(random_.seed());
  const std::vector<PrunableTensor> whole = {make_tensor("w", {100}, 1, DType::f32, Input::normal, random)};
  PruneConfig config;
  const auto pair = [&](size_t end, size_t begin) {
    std::vector<Process> processes(2);
    processes[0].add(whole, {0, 0, end});
    processes[1].add(whole, {0, begin, 100 - begin});
    for (Process& process : processes) process.open(backend(), config);
    return processes;
  };
  std::vector<Process> hole = pair(40, 50), overlap = pair(60, 50);
  EXPECT_THAT(message_of([&] { exchange(hole); }), HasSubstr("elements from 40 to 50"));
  EXPECT_THAT(message_of([&] { exchange(overlap); }), HasSubstr("from 50 on are held twice"));

  std::vector<Process> good = pair(50, 50);
  MergedSelection& first = *good[0].selection;
  EXPECT_THAT(message_of([&] { first.refine(); }), HasSubstr("round 0"));
  EXPECT_THAT(message_of([&] { first.apply(*good[0].source); }), HasSubstr("nothing can be cut yet"));
  exchange(good);
  for (Process& process : good) process.selection->count(*process.source);
  EXPECT_THAT(message_of([&] { first.count(*good[0].source); }), HasSubstr("counted already"));
  // Missing, and twice.
  EXPECT_THAT(message_of([&] { first.refine(); }), HasSubstr("counted 50 elements of 'all', expected 100"));
  const std::vector<std::byte> other = good[1].selection->counts();
  first.add(other);
  first.add(other);
  EXPECT_THAT(message_of([&] { first.refine(); }), HasSubstr("counted 150 elements"));

  // A round out of step, other options, and bytes that are no counts.
  std::vector<Process> late = pair(50, 50);
  late[0].selection->count(*late[0].source);
  EXPECT_THAT(message_of([&] { late[0].selection->add(other); }), HasSubstr("round 1"));
  config.sparsity = 0.25;
  std::vector<Process> different = pair(50, 50);
  different[1].selection->count(*different[1].source);
  EXPECT_THAT(message_of([&] { late[0].selection->add(different[1].selection->counts()); }),
              HasSubstr("sparsity=0.25"));
  const std::vector<std::byte> described = late[0].selection->counts();
  for (size_t size = 0; size < described.size(); ++size) {
    const std::span<const std::byte> cut = std::span(described).first(size);
    EXPECT_THROW(late[1].selection->add(cut), Error) << size;
  }
  std::vector<std::byte> longer = described;
  longer.push_back(std::byte{0});
  EXPECT_THROW(late[1].selection->add(longer), Error);

  config.pattern = "row";
  EXPECT_THAT(message_of([&] { pair(50, 50); }), HasSubstr("pattern 'row'"));
}

TEST_P(Merged, ANanNamesItsPieceAndIndex) {
  std::mt19937_64 random(random_.seed());
  std::vector<PrunableTensor> whole = {make_tensor("w", {100}, 1, DType::f32, Input::normal, random)};
  whole[0].weights[70] = NAN;
  for (const double sparsity : {0.0, 0.5}) {
    PruneConfig config;
    config.sparsity = sparsity;
    std::vector<Process> processes(2);
    processes[0].add(whole, {0, 0, 60});
    processes[1].add(whole, {0, 60, 40});
    for (Process& process : processes) process.open(backend(), config);
    exchange(processes);
    EXPECT_THAT(message_of([&] { processes[1].selection->count(*processes[1].source); }),
                HasSubstr("'w#60' is NaN at index 10"));
  }
}

COPPICE_FOR_ALL_DEVICES(Merged);

}  // namespace
}  // namespace coppice::test

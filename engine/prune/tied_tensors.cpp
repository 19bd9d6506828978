#include "engine/prune/tied_tensors.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string>

namespace coppice {
namespace {

constexpr int64_t kAtAPlace = 64;  // elements compared at each of three places, before all the others

}  // namespace

std::vector<std::vector<size_t>> find_tied(const WeightFile& file) {
  const std::vector<FileTensor>& tensors = file.tensors();
  // Alike at three places first: hardly any others are.
  std::map<std::string, std::vector<size_t>> alike;
  constexpr int64_t kBlock = int64_t{1} << 16;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const FileTensor& tensor = tensors[i];
    if (!is_floating(tensor.dtype) || tensor.shape.size() < 2 || tensor.size() < kAtAPlace) continue;
    const auto width = static_cast<size_t>(size_of(tensor.dtype));
    std::string key = fmt::format("{}[{}]", to_string(tensor.dtype), fmt::join(tensor.shape, ", "));
    const size_t head = key.size(), line = static_cast<size_t>(kAtAPlace) * width;
    key.resize(head + 3 * line);
    for (int64_t place = 0; place < 3; ++place) {
      file.read(i, (tensor.size() - kAtAPlace) * place / 2, kAtAPlace,
                key.data() + head + static_cast<size_t>(place) * line);
    }
    const bool constant = std::memcmp(key.data() + head, key.data() + head + width, 3 * line - width) == 0;
    if (!constant) alike[std::move(key)].push_back(i);
  }
  const auto equal = [&](size_t a, size_t b) {
    std::vector<char> block_a, block_b;
    for (int64_t begin = 0; begin < tensors[a].size(); begin += kBlock) {
      const int64_t count = std::min(kBlock, tensors[a].size() - begin);
      block_a.resize(static_cast<size_t>(count * size_of(tensors[a].dtype)));
      block_b.resize(block_a.size());
      file.read(a, begin, count, block_a.data());
      file.read(b, begin, count, block_b.data());
      if (block_a != block_b) return false;
    }
    return true;
  };
  std::vector<std::vector<size_t>> tied;
  for (auto& [key, members] : alike) {
    std::sort(members.begin(), members.end(),
              [&](size_t a, size_t b) { return tensors[a].name < tensors[b].name; });
    std::vector<std::vector<size_t>> groups;
    for (size_t member : members) {
      const auto group =
          std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return equal(g.front(), member); });
      if (group == groups.end()) {
        groups.push_back({member});
      } else {
        group->push_back(member);
      }
    }
    for (std::vector<size_t>& group : groups) {
      if (group.size() > 1) tied.push_back(std::move(group));
    }
  }
  return tied;
}

}  // namespace coppice

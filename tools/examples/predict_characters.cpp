// Reads characters as they come and says what a character model expects next; then writes on by itself.
//   c++ -std=c++17 predict_characters.cpp $(pkg-config --cflags --libs coppice) -o predict_characters
//   echo -n "In the begin" | ./predict_characters my_run/sparse 80
#include <algorithm>
#include <cmath>
#include <coppice/coppice.hpp>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

namespace {

/// The next UTF-8 character of a stream; empty at its end.
std::string next_character(std::istream& in) {
  std::string character;
  for (int byte = in.get(); byte != EOF; byte = in.get()) {
    character += static_cast<char>(byte);
    if ((in.peek() & 0xc0) != 0x80 || in.peek() == EOF) break;
  }
  return character;
}

std::string shown(const std::string& character) {
  return character == "\n" ? "\\n" : character;
}

/// The likeliest characters with their probabilities.
std::string expectation(const coppice_api::Session& session, const std::vector<float>& logits) {
  std::vector<int32_t> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  const size_t best = std::min<size_t>(3, order.size());
  std::partial_sort(
      order.begin(), order.begin() + static_cast<std::ptrdiff_t>(best), order.end(),
      [&](int32_t a, int32_t b) { return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)]; });
  const float highest = logits[static_cast<size_t>(order[0])];
  double total = 0.0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit - highest));
  std::string text;
  for (size_t i = 0; i < best; ++i) {
    const double share =
        std::exp(static_cast<double>(logits[static_cast<size_t>(order[i])] - highest)) / total;
    char percent[32];
    std::snprintf(percent, sizeof percent, " %.0f %%", 100.0 * share);
    text += "  '" + shown(session.token(order[i])) + "'" + percent;
  }
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: predict_characters MODEL [HOW_MANY_TO_WRITE] < TEXT\n");
    return 2;
  }
  try {
    coppice_api::Session session(argv[1]);
    std::vector<float> logits(static_cast<size_t>(session.outputs()));
    const auto step = [&](int32_t id) { session.step(coppice_api::Span<const int32_t>(&id, 1), logits); };
    for (std::string character = next_character(std::cin); !character.empty();
         character = next_character(std::cin)) {
      step(session.id(character));
      std::cout << "'" << shown(character) << "'  then" << expectation(session, logits) << std::endl;
    }
    for (int left = argc > 2 ? std::stoi(argv[2]) : 0; left > 0; --left) {
      const auto likeliest = std::max_element(logits.begin(), logits.end());
      const int32_t id = static_cast<int32_t>(likeliest - logits.begin());
      std::cout << session.token(id) << std::flush;
      step(id);
    }
    std::cout << std::endl;
  } catch (const coppice_api::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return error.status() == COPPICE_BAD_INPUT ? 2 : 1;
  }
  return 0;
}

// Runs a recipe with progress on the terminal, then steps the sparse model that it left.
//   c++ -std=c++17 run_and_step.cpp $(pkg-config --cflags --libs coppice) -o run_and_step
//   ./run_and_step tools/recipes/text_lm.toml my_run data.train=my_text.txt
#include <algorithm>
#include <coppice/coppice.hpp>
#include <cstdio>
#include <string>

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: run_and_step RECIPE RUN [section.key=value ...]\n");
    return 2;
  }
  try {
    const std::string run = argv[2];
    coppice_api::Control control;
    control.progress = [](const coppice_progress& p) {
      std::fprintf(stderr, "\r%s %lld/%lld ", p.stage, static_cast<long long>(p.batch),
                   static_cast<long long>(p.batches));
      return false;
    };
    coppice_api::run_recipe(argv[1], run, coppice_api::Options(argv + 3, argv + argc), false, control);
    std::fprintf(stderr, "\n");

    coppice_api::Session session(run + "/sparse");
    int32_t id = 0;
    for (int step = 0; step < 10; ++step) {
      const std::vector<float> logits = session.step(std::vector<int32_t>{id});
      id = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
      std::printf("%d ", id);
    }
    std::printf("\n");
  } catch (const coppice_api::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return error.status() == COPPICE_BAD_INPUT ? 2 : 1;
  }
  return 0;
}

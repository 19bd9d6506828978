// oneDNN's matmul with weights in the form that it asks for: packed once, as ours are. With the argument
// "bf16" x and weights are bfloat16, the result float32.

#include <fmt/format.h>

#include <dnnl.hpp>
#include <string_view>

#include "bench/baselines/protocol.hpp"

namespace coppice::bench {
namespace {

Prepared prepare(Problem& problem, dnnl::memory::data_type type) {
  using dnnl::memory;
  struct State {
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{engine};
    memory x, w, y;
    dnnl::matmul matmul;
  };
  auto state = std::make_shared<State>();
  const auto f32 = memory::data_type::f32;
  const memory::desc given_x({problem.batch, problem.cols}, f32, memory::format_tag::ab);
  const memory::desc x({problem.batch, problem.cols}, type, memory::format_tag::ab);
  const memory::desc y({problem.batch, problem.rows}, f32, memory::format_tag::ab);
  const memory::desc given({problem.cols, problem.rows}, f32, memory::format_tag::ba);
  const memory::desc any({problem.cols, problem.rows}, type, memory::format_tag::any);
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::matmul::primitive_desc form(state->engine, x, any, y);
#else
  const dnnl::matmul::primitive_desc form(dnnl::matmul::desc(x, any, y), state->engine);
#endif
  memory source(given, state->engine, problem.w.data());
  state->w = memory(form.weights_desc(), state->engine);
  dnnl::reorder(source, state->w).execute(state->stream, source, state->w);
  state->stream.wait();
  memory source_x(given_x, state->engine, problem.x.data());
  state->x = memory(x, state->engine);
  dnnl::reorder(source_x, state->x).execute(state->stream, source_x, state->x);
  state->stream.wait();
  state->y = memory(y, state->engine, problem.y.data());
  state->matmul = dnnl::matmul(form);
  return {[state] {
            state->matmul.execute(
                state->stream,
                {{DNNL_ARG_SRC, state->x}, {DNNL_ARG_WEIGHTS, state->w}, {DNNL_ARG_DST, state->y}});
            state->stream.wait();
          },
          [&problem] {
            return std::vector<double>{problem.y.front(), problem.y.back()};
          }};
}

}  // namespace
}  // namespace coppice::bench

int main(int argc, char** argv) {
  using coppice::bench::Problem;
  const auto type = argc > 1 && std::string_view(argv[1]) == "bf16" ? dnnl::memory::data_type::bf16
                                                                    : dnnl::memory::data_type::f32;
  const dnnl_version_t* version = dnnl_version();
  return coppice::bench::serve("oneDNN",
                               fmt::format("{}.{}.{}", version->major, version->minor, version->patch),
                               [&](Problem& problem) { return coppice::bench::prepare(problem, type); });
}

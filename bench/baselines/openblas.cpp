// OpenBLAS: sgemm, and sgemv for one stream. It packs the weights in every call; its interface has no other
// way.

#include <cblas.h>

#include <string>

#include "bench/baselines/protocol.hpp"

extern "C" char* openblas_get_config(void);
extern "C" char* openblas_get_corename(void);
extern "C" void openblas_set_num_threads(int);

namespace coppice::bench {
namespace {

Prepared prepare(Problem& p) {
  openblas_set_num_threads(p.threads);
  const auto rows = static_cast<int>(p.rows), cols = static_cast<int>(p.cols),
             batch = static_cast<int>(p.batch);
  return {[&p, rows, cols, batch] {
            if (batch == 1) {
              cblas_sgemv(CblasRowMajor, CblasNoTrans, rows, cols, 1.0f, p.w.data(), cols, p.x.data(), 1,
                          0.0f, p.y.data(), 1);
            } else {
              cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, batch, rows, cols, 1.0f, p.x.data(), cols,
                          p.w.data(), cols, 0.0f, p.y.data(), rows);
            }
          },
          [&p] {
            return std::vector<double>{p.y.front(), p.y.back()};
          }};
}

/// "OpenBLAS 0.3.21 DYNAMIC_ARCH … Cooperlake …" -> "0.3.21, Cooperlake".
std::string version() {
  const std::string config = openblas_get_config();
  const size_t begin = config.find(' ') + 1;
  return config.substr(begin, config.find(' ', begin) - begin) + ", " + openblas_get_corename();
}

}  // namespace
}  // namespace coppice::bench

int main() {
  return coppice::bench::serve("OpenBLAS", coppice::bench::version(), coppice::bench::prepare);
}

#include <gtest/gtest.h>

TEST(CudaOnHost, Skipped) {
  GTEST_SKIP() << COPPICE_WHY_NOT;
}

#include <gtest/gtest.h>

TEST(Python, Skipped) {
  GTEST_SKIP() << COPPICE_WHY_NOT;
}

#include "ops_test.hpp"

// Runs with a stand-in for the GPU backend's library on the loader's path (loadable_backend.cpp).
namespace coppice::test {
namespace {

TEST(Loading, OpensTheLibrarysDevice) {
  EXPECT_NE(open_backend("cuda"), nullptr);
  EXPECT_EQ(open_backend("cuda:0", BackendOptions{3})->info().threads, 3)
      << "options don't reach the library";
}

TEST(Loading, AutoPrefersIt) {
  std::string note;
  EXPECT_NE(open_backend("auto", {}, &note), nullptr);
  EXPECT_EQ(note, "");
}

TEST(Loading, GivesItsReasons) {
  expect_error(ErrorKind::failure, "device cuda:1 can't be used: device 1 is asleep",
               [] { open_backend("cuda:1"); });
  expect_error(ErrorKind::failure, "device cuda:2 can't be used: the GPU backend gave no reason",
               [] { open_backend("cuda:2"); });
}

TEST(Loading, ListsWhatOpens) {
  const std::vector<DeviceListing> devices = list_devices();
  ASSERT_EQ(devices.size(), 2u);
  EXPECT_TRUE(devices[1].info.has_value());
}

}  // namespace
}  // namespace coppice::test

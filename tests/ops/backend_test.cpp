#include <sched.h>

#include <algorithm>

#include "kernels/cpu/dispatch.hpp"
#include "kernels/cpu/isa/csr.hpp"
#include "kernels/cpu/isa/gemm.hpp"
#include "kernels/weight.hpp"
#include "ops_test.hpp"

namespace coppice::test {
namespace {

class BackendTest : public OpsTest {};

TEST_P(BackendTest, SaysWhatItIs) {
  const DeviceInfo info = backend().info();
  EXPECT_EQ(info.device, backend().device());
  EXPECT_FALSE(info.name.empty());
  EXPECT_GT(info.memory_bytes, int64_t{1} << 20);
  EXPECT_EQ(info.threads, GetParam().device == "cpu" ? 2 : 0);
  ASSERT_FALSE(backend().layouts().empty());
  EXPECT_EQ(backend().layouts().front(), "dense");
}

TEST_P(BackendTest, MemoryIsAlignedAtEverySize) {
  for (const int64_t bytes :
       std::vector<int64_t>{0, 1, 63, 64, 65, 4096, (int64_t{2} << 20) - 1, int64_t{5} << 20}) {
    Buffer buffer(backend(), bytes, "a test");
    ASSERT_NE(buffer.data(), nullptr) << bytes;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % kAlignment, 0u) << bytes;
    backend().fill_zero(buffer.data(), bytes);
    std::vector<char> host(static_cast<size_t>(bytes), 'x');
    backend().download(buffer.data(), host.data(), bytes);
    EXPECT_EQ(std::count(host.begin(), host.end(), '\0'), bytes);
  }
}

TEST_P(BackendTest, RefusesMoreMemoryThanThereIsByName) {
  expect_error(ErrorKind::out_of_memory, "the moon",
               [&] { Buffer(backend(), int64_t{1} << 62, "the moon"); });
  expect_error(ErrorKind::out_of_memory, "nothing", [&] { Buffer(backend(), -1, "nothing"); });
}

TEST_P(BackendTest, CopiesBothWaysAndAcross) {
  for (const int64_t count : kOddSizes) {
    const std::vector<float> host = random_.normals(count);
    Buffer first(backend(), count * 4, "first"), second(backend(), count * 4, "second");
    backend().upload(host, first.vector<float>(count));
    backend().copy(first.data(), second.data(), count * 4);
    EXPECT_EQ(bits(backend().download(second.vector<const float>(count))), bits(host));
  }
}

TEST_P(BackendTest, CopiesMatricesOfAnyStrides) {
  for (const int64_t cols : kOddSizes) {
    const std::vector<float> values = random_.normals(7 * cols);
    TestMatrix from(backend(), 7, cols, values, 5, 2), to(backend(), 7, cols);
    backend().copy(MatrixView<const float>(from), to.view());
    EXPECT_EQ(bits(to.values()), bits(values));
    to.expect_untouched_around();
  }
  TestMatrix small(backend(), 2, 3), large(backend(), 3, 3);
  expect_error(ErrorKind::bad_input, "[2, 3]",
               [&] { backend().copy(MatrixView<const float>(small), large.view()); });
}

COPPICE_FOR_ALL_BACKENDS(BackendTest);

#if defined(__x86_64__)
class ProcessorTest : public OpsTest {};

// What is computed tells baseline from the others: (1 + 2^-12)^2 loses its last bit where it is rounded
// before it is added to.
TEST_P(ProcessorTest, ComputesByTheInstructionSetThatIsForced) {
  const float w = 1 + 0x1p-12f;
  TestMatrix weights(backend(), 1, 2, {-(1 + 0x1p-11f), w}), x(backend(), 1, 2, {1, w}), y(backend(), 1, 1);
  backend().make_weight("dense", weights)->multiply(x, {}, y);
  EXPECT_EQ(y.values()[0], GetParam().isa == "baseline" ? 0.0f : 0x1p-24f);
}

COPPICE_FOR_CPU_BACKENDS(ProcessorTest);

TEST(InstructionSets, HaveKernelsOfTheirOwn) {
  using namespace cpu;
  int64_t lanes = 4;
  std::vector<const void*> tables;
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
    EXPECT_EQ(COPPICE_KERNELS(isa, csr_kernels).lanes, lanes) << to_string(isa);
    lanes *= 2;
    for (const void* table : {static_cast<const void*>(&COPPICE_KERNELS(isa, csr_kernels)),
                              static_cast<const void*>(&COPPICE_KERNELS(isa, gemm_kernels))}) {
      EXPECT_EQ(std::count(tables.begin(), tables.end(), table), 0) << to_string(isa);
      tables.push_back(table);
    }
  }
}

TEST(InstructionSets, ThatTheProcessorLacksAreNamed) {
  for (const BackendCase& c : cpu_cases()) {
    std::string reason;
    if (open_case(c, 1, reason) != nullptr) continue;
    EXPECT_EQ(reason, "COPPICE_ISA is " + c.isa + ", which this processor does not have");
  }
}
#endif

TEST(Registry, OpensTheCpuByName) {
  std::string note = "stale";
  const auto backend = open_backend("cpu", {}, &note);
  EXPECT_EQ(to_string(backend->device()), "cpu");
  EXPECT_EQ(note, "");
}

TEST(Registry, UsesTheThreadsOfTheAffinityMask) {
  cpu_set_t before, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  EXPECT_EQ(open_backend("cpu")->info().threads, CPU_COUNT(&before));
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &before)) {
      CPU_SET(cpu, &one);
      break;
    }
  }
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(open_backend("cpu")->info().threads, 1);
  ASSERT_EQ(sched_setaffinity(0, sizeof before, &before), 0);
  EXPECT_EQ(open_backend("cpu", BackendOptions{5})->info().threads, 5);
  expect_error(ErrorKind::bad_input, "threads is -1", [] { open_backend("cpu", BackendOptions{-1}); });
}

TEST(Registry, RefusesUnknownNames) {
  for (const char* name : {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:0x", "cuda:256", "CPU"}) {
    expect_error(ErrorKind::bad_input, "expected cpu, cuda, cuda:N or auto", [&] { open_backend(name); });
  }
}

TEST(Registry, RefusesUnknownInstructionSets) {
  std::string reason;
  EXPECT_EQ(open_case({"cpu", "mmx"}, 1, reason), nullptr);
  EXPECT_NE(reason.find("COPPICE_ISA is \"mmx\", expected baseline, avx2 or avx512"), std::string::npos)
      << reason;
}

TEST(Registry, TheInstructionSetCanBeForced) {
  for (const std::string isa : {"baseline", "avx2", "avx512"}) {
    std::string reason;
    const std::unique_ptr<Backend> backend = open_case({"cpu", isa}, 1, reason);
    if (backend != nullptr) {
      EXPECT_EQ(backend->info().detail, isa);
    } else {
      EXPECT_NE(isa, "baseline") << reason;
      EXPECT_EQ(reason, "COPPICE_ISA is " + isa + ", which this processor does not have");
    }
  }
}

TEST(RequiredBackends, AreThoseTheListNames) {
  const char* before = std::getenv("COPPICE_REQUIRE_BACKENDS");
  const std::string saved = before != nullptr ? before : "";
  setenv("COPPICE_REQUIRE_BACKENDS", "cpu/avx2,cuda", 1);
  EXPECT_TRUE(required({"cpu", "avx2"}));
  EXPECT_FALSE(required({"cpu", "avx512"}));
  EXPECT_FALSE(required({"cpu", "baseline"}));
  EXPECT_TRUE(required({"cuda", ""}));
  setenv("COPPICE_REQUIRE_BACKENDS", "cpu", 1);
  EXPECT_TRUE(required({"cpu", "baseline"}));
  EXPECT_FALSE(required({"cpu", "avx2"}));
  unsetenv("COPPICE_REQUIRE_BACKENDS");
  EXPECT_FALSE(required({"cpu", "baseline"}));
  if (before != nullptr) setenv("COPPICE_REQUIRE_BACKENDS", saved.c_str(), 1);
}

// True with and without a GPU: what can't be opened says why in one line, and "auto" always opens something.
TEST(Registry, ListsEveryKindOfDevice) {
  const std::vector<DeviceListing> devices = list_devices();
  ASSERT_GE(devices.size(), 2u);
  EXPECT_EQ(devices.front().name, "cpu");
  ASSERT_TRUE(devices.front().info.has_value());
  std::string note;
  const auto chosen = open_backend("auto", {}, &note);
  ASSERT_NE(chosen, nullptr);
  if (devices[1].info.has_value()) {
    EXPECT_EQ(devices[1].name, "cuda:0");
    EXPECT_EQ(to_string(chosen->device()), "cuda:0");
    EXPECT_EQ(note, "");
    return;
  }
  EXPECT_EQ(devices[1].name, "cuda");
  EXPECT_FALSE(devices[1].reason.empty());
  EXPECT_EQ(to_string(chosen->device()), "cpu");
  EXPECT_NE(note.find(devices[1].reason), std::string::npos) << note;
  EXPECT_EQ(note.find('\n'), std::string::npos) << note;
  expect_error(ErrorKind::failure, devices[1].reason, [] { open_backend("cuda"); });
}

}  // namespace
}  // namespace coppice::test

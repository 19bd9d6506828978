// A step of a session allocates nothing: every allocation of the process is counted, the library's as well.

#include <gtest/gtest.h>

#include <atomic>
#include <coppice/coppice.hpp>
#include <cstdlib>
#include <numeric>

#include "engine/data/batch.hpp"
#include "engine/model/model_folder.hpp"
#include "engine/model/network.hpp"
#include "tests/tools/program.hpp"

namespace {

std::atomic<uint64_t> allocations{0};

}  // namespace

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// glibc lets a program take the place of its functions; operator new of every library ends here.
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

void* malloc(size_t size) {
  ++allocations;
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) {
  ++allocations;
  return __libc_calloc(count, size);
}
void* realloc(void* data, size_t size) {
  ++allocations;
  return __libc_realloc(data, size);
}
void* aligned_alloc(size_t alignment, size_t size) {
  ++allocations;
  return __libc_memalign(alignment, size);
}
void* memalign(size_t alignment, size_t size) {
  ++allocations;
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** data, size_t alignment, size_t size) {
  ++allocations;
  *data = __libc_memalign(alignment, size);
  return *data == nullptr ? 12 : 0;
}
}
constexpr bool kCounted = true;
#else
constexpr bool kCounted = false;
#endif

namespace coppice::test {
namespace {

TEST(Allocations, AStepHasNone) {
  if (!kCounted) GTEST_SKIP() << "a sanitizer has the allocator";
  const uint64_t before = allocations;
  delete new int(3);
  std::free(std::malloc(7));
  ASSERT_GE(allocations - before, 1u) << "the counter must count";
  const Folder folder;
  write_text(folder / "text.txt", small_text(300));
  write_text(folder / "r.toml", kSmallRecipe);
  coppice_api::run_recipe((folder / "r.toml").string(), (folder / "run").string(),
                          {"data.train=" + (folder / "text.txt").string()});
  for (const auto& [model, layout] : {std::pair{"dense", "dense"}, {"sparse", "csr"}, {"sparse", "sell"}}) {
    for (const int64_t streams : {1, 5}) {
      for (const char* threads : {"threads=1", "threads=2"}) {
        coppice_api::Session session((folder / "run" / model).string(), streams,
                                     {threads, std::string("layout=") + layout});
        std::vector<int32_t> ids(static_cast<size_t>(streams), 1);
        std::vector<float> logits(static_cast<size_t>(streams * session.outputs()));
        // By then buffers have grown to the shapes, and OpenMP has made its team.
        for (int step = 0; step < 2; ++step) session.step(coppice_api::Span<const int32_t>(ids), logits);
        const uint64_t warm = allocations;
        for (int32_t step = 0; step < 50; ++step) {
          ids[0] = step % static_cast<int32_t>(session.outputs());
          session.step(coppice_api::Span<const int32_t>(ids), logits);
        }
        session.reset();
        EXPECT_EQ(allocations - warm, 0u) << layout << ", " << streams << " streams, " << threads;
      }
    }
  }
}

}  // namespace
}  // namespace coppice::test

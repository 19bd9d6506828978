#include "engine/files/atomic_write.hpp"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <filesystem>

#include "tests/files/scratch.hpp"

namespace coppice {
namespace {

namespace fs = std::filesystem;
using test::Scratch;
using test::slurp;

TEST(AtomicFile, AppearsWholeOnCommit) {
  const Scratch scratch;
  {
    AtomicFile file(scratch.path("out"));
    file.write("hello ");
    file.write("world");
    file.write_at(0, "H", 1);
    EXPECT_EQ(file.size(), 11);
    EXPECT_FALSE(fs::exists(scratch.path("out")));
    file.commit();
  }
  EXPECT_EQ(slurp(scratch.path("out")), "Hello world");
  EXPECT_EQ(scratch.entries(), 1u);
}

TEST(AtomicFile, LeavesNothingWithoutCommit) {
  const Scratch scratch;
  { AtomicFile(scratch.path("out")).write("half"); }
  EXPECT_EQ(scratch.entries(), 0u);
}

TEST(AtomicFile, RefusesOrReplacesWhatExists) {
  const Scratch scratch;
  const std::string path = scratch.put("out", "old");
  EXPECT_ERROR(AtomicFile file(path), bad_input, path, "exists; pass --force to replace it");
  write_file(path, "young", Existing::replace);
  EXPECT_EQ(slurp(path), "young");
  { AtomicFile(path, Existing::replace).write("dropped"); }
  EXPECT_EQ(slurp(path), "young");
  EXPECT_EQ(scratch.entries(), 1u);
}

TEST(AtomicFile, RefusesWhatAppearedMeanwhile) {
  const Scratch scratch;
  AtomicFile file(scratch.path("out"));
  scratch.put("out", "somebody else's");
  EXPECT_ERROR(file.commit(), bad_input, scratch.path("out"), "exists");
  EXPECT_EQ(slurp(scratch.path("out")), "somebody else's");
}

TEST(AtomicFile, NamesTheMissingFolderAndOddTargets) {
  const Scratch scratch;
  EXPECT_ERROR(AtomicFile file(scratch.path("no/out")), bad_input, scratch.path("no"), "does not exist");
  fs::create_directory(scratch.path("folder"));
  EXPECT_ERROR(AtomicFile file(scratch.path("folder"), Existing::replace), bad_input, "not a regular file");
  EXPECT_ERROR(AtomicFile file(""), bad_input, "empty");
}

/// What a full disk does, made with the limit on file sizes: the same calls fail.
TEST(AtomicFile, SaysSoWhenThereIsNoRoom) {
  const Scratch scratch;
  const auto ignored = ::signal(SIGXFSZ, SIG_IGN);
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  struct rlimit small = before;
  small.rlim_cur = 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string block(10000, 'x');
  EXPECT_ERROR(AtomicFile(scratch.path("out")).write(block), failure, scratch.path("out"), "byte 4096");
  EXPECT_ERROR(AtomicFile(scratch.path("out")).reserve(10000), failure, scratch.path("out"), "10000 bytes");
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::signal(SIGXFSZ, ignored);
  EXPECT_EQ(scratch.entries(), 0u);
}

TEST(AtomicFile, RemovesWhatAKilledProcessLeft) {
  const Scratch scratch;
  scratch.put("out.partial-1", "left behind");
  scratch.put("out.partial-notes", "not ours");
  fs::create_directory(scratch.path("out.partial-2"));
  AtomicFile living(scratch.path("out"));  // holds a lock
  living.write("x");
  EXPECT_FALSE(fs::exists(scratch.path("out.partial-1")));
  EXPECT_FALSE(fs::exists(scratch.path("out.partial-2")));
  EXPECT_TRUE(fs::exists(scratch.path("out.partial-notes")));
  const pid_t child = ::fork();
  if (child == 0) {
    { AtomicFile other(scratch.path("out")); }  // another process that writes the same output
    ::_exit(0);
  }
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  living.commit();
  EXPECT_EQ(slurp(scratch.path("out")), "x");
}

TEST(AtomicFolder, AppearsWholeOnCommit) {
  const Scratch scratch;
  {
    AtomicFolder folder(scratch.path("model/"));
    write_file(folder.building() + "/model.json", "{}");
    EXPECT_FALSE(fs::exists(scratch.path("model")));
    folder.commit();
  }
  EXPECT_EQ(slurp(scratch.path("model/model.json")), "{}");
  EXPECT_EQ(scratch.entries(), 1u);
  {
    AtomicFolder folder(scratch.path("other"));
    write_file(folder.building() + "/model.json", "{}");
  }
  EXPECT_EQ(scratch.entries(), 1u);
}

TEST(AtomicFolder, RefusesOrReplacesWhatExists) {
  const Scratch scratch;
  fs::create_directory(scratch.path("model"));
  scratch.put("model/model.json", "old");
  scratch.put("model/weights.safetensors", "old");
  EXPECT_ERROR(AtomicFolder folder(scratch.path("model")), bad_input, "model: exists; pass --force");
  AtomicFolder folder(scratch.path("model"), Existing::replace);
  write_file(folder.building() + "/model.json", "young");
  folder.commit();
  EXPECT_EQ(slurp(scratch.path("model/model.json")), "young");
  EXPECT_FALSE(fs::exists(scratch.path("model/weights.safetensors")));
  EXPECT_EQ(scratch.entries(), 1u);
}

TEST(AtomicFolder, NeverRemovesFilesOfOthers) {
  const Scratch scratch;
  fs::create_directories(scratch.path("home/letters"));
  scratch.put("home/letters/aunt.txt", "dear");
  EXPECT_ERROR(AtomicFolder folder(scratch.path("home"), Existing::replace), bad_input, "letters/aunt.txt");
  scratch.put("file", "x");
  EXPECT_ERROR(AtomicFolder folder(scratch.path("file"), Existing::replace), bad_input, "not a folder");
  EXPECT_TRUE(fs::exists(scratch.path("home/letters/aunt.txt")));
}

}  // namespace
}  // namespace coppice

// Who may include whom, what the library exports, and what the files for wider instruction sets may leave
// behind.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace coppice {
namespace {

namespace fs = std::filesystem;

fs::path source_dir() {
  const char* folder = std::getenv("COPPICE_SOURCE_DIR");
  return folder ? folder : ".";
}

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string output_of(const std::string& command) {
  std::string text;
  std::array<char, 4096> buffer;
  FILE* pipe = popen(command.c_str(), "r");
  for (size_t n; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) text.append(buffer.data(), n);
  EXPECT_EQ(pclose(pipe), 0) << command;
  return text;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

bool is_source(const fs::path& path) {
  const std::string extension = path.extension().string();
  return extension == ".hpp" || extension == ".cpp" || extension == ".h" || extension == ".c" ||
         extension == ".cu" || extension == ".cuh";
}

/// Every source file under a folder of the tree.
std::vector<fs::path> sources(const std::string& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(source_dir() / folder)) {
    if (entry.is_regular_file() && is_source(entry.path())) files.push_back(entry.path());
  }
  EXPECT_FALSE(files.empty()) << folder;
  return files;
}

TEST(Boundaries, IncludesGoOneWay) {
  const std::vector<std::string> order = {"include", "kernels", "engine", "tools"};
  for (size_t level = 0; level < order.size(); ++level) {
    for (const fs::path& file : sources(order[level])) {
      for (const std::string& line : lines_of(read_text(file))) {
        if (!line.starts_with("#include \"")) continue;
        const std::string included = line.substr(10, line.find('"', 10) - 10);
        EXPECT_TRUE(fs::exists(source_dir() / included) || fs::exists(source_dir() / "include" / included))
            << file << " includes " << included << ": name files from the tree's top";
        for (size_t above = level + 1; above < order.size(); ++above) {
          EXPECT_FALSE(included.starts_with(order[above] + "/")) << file << " includes " << included;
        }
        EXPECT_FALSE(included.starts_with("tests/") || included.starts_with("bench/"))
            << file << ": " << included;
        // What lies in a device's folder is that device's own affair.
        EXPECT_FALSE(order[level] != "kernels" && included.starts_with("kernels/cpu/"))
            << file << ": " << included;
      }
    }
  }
}

TEST(Boundaries, NoDeviceAboveItsFolder) {
  const std::regex device_header(R"(#\s*include\s*[<"][^>"]*(cuda|cublas|cusparse|thrust|cub/)[^>"]*[>"])");
  const std::regex build_option(
      R"(#\s*(if|ifdef|ifndef|elif)\b.*(COPPICE_(WITH|USE|HAVE|CUDA)|__CUDACC__|_OPENMP))");
  for (const char* folder : {"include", "kernels", "engine", "tools"}) {
    for (const fs::path& file : sources(folder)) {
      const std::string relative = fs::relative(file, source_dir()).string();
      if (relative.starts_with("kernels/cuda/")) continue;
      for (const std::string& line : lines_of(read_text(file))) {
        EXPECT_FALSE(std::regex_search(line, device_header)) << relative << ": " << line;
        // Kernels may ask the compiler what it compiles for; nothing above them may.
        if (relative.starts_with("kernels/")) continue;
        EXPECT_FALSE(std::regex_search(line, build_option)) << relative << ": " << line;
      }
    }
  }
}

TEST(Boundaries, TheLibraryNeitherPrintsNorExits) {
  const std::regex spoken(
      R"((^|[^\w:.>])(std::)?(printf|puts|fprintf|abort|exit|_exit|quick_exit|terminate)\s*\(|std::c(out|err|log)\b|fmt::print\b)");
  for (const char* folder : {"kernels", "engine"}) {
    for (const fs::path& file : sources(folder)) {
      for (const std::string& line : lines_of(read_text(file))) {
        const size_t comment = line.find("//");
        EXPECT_FALSE(std::regex_search(line.substr(0, comment), spoken)) << file << ": " << line;
      }
    }
  }
}

/// The functions of the header and no other symbol, each in the version that the soname has.
TEST(Boundaries, TheSharedLibraryExportsTheCInterfaceAlone) {
  const std::string header = read_text(source_dir() / "include/coppice/coppice.h");
  std::smatch abi;
  ASSERT_TRUE(std::regex_search(header, abi, std::regex(R"(#define COPPICE_ABI (\d+))")));
  const std::string version = "COPPICE_" + abi[1].str();

  std::set<std::string> exported;
  for (const std::string& line : lines_of(output_of("nm -D --defined-only " COPPICE_LIBRARY))) {
    const std::string name = line.substr(line.rfind(' ') + 1);
    if (name == version + "@@" + version || name == version) continue;  // the version itself
    const size_t at = name.find("@@");
    EXPECT_EQ(at == name.npos ? "none" : name.substr(at + 2), version) << line;
    exported.insert(name.substr(0, at));
  }
  std::set<std::string> declared;
  const std::regex declaration(R"(COPPICE_API[^;(]*?\b(coppice_\w+)\s*\()");
  for (auto match = std::sregex_iterator(header.begin(), header.end(), declaration);
       match != std::sregex_iterator(); ++match) {
    declared.insert((*match)[1]);
  }
  EXPECT_EQ(exported, declared);
  EXPECT_GT(declared.size(), 30u);
  EXPECT_THAT(output_of("readelf -d " COPPICE_LIBRARY),
              ::testing::HasSubstr("soname: [libcoppice.so." + abi[1].str() + "]"));
}

TEST(Boundaries, FilesForWiderInstructionsShareNoInlineCode) {
  size_t objects = 0;
  for (const std::string& object : lines_of(read_text(COPPICE_ISA_OBJECTS))) {
    if (object.empty()) continue;
    ++objects;
    for (const std::string& line : lines_of(output_of("nm --defined-only " + object))) {
      // Weak and unique symbols are merged between object files: the copy that the linker keeps may be this
      // one.
      const bool shared =
          line.size() > 17 && std::string_view("WVu").find(line[17]) != std::string_view::npos;
      EXPECT_FALSE(shared && line.find("DW.ref.") == std::string::npos) << object << ": " << line;
    }
  }
  EXPECT_GT(objects, 3u);
}

}  // namespace
}  // namespace coppice

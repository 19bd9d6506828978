// What nvcc made of the CUDA backend. Nothing here needs a GPU; where the backend is not built, the cases
// skip and say why.

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

namespace coppice {
namespace {

std::vector<std::string> output_of(const std::string& command) {
  std::string text;
  std::array<char, 4096> buffer;
  FILE* pipe = popen(command.c_str(), "r");
  for (size_t n; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) text.append(buffer.data(), n);
  EXPECT_EQ(pclose(pipe), 0) << command;
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

#ifdef COPPICE_CUDA_LIBRARY_FILE
#define COPPICE_NEED_LIBRARY()
#else
#define COPPICE_CUDA_LIBRARY_FILE ""
#define COPPICE_CUDA_REGISTERS ""
#define COPPICE_NEED_LIBRARY() GTEST_SKIP() << "the CUDA backend is not built: " << COPPICE_WHY_NO_CUDA
#endif

TEST(CudaLibrary, ExportsItsOneSymbol) {
  COPPICE_NEED_LIBRARY();
  const std::vector<std::string> symbols = output_of("nm -D --defined-only " COPPICE_CUDA_LIBRARY_FILE);
  ASSERT_EQ(symbols.size(), 1u);
  EXPECT_NE(symbols[0].find(" T coppice_open_backend"), std::string::npos) << symbols[0];
}

// With the driver's own library among what it needs, it would not even load where there is no driver, and
// could not say so.
TEST(CudaLibrary, NeedsTheToolkitAndNotTheDriver) {
  COPPICE_NEED_LIBRARY();
  std::string needed;
  for (const std::string& line : output_of("readelf -d " COPPICE_CUDA_LIBRARY_FILE)) {
    if (line.find("(NEEDED)") != std::string::npos) needed += line + "\n";
  }
  for (const char* library : {"libcudart.so", "libcublas.so", "libcusparse.so"}) {
    EXPECT_NE(needed.find(library), std::string::npos) << library << " is not linked as a shared library";
  }
  EXPECT_EQ(needed.find("libcuda.so"), std::string::npos) << needed;
  EXPECT_EQ(needed.find("libgomp"), std::string::npos) << needed;
}

// registers.txt: what ptxas -v said, for every kernel and architecture. Thrust's own are Thrust's affair.
TEST(CudaLibrary, NoKernelOfOursSpills) {
  COPPICE_NEED_LIBRARY();
  std::ifstream file(COPPICE_CUDA_REGISTERS);
  ASSERT_TRUE(file) << COPPICE_CUDA_REGISTERS;
  const std::regex frame(R"((\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads)");
  std::string kernel;
  size_t kernels = 0;
  std::smatch found;
  for (std::string line; std::getline(file, line);) {
    if (line.find("Compiling entry function") != std::string::npos) kernel = line;
    if (!std::regex_search(line, found, frame) || kernel.find("N7coppice") == std::string::npos) continue;
    ++kernels;
    EXPECT_TRUE(found[2] == "0" && found[3] == "0") << kernel << "\n" << line;
  }
  EXPECT_GT(kernels, 50u);
}

}  // namespace
}  // namespace coppice

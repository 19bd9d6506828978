#include "tests/cuda_on_host/symbols.hpp"

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

// dladdr knows exported functions only, and kernels are hidden: the symbol table is read from the file
// itself.
namespace coppice::cuda_on_host {
namespace {

using Symbols = std::map<uintptr_t, std::string>;

/// The functions in the symbol table of an ELF file, by their offset.
Symbols read_symbols(const char* path) {
  Symbols symbols;
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (file < 0 || fstat(file, &status) != 0) return symbols;
  const size_t size = static_cast<size_t>(status.st_size);
  void* mapped = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
  close(file);
  if (mapped == MAP_FAILED) return symbols;

  const char* const bytes = static_cast<const char*>(mapped);
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(bytes);
  const auto* sections = reinterpret_cast<const Elf64_Shdr*>(bytes + header->e_shoff);
  for (int i = 0; i < header->e_shnum; ++i) {
    if (sections[i].sh_type != SHT_SYMTAB) continue;
    const char* names = bytes + sections[sections[i].sh_link].sh_offset;
    const auto* entries = reinterpret_cast<const Elf64_Sym*>(bytes + sections[i].sh_offset);
    for (size_t k = 0; k < sections[i].sh_size / sizeof(Elf64_Sym); ++k)
      if (ELF64_ST_TYPE(entries[k].st_info) == STT_FUNC && entries[k].st_value != 0)
        symbols[entries[k].st_value] = names + entries[k].st_name;
  }
  munmap(mapped, size);
  return symbols;
}

std::string demangle(const std::string& name) {
  int status = 0;
  char* const plain = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
  if (plain == nullptr) return name;
  std::string result = plain;
  std::free(plain);
  // Of "void coppice::cuda::(anonymous namespace)::add<float>(int, float*)" the parameters say nothing.
  for (const std::string_view noise :
       {"(anonymous namespace)::", "coppice::cuda::", "coppice::cuda_on_host::", "void "})
    for (size_t at; (at = result.find(noise)) != std::string::npos;) result.erase(at, noise.size());
  int depth = 0;
  for (size_t i = 0; i < result.size(); ++i) {
    if (result[i] == '<') ++depth;
    if (result[i] == '>') --depth;
    if (result[i] == '(' && depth == 0) return result.substr(0, i);
  }
  return result;
}

}  // namespace

std::string symbol_name(const void* function) {
  Dl_info info{};
  if (dladdr(function, &info) == 0 || info.dli_fname == nullptr) return fmt::format("{}", function);
  static const Symbols symbols = [&] {
    Symbols read = read_symbols(info.dli_fname);
    return read.empty() ? read_symbols("/proc/self/exe") : read;
  }();
  const auto offset = reinterpret_cast<uintptr_t>(function) - reinterpret_cast<uintptr_t>(info.dli_fbase);
  auto found = symbols.find(offset);
  if (found == symbols.end()) found = symbols.find(reinterpret_cast<uintptr_t>(function));  // not relocated
  return found == symbols.end() ? fmt::format("{}", function) : demangle(found->second);
}

}  // namespace coppice::cuda_on_host

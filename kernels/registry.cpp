#include <dlfcn.h>

#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "kernels/backend.hpp"
#include "kernels/cpu/cpu_backend.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

constexpr const char* kCudaLibrary = "libcoppice_cuda.so";
constexpr const char* kDriverLibrary = "libcuda.so.1";

/// The folder of the binary that this code was linked into: a GPU backend is installed beside it.
std::filesystem::path own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) == 0 || info.dli_fname == nullptr) return {};
  return std::filesystem::path(info.dli_fname).parent_path();
}

struct LoadableBackend {
  OpenLoadableBackend open = nullptr;
  std::string reason;  // why `open` is null
};

/// The file that COPPICE_CUDA_LIBRARY names, or empty.
std::filesystem::path named_library() {
  const char* name = std::getenv("COPPICE_CUDA_LIBRARY");
  return name != nullptr ? name : "";
}

/// A GPU has a driver. Where there is none, the backend and the vendor's libraries behind it need not be
/// loaded to learn so: they take 190 MiB.
bool has_driver() {
  void* driver = dlopen(kDriverLibrary, RTLD_LAZY | RTLD_LOCAL);
  if (driver == nullptr) return false;
  dlclose(driver);
  return true;
}

/// Where to look, in this order: the file that COPPICE_CUDA_LIBRARY names and no other; beside the binary (as
/// it is built), where `cmake --install` puts it, and wherever the loader looks.
std::vector<std::filesystem::path> candidates() {
  if (const std::filesystem::path named = named_library(); !named.empty()) return {named};
  const std::filesystem::path folder = own_folder();
  std::vector<std::filesystem::path> found;
  for (const auto& place : {folder / kCudaLibrary, folder / ".." / COPPICE_INSTALL_LIBDIR / kCudaLibrary}) {
    std::error_code ignored;
    if (std::filesystem::exists(place, ignored)) found.push_back(place);
  }
  found.emplace_back(kCudaLibrary);
  return found;
}

/// Opened at the first question about GPUs and kept until the process ends. Linking it instead would cost
/// every start of the program the load of the vendor's libraries, and no start at all where they are missing.
const LoadableBackend& cuda_library() {
  static const LoadableBackend library = [] {
    LoadableBackend result;
    if (named_library().empty() && !has_driver()) {
      result.reason = fmt::format("no GPU: its driver, {}, was not found", kDriverLibrary);
      return result;
    }
    void* handle = nullptr;
    for (const std::filesystem::path& place : candidates()) {
      handle = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (handle != nullptr) break;
      const char* error = dlerror();
      // What is wrong with a library that is there says more than that there is no other.
      if (result.reason.empty() && place.has_parent_path() && error != nullptr) result.reason = error;
    }
    if (handle == nullptr) {
      if (result.reason.empty())
        result.reason = fmt::format("no GPU backend: {} was not found", kCudaLibrary);
      return result;
    }
    result.open = reinterpret_cast<OpenLoadableBackend>(dlsym(handle, "coppice_open_backend"));
    if (result.open == nullptr) {
      result.reason = fmt::format("{} does not export coppice_open_backend", kCudaLibrary);
    } else {
      result.reason.clear();
    }
    return result;
  }();
  return library;
}

/// A backend, or null with the reason.
std::unique_ptr<Backend> open_cuda(int index, const BackendOptions& options, std::string& reason) {
  const LoadableBackend& library = cuda_library();
  if (library.open == nullptr) {
    reason = library.reason;
    return nullptr;
  }
  char text[512] = "";
  std::unique_ptr<Backend> backend(library.open(kBackendAbi, index, options, text, sizeof text));
  if (backend == nullptr) reason = text[0] != '\0' ? text : "the GPU backend gave no reason";
  return backend;
}

}  // namespace

std::unique_ptr<Backend> open_backend(std::string_view name, const BackendOptions& options,
                                      std::string* note) {
  if (note != nullptr) note->clear();
  if (name == "cpu") return std::make_unique<cpu::CpuBackend>(options);

  std::string reason;
  if (name == "auto") {
    if (auto backend = open_cuda(0, options, reason)) return backend;
    if (note != nullptr) *note = fmt::format("running on the CPU ({})", reason);
    return std::make_unique<cpu::CpuBackend>(options);
  }

  int index = 0;
  bool known = name == "cuda";
  if (name.starts_with("cuda:")) {
    const std::string_view digits = name.substr(5);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
    known = error == std::errc{} && end == digits.data() + digits.size() && index >= 0 && index <= 255;
  }
  if (!known) bad_input("device \"{}\" is unknown; expected cpu, cuda, cuda:N or auto", name);
  if (auto backend = open_cuda(index, options, reason)) return backend;
  failure("device {} can't be used: {}", name, reason);
}

std::vector<DeviceListing> list_devices() {
  std::vector<DeviceListing> devices;
  devices.push_back({"cpu", cpu::CpuBackend(BackendOptions{}).info(), ""});
  for (int index = 0;; ++index) {
    std::string reason;
    const auto backend = open_cuda(index, {}, reason);
    if (backend == nullptr) {
      if (index == 0) devices.push_back({"cuda", std::nullopt, reason});
      return devices;
    }
    devices.push_back({to_string(backend->device()), backend->info(), ""});
  }
}

}  // namespace coppice

#include "kernels/cpu/cpu_backend.hpp"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "kernels/cpu/dense.hpp"
#include "kernels/cpu/layouts/balanced.hpp"
#include "kernels/cpu/layouts/bsr.hpp"
#include "kernels/cpu/layouts/csr.hpp"
#include "kernels/cpu/layouts/sell.hpp"
#include "kernels/cpu/memory.hpp"
#include "kernels/error.hpp"

namespace coppice::cpu {
namespace {

/// The processors that this process may run on: what `taskset` or a container left it. Machines with more
/// than 1024 need a mask larger than cpu_set_t, hence the loop.
int processors_of_affinity_mask() {
  for (int capacity = 1024; capacity <= 1 << 20; capacity *= 2) {
    const size_t bytes = CPU_ALLOC_SIZE(capacity);
    std::vector<char> mask(bytes);
    cpu_set_t* set = reinterpret_cast<cpu_set_t*>(mask.data());
    if (sched_getaffinity(0, bytes, set) == 0) return std::max(1, CPU_COUNT_S(bytes, set));
  }
  return 1;
}

/// "AMD EPYC (family 25, model 17)": a virtual machine may leave out of the name which of them it is.
std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  std::string name, family, model;
  for (std::string line; std::getline(file, line) && !(line.empty() && !name.empty());) {
    const size_t colon = line.find(": "), end = line.find_first_of("\t:");
    if (colon == std::string::npos) continue;
    const std::string key = line.substr(0, end), value = line.substr(colon + 2);
    if (key == "model name") name = value;
    if (key == "cpu family") family = value;
    if (key == "model") model = value;
  }
  if (name.empty()) return "CPU";
  return family.empty() ? name : fmt::format("{} (family {}, model {})", name, family, model);
}

CpuContext make_context(const BackendOptions& options) {
  if (options.threads < 0) bad_input("threads is {}, expected 0 (all processors) or more", options.threads);
  if (options.matmul != MatmulPrecision::fp32) {
    bad_input("matmul is {}, but the CPU multiplies in fp32 alone; only a GPU rounds",
              options.matmul == MatmulPrecision::tf32 ? "tf32" : "bf16");
  }
  return {choose_isa(), options.threads > 0 ? options.threads : processors_of_affinity_mask()};
}

using MakeWeight = std::unique_ptr<Weight> (*)(const CpuContext&, MatrixView<const float>, DType);

template <class W>
std::unique_ptr<Weight> make(const CpuContext& context, MatrixView<const float> values, DType type) {
  return std::make_unique<W>(context, values, type);
}
std::unique_ptr<Weight> make_csr(const CpuContext& context, MatrixView<const float> values, DType) {
  return std::make_unique<CsrWeight>(context, values);
}

/// Every layout of this backend, "dense" first. A layout is added by its file in layouts/ and its line here.
struct LayoutEntry {
  std::string_view name;
  MakeWeight make;
  bool dense_bits;
  bool rounds;  // it stores bfloat16 too
};
constexpr LayoutEntry kLayouts[] = {
    {"dense", make<DenseWeight>, true, true},       {"csr", make_csr, false, false},
    {"sell", make<SellWeight>, true, true},         {"bsr", make<BsrWeight>, true, true},
    {"balanced", make<BalancedWeight>, true, true},
};

const LayoutEntry* find_layout(std::string_view name) {
  for (const LayoutEntry& entry : kLayouts) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

}  // namespace

CpuBackend::CpuBackend(const BackendOptions& options)
    : Backend(Device{Device::Type::cpu, 0}),
      context_(make_context(options)),
      recurrence_(make_recurrence(context_)),
      sequence_(make_sequence(context_)),
      optimizer_(make_optimizer(context_)),
      selection_(make_selection(context_)) {}

DeviceInfo CpuBackend::info() const {
  DeviceInfo info;
  info.device = device();
  static const std::string name = processor_name();  // a file of the kernel's, slow to read
  info.name = name;
  info.detail = to_string(context_.isa);
  if (emulated(context_.isa)) info.detail += " (emulated)";
  info.memory_bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
  info.threads = context_.threads;
  return info;
}

void* CpuBackend::allocate(int64_t bytes, std::string_view what) {
  return cpu::allocate(bytes, what);
}
void CpuBackend::release(void* data, int64_t) noexcept {
  cpu::release(data);
}

void CpuBackend::upload(const void* host, void* device, int64_t bytes) {
  copy(host, device, bytes);
}
void CpuBackend::download(const void* device, void* host, int64_t bytes) {
  copy(device, host, bytes);
}

void CpuBackend::copy(const void* from, void* to, int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}

void CpuBackend::copy(MatrixView<const float> from, MatrixView<float> to) {
  if (from.rows != to.rows || from.cols != to.cols) {
    bad_input("copy: a matrix of [{}, {}] does not fit one of [{}, {}]", from.rows, from.cols, to.rows,
              to.cols);
  }
  if (from.device != device() || to.device != device()) {
    bad_input("copy: from {} to {} on the backend of {}", coppice::to_string(from.device),
              coppice::to_string(to.device), coppice::to_string(device()));
  }
  for (int64_t r = 0; r < from.rows; ++r) {
    copy(from.row(r), to.row(r), from.cols * static_cast<int64_t>(sizeof(float)));
  }
}

void CpuBackend::fill_zero(void* data, int64_t bytes) {
  if (bytes > 0) std::memset(data, 0, static_cast<size_t>(bytes));
}

std::unique_ptr<Weight> CpuBackend::make_weight(std::string_view layout, MatrixView<const float> values,
                                                DType type) {
  if (values.device != device()) {
    bad_input("a weight's values lie on {}, the backend is {}", coppice::to_string(values.device),
              coppice::to_string(device()));
  }
  const LayoutEntry* entry = find_layout(layout);
  if (entry == nullptr) {
    bad_input("no weight layout \"{}\" on {}; known: {}", layout, coppice::to_string(device()),
              fmt::join(layouts(), ", "));
  }
  if (!stores(layout, type)) {
    bad_input("layout {}: it stores {} values, not {}", layout, entry->rounds ? "f32 and bf16" : "f32",
              coppice::to_string(type));
  }
  return entry->make(context_, values, type);
}

std::vector<std::string_view> CpuBackend::layouts() const {
  std::vector<std::string_view> names;
  for (const LayoutEntry& entry : kLayouts) names.push_back(entry.name);
  return names;
}

bool CpuBackend::gives_dense_bits(std::string_view layout) const {
  const LayoutEntry* entry = find_layout(layout);
  return entry != nullptr && entry->dense_bits;
}

bool CpuBackend::stores(std::string_view layout, DType type) const {
  const LayoutEntry* entry = find_layout(layout);
  return entry != nullptr && (type == DType::f32 || (type == DType::bf16 && entry->rounds));
}

}  // namespace coppice::cpu

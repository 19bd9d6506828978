#include "kernels/cuda/cuda_backend.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/cuda/dense.hpp"
#include "kernels/cuda/layouts/csr.hpp"
#include "kernels/cuda/layouts/cusparse.hpp"
#include "kernels/error.hpp"

namespace coppice::cuda {
namespace {

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  COPPICE_CUDA(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

/// COPPICE_CUDA_MEMORY: the most that a backend takes, in bytes.
int64_t memory_budget(const BackendOptions& options) {
  if (options.memory_bytes != 0) return options.memory_bytes;
  const char* text = std::getenv("COPPICE_CUDA_MEMORY");
  if (text == nullptr || *text == '\0') return 0;
  const char* const text_end = text + std::strlen(text);
  int64_t bytes = 0;
  const auto [end, error] = std::from_chars(text, text_end, bytes);
  if (error != std::errc{} || end != text_end || bytes <= 0) {
    bad_input("COPPICE_CUDA_MEMORY is \"{}\", expected a number of bytes", text);
  }
  return bytes;
}

/// COPPICE_CUDA_CACHE=0: every block is the driver's own, and a memory checker sees where it ends.
bool caching() {
  const char* text = std::getenv("COPPICE_CUDA_CACHE");
  return text == nullptr || std::string_view(text) != "0";
}

CudaContext make_context(int index, const BackendOptions& options) {
  CudaContext context;
  context.device = Device{Device::Type::cuda, static_cast<uint8_t>(index)};
  context.make_current();
  context.matmul = options.matmul;
  context.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, index);
  context.shared_bytes_per_block =
      static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index));
  context.cooperative = attribute(cudaDevAttrCooperativeLaunch, index) != 0;
  return context;
}

/// What NVIDIA advises: 32 MiB from compute capability 9 on, 4 MiB before. cuBLAS would otherwise take memory
/// of its own when it first wants some, which a capture forbids.
int64_t blas_workspace_bytes(int device) {
  return int64_t{attribute(cudaDevAttrComputeCapabilityMajor, device) >= 9 ? 32 : 4} << 20;
}

std::string version(int number) {
  return fmt::format("{}.{}", number / 1000, number % 1000 / 10);
}

using MakeWeight = std::unique_ptr<Weight> (*)(CudaContext&, MatrixView<const float>);

template <class W>
std::unique_ptr<Weight> make(CudaContext& context, MatrixView<const float> values) {
  return std::make_unique<W>(context, values);
}

/// Every layout of this backend, "dense" first. A layout is added by its file in layouts/ and its line here.
struct LayoutEntry {
  std::string_view name;
  MakeWeight make;
};
constexpr LayoutEntry kLayouts[] = {
    {"dense", make<DenseWeight>},
    {"csr", make<CsrWeight>},
    {"cusparse", make<CusparseWeight>},
};

}  // namespace

CudaBackend::CudaBackend(int index, const BackendOptions& options)
    : Backend(Device{Device::Type::cuda, static_cast<uint8_t>(index)}),
      context_(make_context(index, options)),
      stream_(make_stream()),
      memory_(
          std::make_unique<DeviceMemory>(MemoryOptions{memory_budget(options), stream_.get(), caching()})),
      uploads_(std::make_unique<UploadRing>(stream_.get())),
      transposed_rows_(*memory_, "the rows of a sparse product"),
      blas_workspace_(*memory_, blas_workspace_bytes(index), "cuBLAS"),
      blas_(make_blas()),
      sparse_(make_sparse()) {
  transposed_rows_.keep_outgrown();
  context_.stream = stream_.get();
  context_.memory = memory_.get();
  context_.transposed_rows = &transposed_rows_;
  context_.blas = blas_.get();
  context_.sparse = sparse_.get();
  COPPICE_CUDA(cublasSetStream(blas_.get(), stream_.get()));
  // After the stream: setting that one takes the workspace away.
  COPPICE_CUDA(
      cublasSetWorkspace(blas_.get(), blas_workspace_.data(), static_cast<size_t>(blas_workspace_.bytes())));
  COPPICE_CUDA(cublasSetPointerMode(blas_.get(), CUBLAS_POINTER_MODE_HOST));
  COPPICE_CUDA(cusparseSetStream(sparse_.get(), stream_.get()));
  COPPICE_CUDA(cusparseSetPointerMode(sparse_.get(), CUSPARSE_POINTER_MODE_HOST));
  recurrence_ = make_recurrence(context_);
  sequence_ = make_sequence(context_);
  optimizer_ = make_optimizer(context_);
  selection_ = make_selection(context_);
}

CudaBackend::~CudaBackend() {
  // What is queued may still use the memory that goes now. Nothing can be thrown here, and after a fault of
  // the device every call fails.
  cudaSetDevice(context_.device.index);
  cudaStreamSynchronize(stream_.get());
}

DeviceInfo CudaBackend::info() const {
  context_.make_current();
  cudaDeviceProp properties{};
  COPPICE_CUDA(cudaGetDeviceProperties(&properties, context_.device.index));
  int driver = 0, runtime = 0;
  COPPICE_CUDA(cudaDriverGetVersion(&driver));
  COPPICE_CUDA(cudaRuntimeGetVersion(&runtime));
  DeviceInfo info;
  info.device = device();
  info.name = properties.name;
  info.detail = fmt::format("compute capability {}.{}, driver for CUDA {}, runtime {}", properties.major,
                            properties.minor, version(driver), version(runtime));
  info.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  return info;
}

void* CudaBackend::allocate(int64_t bytes, std::string_view what) {
  context_.make_current();
  return memory_->allocate(bytes, what);
}

void CudaBackend::release(void* data, int64_t) noexcept {
  cudaSetDevice(context_.device.index);
  memory_->release(data);
}

void CudaBackend::upload(const void* host, void* device, int64_t bytes) {
  context_.make_current();
  uploads_->upload(host, device, bytes);
}

void CudaBackend::download(const void* device, void* host, int64_t bytes) {
  context_.make_current();
  if (bytes > 0) {
    COPPICE_CUDA(
        cudaMemcpyAsync(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_.get()));
  }
  COPPICE_CUDA(cudaStreamSynchronize(stream_.get()));
}

void CudaBackend::copy(const void* from, void* to, int64_t bytes) {
  context_.make_current();
  if (bytes <= 0) return;
  COPPICE_CUDA(
      cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream_.get()));
}

void CudaBackend::copy(MatrixView<const float> from, MatrixView<float> to) {
  if (from.rows != to.rows || from.cols != to.cols) {
    bad_input("copy: a matrix of [{}, {}] does not fit one of [{}, {}]", from.rows, from.cols, to.rows,
              to.cols);
  }
  if (from.device != device() || to.device != device()) {
    bad_input("copy: from {} to {} on the backend of {}", to_string(from.device), to_string(to.device),
              to_string(device()));
  }
  if (from.empty()) return;
  context_.make_current();
  const auto bytes = [](int64_t floats) { return static_cast<size_t>(floats) * sizeof(float); };
  // A single row may come with any stride.
  COPPICE_CUDA(cudaMemcpy2DAsync(to.data, bytes(std::max(to.stride, to.cols)), from.data,
                                 bytes(std::max(from.stride, from.cols)), bytes(from.cols),
                                 static_cast<size_t>(from.rows), cudaMemcpyDeviceToDevice, stream_.get()));
}

void CudaBackend::fill_zero(void* data, int64_t bytes) {
  context_.make_current();
  if (bytes > 0) COPPICE_CUDA(cudaMemsetAsync(data, 0, static_cast<size_t>(bytes), stream_.get()));
}

void CudaBackend::synchronize() {
  context_.make_current();
  COPPICE_CUDA(cudaStreamSynchronize(stream_.get()));
}

std::unique_ptr<Weight> CudaBackend::make_weight(std::string_view layout, MatrixView<const float> values,
                                                 DType type) {
  if (values.device != device()) {
    bad_input("a weight's values lie on {}, the backend is {}", to_string(values.device),
              to_string(device()));
  }
  if (type != DType::f32) {
    bad_input("a weight of {} values on {}, which stores f32 alone", to_string(type), to_string(device()));
  }
  context_.make_current();
  for (const LayoutEntry& entry : kLayouts) {
    if (entry.name == layout) return entry.make(context_, values);
  }
  bad_input("no weight layout \"{}\" on {}; known: {}", layout, to_string(device()),
            fmt::join(layouts(), ", "));
}

std::vector<std::string_view> CudaBackend::layouts() const {
  std::vector<std::string_view> names;
  for (const LayoutEntry& entry : kLayouts) names.push_back(entry.name);
  return names;
}

}  // namespace coppice::cuda

namespace {

coppice::Backend* refuse(std::string_view why, char* reason, size_t size) {
  if (size > 0) {
    const size_t length = std::min(why.size(), size - 1);
    std::memcpy(reason, why.data(), length);
    reason[length] = '\0';
  }
  return nullptr;
}

}  // namespace

/// The library's one symbol (kernels/backend.hpp). No exception leaves it.
extern "C" __attribute__((visibility("default"))) coppice::Backend* coppice_open_backend(
    uint32_t abi, int index, const coppice::BackendOptions& options, char* reason, size_t size) {
  try {
    if (abi != coppice::kBackendAbi) {
      return refuse(
          fmt::format("libcoppice_cuda.so is of another release: it speaks version {} of the interface, "
                      "the program {}",
                      coppice::kBackendAbi, abi),
          reason, size);
    }
    // Before everything else: without a driver, cuSPARSE prints to standard error by itself. The count stays
    // as it was when the call fails.
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess)
      return refuse(fmt::format("no GPU: {}", cudaGetErrorString(status)), reason, size);
    if (count <= 0) return refuse("no GPU: CUDA finds none", reason, size);
    if (index < 0 || index >= count) {
      const std::string has =
          count == 1 ? "one GPU, cuda:0" : fmt::format("{} GPUs, cuda:0 to cuda:{}", count, count - 1);
      return refuse(fmt::format("there is no device cuda:{}; this machine has {}", index, has), reason, size);
    }
    return new coppice::cuda::CudaBackend(index, options);
  } catch (const std::exception& error) {
    return refuse(error.what(), reason, size);
  } catch (...) {
    return refuse("an unknown exception", reason, size);
  }
}

#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/optimizer.hpp"
#include "kernels/recurrence.hpp"
#include "kernels/selection.hpp"
#include "kernels/sequence.hpp"
#include "kernels/tensor.hpp"
#include "kernels/weight.hpp"

namespace coppice {

/// What `coppice devices` shows.
struct DeviceInfo {
  Device device{};
  std::string name;    // "AMD EPYC …", "NVIDIA H100 …"
  std::string detail;  // CPU: instruction set in use; GPU: compute capability, driver, runtime
  int64_t memory_bytes = 0;
  int threads = 0;  // CPU backend; 0 elsewhere
};

/// A device: its memory, its one stream of work, and its operations in families. Operations are queued in
/// order; only `synchronize` and `download` wait. Everything above kernels/ speaks to this interface and
/// includes no device's headers. The CPU backend is linked in; others are shared objects opened on demand.
///
/// A virtual call costs about 2 ns: fine per operation, never per element.
class Backend {
 public:
  virtual ~Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  virtual DeviceInfo info() const = 0;
  Device device() const { return device_; }

  // Memory. `Buffer` (tensor.hpp) owns; these are what it is made of.
  virtual void* allocate(int64_t bytes, std::string_view what) = 0;
  virtual void release(void* data, int64_t bytes) noexcept = 0;

  /// Host → device. The host memory may be reused when the call returns.
  virtual void upload(const void* host, void* device, int64_t bytes) = 0;
  /// Device → host; waits for everything queued before it.
  virtual void download(const void* device, void* host, int64_t bytes) = 0;
  /// Device → device; the ranges don't overlap.
  virtual void copy(const void* from, void* to, int64_t bytes) = 0;
  /// Row by row between matrices of equal shape and any strides.
  virtual void copy(MatrixView<const float> from, MatrixView<float> to) = 0;
  virtual void fill_zero(void* data, int64_t bytes) = 0;

  virtual void synchronize() = 0;

  virtual RecurrenceOps& recurrence() = 0;
  virtual SequenceOps& sequence() = 0;
  virtual OptimizerOps& optimizer() = 0;
  virtual SelectionOps& selection() = 0;

  /// A dense weight over `values` [out, in], which must outlive it.
  std::unique_ptr<Weight> dense_weight(MatrixView<const float> values) {
    return make_weight("dense", values);
  }
  /// A weight in a named layout, made from dense values; zeros (of either sign) are not stored by a sparse
  /// one. Throws Error(bad_input) that lists the known layouts for an unknown one, and for a layout that
  /// doesn't store values of the type (f32: all do; bf16: Weight::value_type).
  virtual std::unique_ptr<Weight> make_weight(std::string_view layout, MatrixView<const float> values,
                                              DType type = DType::f32) = 0;
  /// The layouts this backend has, "dense" first.
  virtual std::vector<std::string_view> layouts() const = 0;
  /// The one that serves unstructured sparsity best here.
  virtual std::string_view sparse_layout() const = 0;
  /// Its products give, for finite inputs, the bits of the dense product of the same matrix.
  virtual bool gives_dense_bits(std::string_view layout) const { return layout == "dense"; }
  /// Its weights can hold values of the type (make_weight).
  virtual bool stores(std::string_view /*layout*/, DType type) const { return type == DType::f32; }
  /// A layout's name, or what "auto" stands for on this device.
  std::string_view layout_of(std::string_view name) const { return name == "auto" ? sparse_layout() : name; }

  // Conveniences over the above.
  template <class T>
  void upload(const std::vector<T>& host, VectorView<T> device) {
    upload(host.data(), device.data, static_cast<int64_t>(host.size() * sizeof(T)));
  }
  template <class T>
  std::vector<std::remove_const_t<T>> download(VectorView<T> device) {
    std::vector<std::remove_const_t<T>> host(static_cast<size_t>(device.size));
    download(device.data, host.data(), device.size * static_cast<int64_t>(sizeof(T)));
    return host;
  }
  template <class T>
  void fill_zero(VectorView<T> view) {
    fill_zero(view.data, view.size * static_cast<int64_t>(sizeof(T)));
  }

 protected:
  explicit Backend(Device device) : device_(device) {}

 private:
  Device device_;
};

/// What the factors of a dense product are rounded to; its sums are float32 always. tf32 keeps 10 bits behind
/// the point, bf16 7, and both run on a GPU's matrix units.
enum class MatmulPrecision : uint8_t { fp32, tf32, bf16 };

struct BackendOptions {
  int threads = 0;                                 // CPU: 0 = all cores of the process's affinity mask
  MatmulPrecision matmul = MatmulPrecision::fp32;  // the CPU has fp32 alone
  int64_t memory_bytes = 0;  // GPU: the most it may take; 0 = as COPPICE_CUDA_MEMORY says, else all there is
};

/// Opens a device by name: "cpu", "cuda", "cuda:1", or "auto" (the first GPU that works, else the CPU; `note`
/// then says in one line why no GPU was taken). Throws Error(bad_input) for an unknown name and
/// Error(failure) with the reason when the named device can't be used.
std::unique_ptr<Backend> open_backend(std::string_view name, const BackendOptions& options = {},
                                      std::string* note = nullptr);

/// One line of `coppice devices`: a device that can be opened, or a kind of device and why it can't.
struct DeviceListing {
  std::string name;                // "cpu", "cuda:0", "cuda"
  std::optional<DeviceInfo> info;  // empty when unavailable
  std::string reason;              // why, when unavailable
};
std::vector<DeviceListing> list_devices();

/// The symbol that a loadable backend (libcoppice_cuda.so) exports. Returns a backend, or nullptr with the
/// reason in `reason` (capacity `size`). `abi` must equal `kBackendAbi`, or it refuses.
inline constexpr uint32_t kBackendAbi = 4;
using OpenLoadableBackend = Backend* (*)(uint32_t abi, int index, const BackendOptions& options, char* reason,
                                         size_t size);

}  // namespace coppice

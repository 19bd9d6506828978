#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace coppice {

/// The machine to which a measurement belongs: another device, instruction set, number of threads or version
/// of the kernels, and it says nothing.
struct MeasuredOn {
  std::string device;   // "AMD EPYC …"
  std::string detail;   // the instruction set in use, the GPU's driver
  int64_t threads = 0;  // of the CPU; 0 elsewhere
  std::string version;  // of Coppice

  friend bool operator==(const MeasuredOn&, const MeasuredOn&) = default;
};

/// Densities in steps of a quarter of an octave; 0 for a matrix without a nonzero.
int density_bucket(int64_t nonzeros, int64_t size);
/// 1, 2, 4, 8, 16 or 32: the next power of two. A batch of 32 and more is done in tiles of 32.
int64_t batch_bucket(int64_t batch);

/// What a product x·Wᵀ took in each layout that the matrix admits.
struct LayoutTimes {
  MeasuredOn on;
  int64_t out = 0, in = 0;                             // W [out, in]
  int density = 0;                                     // bucket
  int64_t batch = 1;                                   // bucket
  std::string date;                                    // when it was measured, for people
  std::map<std::string, double, std::less<>> seconds;  // by layout, "dense" among them
};

/// The layouts that `coppice bench` measured: one JSON file, {"schema": 1, "entries": [...]}, replaced in one
/// rename. What can't be read is no measurement, never an error: a cache may be lost at any time.
class LayoutCache {
 public:
  LayoutCache() = default;
  /// A file that is missing is an empty cache; so is one that is damaged or of another schema, and `warning`
  /// (when given) then says so in one line.
  static LayoutCache read(const std::filesystem::path& file, std::string* warning = nullptr);

  /// Takes the place of an earlier measurement of the same matrix, batch and machine.
  void add(LayoutTimes times);
  const std::vector<LayoutTimes>& entries() const { return entries_; }
  /// Layouts from the fastest on, but nothing within 3 % of `usual` before it: noise should not choose. Empty
  /// where nothing was measured.
  std::vector<std::string> ranking(const MeasuredOn& on, int64_t out, int64_t in, int64_t nonzeros,
                                   int64_t batch, std::string_view usual) const;

  /// Makes the folder where it is missing. Two that write at once: the later one's stands.
  void write(const std::filesystem::path& file) const;

 private:
  std::vector<LayoutTimes> entries_;
};

/// layouts.json in $COPPICE_CACHE, else in $XDG_CACHE_HOME/coppice, else in ~/.cache/coppice; empty where
/// none of these is set.
std::filesystem::path layout_cache_file();

}  // namespace coppice

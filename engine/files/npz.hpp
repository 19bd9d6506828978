#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/files/input_file.hpp"
#include "engine/files/weight_file.hpp"

namespace coppice {

/// NumPy's .npz (a zip of .npy members, stored or deflated, with or without zip64) and bare .npy files, of
/// header formats 1 to 3, little-endian, in C or Fortran order: float16/32/64, integers, bool. Tensors bear
/// their members' names without ".npy"; a bare .npy file holds one, named like the file. Fortran order comes
/// out row-major.
///
/// Stored members in C order are read in place, any block at any time. Deflated ones are streams: reading on
/// where the last read ended is cheap, going back starts over. Fortran-ordered ones are held in memory one at
/// a time. A member's checksum is verified as soon as it has been read from its start to its end.
class NpzFile final : public WeightFile {
 public:
  explicit NpzFile(const std::string& path);
  ~NpzFile() override;
  std::string_view format() const override { return bare_ ? "npy" : "npz"; }
  int64_t stored_bytes(size_t tensor) const override { return members_[tensor].compressed; }

  bool random_access() const override;

  /// Where a member's bytes lie.
  struct Member {
    std::string name;          // as the archive spells it
    int64_t offset = 0;        // of its (compressed) bytes in the file
    int64_t compressed = 0;    // bytes there
    int64_t uncompressed = 0;  // bytes of the .npy file in it
    uint32_t checksum = 0;     // CRC-32 of those
    bool checked = true;       // a bare .npy file has no checksum
    bool deflated = false;
    int64_t header = 0;  // bytes of the .npy header: elements start behind it
    bool fortran = false;
  };

 protected:
  void read_elements(size_t tensor, int64_t begin, int64_t count, void* out) const override;

 private:
  class Stream;
  struct Cache;

  void read_member(size_t tensor, int64_t offset, void* out, int64_t bytes) const;
  void read_transposed(size_t tensor, int64_t begin, int64_t count, void* out) const;

  InputFile file_;
  bool bare_ = false;
  std::vector<Member> members_;
  std::unique_ptr<Cache> cache_;  // guarded by its mutex
};

/// Writes an .npz whose members are stored, not deflated, in the order of their names, dated 1980: the same
/// tensors give the same file. Zip64 where sizes or offsets need it. The format has no bf16.
class NpzWriter final : public WeightWriter {
 public:
  NpzWriter(const std::string& path, std::vector<FileTensor> tensors, Existing existing = Existing::refuse);

 protected:
  void write_elements(size_t tensor, int64_t begin, int64_t count, const void* data) override;
  void finish_file() override;

 private:
  struct Place {
    int64_t local_header = 0;
    int64_t member = 0;  // the .npy file
    int64_t header = 0;  // its header's bytes
  };
  AtomicFile file_;
  std::vector<Place> places_;
  int64_t end_ = 0;
};

}  // namespace coppice

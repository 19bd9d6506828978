#include "engine/files/weight_output.hpp"

#include <filesystem>

#include "engine/files/input_file.hpp"
#include "engine/files/sparse_encoding.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

namespace fs = std::filesystem;

std::string in_folder(const std::string& folder, const std::string& name) {
  return (fs::path(folder) / name).string();
}

std::string index_name(const WeightFile& file) {
  return fs::path(file.path()).filename().string();
}

}  // namespace

bool names_weight_file(const std::string& path) {
  const std::string extension = fs::path(path).extension().string();
  return extension == ".safetensors" || extension == ".npz" || extension == ".npy";
}

WeightOutput::WeightOutput(const WeightFile& like, const std::string& path, bool one_file,
                           Existing existing) {
  places_.resize(like.tensors().size());
  const auto* const sharded = one_file ? nullptr : dynamic_cast<const ShardedSafetensors*>(&like);
  if (sharded == nullptr) {
    add(like, path, existing);
    for (size_t i = 0; i < places_.size(); ++i) places_[i] = {0, writers_[0]->index(like.tensors()[i].name)};
    return;
  }
  for (size_t i = 0; i < sharded->shards(); ++i) {
    add(sharded->shard(i), in_folder(path, sharded->shard_name(i)), existing);
  }
  for (size_t i = 0; i < places_.size(); ++i) {
    const size_t shard = sharded->place(i).first;
    places_[i] = {shard, writers_[shard]->index(like.tensors()[i].name)};
  }
  index_ = read_file(like.path());
  index_path_ = in_folder(path, index_name(like));
}

void WeightOutput::add(const WeightFile& file, const std::string& path, Existing existing) {
  if (const auto* plain = dynamic_cast<const SafetensorsFile*>(&file)) {
    writers_.push_back(std::make_unique<SafetensorsWriter>(path, *plain, existing));
  } else {
    writers_.push_back(std::make_unique<SafetensorsWriter>(path, file.tensors(), file.metadata(), existing));
  }
}

void WeightOutput::write(size_t tensor, int64_t begin, int64_t count, const void* data) {
  writers_[places_[tensor].writer]->write(places_[tensor].tensor, begin, count, data);
}

void WeightOutput::finish() {
  for (const std::unique_ptr<WeightWriter>& writer : writers_) writer->finish();
  if (!index_path_.empty()) write_file(index_path_, index_);
}

void encode_shards(const ShardedSafetensors& from, const std::string& to, const BeforeBlock& before_block) {
  for (size_t i = 0; i < from.shards(); ++i) {
    encode_sparse(from.shard(i), in_folder(to, from.shard_name(i)), Existing::refuse, before_block);
  }
  write_file(in_folder(to, index_name(from)), read_file(from.path()));
}

void check_not_over_input(const WeightFile& from, const std::string& to) {
  std::error_code ignored;
  const fs::path folder = fs::path(from.path()).parent_path();
  if (fs::equivalent(folder.empty() ? fs::path(".") : folder, to, ignored)) {
    bad_input("{}: is the folder that is read, and shards would replace it with all that it holds", to);
  }
}

int64_t file_bytes(const WeightFile& file) {
  int64_t bytes = static_cast<int64_t>(fs::file_size(file.path()));
  if (const auto* sharded = dynamic_cast<const ShardedSafetensors*>(&file)) {
    for (size_t i = 0; i < sharded->shards(); ++i) {
      bytes += static_cast<int64_t>(fs::file_size(sharded->shard(i).path()));
    }
  }
  return bytes;
}

ConvertReport convert_weights(const WeightFile& from, const std::string& to, Encoding encoding,
                              Existing existing, const BeforeBlock& before_block) {
  ConvertReport report;
  report.bytes_before = file_bytes(from);
  const auto* const sharded = dynamic_cast<const ShardedSafetensors*>(&from);
  if (sharded == nullptr || names_weight_file(to)) {
    if (encoding == Encoding::sparse) {
      encode_sparse(from, to, existing, before_block);
    } else {
      copy_weights(from, to, existing, before_block);
    }
    report.files = 1;
    report.bytes_after = static_cast<int64_t>(fs::file_size(to));
    return report;
  }
  check_not_over_input(from, to);
  AtomicFolder folder(to, existing);
  if (encoding == Encoding::sparse) {
    encode_shards(*sharded, folder.building(), before_block);
  } else {
    for (size_t i = 0; i < sharded->shards(); ++i) {
      copy_weights(sharded->shard(i), in_folder(folder.building(), sharded->shard_name(i)), Existing::refuse,
                   before_block);
    }
    write_file(in_folder(folder.building(), index_name(from)), read_file(from.path()));
  }
  folder.commit();
  report.files = sharded->shards() + 1;
  report.bytes_after = file_bytes(*open_weights(in_folder(to, index_name(from))));
  return report;
}

}  // namespace coppice

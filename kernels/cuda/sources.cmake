# The CUDA backend's files, relative to this folder: nvcc and g++ make the library of them (CMakeLists.txt), and g++
# alone the one that the tests execute on the host (tests/cuda_on_host).
set(COPPICE_CUDA_HOST_SOURCES
  cuda_backend.cpp
  dense.cpp
  graph_cache.cpp
  memory.cpp
  select.cpp
  status.cpp
  transfer.cpp
  layouts/cusparse.cpp
  layouts/spread_rows.cpp
)
set(COPPICE_CUDA_KERNEL_SOURCES
  persistent.cu
  persistent_sparse.cu
  recurrence.cu
  sequence.cu
  start_rows.cu
  layouts/compressed_rows.cu
  layouts/csr.cu
)
# Scores and statistics: one rounding per operation (--fmad=false), so that masks are the CPU's bit for bit.
set(COPPICE_CUDA_EXACT_SOURCES
  optimizer.cu
  select_count.cu
  select_units.cu
  select_write.cu
)

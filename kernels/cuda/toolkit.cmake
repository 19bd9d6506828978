# Finds a CUDA toolkit, whole or in part, wherever CUDAToolkit_ROOT, CUDA_HOME, CUDA_PATH, the PATH or /usr/local/cuda
# says, and in the layouts of the pip packages (nvidia/cu13, or nvidia/cuda_nvcc beside nvidia/cublas and its like), whose
# libraries have a version in their names and no link without. Sets
#   COPPICE_NVCC           the compiler, or false
#   COPPICE_CUDA_INCLUDE   folders of cuda_runtime_api.h, cublas_v2.h, cusparse.h and Thrust, or empty: enough for the
#                          tests that run the kernels on the host
#   COPPICE_CUDA_LIBRARIES cudart, cublas and cusparse (shared), or empty when one of them is missing
set(named ${CUDAToolkit_ROOT} $ENV{CUDAToolkit_ROOT})
set(roots ${named} $ENV{CUDA_HOME} $ENV{CUDA_PATH} /usr/local/cuda)
find_program(COPPICE_NVCC nvcc HINTS ${CMAKE_CUDA_COMPILER} ${roots} PATH_SUFFIXES bin
             DOC "The CUDA compiler")
if(COPPICE_NVCC)
  get_filename_component(bin "${COPPICE_NVCC}" REALPATH)
  get_filename_component(bin "${bin}" DIRECTORY)
  get_filename_component(beside "${bin}" DIRECTORY)
  set(roots ${named} ${beside} ${roots})  # what belongs to this compiler, unless another place was named
endif()
set(includes "")
set(libraries "")
foreach(part "cudart;cuda_runtime;cuda_runtime_api.h" "cublas;cublas;cublas_v2.h" "cusparse;cusparse;cusparse.h")
  list(GET part 0 name)
  list(GET part 1 package)
  list(GET part 2 header)
  set(places "")
  foreach(root IN LISTS roots)
    list(APPEND places ${root} ${root}/../${package})
  endforeach()
  find_path(COPPICE_${name}_INCLUDE ${header} HINTS ${places} PATH_SUFFIXES include targets/x86_64-linux/include)
  find_library(COPPICE_${name}_LIBRARY NAMES ${name} lib${name}.so.13 lib${name}.so.12 NAMES_PER_DIR HINTS ${places}
               PATH_SUFFIXES lib64 lib targets/x86_64-linux/lib)
  mark_as_advanced(COPPICE_${name}_INCLUDE COPPICE_${name}_LIBRARY)
  list(APPEND includes ${COPPICE_${name}_INCLUDE})
  list(APPEND libraries ${COPPICE_${name}_LIBRARY})
endforeach()
# Thrust lies in include/cccl since CUDA 13, where nvcc finds it by itself; of pip's packages it is one of its own.
set(places "")
foreach(root IN LISTS roots)
  list(APPEND places ${root} ${root}/../cuda_cccl)
endforeach()
find_path(COPPICE_thrust_INCLUDE thrust/version.h HINTS ${places}
          PATH_SUFFIXES include/cccl include targets/x86_64-linux/include/cccl targets/x86_64-linux/include)
mark_as_advanced(COPPICE_thrust_INCLUDE)
list(APPEND includes ${COPPICE_thrust_INCLUDE})
set(COPPICE_CUDA_INCLUDE "")
if(NOT includes MATCHES "NOTFOUND")
  list(REMOVE_DUPLICATES includes)
  set(COPPICE_CUDA_INCLUDE ${includes})
endif()
set(COPPICE_CUDA_LIBRARIES "")
if(NOT libraries MATCHES "NOTFOUND")
  set(COPPICE_CUDA_LIBRARIES ${libraries})
endif()

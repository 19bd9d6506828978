# The ordinary suites again, with the backend that is executed on the host as their GPU. An order in which one thread
# runs after the other hides some mistakes, so there are four; in the random ones the caching allocator works, in the
# others every block is its own allocation, so that the address sanitizer sees its ends.

# coppice_on_host(SUITE [WHOLE] [FILTER filter] ORDERS orders...): the cases whose name has "cuda" in it, or the whole
# suite with the device as what COPPICE_TEST_DEVICE names.
function(coppice_on_host suite)
  cmake_parse_arguments(HOST "WHOLE" "FILTER" "ORDERS" ${ARGN})
  foreach(order IN LISTS HOST_ORDERS)
    string(REPLACE ":" "_" suffix ${order})
    set(name cuda_on_host_${suite}_${suffix})
    set(filter "*cuda*")
    if(HOST_FILTER)
      set(filter "${HOST_FILTER}")
    elseif(HOST_WHOLE)
      set(filter "*")
    endif()
    set(environment
      "COPPICE_SOURCE_DIR=${PROJECT_SOURCE_DIR}"
      "COPPICE_CUDA_LIBRARY=$<TARGET_FILE:cuda_on_host>"
      "COPPICE_REQUIRE_BACKENDS=cuda"
      "COPPICE_CUDA_ORDER=${order}"
      "GTEST_FILTER=${filter}"
      "GTEST_OUTPUT=xml:${PROJECT_BINARY_DIR}/results/test_${name}.xml")  # the suite's own name is taken
    if(HOST_WHOLE)
      list(APPEND environment "COPPICE_TEST_DEVICE=cuda")
    endif()
    if(NOT order MATCHES random)
      list(APPEND environment "COPPICE_CUDA_CACHE=0")
    endif()
    add_test(NAME ${name} COMMAND test_${suite})
    set_tests_properties(${name} PROPERTIES ENVIRONMENT "${environment}"
                         LABELS $<IF:$<STREQUAL:${order},forward>,fast,slow>)
  endforeach()
  add_dependencies(test_${suite} cuda_on_host)
endfunction()

set(orders forward reverse random:1 random:2)
foreach(suite backend dense sparse sequence optimizer)
  coppice_on_host(${suite} ORDERS ${orders})
endforeach()
# These take minutes an order when they are instrumented.
if(COPPICE_SANITIZE)
  set(orders forward random:1)
endif()
coppice_on_host(recurrence ORDERS ${orders})
# Thousands of small tensors, each its own allocation in the other orders: ten minutes under the address sanitizer.
if(COPPICE_SANITIZE)
  set(orders random:1)
endif()
coppice_on_host(prune ORDERS ${orders})
coppice_on_host(c_api ORDERS forward random:1)
coppice_on_host(layers WHOLE ORDERS forward random:1)
coppice_on_host(golden WHOLE ORDERS forward)
coppice_on_host(train WHOLE ORDERS forward random:1)
# The whole job. Instrumented, one job is enough.
set(jobs "DevicePipeline.*")
if(NOT COPPICE_SANITIZE)
  set(jobs "${jobs}:Pipeline.Generated*:Pipeline.Gradual*:Pipeline.Verb*")
endif()
coppice_on_host(pipeline WHOLE FILTER "${jobs}" ORDERS random:1)
# A checkpoint larger than the device.
coppice_on_host(stream WHOLE FILTER "*AGpuSmaller*" ORDERS random:1)

# The backend's core against calls that fail.
add_executable(test_cuda_core core_test.cpp)
target_link_libraries(test_cuda_core PRIVATE cuda_backend_on_host cuda_emulator coppice_kernels GTest::gtest_main)
add_test(NAME cuda_core COMMAND test_cuda_core)
set_tests_properties(cuda_core PROPERTIES LABELS fast)

# The program finds the library, and the library a device.
add_test(NAME cuda_on_host_devices COMMAND coppice devices)
set_tests_properties(cuda_on_host_devices PROPERTIES LABELS fast
  ENVIRONMENT "COPPICE_CUDA_LIBRARY=$<TARGET_FILE:cuda_on_host>"
  PASS_REGULAR_EXPRESSION "cuda:0 +CUDA on the host, compute capability [0-9.]+, driver for CUDA [0-9.]+, runtime")

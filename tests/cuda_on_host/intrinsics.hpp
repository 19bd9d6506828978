#pragma once

// The device's built-in functions. Overloads exist for exactly the types that the device has, so that what
// compiles here compiles there.
#include "tests/cuda_on_host/intrinsics/arithmetic.hpp"
#include "tests/cuda_on_host/intrinsics/atomics.hpp"
#include "tests/cuda_on_host/intrinsics/bits.hpp"
#include "tests/cuda_on_host/intrinsics/loads.hpp"
#include "tests/cuda_on_host/intrinsics/threads.hpp"

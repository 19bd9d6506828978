#pragma once

#include <string>

namespace coppice::cuda_on_host {

/// The demangled name of a function of this library or program, hidden and local ones included; its address
/// where the symbol table was stripped.
std::string symbol_name(const void* function);

}  // namespace coppice::cuda_on_host

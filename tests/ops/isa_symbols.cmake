# What a file of kernels/cpu/isa defines for the rest of the program is its table of kernels and nothing else, and
# nothing of it runs at start. An inline function or template instance among its symbols could be the copy that the
# linker keeps for everybody, and would then end the program on a processor without these instructions.
if(NOT OBJECTS)
  message(FATAL_ERROR "no objects to look at")
endif()
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} --defined-only --demangle ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[^\n]+" lines "${symbols}")
  set(tables 0)
  foreach(line IN LISTS lines)
    if(line MATCHES " T coppice::cpu::(baseline|avx2|avx512)::[a-z_]+_kernels\\([^()]*\\)$")
      math(EXPR tables "${tables} + 1")
    elseif(line MATCHES " [A-Zuvw] " AND NOT line MATCHES " (__odr_asan|__asan|__ubsan|DW\\.ref\\.|__gcov)")
      message(SEND_ERROR "${object} defines a shared symbol: ${line}")
    elseif(line MATCHES "_GLOBAL__sub_I_" AND NOT line MATCHES "_GLOBAL__sub_I_000")  # 000…: gcov's, the sanitizers'
      message(SEND_ERROR "${object} runs code at start: ${line}")
    endif()
  endforeach()
  if(NOT tables EQUAL 1)
    message(SEND_ERROR "${object} defines ${tables} tables of kernels, expected 1")
  endif()
endforeach()

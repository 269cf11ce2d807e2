# Shared by csrc/tests and csrc/emulator. Every source is compiled once in each of the ways it is tested in, and the tests
# share the objects.
option(EFT_SANITIZE "also under the sanitizers, and under the race detector of csrc/emulator" OFF)
# Line tables are enough for a sanitizer's report, and compile in half the time.
set(EFT_DEBUG -O1 -g1)
set(EFT_ADDRESSES -Og -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all)

function(eft_add_test name)  # eft_add_test(NAME source... LINK library...)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "LINK")
  add_executable(test_${name} ${arg_UNPARSED_ARGUMENTS})
  target_link_libraries(test_${name} PRIVATE ${arg_LINK})
  target_compile_options(test_${name} PRIVATE ${EFT_DEBUG})
  add_test(NAME ${name} COMMAND test_${name})
endfunction()

# The CPU's part with flags of the tests' own. eft_add_core(NAME flag...): for any processor, and with eft_add_isas for each
# instruction set of this one's family.
function(eft_add_core name)
  add_library(${name} STATIC)
  foreach(source common/error cpu/advance cpu/attention cpu/linear cpu/parallel cpu/scratch cpu/score cpu/step
                 cpu/verify cpu/attention_isa cpu/linear_isa cpu/score_isa cpu/step_isa)
    target_sources(${name} PRIVATE ${PROJECT_SOURCE_DIR}/csrc/${source}.cpp)
  endforeach()
  target_link_libraries(${name} PUBLIC eft_flags ${CMAKE_DL_LIBS})
  target_compile_definitions(${name} PRIVATE EFT_ISA=kPortable EFT_VERSION="of the tests")
  target_compile_options(${name} PUBLIC ${EFT_DEBUG} ${ARGN})
  target_link_options(${name} PUBLIC ${ARGN})
endfunction()

function(eft_add_isas core)
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    return()
  endif()
  target_compile_definitions(${core} PRIVATE EFT_X86)
  set(isas kAvx2)
  if(EFT_AVX512)
    list(APPEND isas kAvx512)
    target_compile_definitions(${core} PRIVATE EFT_AVX512)
  endif()
  foreach(isa ${isas})
    add_library(${core}_${isa} OBJECT)
    foreach(source attention_isa linear_isa score_isa step_isa)
      target_sources(${core}_${isa} PRIVATE ${PROJECT_SOURCE_DIR}/csrc/cpu/${source}.cpp)
    endforeach()
    target_link_libraries(${core}_${isa} PRIVATE eft_flags)
    target_compile_definitions(${core}_${isa} PRIVATE EFT_ISA=${isa})
    target_compile_options(${core}_${isa} PRIVATE ${EFT_DEBUG} ${ARGN} ${EFT_${isa}}
                           $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized;-Wno-uninitialized>)
    target_sources(${core} PRIVATE $<TARGET_OBJECTS:${core}_${isa}>)
  endforeach()
endfunction()

# libeft: the CPU's part for each instruction set, and CUDA's where nvcc is found.
add_library(eft SHARED csrc/common/error.cpp csrc/cpu/advance.cpp csrc/cpu/attention.cpp csrc/cpu/linear.cpp
            csrc/cpu/parallel.cpp csrc/cpu/scratch.cpp
            csrc/cpu/score.cpp csrc/cpu/step.cpp csrc/cpu/verify.cpp)
target_compile_definitions(eft PRIVATE EFT_VERSION="${EFT_VERSION}")
target_link_libraries(eft PRIVATE eft_flags ${CMAKE_DL_LIBS})
target_include_directories(eft PUBLIC csrc/include)

# *_isa.cpp once per instruction set; attention.cpp, linear.cpp, score.cpp and step.cpp choose at run time.
function(eft_add_isa name)
  add_library(${name} OBJECT csrc/cpu/attention_isa.cpp csrc/cpu/linear_isa.cpp csrc/cpu/score_isa.cpp
              csrc/cpu/step_isa.cpp)
  target_link_libraries(${name} PRIVATE eft_flags)
  target_compile_definitions(${name} PRIVATE EFT_ISA=${name})
  target_compile_options(${name} PRIVATE ${ARGN})
  target_sources(eft PRIVATE $<TARGET_OBJECTS:${name}>)
endfunction()
eft_add_isa(kPortable -O2)  # -O3 compiles for longer and takes 1.5 times as long for one row
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  target_compile_definitions(eft PRIVATE EFT_X86)
  # What is off takes a quarter of the compiler's time and makes nothing faster (docs/notes/test-times.md).
  eft_add_isa(kAvx2 ${EFT_kAvx2} $<$<CXX_COMPILER_ID:GNU>:-fno-split-paths
              -fno-unswitch-loops -fno-peel-loops -fno-ipa-cp-clone>)
  if(EFT_AVX512)
    target_compile_definitions(eft PRIVATE EFT_AVX512)
    # The warnings that are off come from the intrinsics' own header in gcc 12.
    eft_add_isa(kAvx512 ${EFT_kAvx512} -mprefer-vector-width=512 -Wno-maybe-uninitialized -Wno-uninitialized)
  endif()
endif()

if(EFT_CUDA)
  check_language(CUDA)
endif()
if(EFT_CUDA AND CMAKE_CUDA_COMPILER)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(EFT_DEFAULT_ARCHITECTURES ON)
    set(CMAKE_CUDA_ARCHITECTURES 80)  # replaced below, once the compiler's version is known
  endif()
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 17)
  set(EFT_CUDA_SOURCES step/stream step/resident verify/verify score/score step/top_ids step/step common/tickets
      loop/while_loop)
  list(TRANSFORM EFT_CUDA_SOURCES REPLACE "(.+)" "csrc/cuda/\\1.cu")
  target_sources(eft PRIVATE ${EFT_CUDA_SOURCES})
  if(EFT_DEFAULT_ARCHITECTURES)
    # One PTX for all chips, kept for what comes after: but for clusters (resident.cu) nothing asks for more than
    # compute_80, and the compiler makes the same PTX for compute_90. Chips share it, and the time it takes.
    set(chips 80 90)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
      list(APPEND chips 100)
    endif()
    list(TRANSFORM chips REPLACE "(.+)" "-gencode=arch=compute_80,code=sm_\\1" OUTPUT_VARIABLE options)
    set_source_files_properties(${EFT_CUDA_SOURCES} PROPERTIES COMPILE_OPTIONS
                                "${options};-gencode=arch=compute_80,code=compute_80")
    string(REGEX REPLACE "compute_80,code=(sm_90|sm_100)" "compute_90,code=\\1" options "${options}")
    set_source_files_properties(csrc/cuda/step/resident.cu PROPERTIES COMPILE_OPTIONS
                                "${options};-gencode=arch=compute_90,code=compute_90")
    list(JOIN chips " " EFT_ARCHITECTURES)
    set(EFT_ARCHITECTURES "${EFT_ARCHITECTURES} and PTX")
    set(CMAKE_CUDA_ARCHITECTURES OFF)
  else()
    list(JOIN CMAKE_CUDA_ARCHITECTURES " " EFT_ARCHITECTURES)
  endif()
  target_compile_definitions(eft PRIVATE EFT_CUDA_ARCHITECTURES="${EFT_ARCHITECTURES}")
  target_compile_options(eft PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--fmad=false --diag-suppress=177
                         -Xcompiler=-Wall,-ffp-contract=off,-Wno-unused-function>)
  # Static cudart: the same file loads on a machine without any NVIDIA library.
  set_target_properties(eft PROPERTIES CUDA_ARCHITECTURES "${CMAKE_CUDA_ARCHITECTURES}" CUDA_RUNTIME_LIBRARY Static)
  target_link_options(eft PRIVATE -Wl,--exclude-libs,ALL)
  message(STATUS "CUDA kernels: ${CMAKE_CUDA_COMPILER} for ${EFT_ARCHITECTURES}")
else()
  target_sources(eft PRIVATE csrc/cuda/stub.cpp)
  message(STATUS "CUDA kernels: none (EFT_CUDA is off, or there is no nvcc)")
endif()

# The CUDA kernels: libonnx_cbp_cuda.so, which libonnx_cbp.so loads when a session uses the CUDA provider. It is a wheel
# of its own (cmake/cuda_wheel): who has no GPU neither compiles nor carries it.
# Nothing is linked against the driver, and the CUDA runtime is linked in, so the library loads on every machine.
#
# ONNX_CBP_CUDA is OFF, ON (nvcc has to work) or AUTO (where nvcc works). HOST is for tests without a GPU: the C++ compiler
# makes the kernels, on memory of the processor, and the CUDA ops are the CPU provider's.

set(ONNX_CBP_CUDA OFF CACHE STRING "Build the CUDA kernels: OFF, ON, AUTO (where nvcc is found), or HOST for tests")
set_property(CACHE ONNX_CBP_CUDA PROPERTY STRINGS OFF ON AUTO HOST)
set(ONNX_CBP_CUDA_DESTINATION onnx_cbp/custom_ops CACHE STRING "Folder of a wheel that the library is installed into")
set(_cuda ${CMAKE_CURRENT_LIST_DIR}/../custom_ops/native/cuda)
file(GLOB_RECURSE _cuda_sources CONFIGURE_DEPENDS ${_cuda}/*.cu)
set(_cuda_exports ${CMAKE_CURRENT_LIST_DIR}/cuda_exports.map)
set(_cuda_link -Wl,--no-undefined -static-libstdc++ -static-libgcc -Wl,--version-script=${_cuda_exports})

if(ONNX_CBP_CUDA STREQUAL "HOST")
  add_library(onnx_cbp_cuda SHARED ${_cuda_sources})
  set_source_files_properties(${_cuda_sources} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")
  target_link_libraries(onnx_cbp_cuda PRIVATE onnx_cbp_settings)
  target_compile_options(onnx_cbp_cuda PRIVATE $<$<CONFIG:Debug>:-O1>) # the loops over threads are slow without
  target_link_options(onnx_cbp_cuda PRIVATE ${_cuda_link})
  target_compile_definitions(onnx_cbp PRIVATE ONNX_CBP_CUDA_PROVIDER="CPUExecutionProvider")
  return()
endif()
if(CMAKE_CROSSCOMPILING AND ONNX_CBP_CUDA STREQUAL "AUTO")
  return()
endif()
if(NOT ONNX_CBP_CUDA)
  return()
endif()

# For which GPUs: those that CMAKE_CUDA_ARCHITECTURES or, in the environment, CUDAARCHS names. CMake writes what nvcc would
# take by itself into the first, which is then nobody's wish.
if(DEFINED ENV{CUDAARCHS} OR (DEFINED CMAKE_CUDA_ARCHITECTURES
                              AND NOT "${CMAKE_CUDA_ARCHITECTURES}" STREQUAL "${ONNX_CBP_CUDA_NVCC_DEFAULT}"))
  set(_wished TRUE)
else()
  set(_wished FALSE)
endif()
include(CheckLanguage)
if(NOT CMAKE_CUDA_COMPILER)
  unset(CMAKE_CUDA_COMPILER CACHE) # it may have been installed since
endif()
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  set(_missing "no nvcc that works was found")
else()
  enable_language(CUDA)
  if(NOT _wished)
    set(ONNX_CBP_CUDA_NVCC_DEFAULT "${CMAKE_CUDA_ARCHITECTURES}" CACHE INTERNAL "nobody's wish")
  endif()
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 11.8)
    set(_missing "nvcc ${CMAKE_CUDA_COMPILER_VERSION} is older than 11.8, which knows sm_90")
  endif()
endif()
if(DEFINED _missing)
  if(ONNX_CBP_CUDA STREQUAL "AUTO")
    message(STATUS "The CUDA kernels are left out: ${_missing}")
    return()
  endif()
  message(FATAL_ERROR " ONNX_CBP_CUDA is '${ONNX_CBP_CUDA}' and ${_missing}: install the CUDA toolkit (11.8 or newer), name its compiler with CMAKE_CUDA_COMPILER or CUDACXX, or leave the option at OFF")
endif()

add_library(onnx_cbp_cuda SHARED ${_cuda_sources})
use_old_glibc(onnx_cbp_cuda)
include(${CMAKE_CURRENT_LIST_DIR}/CudaGpus.cmake)
if(_wished)
  string(REPLACE ";" " " _code "${CMAKE_CUDA_ARCHITECTURES}")
else()
  default_gpus(_options _code)
  set_target_properties(onnx_cbp_cuda PROPERTIES CUDA_ARCHITECTURES OFF)
  target_compile_options(onnx_cbp_cuda PRIVATE ${_options})
endif()
message(STATUS "The CUDA kernels are for ${_code}")
set_property(SOURCE ${_cuda}/queue.cu APPEND PROPERTY COMPILE_DEFINITIONS "ONNX_CBP_CUDA_CODE=\"${_code}\"")
# Half the size; and with zstd, which drivers for CUDA 13 can read, a third.
target_compile_options(onnx_cbp_cuda PRIVATE -Xfatbin=-compress-all)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
  target_compile_options(onnx_cbp_cuda PRIVATE --compress-mode=size)
endif()
target_compile_features(onnx_cbp_cuda PRIVATE cuda_std_17)
# As on the processor: where there is a fused multiply-add, the source says so.
target_compile_options(onnx_cbp_cuda PRIVATE -fmad=false -Xcompiler=-Wall,-Wextra,-Wno-psabi
                                             $<$<BOOL:${ONNX_CBP_WERROR}>:-Werror=all-warnings -Xcompiler=-Werror>)
set_target_properties(
  onnx_cbp_cuda
  PROPERTIES CUDA_EXTENSIONS OFF
             CUDA_RUNTIME_LIBRARY Static
             CUDA_VISIBILITY_PRESET hidden
             LINK_DEPENDS ${_cuda_exports})
target_link_options(onnx_cbp_cuda PRIVATE ${_cuda_link})
install(TARGETS onnx_cbp_cuda LIBRARY DESTINATION ${ONNX_CBP_CUDA_DESTINATION})

# What needs no ONNX Runtime: onnx_cbp_kernels are the objects of the kernels and of the plain C functions, onnx_cbp_settings
# is how all of the C++ is compiled.

set(ONNX_CBP_TARGETS "avx512f;avx2" CACHE STRING
    "Instruction sets that the hot functions are compiled for besides the compiler's own (GCC on x86-64); empty: none")

add_library(onnx_cbp_settings INTERFACE)
target_compile_features(onnx_cbp_settings INTERFACE cxx_std_17)
# No contraction to fused multiply-adds: results are the same bits whatever instructions the compiler may use.
# Nobody looks at floating-point traps; being able to trap keeps the 16-bit conversions from becoming vector code.
target_compile_options(onnx_cbp_settings INTERFACE $<$<NOT:$<CONFIG:Debug>>:-O3> -ffp-contract=off -fno-trapping-math
                                                   -Wall -Wextra -Wno-psabi $<$<BOOL:${ONNX_CBP_WERROR}>:-Werror>)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

set(_native ${CMAKE_CURRENT_LIST_DIR}/../custom_ops/native)
file(GLOB_RECURSE _sources CONFIGURE_DEPENDS ${_native}/kernels/*.cc)
add_library(onnx_cbp_kernels OBJECT ${_native}/c_api.cc ${_sources})
target_link_libraries(onnx_cbp_kernels PRIVATE onnx_cbp_settings)
if(NOT SKBUILD_PROJECT_VERSION)
  set(SKBUILD_PROJECT_VERSION unknown) # a build by hand: the number is in pyproject.toml
endif()
target_compile_definitions(onnx_cbp_kernels PRIVATE ONNX_CBP_VERSION="${SKBUILD_PROJECT_VERSION}")
if(ONNX_CBP_TARGETS)
  list(TRANSFORM ONNX_CBP_TARGETS REPLACE "(.+)" "\"\\1\"" OUTPUT_VARIABLE _targets)
  list(JOIN _targets "," _targets)
  target_compile_definitions(onnx_cbp_kernels PRIVATE "ONNX_CBP_TARGETS=${_targets}")
endif()

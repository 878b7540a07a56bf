# What needs no ONNX Runtime: how all of the C++ is compiled (onnx_cbp_settings), and the kernels, collectives and plain C
# functions as objects (ONNX_CBP_OBJECTS), compiled where something is made of them.

add_library(onnx_cbp_settings INTERFACE)
target_compile_features(onnx_cbp_settings INTERFACE cxx_std_17)
# No contraction to fused multiply-adds: where there is one, the source says so.
# Not -fno-trapping-math, though nobody looks at traps: with it, GCC 12 takes (double)(float)x for x where it makes vectors
# of neighbouring values.
target_compile_options(onnx_cbp_settings INTERFACE $<$<NOT:$<CONFIG:Debug>>:-O3> -ffp-contract=off -Wall
                                                   -Wextra -Wno-psabi $<$<BOOL:${ONNX_CBP_WERROR}>:-Werror>)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

set(_native ${CMAKE_CURRENT_LIST_DIR}/../custom_ops/native)
file(GLOB_RECURSE _sources CONFIGURE_DEPENDS ${_native}/kernels/*.cc ${_native}/collectives/*.cc)
set(_loops ${_sources})
list(FILTER _loops INCLUDE REGEX "/kernels/loops/")
list(REMOVE_ITEM _sources ${_loops})

add_library(onnx_cbp_common OBJECT EXCLUDE_FROM_ALL ${_native}/c_api.cc ${_sources})
target_link_libraries(onnx_cbp_common PRIVATE onnx_cbp_settings)
if(NOT SKBUILD_PROJECT_VERSION)
  set(SKBUILD_PROJECT_VERSION unknown) # a build by hand: the number is in pyproject.toml
endif()
target_compile_definitions(onnx_cbp_common PRIVATE ONNX_CBP_VERSION="${SKBUILD_PROJECT_VERSION}")
set(ONNX_CBP_OBJECTS $<TARGET_OBJECTS:onnx_cbp_common>)

# The loops once for each target, see custom_ops/native/kernels/processors/targets.h.
set(_targets baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  list(APPEND _targets avx2 avx512)
endif()
set(_options_avx2 -march=x86-64-v3)
# GCC 12 takes the intrinsics' own undefined values for mistakes.
set(_options_avx512 -march=x86-64-v4 $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
foreach(_target IN LISTS _targets)
  add_library(onnx_cbp_${_target} OBJECT EXCLUDE_FROM_ALL ${_loops})
  target_link_libraries(onnx_cbp_${_target} PRIVATE onnx_cbp_settings)
  target_compile_definitions(onnx_cbp_${_target} PRIVATE ONNX_CBP_TARGET=${_target})
  target_compile_options(onnx_cbp_${_target} PRIVATE ${_options_${_target}})
  list(APPEND ONNX_CBP_OBJECTS $<TARGET_OBJECTS:onnx_cbp_${_target}>)
endforeach()

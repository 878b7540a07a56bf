# Finds ONNX Runtime's public headers: ONNX_CBP_HEADERS is the folder with onnxruntime_cxx_api.h.
# First where ONNXRUNTIME_INCLUDE_DIR says, then in the system, then by getting them into the build folder.

set(ONNXRUNTIME_INCLUDE_DIR "" CACHE PATH "Folder with onnxruntime_cxx_api.h")
set(_suffixes onnxruntime onnxruntime/core/session core/session)

# The environment is asked every time: a cached answer would outlive the folder that it names.
set(_folder "${ONNXRUNTIME_INCLUDE_DIR}")
if(NOT _folder)
  set(_folder "$ENV{ONNXRUNTIME_INCLUDE_DIR}")
endif()

unset(ONNX_CBP_HEADERS CACHE)
if(_folder)
  find_path(ONNX_CBP_HEADERS onnxruntime_cxx_api.h PATHS "${_folder}" PATH_SUFFIXES ${_suffixes} NO_DEFAULT_PATH)
  if(NOT ONNX_CBP_HEADERS)
    # The space in front keeps CMake from breaking the line.
    message(FATAL_ERROR " ONNXRUNTIME_INCLUDE_DIR is '${_folder}', which has no onnxruntime_cxx_api.h: name a folder that has it, or unset the variable")
  endif()
else()
  find_path(ONNX_CBP_HEADERS onnxruntime_cxx_api.h PATH_SUFFIXES ${_suffixes})
endif()

if(NOT ONNX_CBP_HEADERS)
  set(_fetched "${CMAKE_CURRENT_BINARY_DIR}/onnxruntime-headers")
  if(NOT EXISTS "${_fetched}/onnxruntime_cxx_api.h")
    message(STATUS "Getting ONNX Runtime's headers")
    execute_process(COMMAND sh "${CMAKE_CURRENT_LIST_DIR}/get_onnxruntime_headers.sh" "${_fetched}"
                    RESULT_VARIABLE _result)
    if(NOT _result EQUAL 0)
      message(FATAL_ERROR " ONNX Runtime's headers are missing and could not be fetched: set ONNXRUNTIME_INCLUDE_DIR to a folder with onnxruntime_cxx_api.h, or install Debian's libonnxruntime-dev (trixie or newer), or install the pure-Python package with: pip install . --config-settings=cmake.define.ONNX_CBP_NATIVE=OFF")
    endif()
  endif()
  set(ONNX_CBP_HEADERS "${_fetched}" CACHE PATH "" FORCE)
endif()
message(STATUS "ONNX Runtime headers: ${ONNX_CBP_HEADERS}")

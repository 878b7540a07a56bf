# Finds ONNX Runtime's public headers: ONNX_CBP_HEADERS is the folder with onnxruntime_cxx_api.h.
# First where ONNXRUNTIME_INCLUDE_DIR says, then in the system, then by getting them into the build folder.

set(ONNXRUNTIME_INCLUDE_DIR "$ENV{ONNXRUNTIME_INCLUDE_DIR}" CACHE PATH "Folder with onnxruntime_cxx_api.h")
set(_suffixes onnxruntime onnxruntime/core/session core/session)

if(ONNXRUNTIME_INCLUDE_DIR)
  find_path(_given onnxruntime_cxx_api.h PATHS "${ONNXRUNTIME_INCLUDE_DIR}" PATH_SUFFIXES ${_suffixes}
            NO_DEFAULT_PATH NO_CACHE)
  if(NOT _given)
    message(FATAL_ERROR "ONNXRUNTIME_INCLUDE_DIR is '${ONNXRUNTIME_INCLUDE_DIR}', which has no onnxruntime_cxx_api.h")
  endif()
  set(ONNX_CBP_HEADERS "${_given}")
else()
  find_path(_system onnxruntime_cxx_api.h PATH_SUFFIXES ${_suffixes} NO_CACHE)
  set(ONNX_CBP_HEADERS "${_system}")
endif()

if(NOT ONNX_CBP_HEADERS)
  set(_fetched "${CMAKE_CURRENT_BINARY_DIR}/onnxruntime-headers")
  if(NOT EXISTS "${_fetched}/onnxruntime_cxx_api.h")
    execute_process(COMMAND sh "${CMAKE_CURRENT_LIST_DIR}/get_onnxruntime_headers.sh" "${_fetched}"
                    RESULT_VARIABLE _result)
    if(NOT _result EQUAL 0)
      message(FATAL_ERROR
              "ONNX Runtime's headers were not found and could not be fetched: set ONNXRUNTIME_INCLUDE_DIR to a folder "
              "with onnxruntime_cxx_api.h, or build the pure-Python package with -C cmake.define.ONNX_CBP_NATIVE=OFF")
    endif()
  endif()
  set(ONNX_CBP_HEADERS "${_fetched}")
endif()
message(STATUS "ONNX Runtime headers: ${ONNX_CBP_HEADERS}")

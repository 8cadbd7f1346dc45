# Finds TensorRT or TensorRT for RTX, and CUDA's runtime, by TENSORRT_ROOT, CUDAToolkit_ROOT (either
# as a variable or in the environment) and CMAKE_PREFIX_PATH: unpacked archives, distribution
# packages, or the wheels of CUDA. Defines the target TensorRT::TensorRT, TensorRT_VERSION, and
# TensorRT_BACKEND, which is what engines call it; TensorRT_LACKS says what wasn't found.
#
# One libwanrt has one of the two: both libraries have the same symbols. With WANRT_FAKE_TENSORRT
# the headers are enough, and the target is the caller's to define.
set(_roots ${TENSORRT_ROOT} $ENV{TENSORRT_ROOT})
set(_cuda ${CUDAToolkit_ROOT} $ENV{CUDAToolkit_ROOT} $ENV{CUDA_HOME} ${_roots} /usr/local/cuda)
find_path(TensorRT_INCLUDE_DIR NvInfer.h HINTS ${_roots}
  PATH_SUFFIXES include include/x86_64-linux-gnu)
find_path(TensorRT_CUDA_INCLUDE_DIR cuda_runtime_api.h HINTS ${_cuda}
  PATH_SUFFIXES include targets/x86_64-linux/include nvidia/cu13/include)
find_library(TensorRT_CUDA_LIBRARY NAMES cudart libcudart.so.13 libcudart.so.12 HINTS ${_cuda}
  PATH_SUFFIXES lib64 lib targets/x86_64-linux/lib nvidia/cu13/lib)

set(TensorRT_BACKEND tensorrt)
set(_names nvinfer)
if(TensorRT_INCLUDE_DIR)
  file(STRINGS "${TensorRT_INCLUDE_DIR}/NvInferVersion.h" _lines
    REGEX "#define TRT_(MAJOR|MINOR|PATCH|BUILD)_(ENTERPRISE|RTX) [0-9]+")
  if("${_lines}" MATCHES "_RTX")
    set(TensorRT_BACKEND tensorrt-rtx)
    set(_names tensorrt_rtx)
  endif()
  string(REGEX MATCHALL " [0-9]+" TensorRT_VERSION "${_lines}")
  string(REPLACE " " "" TensorRT_VERSION "${TensorRT_VERSION}")
  string(REPLACE ";" "." TensorRT_VERSION "${TensorRT_VERSION}")
endif()
find_library(TensorRT_LIBRARY NAMES ${_names} HINTS ${_roots} PATH_SUFFIXES lib64 lib)
mark_as_advanced(TensorRT_INCLUDE_DIR TensorRT_LIBRARY TensorRT_CUDA_INCLUDE_DIR
  TensorRT_CUDA_LIBRARY)

set(_needed TensorRT_INCLUDE_DIR TensorRT_CUDA_INCLUDE_DIR)
if(NOT WANRT_FAKE_TENSORRT)
  list(APPEND _needed TensorRT_LIBRARY TensorRT_CUDA_LIBRARY)
endif()
set(TensorRT_LACKS "")
if(NOT TensorRT_INCLUDE_DIR)
  set(TensorRT_LACKS "no NvInfer.h, set TENSORRT_ROOT")
elseif(NOT TensorRT_CUDA_INCLUDE_DIR)
  set(TensorRT_LACKS "no cuda_runtime_api.h, set CUDAToolkit_ROOT")
elseif(NOT TensorRT_LIBRARY)
  set(TensorRT_LACKS "no lib${_names}.so, set TENSORRT_ROOT")
elseif(NOT TensorRT_CUDA_LIBRARY)
  set(TensorRT_LACKS "no libcudart.so, set CUDAToolkit_ROOT")
else()
  set(TensorRT_LACKS "by WANRT_TENSORRT")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT
  REQUIRED_VARS ${_needed} VERSION_VAR TensorRT_VERSION REASON_FAILURE_MESSAGE "${TensorRT_LACKS}")

if(TensorRT_FOUND AND NOT WANRT_FAKE_TENSORRT AND NOT TARGET TensorRT::TensorRT)
  add_library(TensorRT::TensorRT UNKNOWN IMPORTED)
  set_target_properties(TensorRT::TensorRT PROPERTIES
    IMPORTED_LOCATION "${TensorRT_LIBRARY}"
    INTERFACE_LINK_LIBRARIES "${TensorRT_CUDA_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${TensorRT_INCLUDE_DIR};${TensorRT_CUDA_INCLUDE_DIR}")
endif()

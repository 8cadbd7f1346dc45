#include "backend.h"
#include "error.h"

#ifdef WANRT_HAVE_ONNXRUNTIME
#include "onnxruntime/onnxruntime.h"
#endif
#ifdef WANRT_HAVE_TENSORRT
#include "tensorrt/tensorrt.h"
#endif

namespace wanrt::impl {

std::unique_ptr<Backend> open_backend(const Folder& folder, const Graph& graph,
                                      const Options& options) {
  static_cast<void>(graph);
  static_cast<void>(options);
#ifdef WANRT_HAVE_ONNXRUNTIME
  if (folder.manifest.backend == "onnxruntime") {
    return open_onnxruntime(folder, graph, options);
  }
#endif
#ifdef WANRT_HAVE_TENSORRT
  if (folder.manifest.backend == WANRT_HAVE_TENSORRT) {
    return open_tensorrt(folder, options);
  }
#endif
  throw Error(WANRT_UNSUPPORTED,
              folder.path + " needs the backend " + folder.manifest.backend +
                  ", which this libwanrt was built without",
              "build it with -DCMAKE_PREFIX_PATH naming that library's folder");
}

const char* list_backends() {
#if defined(WANRT_HAVE_ONNXRUNTIME) && defined(WANRT_HAVE_TENSORRT)
  return "onnxruntime " WANRT_HAVE_TENSORRT;
#elif defined(WANRT_HAVE_ONNXRUNTIME)
  return "onnxruntime";
#elif defined(WANRT_HAVE_TENSORRT)
  return WANRT_HAVE_TENSORRT;
#else
  return "";
#endif
}

}  // namespace wanrt::impl

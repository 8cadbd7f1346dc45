#include "backend.h"
#include "error.h"

#ifdef WANRT_HAVE_ONNXRUNTIME
#include "onnxruntime.h"
#endif

namespace wanrt::impl {

std::unique_ptr<Backend> open_backend(const Folder& folder, const Options& options) {
#ifdef WANRT_HAVE_ONNXRUNTIME
  if (folder.manifest.backend == "onnxruntime") {
    return open_onnxruntime(folder, options);
  }
#else
  static_cast<void>(options);
#endif
  throw Error(WANRT_UNSUPPORTED,
              folder.path + " needs the backend " + folder.manifest.backend +
                  ", which this libwanrt was built without",
              "build it with -DCMAKE_PREFIX_PATH naming that library's folder");
}

const char* list_backends() {
#ifdef WANRT_HAVE_ONNXRUNTIME
  return "onnxruntime";
#else
  return "";
#endif
}

}  // namespace wanrt::impl

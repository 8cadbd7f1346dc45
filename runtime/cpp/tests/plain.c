#include <stdio.h>
#include <string.h>
#include <wanrt/wanrt.h>

int main(void) {
  wanrt_error error;
  wanrt_engine* engine = NULL;
  if (wanrt_abi_version() != WANRT_ABI_VERSION) {
    return 1;
  }
  if (wanrt_open("/nonexistent", NULL, &engine, &error) != WANRT_MANIFEST_ERROR) {
    return 1;
  }
  printf("%s: %s\n", wanrt_version(), error.message);
  wanrt_close(engine, NULL);
  return strstr(error.message, "is not an engine folder") == NULL;
}

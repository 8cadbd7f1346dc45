/* libwanrt: run the engine folders that wanexport builds inside a C or C++ host. C++ hosts have it
 * easier with wanrt.hpp. An engine in, its first output out:
 *
 *   wanrt_error error;
 *   wanrt_engine *engine = NULL;
 *   if (wanrt_open("engines/NAME", NULL, &engine, &error) != WANRT_OK) {
 *     fprintf(stderr, "error: %s\nhint: %s\n", error.message, error.hint);
 *     return 1;
 *   }
 *   const wanrt_manifest *manifest = wanrt_engine_manifest(engine);
 *   wanrt_info info;
 *   wanrt_manifest_info(manifest, &info, &error);
 *   wanrt_tensor inputs[8], sample;
 *   for (size_t i = 0; i < info.inputs; ++i) {  // at most 8 of Wan; all calls can fail
 *     wanrt_manifest_tensor(manifest, NULL, WANRT_INPUT, i, &inputs[i], &error);
 *     inputs[i].data = my_memory(inputs[i].name, inputs[i].bytes);
 *   }
 *   wanrt_bind(engine, inputs, info.inputs, NULL, 0, &error);
 *   for (int step = 0; step < steps; ++step) {
 *     wanrt_forward(engine, &error);
 *     wanrt_output(engine, 0, &sample, &error);  // sample.data, sample.shape
 *     my_sampler_step(&sample);                  // writes the next latents into my_memory
 *   }
 *   wanrt_close(engine, &error);
 *
 * Rules for every function
 * - A function that can fail returns a status and fills `error` (the caller's, may be NULL): what
 *   is wrong and where, and what to do about it. After a failure nothing has changed unless the
 *   function says otherwise. No exception leaves the library, and nothing but ONNX Runtime's log of
 *   its own errors goes to stderr.
 * - Strings are UTF-8 and end with NUL. Paths are the system's bytes.
 * - `const char *` members and pointers returned are borrowed: they live as long as the handle that
 *   gave them, and are never freed by the caller.
 * - There is no global state. Different handles may be used by different threads at once. One
 * engine takes one call at a time: what another thread calls meanwhile, wanrt_close too, is refused
 * with WANRT_BUSY and changes nothing. Manifests, contexts and tensors may be read by any number of
 * threads, but not while one frees them; nor may any call begin after wanrt_close succeeded.
 * - Arguments are looked at before anything is done. A null pointer, an empty path or name, a value
 *   that no enumeration has, and a number out of its range are refused with WANRT_USAGE_ERROR.
 * - Structures change with WANRT_ABI_VERSION alone.
 */
#ifndef WANRT_WANRT_H
#define WANRT_WANRT_H

#include <stddef.h>
#include <stdint.h>

#define WANRT_API __attribute__((visibility("default")))

#define WANRT_ABI_VERSION 5
#define WANRT_MAX_RANK 8

/* In C++ an enumeration of int, so that any value that a C host writes is one to be refused. */
#ifdef __cplusplus
#define WANRT_ENUM(name) enum name : int
extern "C" {
#else
#define WANRT_ENUM(name) \
  typedef int name;      \
  enum
#endif

WANRT_ENUM(wanrt_status){
    WANRT_OK = 0,
    WANRT_MANIFEST_ERROR = 1, /* engine.json or a file it names isn't right */
    WANRT_ENGINE_ERROR = 2,   /* can't be loaded or run, or was fed something it can't take */
    WANRT_UNSUPPORTED = 3,    /* this machine or this build of the library lacks what it needs */
    WANRT_ADAPTER_ERROR = 4,  /* not a canonical adapter, or not one for this engine */
    WANRT_USAGE_ERROR = 5,    /* the host's mistake: a null pointer, an index out of range */
    WANRT_OUT_OF_MEMORY = 6,
    WANRT_INTERNAL_ERROR = 7, /* a bug of the library; please report its message */
    WANRT_BUSY = 8,           /* another thread is in a call of this engine */
    WANRT_CANCELLED = 9       /* the caller's wanrt_progress gave up */
};

/* Why a call failed, each at most one line; longer text is cut off. Empty after a success. */
typedef struct wanrt_error {
  char message[1024];
  char hint[512]; /* what to do about it; empty if there is nothing to say */
} wanrt_error;

WANRT_ENUM(wanrt_dtype){WANRT_OTHER = 0, /* of a file's tensor: none that an engine takes */
                        WANRT_FP32 = 1, WANRT_FP16 = 10, WANRT_BF16 = 16};

WANRT_ENUM(wanrt_memory){
    WANRT_HOST = 0,  /* plain memory; a GPU engine copies from and to it at each forward */
    WANRT_DEVICE = 1 /* memory of the engine's own device, if that is a GPU */
};

WANRT_ENUM(wanrt_device){WANRT_CPU = 0, WANRT_CUDA = 1};

WANRT_ENUM(wanrt_kind){
    WANRT_INPUT = 0,         /* an input that the caller binds */
    WANRT_OUTPUT = 1,        /* an output */
    WANRT_ADAPTER_INPUT = 2, /* an input that wanrt_swap feeds */
    WANRT_CONTEXT_INPUT = 3  /* one of a split engine's WANRT_INPUTs: wanrt_prepare takes it */
};

/* A tensor: described by a manifest, held by a file, or bound to an engine. */
typedef struct wanrt_tensor {
  const char* name;
  wanrt_dtype dtype;
  wanrt_memory memory;
  size_t rank;
  int64_t shape[WANRT_MAX_RANK]; /* -1: a size that only the inputs' shapes decide */
  void* data;                    /* row-major, contiguous, at a multiple of a value's bytes; NULL
                                    in a description */
  size_t bytes;                  /* of data; 0 where the shape isn't known */
  double low, high;              /* where values lie; low == high: unit normal (mean 0) */
} wanrt_tensor;

/* What an engine is; engines/README.md lists the fields. A rank of 0 means that there is none. */
typedef struct wanrt_info {
  const char *name, *model, *mode, *dtype, *backend;
  int64_t rank, max_rank;
  int random_weights, full_finetune;
  uint64_t weight_bytes;
  size_t workloads, inputs, outputs, adapter_inputs;
  size_t context_inputs; /* 0: one graph, no contexts */
} wanrt_info;

/* A named set of shapes; tokens per second is batch x tokens / seconds of one forward. */
typedef struct wanrt_workload {
  const char* name;
  int64_t width, height, frames, batch, tokens;
} wanrt_workload;

/* Told by wanrt_open, in the thread that called it, some ten times a second while weights are
 * loaded: about how many of their bytes are in memory (by how the process grows), out of how many.
 * The last call has done == total. 0 goes on; anything else gives up: wanrt_open then ends with
 * WANRT_CANCELLED as soon as the backend has ended what it is at, calls nothing any more, and
 * leaves nothing behind. May not throw. */
typedef int (*wanrt_progress)(void* context, uint64_t done, uint64_t total);

/* How to open an engine. All zeros is the default of everything. */
typedef struct wanrt_options {
  wanrt_device device;
  int device_id;
  int threads;          /* of the engine's own pool, at most 1024; 0: one per core that the process
                           may use */
  int mapped;           /* 1: leave weights in the files' pages: opens at once, a CPU runs slower */
  const char* workload; /* take this workload's shapes only; NULL: any that the engine takes */
  void* stream;         /* a cudaStream_t that forwards are put on; NULL: the engine's own */
  int no_graph;         /* 1: TensorRT puts forwards on the stream without a CUDA graph */
  wanrt_progress progress; /* called while loading; NULL: never */
  void* progress_context;  /* passed to it */
} wanrt_options;

/* A canonical adapter's file, and the factor on all that it changes. */
typedef struct wanrt_adapter {
  const char* path;
  float strength;
} wanrt_adapter;

typedef struct wanrt_manifest wanrt_manifest;
typedef struct wanrt_engine wanrt_engine;
typedef struct wanrt_context wanrt_context;
typedef struct wanrt_tensors wanrt_tensors;

/* The library's WANRT_ABI_VERSION; a host compares it with the header's. */
WANRT_API uint32_t wanrt_abi_version(void);

/* The library's release, such as "0.1.0". Static. */
WANRT_API const char* wanrt_version(void);

/* The backends compiled into this library, separated by spaces. Static; may be empty. */
WANRT_API const char* wanrt_backends(void);

/* Read and check a folder's engine.json, sizes and times of the files it names, and the headers of
 * its weights, without reading weights or needing a backend. The caller frees *manifest. */
WANRT_API wanrt_status wanrt_manifest_read(const char* folder, wanrt_manifest** manifest,
                                           wanrt_error* error);

/* Free a manifest of wanrt_manifest_read. NULL is allowed. */
WANRT_API void wanrt_manifest_free(wanrt_manifest* manifest);

/* Tell what the engine is. */
WANRT_API wanrt_status wanrt_manifest_info(const wanrt_manifest* manifest, wanrt_info* info,
                                           wanrt_error* error);

/* Tell a workload, by its index below info.workloads, in the manifest's order. */
WANRT_API wanrt_status wanrt_manifest_workload(const wanrt_manifest* manifest, size_t index,
                                               wanrt_workload* workload, wanrt_error* error);

/* Describe an input or output, by its index in the graph's order among those of its kind, with the
 * shape that it has in a workload (NULL: the manifest's first). */
WANRT_API wanrt_status wanrt_manifest_tensor(const wanrt_manifest* manifest, const char* workload,
                                             wanrt_kind kind, size_t index, wanrt_tensor* tensor,
                                             wanrt_error* error);

/* The text of engine.json, for whatever the functions above don't tell. NULL for NULL. */
WANRT_API const char* wanrt_manifest_json(const wanrt_manifest* manifest);

/* Check and load an engine folder, and hash its graphs and constants; options NULL is the default.
 * The caller closes *engine; folder and options needn't outlive the call, a stream must outlive the
 * engine. The folder's files must stay as they are while the engine is open: weights that are
 * truncated meanwhile kill the process (SIGBUS), written over they may give other outputs without a
 * word. A plan from a stranger isn't safe to load. */
WANRT_API wanrt_status wanrt_open(const char* folder, const wanrt_options* options,
                                  wanrt_engine** engine, wanrt_error* error);

/* Free an engine, and the outputs that it owns. NULL is allowed. An engine in use (WANRT_BUSY)
 * stays what it is. With a stream of the caller's, it must have done what forwards put on it. */
WANRT_API wanrt_status wanrt_close(wanrt_engine* engine, wanrt_error* error);

/* The engine's manifest; it lives as long as the engine. NULL for NULL. */
WANRT_API const wanrt_manifest* wanrt_engine_manifest(const wanrt_engine* engine);

/* Bind all data inputs at once, in any order, and any of the outputs. The memory stays the
 * caller's and must live until the next bind or close; forwards read inputs and write outputs in
 * place, so that the host may change an input's values between forwards without binding again.
 * An output that isn't given gets host memory of the engine's. Inputs may share memory with each
 * other; an output may not, with an input or another output, nor may the engine's own memory be
 * given back to it: copy an output that is to be an input. If the backend itself fails, nothing is
 * bound afterwards; any other failure leaves what was bound before. */
WANRT_API wanrt_status wanrt_bind(wanrt_engine* engine, const wanrt_tensor* inputs,
                                  size_t input_count, const wanrt_tensor* outputs,
                                  size_t output_count, wanrt_error* error);

/* Compute what the prompt and the image alone decide, for any number of forwards of a split engine
 * (wanexport build --split). The inputs are those of WANRT_CONTEXT_INPUT, all of them, and are read
 * in this call alone. The context graph is loaded when it is first needed; on a GPU its weights are
 * freed afterwards. What is bound stays. A context lives until wanrt_context_free, be the engine
 * closed or not; it can be bound any number of times, to this engine, until wanrt_swap or
 * wanrt_set_strengths changes what a layer of the context graph computes: then it is stale, and a
 * bind or forward with it is refused. Adapters of other layers leave it alone, as does one of
 * strength 0. A schedule of strengths takes a context per distinct strength. */
WANRT_API wanrt_status wanrt_prepare(wanrt_engine* engine, const wanrt_tensor* inputs,
                                     size_t input_count, wanrt_context** context,
                                     wanrt_error* error);

/* As wanrt_bind, with a context in the place of what it was made of: the inputs are the others. To
 * alternate between two contexts, as guidance does, bind one after the other.
 *
 * wanrt_bind itself takes all inputs of a split engine and prepares first: it reads those of
 * WANRT_CONTEXT_INPUT there and then, and once more in the first forward after a change of adapters
 * or strengths that makes a context stale; other forwards don't. */
WANRT_API wanrt_status wanrt_bind_context(wanrt_engine* engine, const wanrt_context* context,
                                          const wanrt_tensor* inputs, size_t input_count,
                                          const wanrt_tensor* outputs, size_t output_count,
                                          wanrt_error* error);

/* Tell the bytes that a context takes, on the engine's device, and the seconds that preparing it
 * took, with loading the context graph where that was due. */
WANRT_API wanrt_status wanrt_context_info(const wanrt_context* context, uint64_t* bytes,
                                          double* seconds, wanrt_error* error);

/* Free a context. NULL is allowed. What an engine has bound stays until its next bind or close. */
WANRT_API void wanrt_context_free(wanrt_context* context);

/* Tell an output by its index: the caller's memory, or the engine's, which holds the last forward's
 * values until the next forward, bind or close. */
WANRT_API wanrt_status wanrt_output(wanrt_engine* engine, size_t index, wanrt_tensor* output,
                                    wanrt_error* error);

/* Run one forward on what is bound. It returns when the outputs are complete; with a stream of the
 * caller's, when it has been put on the stream. */
WANRT_API wanrt_status wanrt_forward(wanrt_engine* engine, wanrt_error* error);

/* Run one forward until its outputs are complete and tell how long the backend took, in seconds: of
 * the host's monotonic clock; with TensorRT of CUDA events around the forward on its stream,
 * without copies of host memory. What this function itself adds isn't in it. */
WANRT_API wanrt_status wanrt_time_forward(wanrt_engine* engine, double* seconds,
                                          wanrt_error* error);

/* Load canonical adapters (wanexport adapter) into an engine with adapter inputs, between two
 * forwards: side by side, as long as their ranks add up to at most info.max_rank. None (0) goes
 * back: a swappable engine to the base, a merged one to the adapter that it was built with, bit by
 * bit. If one is refused, what was loaded stays, with its strengths. A file that this
 * engine hasn't read before (by device, inode, size and time) is refused if it has values that
 * aren't finite, or is the folder's and not the recorded one. With a stream of the caller's, it
 * must have done what forwards put on it. */
WANRT_API wanrt_status wanrt_swap(wanrt_engine* engine, const wanrt_adapter* adapters, size_t count,
                                  wanrt_error* error);

/* Change the strengths of the loaded adapters alone, one for each in the order of the last
 * wanrt_swap, between two forwards. A swappable engine's A, B and CUDA graph stay; a merged one
 * merges again. 0 is the base bit by bit. */
WANRT_API wanrt_status wanrt_set_strengths(wanrt_engine* engine, const float* strengths,
                                           size_t count, wanrt_error* error);

/* Read a safetensors file into memory: inputs, or expected outputs. The caller frees *tensors. */
WANRT_API wanrt_status wanrt_tensors_read(const char* path, wanrt_tensors** tensors,
                                          wanrt_error* error);

/* Tell a tensor by its index; past the last, `name` is NULL. The data lives as long as `tensors`,
 * begins at a multiple of 64 and may be written. */
WANRT_API wanrt_status wanrt_tensors_get(const wanrt_tensors* tensors, size_t index,
                                         wanrt_tensor* tensor, wanrt_error* error);

/* The metadata that a file's header has for a key; NULL if it has none, or for NULL. It lives as
 * long as `tensors`. */
WANRT_API const char* wanrt_tensors_metadata(const wanrt_tensors* tensors, const char* key);

/* Free tensors. NULL is allowed. */
WANRT_API void wanrt_tensors_free(wanrt_tensors* tensors);

#ifdef __cplusplus
}
#endif

#endif

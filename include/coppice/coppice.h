/* Coppice's C interface: the only binary promise of libcoppice. C99.
 *
 * Every function that can fail returns a coppice_status; coppice_last_error() then says in one sentence, for
 * the thread that asked, what was expected and what was found. Handles are opaque and freed by the function
 * that is named where they are made. Text is UTF-8. Different handles may be used from different threads; one
 * handle by one thread at a time.
 *
 * Options are "key=value" texts in the words of recipes (tools/recipes/KEYS.md; `coppice run --help-keys`),
 * so that a new key needs no new function. NULL and 0 stand for none. */
#ifndef COPPICE_COPPICE_H
#define COPPICE_COPPICE_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define COPPICE_API __attribute__((visibility("default")))
#else
#define COPPICE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum coppice_status {
  COPPICE_OK = 0,
  COPPICE_FAILURE = 1,   /* the machine failed: disk full, numbers gone to NaN */
  COPPICE_BAD_INPUT = 2, /* a file, recipe, option or argument is not what it must be */
  COPPICE_OUT_OF_MEMORY = 3,
  COPPICE_INTERRUPTED = 4 /* the progress function asked to stop; a checkpoint was saved */
} coppice_status;

/* "0.1.0". */
COPPICE_API const char* coppice_version(void);

/* What went wrong last on this thread, or "". Good until the thread's next call. */
COPPICE_API const char* coppice_last_error(void);

/* Frees text that a function gave. NULL is fine. */
COPPICE_API void coppice_free_text(char* text);

/* --- whole jobs
 * --------------------------------------------------------------------------------------------------- */

/* Where a job stands. Later versions append fields; `size` is sizeof(coppice_progress) of the library. */
typedef struct coppice_progress {
  size_t size;
  const char* stage; /* "train", "gradients", "retrain", ... */
  int64_t epoch;     /* 0-based, of `epochs` */
  int64_t epochs;
  int64_t batch; /* done of this epoch's `batches` */
  int64_t batches;
  double loss;     /* mean a target, nats, of this epoch so far; NaN outside of training */
  double sparsity; /* of the prunable weights where a gradual schedule cuts, else -1 */
  double units_per_second;
  double seconds_left; /* of the stage; NaN when not known */
} coppice_progress;

/* Called from the calling thread some times a second. Anything but 0 stops the job: it saves a checkpoint and
 * gives COPPICE_INTERRUPTED. */
typedef int (*coppice_progress_function)(const coppice_progress* progress, void* user);

/* Runs a recipe into the folder `run` (`coppice run`). `options` override its keys ("train.epochs=3",
 * "threads=2"). An existing run is refused unless `force`. `report_json` (or NULL) gets report.json's text:
 * coppice_free_text it. */
COPPICE_API coppice_status coppice_run_recipe(const char* recipe_file, const char* run,
                                              const char* const* options, size_t option_count, int force,
                                              coppice_progress_function progress, void* user,
                                              char** report_json);

/* Goes on with a run that was stopped (`coppice resume`). */
COPPICE_API coppice_status coppice_resume_run(const char* run, coppice_progress_function progress, void* user,
                                              char** report_json);

/* --- pruning
 * ------------------------------------------------------------------------------------------------------ */

/* Prunes a model's folder or a file of weights (safetensors, a shard index, npz) into `output` (`coppice
 * prune`); of a sharded checkpoint a folder of shards, unless it is named like a file. `gradients` is a file
 * of `coppice gradients`, or NULL where the criterion needs none. Options: the
 * keys of [prune] without their section ("criterion=magnitude", "sparsity=0.9", "include=.*weight_hh.*") and
 * seed, device, threads. `kept` (or NULL) gets how many of the prunable weights are left. */
COPPICE_API coppice_status coppice_prune_file(const char* weights, const char* gradients, const char* output,
                                              const char* const* options, size_t option_count, int force,
                                              uint64_t* kept);

/* One tensor of the caller's. Row-major, [out, in] for matrices, which is what "row" and "column" mean. */
typedef struct coppice_array {
  const char* name;     /* ties are cut in the byte order of names; include and exclude match them */
  const int64_t* shape; /* [rank] */
  size_t rank;
  float* weights;         /* cut in place: +0 where cut, every other value keeps its bits */
  const float* gradients; /* sum of the gradient over the data, or NULL where the criterion needs none */
  uint8_t* mask;          /* gets 1 where kept, 0 where cut, one byte an element; or NULL */
} coppice_array;

/* Prunes arrays in memory together, exactly as files are pruned. Options as above. On any failure weights and
 * masks are as they were. */
COPPICE_API coppice_status coppice_prune_arrays(const coppice_array* arrays, size_t array_count,
                                                const char* const* options, size_t option_count,
                                                uint64_t* kept);

/* --- inference
 * ---------------------------------------------------------------------------------------------------- */

/* A model that is stepped: `streams` sequences side by side, each with its own carried state. */
typedef struct coppice_session coppice_session;

/* Opens a model's folder. Options: "layout=csr" (or dense), "device=cpu", "threads=2". Free with
 * coppice_session_close. */
COPPICE_API coppice_status coppice_session_open(const char* model, int64_t streams,
                                                const char* const* options, size_t option_count,
                                                coppice_session** session);

/* 0 where a step's input is one id a stream; else the number of floats that it is. */
COPPICE_API int64_t coppice_session_inputs(const coppice_session* session);
/* Logits a stream. */
COPPICE_API int64_t coppice_session_outputs(const coppice_session* session);

/* One step of every stream: ids [streams] in, logits [streams, outputs] out, row-major. */
COPPICE_API coppice_status coppice_session_step_ids(coppice_session* session, const int32_t* ids,
                                                    float* logits);
/* One step of every stream: features [streams, inputs] in, logits [streams, outputs] out. */
COPPICE_API coppice_status coppice_session_step_features(coppice_session* session, const float* features,
                                                         float* logits);

/* All streams start anew. */
COPPICE_API coppice_status coppice_session_reset(coppice_session* session);
/* NULL is fine. */
COPPICE_API void coppice_session_close(coppice_session* session);

#ifdef __cplusplus
}
#endif

#endif /* COPPICE_COPPICE_H */

/* Coppice's C interface: the only binary promise of libcoppice. C99.
 *
 * Status: every function that can fail returns a coppice_status; coppice_last_error() then says in one
 * sentence, for the thread that asked, what was expected and what was found. After a failure the caller's
 * buffers are as they were and outputs on disk are absent or as they were, unless a function says otherwise.
 *
 * Handles are opaque, made by the function that names the one that frees them, and independent of each other:
 * different handles may be used from different threads at the same time, one handle by one thread at a time.
 * The library has no other state.
 *
 * Options are "key=value" texts, NULL and 0 for none, in the words of recipes and of the program
 * (tools/recipes/KEYS.md; `coppice run --help-keys`), so that a new key needs no new function. Those that
 * every function with options has: "device=cpu|cuda|cuda:1|auto" (default cpu for arrays and matrices, else
 * auto) and "threads=N" (0, the default: all cores).
 *
 * Memory: buffers belong to the caller and lie in the host's memory, whatever the device, but for tensors
 * that say otherwise (coppice_tensor.on_device). Text that a function gives is freed with coppice_free_text.
 * Text is UTF-8.
 *
 * Structs begin with `size`, the size that they had when the caller was compiled; later versions append
 * fields, and 0 in a field is its default. Functions keep their meaning as long as the number of the soname
 * (COPPICE_ABI) does. */
#ifndef COPPICE_COPPICE_H
#define COPPICE_COPPICE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* libcoppice.so.COPPICE_ABI is what a program that was compiled with this header loads. */
#define COPPICE_ABI 1

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
  COPPICE_INTERRUPTED = 4 /* the progress function asked to stop */
} coppice_status;

/* "0.1.0", of the library that is loaded. */
COPPICE_API const char* coppice_version(void);

/* What went wrong last on this thread, or "". Good until the thread's next call. */
COPPICE_API const char* coppice_last_error(void);

/* Frees text that a function gave. NULL is fine. */
COPPICE_API void coppice_free_text(char* text);

/* --- how work is told and stopped --------------------------------------------------------------------- */

/* Where a job stands. */
typedef struct coppice_progress {
  size_t size;
  const char* stage; /* "train", "gradients", "retrain", ...; of pruning "select", "cut" */
  int64_t epoch;     /* 0-based, of `epochs` */
  int64_t epochs;
  int64_t batch; /* done of this epoch's `batches`; of pruning, in 2^20 weights */
  int64_t batches;
  double loss;     /* mean a target, nats, of this epoch so far; NaN outside of training */
  double sparsity; /* of the prunable weights where a gradual schedule cuts, else -1 */
  double units_per_second;
  double seconds_left; /* of the stage; NaN when not known */
} coppice_progress;

/* Called from the calling thread some times a second. Anything but 0 stops the job with COPPICE_INTERRUPTED:
 * a run saves a checkpoint first, everything else leaves nothing behind. */
typedef int (*coppice_progress_function)(const coppice_progress* progress, void* user);

/* Told from the calling thread, in one line without a line end, what is worth knowing and no error: why no
 * GPU was taken, which stage begins, where a checkpoint lies. */
typedef void (*coppice_log_function)(const char* message, void* user);

typedef struct coppice_control {
  size_t size;                        /* sizeof(coppice_control) */
  coppice_progress_function progress; /* or NULL */
  coppice_log_function log;           /* or NULL */
  void* user;                         /* handed to both */
} coppice_control;

/* --- runs --------------------------------------------------------------------------------------------- */

/* Runs a recipe into the folder `run` (`coppice run`). `options` override its keys ("train.epochs=3",
 * "threads=2"). An existing run is refused unless `force`. `control` may be NULL. `report_json` (or NULL)
 * gets report.json's text. */
COPPICE_API coppice_status coppice_run_recipe(const char* recipe_file, const char* run,
                                              const char* const* options, size_t option_count, int force,
                                              const coppice_control* control, char** report_json);

/* Goes on with a run that was stopped (`coppice resume`). */
COPPICE_API coppice_status coppice_resume_run(const char* run, const coppice_control* control,
                                              char** report_json);

/* A model on data. */
typedef struct coppice_metrics {
  size_t size;       /* sizeof(coppice_metrics), set by the caller */
  double loss;       /* mean a target, nats */
  double perplexity; /* e^loss */
  double bits_per_char;
  double accuracy;
  int64_t targets; /* that count */
  double units_per_second;
  uint64_t weight_bytes; /* of the recurrent and dense matrices as they execute */
} coppice_metrics;

/* Measures a model's folder on a file of text, .npz or .ts (`coppice eval`). Options: "sparse=true" (run its
 * matrices in the layout that serves the device best), and with it "layout=csr" (or another) and "values=bf16"
 * (as for a session); "batch_size=B", "steps=T". */
COPPICE_API coppice_status coppice_evaluate(const char* model, const char* data, const char* const* options,
                                            size_t option_count, const coppice_control* control,
                                            coppice_metrics* metrics);

/* --- pruning files ------------------------------------------------------------------------------------ */

/* Prunes a model's folder or a file of weights (safetensors, a shard index, npz), of any size, into `output`
 * (`coppice prune`): weights, masks and report.json; of a sharded checkpoint a folder of shards, unless
 * `output` is named like a file. Options are those of the program, without their dashes:
 *   the keys of [prune]: "criterion=taylor", "sparsity=0.9", "scope=gate", "include=.*weight_hh.*", ...;
 *   "gradients=FILE" (again for more: they are summed), "activations=FILE" (criterion wanda), "masks=FILE";
 *   "keep_diagonal=PATTERN", "gates=PATTERN=N" (again for more), "memory=256MiB",
 *   "sparse_encoding=true", "dry_run=true" (then `output` may be NULL), "seed=N".
 * `kept` (or NULL) gets how many of the prunable weights are left; `report_json` (or NULL) the report: of a
 * dry run the plan. Interrupted, it leaves nothing behind. */
COPPICE_API coppice_status coppice_prune_file(const char* weights, const char* output,
                                              const char* const* options, size_t option_count, int force,
                                              const coppice_control* control, uint64_t* kept,
                                              char** report_json);

/* Writes weights in the other form, every bit kept (`coppice convert`): `form` is "dense" or "sparse". */
COPPICE_API coppice_status coppice_convert_file(const char* input, const char* form, const char* output,
                                                int force);

/* --- looking into files ------------------------------------------------------------------------------- */

typedef enum coppice_dtype {
  COPPICE_F64 = 0,
  COPPICE_F32 = 1,
  COPPICE_F16 = 2, /* IEEE binary16 */
  COPPICE_BF16 = 3,
  COPPICE_I64 = 4,
  COPPICE_I32 = 5,
  COPPICE_I16 = 6,
  COPPICE_I8 = 7,
  COPPICE_U64 = 8,
  COPPICE_U32 = 9,
  COPPICE_U16 = 10,
  COPPICE_U8 = 11,
  COPPICE_BOOL = 12
} coppice_dtype;

/* A file of weights, or a folder that holds one: safetensors (shards and the sparse encoding too), npz, npy.
 * May be read by several threads at once. */
typedef struct coppice_weights coppice_weights;

/* One tensor of it. What pointers lead to lives as long as the handle. */
typedef struct coppice_tensor_info {
  size_t size; /* sizeof(coppice_tensor_info), set by the caller */
  const char* name;
  coppice_dtype dtype;
  size_t rank;
  const int64_t* shape; /* [rank] */
  int64_t elements;
  int64_t stored_bytes; /* on disk: fewer than the elements take when encoded or compressed */
} coppice_tensor_info;

/* Reads and checks the header, no weights. Free with coppice_weights_close. */
COPPICE_API coppice_status coppice_weights_open(const char* path, coppice_weights** weights);
/* How many tensors. 0 for NULL. */
COPPICE_API size_t coppice_weights_count(const coppice_weights* weights);
COPPICE_API coppice_status coppice_weights_tensor(const coppice_weights* weights, size_t index,
                                                  coppice_tensor_info* info);
/* The index of a name. */
COPPICE_API coppice_status coppice_weights_find(const coppice_weights* weights, const char* name,
                                                size_t* index);
/* Elements [begin, begin + count) in row-major order, as `dtype`: the tensor's own, bit for bit, or F32 or
 * F64. */
COPPICE_API coppice_status coppice_weights_read(const coppice_weights* weights, size_t index, int64_t begin,
                                                int64_t count, coppice_dtype dtype, void* elements);
/* How many elements are not zero (of either sign): reads the tensor. */
COPPICE_API coppice_status coppice_weights_nonzeros(const coppice_weights* weights, size_t index,
                                                    int64_t* nonzeros);
/* NULL is fine. */
COPPICE_API void coppice_weights_close(coppice_weights* weights);

/* All of the above in one text, with the sparsity of every tensor and gate (`coppice inspect --json`). */
COPPICE_API coppice_status coppice_inspect(const char* path, char** json);

/* --- pruning arrays ----------------------------------------------------------------------------------- */

/* Numbers in the caller's memory. */
typedef struct coppice_array {
  const void* data;       /* element [0, 0, ...]; NULL: there is none */
  coppice_dtype dtype;    /* F32, F64, F16 or BF16 */
  const int64_t* strides; /* [rank], in elements, negative ones too; NULL: row-major without gaps */
} coppice_array;

/* One tensor of the caller's, or one piece of it. Row-major, [out, in] for matrices, which is what "row" and
 * "column" mean. Scores are float32 (of F64 weights float64), one rounding per operation. Make it with
 * coppice_tensor_of, then set what else there is. */
typedef struct coppice_tensor {
  size_t size;
  const char* name; /* ties are cut in the byte order of names; include and exclude match them */
  size_t rank;
  const int64_t* shape; /* [rank], of what is held here */
  coppice_array weights;

  /* Statistics of the gradient, of the same shape, as the criterion needs: the sum of the gradient over the
   * data, of its absolute values, of its squares. Where only `gradients` is there it counts as the gradient
   * of one batch, and as |g| and g*g. */
  coppice_array gradients;
  coppice_array absolute;
  coppice_array squared;
  coppice_array activations; /* criterion wanda: the norm of each input, [in] */

  void* output;  /* cut weights, as `weights` lies (its strides too): +0 where cut, every other value keeps
                  * its bits. May be weights.data: in place. NULL: only masks. */
  uint8_t* mask; /* 1 where kept, 0 where cut, row-major, a byte an element; or NULL */
  const uint8_t* kept; /* likewise, of an earlier cut: what is 0 stays cut and counts as cut; or NULL */

  int64_t gates;          /* blocks of rows of equal height that are stacked; 0: 1 */
  const char* gate_names; /* a letter each, "ifgo"; NULL: by number */

  /* A piece: its elements, in row-major order, are the elements first, first + 1, ... of a tensor of this
   * shape. NULL: it is whole. Only coppice_selection takes pieces. */
  const int64_t* whole_shape; /* [whole_rank] */
  size_t whole_rank;
  int64_t first;

  /* 1: weights, statistics and output lie in the memory of the GPU that the option device names, and are
   * scored and cut there: F32 or F64 without gaps, statistics of the same type, each in the field that the
   * criterion reads; what the caller queued to write them is over before the call, and what the call queued
   * is over when it returns. mask and kept lie in the host's memory all the same. All tensors of a call, or
   * none. */
  int on_device;
} coppice_tensor;

/* A tensor without gaps that is cut in place, and nothing else said. */
static inline coppice_tensor coppice_tensor_of(const char* name, void* weights, coppice_dtype dtype,
                                               size_t rank, const int64_t* shape) {
  coppice_tensor tensor;
  memset(&tensor, 0, sizeof tensor);
  tensor.size = sizeof tensor;
  tensor.name = name;
  tensor.rank = rank;
  tensor.shape = shape;
  tensor.weights.data = weights;
  tensor.weights.dtype = dtype;
  tensor.output = weights;
  return tensor;
}

/* Prunes tensors in memory together: exactly round(sparsity * n) of their n weights go, those with the lowest
 * scores. Options: the keys of [prune], seed, keep_diagonal, device, threads. All that are given take part
 * but those that `exclude` names or `include` does not. Strided tensors pass through small buffers, nothing is
 * copied as a whole. `kept` (or NULL) gets how many of the prunable weights are left,
 * `report_json` (or NULL) {parameters, tensors, gates, groups with their thresholds}. */
COPPICE_API coppice_status coppice_prune_tensors(const coppice_tensor* tensors, size_t tensor_count,
                                                 const char* const* options, size_t option_count,
                                                 const coppice_control* control, uint64_t* kept,
                                                 char** report_json);

/* What would be cut, before any weight is read: {criterion, formula, scope, pattern, groups: [{name, units,
 * cut (null in percentile mode), tensors}]}. */
COPPICE_API coppice_status coppice_plan_tensors(const coppice_tensor* tensors, size_t tensor_count,
                                                const char* const* options, size_t option_count, char** json);

/* The scores of one tensor, row-major without gaps: float, of F64 weights double. Options: criterion, seed.
 */
COPPICE_API coppice_status coppice_score_tensor(const coppice_tensor* tensor, const char* const* options,
                                                size_t option_count, void* scores);

/* --- a selection over several processes --------------------------------------------------------------- */

/* Each process holds some tensors, or pieces of them. They count in rounds and send one another counts, not
 * weights; each ends with the masks, bit for bit, that coppice_prune_tensors would make of the union:
 *
 *   coppice_selection_create(options, n, &selection);
 *   coppice_selection_add(selection, &tensor);               for what this process holds
 *   while (!coppice_selection_done(selection)) {
 *     coppice_selection_count(selection);
 *     coppice_selection_counts(selection, buffer, capacity, &bytes);
 *     send them to every other process; for what comes from each of the others:
 *       coppice_selection_merge(selection, buffer, bytes);
 *     coppice_selection_refine(selection);
 *   }
 *   coppice_selection_apply(selection, &kept);
 *
 * Or one process merges, and sends the total, which the others take with coppice_selection_adopt. Counts are
 * plain bytes, 16 KB for each group after a first round of names and shapes; any way of sending will do (MPI,
 * pipes, files), between machines of the same version. Pattern element, scope global, tensor or gate. */
typedef struct coppice_selection coppice_selection;

/* Options as for coppice_prune_tensors; they must be the same in all processes. Free with
 * coppice_selection_free. */
COPPICE_API coppice_status coppice_selection_create(const char* const* options, size_t option_count,
                                                    coppice_selection** selection);
/* Before the first count. The struct is copied; what its pointers lead to must live as long as the handle. */
COPPICE_API coppice_status coppice_selection_add(coppice_selection* selection, const coppice_tensor* tensor);
/* 1 when the last round is over, else 0. */
COPPICE_API int coppice_selection_done(const coppice_selection* selection);
/* Counts what this process holds, once a round. When it fails, tell the other processes: they wait. */
COPPICE_API coppice_status coppice_selection_count(coppice_selection* selection);
/* What was counted and merged in this round. `bytes` gets their number; they are written when `capacity` is
 * enough, and when it is not and `buffer` is not NULL that is COPPICE_BAD_INPUT. */
COPPICE_API coppice_status coppice_selection_counts(const coppice_selection* selection, void* buffer,
                                                    size_t capacity, size_t* bytes);
/* Adds another process's counts of this round. */
COPPICE_API coppice_status coppice_selection_merge(coppice_selection* selection, const void* counts,
                                                   size_t bytes);
/* Takes a total of all processes, this one's counts included, in place of what was counted and merged. */
COPPICE_API coppice_status coppice_selection_adopt(coppice_selection* selection, const void* counts,
                                                   size_t bytes);
/* Ends the round. COPPICE_BAD_INPUT when counts are missing or were merged twice, or when the pieces overlap
 * or leave a hole. */
COPPICE_API coppice_status coppice_selection_refine(coppice_selection* selection);
/* Cuts what this process holds, once. `kept` (or NULL) gets how many of its prunable weights are left. */
COPPICE_API coppice_status coppice_selection_apply(coppice_selection* selection, uint64_t* kept);
/* Once done: {groups: [{name, units, cut (null in percentile mode), threshold, threshold_text}]}, over all
 * processes. */
COPPICE_API coppice_status coppice_selection_report(const coppice_selection* selection, char** json);
/* NULL is fine. */
COPPICE_API void coppice_selection_free(coppice_selection* selection);

/* --- sparse matrices ---------------------------------------------------------------------------------- */

/* A matrix W [rows, cols] in a layout that multiplies fast. */
typedef struct coppice_matrix coppice_matrix;

typedef struct coppice_matrix_info {
  size_t size; /* sizeof(coppice_matrix_info), set by the caller */
  int64_t rows;
  int64_t cols;
  int64_t nonzeros;   /* stored values: rows * cols when dense */
  int64_t bytes;      /* that a product reads, indices included */
  const char* layout; /* "dense", "csr", ...; lives as long as the handle */
} coppice_matrix_info;

/* From dense values, row-major, row r at values + r * stride (0: cols), which may go afterwards. What is 0 in
 * `mask` [rows * cols] (or NULL), and what is zero, is not stored. Options: "layout=csr" (any of
 * coppice_matrix_layouts; default auto: what serves the device best, where that takes less memory than
 * dense); "values=bf16" (rounded to bfloat16, half the bytes, sums in float32 as ever; on a processor; it has
 * no transposed product; default fp32). Free with coppice_matrix_free. */
COPPICE_API coppice_status coppice_matrix_create(int64_t rows, int64_t cols, const float* values,
                                                 int64_t stride, const uint8_t* mask,
                                                 const char* const* options, size_t option_count,
                                                 coppice_matrix** matrix);
/* The layouts of a device ("cpu"), separated by spaces. */
COPPICE_API coppice_status coppice_matrix_layouts(const char* device, char** layouts);
COPPICE_API coppice_status coppice_matrix_describe(const coppice_matrix* matrix, coppice_matrix_info* info);
/* y = x W^T (+ bias): x [n, cols], y [n, rows], row-major without gaps; bias [rows] or NULL. */
COPPICE_API coppice_status coppice_matrix_multiply(coppice_matrix* matrix, int64_t n, const float* x,
                                                   const float* bias, float* y);
/* x = y W: y [n, rows], x [n, cols]. */
COPPICE_API coppice_status coppice_matrix_multiply_transposed(coppice_matrix* matrix, int64_t n,
                                                              const float* y, float* x);
/* NULL is fine. */
COPPICE_API void coppice_matrix_free(coppice_matrix* matrix);

/* --- sessions ----------------------------------------------------------------------------------------- */

/* A model that is stepped: `streams` sequences side by side, each with its own carried state. A step
 * allocates nothing. */
typedef struct coppice_session coppice_session;

/* Opens a model's folder, dense or sparse. Options: "layout=csr" (any of coppice_matrix_layouts; default
 * auto: what serves the device best, of each matrix where that takes less memory than dense); "measured=true"
 * (auto goes by what `coppice bench` measured on this machine; the bits stay the same; default false: no file
 * but the model's is read); "values=bf16" (the matrices rounded to bfloat16, half the bytes, sums in float32 as
 * ever; results change by the rounding; on a processor; default fp32). Free with coppice_session_close. */
COPPICE_API coppice_status coppice_session_open(const char* model, int64_t streams,
                                                const char* const* options, size_t option_count,
                                                coppice_session** session);

/* 0 where a step's input is one id a stream; else the number of floats that it is. */
COPPICE_API int64_t coppice_session_inputs(const coppice_session* session);
/* Logits a stream. */
COPPICE_API int64_t coppice_session_outputs(const coppice_session* session);
COPPICE_API int64_t coppice_session_streams(const coppice_session* session);
/* Bytes of the matrices as they execute. */
COPPICE_API int64_t coppice_session_weight_bytes(const coppice_session* session);

/* Of a language model: the word or character of an id, which lives as long as the session, and the id of
 * one. Ids are 0 ... outputs - 1; what is not in the vocabulary is its unknown token, or COPPICE_BAD_INPUT
 * where it has none. */
COPPICE_API coppice_status coppice_session_token(const coppice_session* session, int32_t id,
                                                 const char** token);
COPPICE_API coppice_status coppice_session_id(const coppice_session* session, const char* token, int32_t* id);

/* One step of every stream: ids [streams] in, logits [streams, outputs] out, row-major. */
COPPICE_API coppice_status coppice_session_step_ids(coppice_session* session, const int32_t* ids,
                                                    float* logits);
/* One step of every stream: features [streams, inputs] in, logits [streams, outputs] out. */
COPPICE_API coppice_status coppice_session_step_features(coppice_session* session, const float* features,
                                                         float* logits);

/* All streams start anew, or one. */
COPPICE_API coppice_status coppice_session_reset(coppice_session* session);
COPPICE_API coppice_status coppice_session_reset_stream(coppice_session* session, int64_t stream);
/* NULL is fine. */
COPPICE_API void coppice_session_close(coppice_session* session);

#ifdef __cplusplus
}
#endif

#endif /* COPPICE_COPPICE_H */

/* Prunes a matrix whose rows are spread over processes. They count what they hold and send one another counts
 * through pipes; the masks are, bit for bit, those of one process that holds everything. With MPI the two
 * functions that send and receive become MPI_Send and MPI_Recv.
 *   cc prune_processes.c $(pkg-config --cflags --libs coppice) -o prune_processes
 *   ./prune_processes 4 */
#define _POSIX_C_SOURCE 200809L
#include <coppice/coppice.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROWS = 1031, COLS = 257, MOST = 64 };

static const char* const options[] = {"criterion=magnitude", "sparsity=0.8", "threads=1"};

static void fail(const char* what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static void check(coppice_status status) {
  if (status != COPPICE_OK) fail(coppice_last_error());
}

static void send_bytes(int pipe_end, const void* bytes, size_t size) {
  const char* at = bytes;
  while (size > 0) {
    const ssize_t n = write(pipe_end, at, size);
    if (n <= 0) fail("a process is gone");
    at += n;
    size -= (size_t)n;
  }
}

static void receive_bytes(int pipe_end, void* bytes, size_t size) {
  char* at = bytes;
  while (size > 0) {
    const ssize_t n = read(pipe_end, at, size);
    if (n <= 0) fail("a process is gone");
    at += n;
    size -= (size_t)n;
  }
}

/* Counts of a round: their number, then they. */
static void send_counts(int pipe_end, const coppice_selection* selection) {
  size_t size = 0;
  void* bytes;
  check(coppice_selection_counts(selection, NULL, 0, &size));
  bytes = malloc(size);
  if (bytes == NULL) fail("out of memory");
  check(coppice_selection_counts(selection, bytes, size, &size));
  send_bytes(pipe_end, &size, sizeof size);
  send_bytes(pipe_end, bytes, size);
  free(bytes);
}

typedef coppice_status (*take_function)(coppice_selection* selection, const void* counts, size_t bytes);

static void receive_counts(int pipe_end, coppice_selection* selection, take_function take) {
  size_t size = 0;
  void* bytes;
  receive_bytes(pipe_end, &size, sizeof size);
  bytes = malloc(size);
  if (bytes == NULL) fail("out of memory");
  receive_bytes(pipe_end, bytes, size);
  check(take(selection, bytes, size));
  free(bytes);
}

/* Few values, so that ties abound: they must go by their place in the whole. */
static void make_weights(float* weights) {
  unsigned state = 1;
  for (size_t i = 0; i < (size_t)ROWS * COLS; ++i) {
    state = state * 1664525u + 1013904223u;
    weights[i] = (float)(int)(state >> 24) / 16.0f - 8.0f;
  }
}

/* This process's rows: selects with the others, and leaves the mask of its rows. Process 0 adds up. */
static void prune_rows(int rank, int processes, int (*to)[2], int (*from)[2], float* rows, int64_t first_row,
                       int64_t row_count, uint8_t* mask) {
  const int64_t whole[] = {ROWS, COLS};
  const int64_t shape[] = {row_count, COLS};
  coppice_selection* selection = NULL;
  coppice_tensor piece = coppice_tensor_of("weight", rows, COPPICE_F32, 2, shape);
  piece.whole_shape = whole;
  piece.whole_rank = 2;
  piece.first = first_row * COLS;
  piece.mask = mask;
  check(coppice_selection_create(options, 3, &selection));
  check(coppice_selection_add(selection, &piece));
  while (!coppice_selection_done(selection)) {
    check(coppice_selection_count(selection));
    if (rank == 0) {
      for (int r = 1; r < processes; ++r) receive_counts(from[r][0], selection, coppice_selection_merge);
      for (int r = 1; r < processes; ++r) send_counts(to[r][1], selection);
    } else {
      send_counts(from[rank][1], selection);
      receive_counts(to[rank][0], selection, coppice_selection_adopt);
    }
    check(coppice_selection_refine(selection));
  }
  check(coppice_selection_apply(selection, NULL));
  coppice_selection_free(selection);
}

int main(int argc, char** argv) {
  const int processes = argc > 1 ? atoi(argv[1]) : 3;
  const int64_t shape[] = {ROWS, COLS};
  const size_t size = (size_t)ROWS * COLS;
  float* weights = malloc(size * sizeof *weights);
  uint8_t* mask = malloc(size);
  uint8_t* expected = malloc(size);
  int to[MOST][2], from[MOST][2];
  uint64_t kept = 0;
  int failures = 0;
  coppice_tensor whole;
  if (processes < 1 || processes > MOST) fail("usage: prune_processes [1 ... 64]");
  if (weights == NULL || mask == NULL || expected == NULL) fail("out of memory");

  for (int r = 1; r < processes; ++r) {
    if (pipe(to[r]) != 0 || pipe(from[r]) != 0) fail("no pipe");
  }
  make_weights(weights);
  for (int r = processes - 1; r >= 0; --r) {
    const int64_t first = (int64_t)ROWS * r / processes, end = (int64_t)ROWS * (r + 1) / processes;
    uint8_t* const own = mask + first * COLS;
    if (r == 0) {
      prune_rows(r, processes, to, from, weights, first, end - first, own);
    } else if (fork() == 0) {
      prune_rows(r, processes, to, from, weights + first * COLS, first, end - first, own);
      send_bytes(from[r][1], own, (size_t)(end - first) * COLS);
      _exit(0);
    }
  }
  for (int r = 1; r < processes; ++r) {
    const int64_t first = (int64_t)ROWS * r / processes, end = (int64_t)ROWS * (r + 1) / processes;
    int status = 0;
    receive_bytes(from[r][0], mask + first * COLS, (size_t)(end - first) * COLS);
    wait(&status);
    failures += status != 0;
  }

  make_weights(weights);
  whole = coppice_tensor_of("weight", weights, COPPICE_F32, 2, shape);
  whole.mask = expected;
  check(coppice_prune_tensors(&whole, 1, options, 3, NULL, &kept, NULL));
  if (failures != 0 || memcmp(mask, expected, size) != 0) fail("the masks differ");
  printf("%d processes kept %d of %d weights, the same as one process\n", processes, (int)kept, (int)size);
  free(weights);
  free(mask);
  free(expected);
  return 0;
}

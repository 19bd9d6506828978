/* Prunes two matrices of the caller's together, by |w * gradient|, and shows what is left.
 *   cc prune_arrays.c $(pkg-config --cflags --libs coppice) -o prune_arrays */
#include <coppice/coppice.h>
#include <stdio.h>

int main(void) {
  float input[2][3] = {{0.5f, -0.1f, 0.3f}, {0.0f, 2.0f, -0.7f}};
  float recurrent[2][2] = {{1.0f, -0.2f}, {0.4f, 0.9f}};
  const float input_gradient[2][3] = {{0.1f, 0.2f, 0.0f}, {0.5f, 0.1f, 0.3f}};
  const float recurrent_gradient[2][2] = {{0.2f, 0.1f}, {0.6f, 0.0f}};
  const int64_t input_shape[] = {2, 3};
  const int64_t recurrent_shape[] = {2, 2};
  uint8_t input_mask[6];
  uint8_t recurrent_mask[4];
  const coppice_array arrays[] = {
      {"weight_ih_l0", input_shape, 2, &input[0][0], &input_gradient[0][0], input_mask},
      {"weight_hh_l0", recurrent_shape, 2, &recurrent[0][0], &recurrent_gradient[0][0], recurrent_mask},
  };
  const char* const options[] = {"criterion=taylor", "sparsity=0.6"};

  uint64_t kept = 0;
  if (coppice_prune_arrays(arrays, 2, options, 2, &kept) != COPPICE_OK) {
    fprintf(stderr, "%s\n", coppice_last_error());
    return 1;
  }
  printf("coppice %s kept %d of 10 weights\n", coppice_version(), (int)kept);
  for (size_t i = 0; i < 6; ++i) printf("%g ", (double)input[i / 3][i % 3]);
  printf("| ");
  for (size_t i = 0; i < 4; ++i) printf("%g ", (double)recurrent[i / 2][i % 2]);
  printf("\n");
  return 0;
}

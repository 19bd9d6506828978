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
  uint8_t mask[4];
  const char* const options[] = {"criterion=taylor", "sparsity=0.6"};
  coppice_tensor tensors[2];
  uint64_t kept = 0;

  tensors[0] = coppice_tensor_of("weight_ih_l0", input, COPPICE_F32, 2, input_shape);
  tensors[0].gradients.data = input_gradient;
  tensors[0].gradients.dtype = COPPICE_F32;
  tensors[1] = coppice_tensor_of("weight_hh_l0", recurrent, COPPICE_F32, 2, recurrent_shape);
  tensors[1].gradients.data = recurrent_gradient;
  tensors[1].gradients.dtype = COPPICE_F32;
  tensors[1].mask = mask;
  if (coppice_prune_tensors(tensors, 2, options, 2, NULL, &kept, NULL) != COPPICE_OK) {
    fprintf(stderr, "%s\n", coppice_last_error());
    return 1;
  }

  printf("coppice %s kept %d of 10 weights\n", coppice_version(), (int)kept);
  for (size_t i = 0; i < 6; ++i) printf("%g ", (double)input[i / 3][i % 3]);
  printf("| ");
  for (size_t i = 0; i < 4; ++i) printf("%g ", (double)recurrent[i / 2][i % 2]);
  printf("| mask ");
  for (size_t i = 0; i < 4; ++i) printf("%d", mask[i]);
  printf("\n");
  return 0;
}

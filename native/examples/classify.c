/* Classify samples with a packed network: a complete program against the engine's C interface.
 *
 *   classify NETWORK INPUTS [THREADS]
 *
 * NETWORK is a packed file with one float32 input and one float32 output. INPUTS holds samples one after the other,
 * each as the network takes it, as raw float32 (NumPy: array.astype("float32").tofile("inputs.f32")). For each sample
 * it prints the index of the largest number of the output and that number.
 *
 * LIB is the folder that
 *   python -c "from bibench.native import library_path; print(library_path().parent)"
 * prints:
 *   gcc -std=c11 -O2 classify.c -o classify -I "$LIB/include" -L "$LIB" -lbibench_engine -Wl,-rpath,"$LIB"
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bibench.h"

/* The content of a file, to be freed; on failure NULL and a line that says why. */
static void* content(const char* path, size_t* size) {
  FILE* file = fopen(path, "rb");
  if (!file) {
    perror(path);
    return NULL;
  }
  char* bytes = NULL;
  size_t room = 0, length = 0;
  do {
    if (length == room) {
      room = room ? 2 * room : 1 << 16;
      char* more = realloc(bytes, room);
      if (!more) break;
      bytes = more;
    }
    length += fread(bytes + length, 1, room - length, file);
  } while (!feof(file) && !ferror(file));
  if (!feof(file)) {
    fprintf(stderr, "%s: can't be read\n", path);
    free(bytes);
    bytes = NULL;
  }
  fclose(file);
  *size = length;
  return bytes;
}

int main(int argc, char** argv) {
  const int threads = argc > 3 ? atoi(argv[3]) : 1;
  if (argc < 3 || argc > 4 || threads < 1 || threads > 256) {
    fprintf(stderr, "usage: %s NETWORK INPUTS [THREADS, 1 to 256]\n", argv[0]);
    return 2;
  }
  if (bibench_abi() != BIBENCH_ABI) {
    fprintf(stderr, "the library has interface %d, this program was compiled for %d\n", bibench_abi(), BIBENCH_ABI);
    return 1;
  }

  int status = 1;
  char error[512];
  size_t size = 0, bytes = 0;
  void *packed = NULL, *inputs = NULL;
  float* scores = NULL;
  bibench_model* model = NULL;

  packed = content(argv[1], &size);
  if (!packed) goto end;
  model = bibench_load(packed, size, NULL, threads, error, sizeof error);
  if (!model) {
    fprintf(stderr, "%s: %s\n", argv[1], error);
    goto end;
  }
  if (bibench_input_number(model) != 1 || bibench_input_type(model, 0) != BIBENCH_FLOAT32 ||
      bibench_output_number(model) != 1 || bibench_output_type(model, 0) != BIBENCH_FLOAT32) {
    fprintf(stderr, "%s: %d inputs and %d outputs; this program needs one of each, float32\n", argv[1],
            bibench_input_number(model), bibench_output_number(model));
    goto end;
  }

  inputs = content(argv[2], &bytes);
  if (!inputs) goto end;
  const size_t sample = bibench_input_count(model, 0), classes = bibench_output_count(model, 0);
  const size_t samples = sample ? bytes / (sample * sizeof(float)) : 0;
  if (samples == 0 || bytes % (sample * sizeof(float)) != 0) {
    fprintf(stderr, "%s: %zu bytes, expected samples of %zu numbers of 4 bytes\n", argv[2], bytes, sample);
    goto end;
  }
  scores = malloc(samples * classes * sizeof(float));
  if (!scores) {
    fprintf(stderr, "no memory for the outputs of %zu samples\n", samples);
    goto end;
  }
  if (bibench_run(model, (const void* const[]){inputs}, (void* const[]){scores}, samples, error, sizeof error)) {
    fprintf(stderr, "%s\n", error);
    goto end;
  }

  for (size_t i = 0; i < samples; ++i) {
    size_t best = 0;
    for (size_t k = 1; k < classes; ++k)
      if (scores[i * classes + k] > scores[i * classes + best]) best = k;
    printf("%zu %.6g\n", best, scores[i * classes + best]);
  }
  status = 0;

end:
  bibench_free(model);
  free(scores);
  free(inputs);
  free(packed);
  return status;
}

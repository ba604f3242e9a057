/* Run a packed network and compare its outputs with given ones, bit for bit: does another machine compute the same?
 *
 *   replay NETWORK INPUTS OUTPUTS [ISA [TOLERANCE]]
 *
 * INPUTS and OUTPUTS are raw: the whole batch of the first input, then that of the second, and so on. ISA is one of
 * bibench_isa(), or "best". With a TOLERANCE, float32 outputs may differ by it, relative to the largest of them. Prints
 * the instruction set and the number of samples, or the first difference; exit status 0 where all is equal, 1 where
 * not, 2 where it couldn't be tried. Compiled as classify.c is, and with -lm.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bibench.h"

static void* content(const char* path, size_t* size) {
  FILE* file = fopen(path, "rb");
  long length = -1;
  char* bytes = NULL;
  if (file && fseek(file, 0, SEEK_END) == 0 && (length = ftell(file)) >= 0 && fseek(file, 0, SEEK_SET) == 0) {
    bytes = malloc(length ? (size_t)length : 1);
    if (bytes && fread(bytes, 1, (size_t)length, file) != (size_t)length) {
      free(bytes);
      bytes = NULL;
    }
  }
  if (!bytes) perror(path);
  if (file) fclose(file);
  *size = bytes ? (size_t)length : 0;
  return bytes;
}

static size_t width(int type) { return type == BIBENCH_INT64 ? 8 : type == BIBENCH_UINT8 ? 1 : 4; }

/* Writes the first difference; 0 where there is none. */
static int differs(int output, int type, size_t count, const void* got, const void* expected, double tolerance) {
  const size_t bytes = width(type);
  double most = 0;
  if (type == BIBENCH_FLOAT32)
    for (size_t i = 0; i < count; ++i)
      if (isfinite(((const float*)expected)[i])) most = fmax(most, fabs(((const float*)expected)[i]));
  for (size_t i = 0; i < count; ++i) {
    const char *a = (const char*)got + i * bytes, *b = (const char*)expected + i * bytes;
    if (memcmp(a, b, bytes) == 0) continue;
    if (type == BIBENCH_FLOAT32) {
      float x, y;
      memcpy(&x, a, 4);
      memcpy(&y, b, 4);
      if (tolerance > 0 && (fabs((double)x - y) <= tolerance * most || (isnan(x) && isnan(y)))) continue;
      printf("output %d, number %zu of %zu: %.9g, expected %.9g\n", output, i, count, x, y);
    } else {
      unsigned long long x = 0, y = 0;
      memcpy(&x, a, bytes);
      memcpy(&y, b, bytes);
      printf("output %d, number %zu of %zu: 0x%llx, expected 0x%llx\n", output, i, count, x, y);
    }
    return 1;
  }
  return 0;
}

int main(int argc, char** argv) {
  if (argc < 4 || argc > 6) {
    fprintf(stderr, "usage: %s NETWORK INPUTS OUTPUTS [ISA [TOLERANCE]]\n", argv[0]);
    return 2;
  }
  const char* isa = argc > 4 && strcmp(argv[4], "best") != 0 ? argv[4] : NULL;
  const double tolerance = argc > 5 ? atof(argv[5]) : 0;
  char error[512];
  size_t size, in_size, out_size;
  char *packed = content(argv[1], &size), *inputs = content(argv[2], &in_size), *outputs = content(argv[3], &out_size);
  if (!packed || !inputs || !outputs) return 2;

  bibench_model* model = bibench_load(packed, size, isa, 1, error, sizeof error);
  if (!model) {
    fprintf(stderr, "%s: %s\n", argv[1], error);
    return 2;
  }
  const int n = bibench_input_number(model), m = bibench_output_number(model);
  size_t in_sample = 0, out_sample = 0;
  for (int i = 0; i < n; ++i) in_sample += bibench_input_count(model, i) * width(bibench_input_type(model, i));
  for (int i = 0; i < m; ++i) out_sample += bibench_output_count(model, i) * width(bibench_output_type(model, i));
  const size_t batch = out_sample ? out_size / out_sample : 0;
  if (batch == 0 || in_size != batch * in_sample || out_size != batch * out_sample) {
    fprintf(stderr, "inputs of %zu and outputs of %zu bytes; a sample has %zu and %zu\n", in_size, out_size, in_sample,
            out_sample);
    return 2;
  }

  const void** sources = calloc((size_t)n + 1, sizeof *sources);
  void** targets = calloc((size_t)m + 1, sizeof *targets);
  char* got = malloc(out_size);
  if (!sources || !targets || !got) {
    fprintf(stderr, "no memory\n");
    return 2;
  }
  char* at = inputs;
  for (int i = 0; i < n; ++i) {
    sources[i] = at;
    at += batch * bibench_input_count(model, i) * width(bibench_input_type(model, i));
  }
  at = got;
  for (int i = 0; i < m; ++i) {
    targets[i] = at;
    at += batch * bibench_output_count(model, i) * width(bibench_output_type(model, i));
  }
  int status = 0;
  if (bibench_run(model, sources, targets, batch, error, sizeof error)) {
    fprintf(stderr, "%s\n", error);
    status = 2;
  }
  for (int i = 0; i < m && status == 0; ++i) {
    const char* expected = outputs + ((char*)targets[i] - got);
    const int type = bibench_output_type(model, i);
    status = differs(i, type, batch * bibench_output_count(model, i), targets[i], expected, tolerance);
  }
  if (status == 0) printf("%s: %zu samples equal\n", bibench_model_isa(model), batch);
  bibench_free(model);
  free(sources);
  free(targets);
  free(got);
  free(packed);
  free(inputs);
  free(outputs);
  return status;
}

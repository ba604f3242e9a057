/* The packed engine's C interface. Formats and operations: docs/packed-format.md.
 *
 * A model is one packed file, loaded. It runs one call at a time: calls on the same model wait for each other, calls on
 * different models don't. No function keeps a pointer that it was given, and none of them throws or exits. */
#ifndef BIBENCH_H
#define BIBENCH_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define BIBENCH_API __declspec(dllexport)
#else
#define BIBENCH_API __attribute__((visibility("default")))
#endif

#define BIBENCH_ABI 1
#define BIBENCH_FORMAT 1

enum bibench_type { BIBENCH_FLOAT32 = 0, BIBENCH_BITS = 1, BIBENCH_INT64 = 2, BIBENCH_UINT8 = 3 };
enum bibench_unit { BIBENCH_BINARY = 0, BIBENCH_FLOAT = 1, BIBENCH_INT8 = 2, BIBENCH_COPY = 3 };

typedef struct bibench_model bibench_model;

/* BIBENCH_ABI of the library, to compare with the header's. */
BIBENCH_API int bibench_abi(void);

/* Names of the instruction sets that are built in and that this processor has, best first; NULL past the last:
 * "avx512" (with VPOPCNTDQ and VNNI), "avx2", "neon", "scalar". */
BIBENCH_API const char *bibench_isa(int index);

/* Load a packed file's bytes. isa: one of bibench_isa(), NULL for the best. threads: 1 to 256.
 * Returns NULL and writes a message to error (at most error_size bytes, with its 0) when the file is refused. */
BIBENCH_API bibench_model *bibench_load(const void *bytes, size_t size, const char *isa, int threads, char *error,
                                        size_t error_size);
BIBENCH_API void bibench_free(bibench_model *model);

BIBENCH_API int bibench_input_number(const bibench_model *model);
BIBENCH_API int bibench_output_number(const bibench_model *model);
/* Type and numbers of an input or output of one sample; an index that doesn't exist has type -1 and count 0. */
BIBENCH_API int bibench_input_type(const bibench_model *model, int index);
BIBENCH_API size_t bibench_input_count(const bibench_model *model, int index);
BIBENCH_API int bibench_output_type(const bibench_model *model, int index);
BIBENCH_API size_t bibench_output_count(const bibench_model *model, int index);
BIBENCH_API int bibench_operation_number(const bibench_model *model);
BIBENCH_API const char *bibench_model_isa(const bibench_model *model);
/* Upper bound of the bytes that the model holds, running or not: constants as they lie in memory, and the arena. It
 * doesn't grow with the batch. */
BIBENCH_API size_t bibench_memory(const bibench_model *model);

/* Run a batch: inputs[i] holds batch times input_count(i) numbers, outputs[i] gets batch times output_count(i).
 * Returns 0, or 1 with a message (an index outside an embedding's table). */
BIBENCH_API int bibench_run(bibench_model *model, const void *const *inputs, void *const *outputs, size_t batch,
                            char *error, size_t error_size);

/* Run one sample and call after(context, operation) behind each operation; bibench_value is valid inside it. */
typedef void (*bibench_observer)(void *context, int operation);
BIBENCH_API int bibench_observe(bibench_model *model, const void *const *inputs, void *const *outputs,
                                bibench_observer after, void *context, char *error, size_t error_size);
/* Where a value lies; NULL for an index that doesn't exist, and for inputs and outputs outside a run. */
BIBENCH_API const void *bibench_value(const bibench_model *model, int value);

/* Run one sample and write the nanoseconds of each operation to nanoseconds[operation_number]. */
BIBENCH_API int bibench_profile(bibench_model *model, const void *const *inputs, void *const *outputs,
                                uint64_t *nanoseconds, char *error, size_t error_size);

/* What one core does at most with an instruction set, measured for about so many seconds: operations per second (a
 * multiplication and an addition are two) on registers alone, or bytes per second read and written by a copy of 64 MiB.
 * 0 for an instruction set that isn't there. */
BIBENCH_API double bibench_peak(const char *isa, enum bibench_unit unit, double seconds);

#ifdef __cplusplus
}
#endif
#endif

// The operator bibench::Packed for ONNX Runtime, which loads this library by itself: a node holds a packed program, and
// its inputs and outputs are the program's, each (batch, numbers of a sample); packed bits go from node to node as they
// lie in memory, 32 in the place of a float.
//
// What is used of ONNX Runtime's C interface is declared here, since no package carries its header. Its table of
// functions only ever grows at the end, so a function keeps its place; an operator of version 16 returns its errors.
#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include "../include/bibench.h"

namespace {

using Api = const void*;  // the table of functions, seen from its first entry
struct ApiBase {
  const Api* (*get)(uint32_t version);
  const char* (*version)();
};
struct Status;
struct Options;
struct Domain;
struct Info;
struct Context;
struct Tensor;
struct Shape;

constexpr uint32_t kVersion = 16;
constexpr int kFloat = 1, kVariadic = 2, kFail = 1, kInvalidArgument = 2;

template <size_t place, class Function>
struct Entry {
  template <class... Given>
  static auto call(const Api* api, Given... given) {
    return reinterpret_cast<Function*>(const_cast<void*>(api[place]))(given...);
  }
};
using CreateStatus = Entry<0, Status*(int code, const char* message)>;
using CreateDomain = Entry<26, Status*(const char* name, Domain** out)>;
using AddOperator = Entry<27, Status*(Domain*, const void* op)>;
using AddDomain = Entry<28, Status*(Options*, Domain*)>;
using Data = Entry<51, Status*(Tensor*, void** out)>;
using DimensionsCount = Entry<61, Status*(const Shape*, size_t* out)>;
using Dimensions = Entry<62, Status*(const Shape*, int64_t* out, size_t count)>;
using ShapeOf = Entry<65, Status*(const Tensor*, Shape** out)>;
using Attribute = Entry<87, Status*(const Info*, const char* name, char* out, size_t* size)>;
using InputCount = Entry<88, Status*(const Context*, size_t* out)>;
using OutputCount = Entry<89, Status*(const Context*, size_t* out)>;
using Input = Entry<90, Status*(const Context*, size_t index, const Tensor** out)>;
using Output = Entry<91, Status*(Context*, size_t index, const int64_t* dims, size_t rank, Tensor** out)>;
using ReleaseShape = Entry<99, void(Shape*)>;

// What an operator is made of, in the order of version 16.
struct Operator {
  uint32_t version;
  void* (*create)(const Operator*, const Api*, const Info*);
  const char* (*name)(const Operator*);
  const char* (*provider)(const Operator*);
  int (*input_type)(const Operator*, size_t);
  size_t (*input_types)(const Operator*);
  int (*output_type)(const Operator*, size_t);
  size_t (*output_types)(const Operator*);
  void (*compute)(void*, Context*);
  void (*destroy)(void*);
  int (*input_kind)(const Operator*, size_t);
  int (*output_kind)(const Operator*, size_t);
  int (*input_memory)(const Operator*, size_t);
  int (*fewest_inputs)(const Operator*);
  int (*inputs_alike)(const Operator*);
  int (*fewest_outputs)(const Operator*);
  int (*outputs_alike)(const Operator*);
  Status* (*create_or_fail)(const Operator*, const Api*, const Info*, void** out);
  Status* (*compute_or_fail)(void*, Context*);
};

struct Kernel {
  const Api* api;
  bibench_model* model;
};

Status* fail(const Api* api, int code, const std::string& message) {
  return CreateStatus::call(api, code, message.c_str());
}

// The batch of an input, which must be (batch, count).
Status* batch_of(const Api* api, const Tensor* tensor, size_t index, size_t count, int64_t* batch) {
  Shape* shape = nullptr;
  if (Status* status = ShapeOf::call(api, tensor, &shape)) return status;
  size_t rank = 0;
  int64_t dims[2] = {0, 0};
  Status* status = DimensionsCount::call(api, shape, &rank);
  if (!status && rank == 2) status = Dimensions::call(api, shape, dims, rank);
  ReleaseShape::call(api, shape);
  if (status) return status;
  if (rank != 2 || dims[1] != static_cast<int64_t>(count) || (index && dims[0] != *batch))
    return fail(api, kInvalidArgument, "bibench: input " + std::to_string(index) + " has another shape than (batch, " +
                                           std::to_string(count) + ")");
  *batch = dims[0];
  return nullptr;
}

Status* run(const Kernel& kernel, Context* context) {
  const Api* api = kernel.api;
  size_t inputs = 0, outputs = 0;
  if (Status* status = InputCount::call(api, context, &inputs)) return status;
  if (Status* status = OutputCount::call(api, context, &outputs)) return status;
  if (inputs != static_cast<size_t>(bibench_input_number(kernel.model)) ||
      outputs != static_cast<size_t>(bibench_output_number(kernel.model)))
    return fail(api, kInvalidArgument, "bibench: not as many inputs and outputs as the node's program has");
  std::vector<const void*> given(inputs);
  std::vector<void*> made(outputs);
  int64_t batch = 0;
  for (size_t i = 0; i < inputs; ++i) {
    const Tensor* tensor = nullptr;
    void* data = nullptr;
    if (Status* status = Input::call(api, context, i, &tensor)) return status;
    const size_t count = bibench_input_count(kernel.model, static_cast<int>(i));
    if (Status* status = batch_of(api, tensor, i, count, &batch)) return status;
    if (Status* status = Data::call(api, const_cast<Tensor*>(tensor), &data)) return status;
    given[i] = data;
  }
  for (size_t i = 0; i < outputs; ++i) {
    Tensor* tensor = nullptr;
    const int64_t dims[2] = {batch, static_cast<int64_t>(bibench_output_count(kernel.model, static_cast<int>(i)))};
    if (Status* status = Output::call(api, context, i, dims, size_t{2}, &tensor)) return status;
    if (Status* status = Data::call(api, tensor, &made[i])) return status;
  }
  char error[256];
  if (bibench_run(kernel.model, given.data(), made.data(), static_cast<size_t>(batch), error, sizeof error))
    return fail(api, kFail, std::string("bibench: ") + error);
  return nullptr;
}

Status* load(const Api* api, const Info* info, void** out) {
  size_t size = 0;
  if (Status* status = Attribute::call(api, info, "program", static_cast<char*>(nullptr), &size)) return status;
  std::vector<char> bytes(size);
  if (Status* status = Attribute::call(api, info, "program", bytes.data(), &size)) return status;
  char error[256];
  bibench_model* model = bibench_load(bytes.data(), size - 1, nullptr, 1, error, sizeof error);  // a 0 follows the text
  if (!model) return fail(api, kInvalidArgument, std::string("bibench: ") + error);
  *out = new Kernel{api, model};
  return nullptr;
}

// Nothing may be thrown into ONNX Runtime.
template <class Work>
Status* guarded(const Api* api, const Work& work) {
  try {
    return work();
  } catch (const std::exception& problem) {
    return CreateStatus::call(api, kFail, problem.what());
  }
}

const Operator kPacked = {
    kVersion,
    nullptr,
    [](const Operator*) { return "Packed"; },
    [](const Operator*) -> const char* { return nullptr; },
    [](const Operator*, size_t) { return kFloat; },
    [](const Operator*) { return size_t{1}; },
    [](const Operator*, size_t) { return kFloat; },
    [](const Operator*) { return size_t{1}; },
    nullptr,
    [](void* kernel) {
      bibench_free(static_cast<Kernel*>(kernel)->model);
      delete static_cast<Kernel*>(kernel);
    },
    [](const Operator*, size_t) { return kVariadic; },
    [](const Operator*, size_t) { return kVariadic; },
    [](const Operator*, size_t) { return 0; },
    [](const Operator*) { return 1; },
    [](const Operator*) { return 1; },
    [](const Operator*) { return 1; },
    [](const Operator*) { return 1; },
    [](const Operator*, const Api* api, const Info* info, void** out) {
      return guarded(api, [=] { return load(api, info, out); });
    },
    [](void* kernel, Context* context) {
      const Kernel& it = *static_cast<Kernel*>(kernel);
      return guarded(it.api, [&] { return run(it, context); });
    },
};

}  // namespace

// Called by ONNX Runtime when the library is registered with a session's options. The domain stays for as long as the
// process runs, since any session may still use it.
extern "C" BIBENCH_API Status* RegisterCustomOps(Options* options, const ApiBase* base) {
  const Api* api = base->get(kVersion);
  if (!api) return nullptr;  // older than the operator: ONNX Runtime then says that it doesn't know it
  Domain* domain = nullptr;
  if (Status* status = CreateDomain::call(api, "bibench", &domain)) return status;
  if (Status* status = AddOperator::call(api, domain, static_cast<const void*>(&kPacked))) return status;
  return AddDomain::call(api, options, domain);
}

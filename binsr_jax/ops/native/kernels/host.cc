// Calls a handler where there is no XLA. It hands over buffers and attributes as XLA does, takes an
// error as text, and has threads of its own.

#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "xla/ffi/api/c_api.h"

struct XLA_FFI_Error {
  std::string message;
};

namespace {

// Threads that wait for tasks as long as the process lives. The thread that calls works, too.
class Threads {
 public:
  static Threads& Get() {
    static Threads* threads = new Threads;  // never destroyed: its threads may still wait
    return *threads;
  }

  void Schedule(XLA_FFI_Task* task, void* data, int64_t workers) {
    std::lock_guard<std::mutex> lock(mutex);
    for (; started < workers; ++started) std::thread([this] { Work(); }).detach();
    tasks.emplace_back(task, data);
    some.notify_one();
  }

 private:
  void Work() {
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex);
      some.wait(lock, [this] { return !tasks.empty(); });
      const auto [task, data] = tasks.front();
      tasks.pop_front();
      lock.unlock();
      task(data);
    }
  }

  std::mutex mutex;
  std::condition_variable some;
  std::deque<std::pair<XLA_FFI_Task*, void*>> tasks;
  int64_t started = 0;
};

// What a handler is given as its context: how many threads work on it.
int64_t& ThreadsOf(XLA_FFI_ExecutionContext* context) { return *reinterpret_cast<int64_t*>(context); }

XLA_FFI_Error* CreateError(XLA_FFI_Error_Create_Args* args) {
  return new XLA_FFI_Error{args->message};
}

void GetMessage(XLA_FFI_Error_GetMessage_Args* args) { args->message = args->error->message.c_str(); }

void DestroyError(XLA_FFI_Error_Destroy_Args* args) { delete args->error; }

XLA_FFI_Error* Schedule(XLA_FFI_ThreadPool_Schedule_Args* args) {
  Threads::Get().Schedule(args->task, args->data, ThreadsOf(args->ctx) - 1);
  return nullptr;
}

XLA_FFI_Error* NumThreads(XLA_FFI_ThreadPool_NumThreads_Args* args) {
  *args->num_threads = ThreadsOf(args->ctx);
  return nullptr;
}

XLA_FFI_Api MakeApi() {
  XLA_FFI_Api api = {};
  api.struct_size = XLA_FFI_Api_STRUCT_SIZE;
  api.api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR,
                     XLA_FFI_API_MINOR};
  api.XLA_FFI_Error_Create = CreateError;
  api.XLA_FFI_Error_GetMessage = GetMessage;
  api.XLA_FFI_Error_Destroy = DestroyError;
  api.XLA_FFI_ThreadPool_Schedule = Schedule;
  api.XLA_FFI_ThreadPool_NumThreads = NumThreads;
  return api;
}

}  // namespace

extern "C" {

struct BinsrBuffer {
  int64_t type;  // of XLA_FFI_DataType
  int64_t rank;
  int64_t* dims;
  void* data;
};

struct BinsrAttribute {
  const char* name;
  const char* text;  // or null: then it is a number
  int64_t type;      // of the number: XLA_FFI_DataType_S64 or _PRED
  int64_t number;
};

// Calls a handler with `inputs` buffers and one more for its result, and attributes in the order of
// their names. Returns 0, or 1 after writing what is wrong into `error`.
int binsr_call(XLA_FFI_Handler* handler, int64_t threads, int64_t inputs,
               const BinsrBuffer* buffers, int64_t count, const BinsrAttribute* attributes,
               char* error, int64_t error_size) {
  static const XLA_FFI_Api api = MakeApi();
  std::vector<XLA_FFI_Buffer> handed(inputs + 1);
  std::vector<void*> places(inputs + 1);
  for (int64_t i = 0; i <= inputs; ++i) {
    const BinsrBuffer& b = buffers[i];
    handed[i] = {XLA_FFI_Buffer_STRUCT_SIZE, nullptr, static_cast<XLA_FFI_DataType>(b.type), b.data,
                 b.rank, b.dims};
    places[i] = &handed[i];
  }
  std::vector<XLA_FFI_ArgType> arg_types(inputs, XLA_FFI_ArgType_BUFFER);
  XLA_FFI_RetType ret_type = XLA_FFI_RetType_BUFFER;
  std::vector<XLA_FFI_ByteSpan> names(count), texts(count);
  std::vector<XLA_FFI_ByteSpan*> name_places(count);
  std::vector<XLA_FFI_Scalar> scalars(count);
  std::vector<XLA_FFI_AttrType> attr_types(count);
  std::vector<void*> values(count);
  std::vector<int64_t> numbers(count);
  for (int64_t i = 0; i < count; ++i) {
    const BinsrAttribute& a = attributes[i];
    names[i] = {a.name, std::strlen(a.name)};
    name_places[i] = &names[i];
    if (a.text != nullptr) {
      texts[i] = {a.text, std::strlen(a.text)};
      attr_types[i] = XLA_FFI_AttrType_STRING;
      values[i] = &texts[i];
      continue;
    }
    numbers[i] = a.number;  // a bool is its first byte, as CPUs with our forms are little-endian
    scalars[i] = {static_cast<XLA_FFI_DataType>(a.type), &numbers[i]};
    attr_types[i] = XLA_FFI_AttrType_SCALAR;
    values[i] = &scalars[i];
  }
  XLA_FFI_CallFrame frame = {};
  frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
  frame.api = &api;
  frame.ctx = reinterpret_cast<XLA_FFI_ExecutionContext*>(&threads);
  frame.stage = XLA_FFI_ExecutionStage_EXECUTE;
  frame.args = {XLA_FFI_Args_STRUCT_SIZE, nullptr, inputs, arg_types.data(), places.data()};
  frame.rets = {XLA_FFI_Rets_STRUCT_SIZE, nullptr, 1, &ret_type, &places[inputs]};
  frame.attrs = {XLA_FFI_Attrs_STRUCT_SIZE, nullptr,           count, attr_types.data(),
                 name_places.data(),        values.data()};
  XLA_FFI_Error* failed = handler(&frame);
  if (failed == nullptr) return 0;
  std::snprintf(error, error_size, "%s", failed->message.c_str());
  delete failed;
  return 1;
}

}  // extern "C"

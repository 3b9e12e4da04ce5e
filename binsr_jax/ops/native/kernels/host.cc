// Calls a kernel where there is no XLA, on threads of its own, and has the checks of arguments.

#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "call.h"
#include "handler.h"

namespace binsr {

bool Checks::Takes(int64_t inputs, std::initializer_list<const char*> names, const char* kinds,
                   int64_t results) {
  if (call.inputs != inputs)
    return Fails({"it takes ", inputs, " arguments, not ", call.inputs});
  if (call.results != results) return Fails({"it has ", results, " results, not ", call.results});
  if (call.count != static_cast<int64_t>(names.size()))
    return Fails({"it takes ", static_cast<int64_t>(names.size()), " attributes, not ", call.count});
  const Attribute* given = call.attributes;
  for (const std::string name : names) {
    if (given->name != name) return Fails({"it has an attribute ", name, ", not ", given->name});
    const char kind = given->text != nullptr ? 't' : given->type == Type::kBool ? 'b' : 'i';
    if (kind != *kinds) return Fails({"the attribute ", name, " has another type"});
    ++given;
    ++kinds;
  }
  return true;
}

bool Checks::Is(const char* name, const Buffer& buffer, Type type, int64_t rank) {
  if (buffer.type != type)
    return Fails({name, " must be ",
                  type == Type::kFloat ? "float32" : type == Type::kWord ? "uint32" : "int16"});
  if (buffer.rank != rank)
    return Fails({name, " must have ", rank, " axes, not ", buffer.rank});
  return true;
}

namespace {

std::string Text(const int64_t* sizes, int64_t count) {
  std::string text = "[";
  for (int64_t i = 0; i < count; ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + "]";
}

}  // namespace

bool Checks::Has(const char* name, const Buffer& buffer, std::initializer_list<int64_t> sizes) {
  bool equal = buffer.rank == static_cast<int64_t>(sizes.size());
  for (int64_t i = 0; equal && i < buffer.rank; ++i) equal = buffer.dims[i] == sizes.begin()[i];
  return equal || Fails({name, " is ", Text(buffer.dims, buffer.rank), " and must be ",
                         Text(sizes.begin(), sizes.size())});
}

bool Checks::Fails(std::initializer_list<Words> words) {
  call.error = std::string(handler) + ": ";
  for (const Words& part : words) call.error += part.text;
  return false;
}

namespace {

// Threads that wait for tasks as long as the process lives. The thread that calls works, too.
class Threads {
 public:
  static Threads& Get() {
    static Threads* threads = new Threads;  // never destroyed: its threads may still wait
    return *threads;
  }

  void Schedule(void (*task)(void*), void* data, int64_t workers) {
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
  std::deque<std::pair<void (*)(void*), void*>> tasks;
  int64_t started = 0;
};

void Schedule(void*, int64_t threads, void (*task)(void*), void* data) {
  Threads::Get().Schedule(task, data, threads - 1);
}

}  // namespace
}  // namespace binsr

// Calls a kernel with `inputs` buffers and more for its results, and attributes in the order of their
// names. Returns 0, or 1 after writing what is wrong into `error`.
extern "C" int binsr_call(void (*kernel)(binsr::Call&), int64_t threads, int64_t inputs,
                          int64_t results, const binsr::Buffer* buffers, int64_t count,
                          const binsr::Attribute* attributes, char* error, int64_t error_size) {
  binsr::Call call = {{nullptr, threads, binsr::Schedule},
                      inputs, results, buffers, count, attributes, ""};
  kernel(call);
  if (call.error.empty()) return 0;
  std::snprintf(error, error_size, "%s", call.error.c_str());
  return 1;
}

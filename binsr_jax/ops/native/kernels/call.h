// How a kernel is called: with arrays, attributes and threads. host.cc does it where there is no XLA,
// and xla.cc for XLA.

#ifndef BINSR_CALL_H_
#define BINSR_CALL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

namespace binsr {

// The types of arrays and numbers, by their values of XLA_FFI_DataType.
enum class Type : int64_t { kBool = 1, kShort = 3, kInteger = 5, kWord = 8, kFloat = 11 };

struct Buffer {
  Type type;
  int64_t rank;
  const int64_t* dims;
  void* data;

  template <class T>
  T* As() const {
    return static_cast<T*>(data);
  }

  bool IsEmpty() const {
    for (int64_t i = 0; i < rank; ++i)
      if (dims[i] == 0) return true;
    return false;
  }
};

struct Attribute {
  const char* name;
  const char* text;  // or null: then it is a number
  Type type;         // of the number: an integer or a bool
  int64_t number;
};

// The threads that a call may use, as pool.h wants them.
struct Pool {
  void* context;
  int64_t threads;
  // Runs task(data) later on one of the threads.
  void (*schedule)(void* context, int64_t threads, void (*task)(void*), void* data);

  int64_t num_threads() const { return threads; }

  template <class Task>
  void Schedule(Task task) {
    const auto run = [](void* data) {
      const std::unique_ptr<Task> own(static_cast<Task*>(data));
      (*own)();
    };
    schedule(context, threads, run, new Task(std::move(task)));
  }
};

struct Call {
  Pool pool;
  int64_t inputs, results;
  const Buffer* buffers;  // the inputs, and then the results
  int64_t count;
  const Attribute* attributes;  // in the order of their names
  std::string error;            // written by a kernel whose arguments do not fit

  const Buffer& Result(int64_t i = 0) const { return buffers[inputs + i]; }
};

}  // namespace binsr

#endif  // BINSR_CALL_H_

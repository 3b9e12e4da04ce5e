// Distributes work over the threads of a pool, which has
//   num_threads()     the number of threads
//   Schedule(task)    runs task() later on one of them

#ifndef BINSR_POOL_H_
#define BINSR_POOL_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace binsr {

// Computes 0..count in parts on this thread and on free threads of the pool, at most `tasks` in all.
// Each thread calls make() once, and its result with (first, last) for each part that it takes.
// next(first) is the end of the part that starts at first. Parts are started in order.
template <class Next, class Make, class Pool>
void RunParts(Pool& pool, int64_t count, int64_t tasks, const Next& next, const Make& make) {
  struct Progress {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all_done;
  };
  auto progress = std::make_shared<Progress>();
  // A task without a part uses only its own copies, so this function may return before it runs. If
  // this function waited for its tasks, and all threads of the pool did so, no task could start.
  auto task = [progress, count, next, &make] {
    std::optional<decltype(make())> work;
    int64_t first = progress->next;
    while (first < count) {
      const int64_t last = std::min(count, next(first));
      if (!progress->next.compare_exchange_weak(first, last)) continue;
      if (!work) work.emplace(make());
      (*work)(first, last);
      if ((progress->done += last - first) == count) {
        std::lock_guard<std::mutex> lock(progress->mutex);
        progress->all_done.notify_one();
      }
      first = progress->next;
    }
  };
  for (int64_t i = 1; i < tasks; ++i) pool.Schedule(decltype(task)(task));
  task();
  std::unique_lock<std::mutex> lock(progress->mutex);
  progress->all_done.wait(lock, [&] { return progress->done == count; });
}

// Calls work(first, last) for parts of 0..count, each of at least `least`. A part is a share of the
// remaining range. The first parts are large, which reduces recomputation at their borders. The last
// ones are small, so that no thread waits long for another.
template <class Pool, class Work>
void InParallel(Pool& pool, int64_t count, int64_t least, const Work& work) {
  const int64_t threads = std::max<int64_t>(1, pool.num_threads());
  const auto next = [least, count, threads](int64_t first) {
    return first + std::max(least, (count - first) / (2 * threads));
  };
  RunParts(pool, count, std::min(threads, (count + least - 1) / least), next,
           [&] { return [&](int64_t first, int64_t last) { work(first, last); }; });
}

// Calls make() on each thread, and its result with 0..count - 1, started in this order.
template <class Pool, class Make>
void InOrder(Pool& pool, int64_t count, const Make& make) {
  RunParts(
      pool, count, std::min(std::max<int64_t>(1, pool.num_threads()), count),
      [](int64_t first) { return first + 1; },
      [&] { return [work = make()](int64_t first, int64_t) mutable { work(first); }; });
}

// Flags that one thread raises and others wait for; waits are short.
class Flags {
 public:
  explicit Flags(int64_t count) : raised(count) {}

  void Raise(int64_t i) { raised[i].store(true, std::memory_order_release); }
  void Wait(int64_t i) const {
    for (int64_t spins = 0; !raised[i].load(std::memory_order_acquire); ++spins)
      if (spins < 1000)
        Pause();
      else
        std::this_thread::yield();  // the other thread may wait for this CPU
  }

 private:
  static void Pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
  }

  std::vector<std::atomic<bool>> raised;
};

}  // namespace binsr

#endif  // BINSR_POOL_H_

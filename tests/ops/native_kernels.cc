// Checks the kernels of binsr_jax/ops/native/kernels without Python: every form that the CPU compiled
// for has, beside sums that are written out. Made to run under sanitizers and under emulators of other
// CPUs. Prints what is wrong and ends with status 1, or prints what was checked.

#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "amx.h"
#include "attended.h"
#include "branch.h"
#include "chain.h"
#include "float_conv.h"
#include "form.h"
#include "image_skip.h"
#include "upsample.h"

namespace {

using namespace binsr;

std::mt19937 generator(1);

int64_t Any(int64_t least, int64_t most) {
  return std::uniform_int_distribution<int64_t>(least, most)(generator);
}

// A pool whose threads are made when they are needed.
class Threads {
 public:
  explicit Threads(int64_t count) : count(count) {}
  ~Threads() {
    for (auto& thread : threads) thread.join();
  }

  int64_t num_threads() const { return count; }
  // Some start late, when there may be nothing left to do and nobody waits for them.
  template <class Task>
  void Schedule(Task task) {
    const auto late = std::chrono::microseconds(Any(0, 1) ? 0 : Any(0, 300));
    threads.emplace_back([task, late]() mutable {
      std::this_thread::sleep_for(late);
      task();
    });
  }

 private:
  const int64_t count;
  std::vector<std::thread> threads;
};

int checks = 0, failures = 0;

void Check(bool holds, const char* what, const Shape& s) {
  ++checks;
  if (holds) return;
  ++failures;
  std::printf("%s is wrong: batch %d, %d x %d, channels %d, kernel %d x %d, outputs %d\n", what,
              int(s.batch), int(s.height), int(s.width), int(s.channels), int(s.kh), int(s.kw),
              int(s.outputs));
}

// A buffer of its own length, so that a sanitizer sees what is read past its end.
std::vector<float> Numbers(int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> numbers(count);
  for (float& number : numbers) number = normal(generator);
  return numbers;
}

// The bit of a channel, as binsr_jax/ops/packed.py says it.
bool Bit(const uint32_t* words, int64_t count, int64_t stride, int64_t channel) {
  const int64_t bytes = 4 * count, byte = channel % bytes, bit = channel / bytes;
  return words[byte / 4 * stride] >> (byte % 4 * 8 + bit) & 1;
}

// Signs of random numbers, packed along the channels: [rows, words, columns].
std::vector<uint32_t> RandomSigns(int64_t rows, int64_t channels, int64_t columns) {
  const int64_t words = (channels + 31) / 32, bytes = 4 * words;
  std::vector<uint32_t> packed(rows * words * columns);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t o = 0; o < columns; ++o)
        if (Any(0, 1))
          packed[(r * words + c % bytes / 4) * columns + o] |=
              1u << (c % bytes % 4 * 8 + c / bytes);
  return packed;
}

// Calls f(tap, pixel of the input) for the taps of an output pixel that lie in the image.
template <class F>
void Taps(const Shape& s, int64_t b, int64_t h, int64_t w, const F& f) {
  for (int64_t i = 0; i < s.kh; ++i)
    for (int64_t j = 0; j < s.kw; ++j) {
      const int64_t row = h + i - s.kh / 2, column = w + j - s.kw / 2;
      if (row < 0 || row >= s.height || column < 0 || column >= s.width) continue;
      f(i * s.kw + j, (b * s.height + row) * s.width + column);
    }
}

// Calls f(image, row, column, pixel) for all pixels.
template <class F>
void Pixels(const Shape& s, const F& f) {
  for (int64_t b = 0, pixel = 0; b < s.batch; ++b)
    for (int64_t h = 0; h < s.height; ++h)
      for (int64_t w = 0; w < s.width; ++w, ++pixel) f(b, h, w, pixel);
}

int Dot(const Shape& s, const uint32_t* x, const uint32_t* k, int64_t b, int64_t h, int64_t w,
        int64_t o) {
  int dot = 0;
  Taps(s, b, h, w, [&](int64_t tap, int64_t from) {
    for (int64_t c = 0; c < s.channels; ++c) {
      const bool agree = Bit(x + from * s.words, s.words, 1, c) ==
                         Bit(k + tap * s.words * s.outputs + o, s.words, s.outputs, c);
      dot += agree ? 1 : -1;
    }
  });
  return dot;
}

Shape AnyShape(int64_t channels, int64_t outputs) {
  const int64_t sides[][2] = {{1, 1}, {3, 3}, {5, 5}, {1, 3}, {3, 1}};
  const auto* side = sides[Any(0, 4)];
  return {Any(1, 2), Any(1, 7), Any(1, 3) < 3 ? Any(1, 11) : Any(12, 50), channels, (channels + 31) / 32, side[0], side[1],
          outputs};
}

template <class Form>
void CheckDots(const Shape& s) {
  Threads pool(3);
  const auto x = RandomSigns(s.batch * s.height * s.width, s.channels, 1);
  const auto k = RandomSigns(s.kh * s.kw, s.channels, s.outputs);
  std::vector<int16_t> y(s.batch * s.height * s.width * s.outputs);
  PackedConv<Form>(pool, s, x.data(), k.data(), y.data());
  bool equal = true;
  Pixels(s, [&](int64_t b, int64_t h, int64_t w, int64_t pixel) {
    for (int64_t o = 0; o < s.outputs; ++o)
      equal &= y[pixel * s.outputs + o] == Dot(s, x.data(), k.data(), b, h, w, o);
  });
  Check(equal, "a dot product", s);
}

// A unit's parameters.
struct Unit {
  explicit Unit(const Shape& s)
      : threshold(Numbers(s.channels)),
        k(RandomSigns(s.kh * s.kw, s.channels, s.outputs)),
        epilogue(Numbers(5 * s.outputs)),
        residual(Numbers(2 + s.channels)) {}

  const std::vector<float> threshold;
  const std::vector<uint32_t> k;
  const std::vector<float> epilogue, residual;
};

template <class Form>
void CheckBranch(const Shape& s, ResidualKind kind, int64_t shuffle) {
  Threads pool(3);
  const Unit unit(s);
  const auto x = Numbers(s.batch * s.height * s.width * s.channels);
  std::vector<float> y(s.batch * s.height * s.width * s.outputs);
  PackedBranch<Form>(pool, s, x.data(), unit.threshold.data(), unit.k.data(),
                     Epilogue::Of(unit.epilogue.data(), s.outputs),
                     Residual(kind, s.channels, unit.residual.data()), shuffle, y.data());
  std::vector<uint32_t> signs(s.batch * s.height * s.width * s.words);
  const int64_t bytes = 4 * s.words, features = s.outputs / (shuffle * shuffle);
  Pixels(s, [&](int64_t, int64_t, int64_t, int64_t pixel) {
    for (int64_t c = 0; c < s.channels; ++c)
      if (x[pixel * s.channels + c] > unit.threshold[c])
        signs[pixel * s.words + c % bytes / 4] |= 1u << (c % 4 * 8 + c / bytes);
  });
  bool close = true;
  Pixels(s, [&](int64_t b, int64_t h, int64_t w, int64_t pixel) {
    double gain = kind == ResidualKind::kNone ? 0 : unit.residual[0];
    if (kind == ResidualKind::kSpatial) {
      double sum = unit.residual[1];
      for (int64_t c = 0; c < s.channels; ++c)
        sum += double(unit.residual[2 + c]) * x[pixel * s.channels + c];
      gain /= 1 + std::exp(-sum);
    }
    for (int64_t o = 0; o < s.outputs; ++o) {
      const float* e = unit.epilogue.data() + o;
      double v = double(Dot(s, signs.data(), unit.k.data(), b, h, w, o)) * e[0] + e[s.outputs];
      const double size = std::abs(v) + std::abs(e[s.outputs]);
      v = ((v > 0 ? v : v * e[2 * s.outputs]) + e[3 * s.outputs]) * e[4 * s.outputs];
      if (kind != ResidualKind::kNone) v += gain * x[pixel * s.channels + o % features];
      const int64_t place = o / features;
      const int64_t row = (b * s.height + h) * shuffle + place / shuffle;
      const int64_t to = (row * s.width + w) * shuffle + place % shuffle;
      close &= std::abs(y[to * features + o % features] - v) <= 1e-4 * (1 + size);
    }
  });
  Check(close, "a branch", s);
}

// The end of a network in one pass, beside its two parts.
template <class Form>
void CheckUpsample(Shape s, int64_t features, int64_t shuffle) {
  Threads pool(3);
  s.height *= 4;
  s.outputs = features * shuffle * shuffle;
  const Unit unit(s);
  const Residual residual(ResidualKind::kNone, s.channels, unit.residual.data());
  const Epilogue epilogue = Epilogue::Of(unit.epilogue.data(), s.outputs);
  const auto x = Numbers(s.batch * s.height * s.width * s.channels);
  std::vector<float> large(s.batch * s.height * s.width * s.outputs);
  PackedBranch<Form>(pool, s, x.data(), unit.threshold.data(), unit.k.data(), epilogue, residual,
                     shuffle, large.data());
  const int64_t side = 2 * Any(0, 2) + 1;
  const Shape tail = {s.batch,  s.height * shuffle, s.width * shuffle, features, 0, side,
                      side, 3};
  const auto k = Numbers(side * side * features * 3);
  std::vector<float> parts(tail.batch * tail.height * tail.width * 3), y(parts.size());
  FloatConv(pool, tail, large.data(), k.data(), parts.data());
  PackedUpsample<Form>(pool, s, x.data(), unit.threshold.data(), unit.k.data(), epilogue,
                          residual, shuffle, k.data(), side, side, 3, y.data());
  Check(y == parts, "an upsampler and what follows it", s);
}

template <class Form>
void CheckChain(const Shape& s, ResidualKind kind, int64_t units, int64_t threads) {
  Threads pool(threads);
  std::vector<std::unique_ptr<Unit>> parameters;
  std::vector<std::optional<Link<Form>>> links(units);
  const auto x = Numbers(s.batch * s.height * s.width * s.channels);
  std::vector<float> one_by_one = x, y(x.size()), added(x.size());
  for (auto& link : links) {
    parameters.push_back(std::make_unique<Unit>(s));
    const Unit& unit = *parameters.back();
    const Residual residual(kind, s.channels, unit.residual.data());
    link.emplace(s, unit.threshold.data(), unit.k.data(), unit.epilogue.data(), residual);
    PackedBranch<Form>(pool, s, one_by_one.data(), unit.threshold.data(), unit.k.data(),
                       Epilogue::Of(unit.epilogue.data(), s.outputs), residual, 1, y.data());
    one_by_one = y;
  }
  PackedChain<Form>(pool, s, links, x.data(), false, y.data());
  Check(y == one_by_one, "a chain", s);
  PackedChain<Form>(pool, s, links, x.data(), true, added.data());
  for (size_t i = 0; i < x.size(); ++i) one_by_one[i] += x[i];
  Check(added == one_by_one, "a chain with what is added", s);
}

int64_t Numbers(AttentionKind kind, int64_t channels) {
  switch (kind) {
    case AttentionKind::kNone: return 0;
    case AttentionKind::kSpatial: return 1 + channels;
    case AttentionKind::kSqueeze: return 3 + channels + 6 * channels;
    default: return channels + channels * channels;
  }
}

// The number by which attention multiplies a channel of a pixel, for the pixel or for the mean.
double Map(AttentionKind kind, const std::vector<float>& n, const double* x, int64_t channels,
           int64_t c) {
  const float* at = n.data();
  std::vector<double> hidden(x, x + channels);
  int64_t outputs = channels;
  if (kind == AttentionKind::kNone) return 1;
  if (kind == AttentionKind::kSpatial) outputs = 1, c = 0;
  if (kind == AttentionKind::kSqueeze) {
    hidden.assign(at, at + 3);
    for (int64_t j = 0; j < 3; ++j) {
      for (int64_t i = 0; i < channels; ++i) hidden[j] += x[i] * at[3 + 3 * i + j];
      hidden[j] = std::max(hidden[j], 0.0);
    }
    at += 3 + 3 * channels;
  }
  double sum = at[c];
  for (size_t i = 0; i < hidden.size(); ++i) sum += hidden[i] * at[outputs + i * outputs + c];
  return 1 / (1 + std::exp(-sum));
}

// The map of each pixel and channel of z, or of the means of its images.
std::vector<double> Maps(AttentionKind kind, const std::vector<float>& n, const Shape& s,
                         const std::vector<double>& z) {
  std::vector<double> maps(z.size());
  for (int64_t b = 0; b < s.batch; ++b) {
    const int64_t pixels = s.height * s.width;
    const double* x = z.data() + b * pixels * s.channels;
    std::vector<double> mean(s.channels);
    for (int64_t i = 0; i < pixels * s.channels; ++i) mean[i % s.channels] += x[i] / pixels;
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t c = 0; c < s.channels; ++c)
        maps[((b * pixels) + p) * s.channels + c] =
            Map(kind, n, Pools(kind) ? mean.data() : x + p * s.channels, s.channels, c);
  }
  return maps;
}

template <class Form>
void CheckAttended(const Shape& s, AttentionKind binary, AttentionKind residual, int64_t units,
                   int64_t threads) {
  Threads pool(threads), alone(1);
  const int64_t count = Pools(binary) + Pools(residual), size = count * s.channels;
  const int64_t bs = Numbers(binary, s.channels), rs = 1 + Numbers(residual, s.channels);
  const auto x = Numbers(s.batch * s.height * s.width * s.channels);
  std::vector<std::unique_ptr<Unit>> parameters;
  std::vector<std::vector<float>> numbers;
  std::vector<std::optional<AttendedLink<Form>>> links(units), one(1);
  std::vector<float> y = x, one_by_one = x, means(s.batch * units * size), own(s.batch * size);
  for (int64_t u = 0; u < units; ++u) {
    parameters.push_back(std::make_unique<Unit>(s));
    numbers.push_back(Numbers(bs));
    numbers.push_back(Numbers(rs));
  }
  for (int64_t u = 0; u < units; ++u) {
    const Unit& unit = *parameters[u];
    for (auto* link : {&links[u], &one[0]})
      link->emplace(s, unit.threshold.data(), unit.k.data(), unit.epilogue.data(), binary,
                    numbers[2 * u].data(), bs, residual, numbers[2 * u + 1].data(), rs);
    const std::vector<float> before = one_by_one;
    PackedAttended<Form>(alone, s, one, binary, residual, before.data(), false, own.data(), false,
                         one_by_one.data());
    if (u) continue;
    // The first unit, beside double precision.
    std::vector<float> dots(x.size()), scales(5 * s.channels, 1.0f);
    std::fill_n(scales.data() + s.channels, s.channels, 0.0f);
    std::fill_n(scales.data() + 3 * s.channels, s.channels, 0.0f);
    PackedBranch<Form>(alone, s, x.data(), unit.threshold.data(), unit.k.data(),
                       Epilogue::Of(scales.data(), s.channels),
                       Residual(ResidualKind::kNone, s.channels, nullptr), 1, dots.data());
    const float* e = unit.epilogue.data();
    std::vector<double> z(x.size()), features(x.begin(), x.end());
    for (size_t i = 0; i < x.size(); ++i) {
      const int64_t c = i % s.channels;
      const double v = double(dots[i]) * e[c] + e[s.channels + c];
      z[i] = (v > 0 ? v : v * e[2 * s.channels + c]) + e[3 * s.channels + c];
    }
    const auto a = Maps(binary, numbers[0], s, z), b = Maps(residual, {numbers[1].begin() + 1, numbers[1].end()}, s, features);
    bool close = true;
    for (size_t i = 0; i < x.size(); ++i) {
      const double v = e[4 * s.channels + i % s.channels] * a[i] * z[i] + numbers[1][0] * b[i] * x[i];
      close &= std::abs(one_by_one[i] - v) <= 1e-3 * (1 + std::abs(z[i]) + std::abs(x[i]));
    }
    Check(close, "a unit with attention", s);
  }
  PackedAttended<Form>(pool, s, links, binary, residual, x.data(), false, means.data(), false,
                       y.data());
  Check(y == one_by_one, "a chain with attention", s);
  PackedAttended<Form>(pool, s, links, binary, residual, x.data(), true, means.data(), true,
                       y.data());
  for (size_t i = 0; i < x.size(); ++i) one_by_one[i] += x[i];
  Check(y == one_by_one, "a chain with given means", s);
}

// A convolution with what follows it, beside the sums of the convolution alone.
void CheckEnding(const Shape& s, const std::vector<float>& x, const std::vector<float>& k,
                 const std::vector<float>& sums) {
  Threads pool(3);
  const auto bias = Numbers(s.outputs);
  const int64_t shuffle = s.outputs % 4 ? 1 : 2, features = s.outputs / (shuffle * shuffle);
  std::vector<float> y(sums.size());
  FloatConv(pool, s, x.data(), k.data(), y.data(), {bias.data(), 0.1f, shuffle});
  bool equal = true;
  Pixels(s, [&](int64_t b, int64_t h, int64_t w, int64_t pixel) {
    for (int64_t o = 0; o < s.outputs; ++o) {
      const float v = sums[pixel * s.outputs + o] + bias[o];
      const int64_t c = o / (shuffle * shuffle), i = o / shuffle % shuffle, j = o % shuffle;
      const int64_t row = (b * s.height + h) * shuffle + i;
      equal &= y[((row * s.width + w) * shuffle + j) * features + c] == (v >= 0 ? v : 0.1f * v);
    }
  });
  Check(equal, "a convolution of floats with what follows it", s);
}

void CheckFloats(const Shape& s) {
  Threads pool(3);
  const int64_t pixels = s.batch * s.height * s.width, taps = s.kh * s.kw;
  const auto x = Numbers(pixels * s.channels), k = Numbers(taps * s.channels * s.outputs);
  std::vector<float> y(pixels * s.outputs), dk(s.batch * taps * s.channels * s.outputs);
  FloatConv(pool, s, x.data(), k.data(), y.data());
  std::vector<double> gradient(dk.size());
  bool close = true;
  Pixels(s, [&](int64_t b, int64_t h, int64_t w, int64_t pixel) {
    for (int64_t o = 0; o < s.outputs; ++o) {
      double sum = 0, size = 0;
      Taps(s, b, h, w, [&](int64_t tap, int64_t from) {
        for (int64_t c = 0; c < s.channels; ++c) {
          const double one = x[from * s.channels + c];
          sum += one * k[(tap * s.channels + c) * s.outputs + o];
          size += std::abs(one * k[(tap * s.channels + c) * s.outputs + o]);
          gradient[((b * taps + tap) * s.channels + c) * s.outputs + o] +=
              one * y[pixel * s.outputs + o];
        }
      });
      close &= std::abs(y[pixel * s.outputs + o] - sum) <= 1e-5 * size;
    }
  });
  Check(close, "a convolution of floats", s);
  CheckEnding(s, x, k, y);
  if (s.outputs % kManyOutputs) return;
  KernelGradients(pool, s, x.data(), y.data(), dk.data());
  close = true;
  for (size_t i = 0; i < dk.size(); ++i)
    close &= std::abs(dk[i] - gradient[i]) <= 1e-3 * (1 + std::abs(gradient[i]));
  Check(close, "a gradient of a kernel", s);
}

#ifdef BINSR_AMX_BF16
float AsBf16(float value) {
  float lanes[16] = {value};
  uint16_t rounded[16];
  Round(lanes, 16, rounded);
  const uint32_t bits = uint32_t{rounded[0]} << 16;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Factors that bfloat16 holds, so that the floats' own kernels compute the same sums.
void CheckBf16(const Shape& s) {
  Threads pool(3);
  const int64_t pixels = s.batch * s.height * s.width, weights = s.kh * s.kw * s.channels * s.outputs;
  auto x = Numbers(pixels * s.channels), k = Numbers(weights), dy = Numbers(pixels * s.outputs);
  for (auto* numbers : {&x, &k, &dy})
    for (float& number : *numbers) number = AsBf16(number);
  std::vector<float> y(dy.size()), expected_y(dy.size());
  std::vector<float> dk(s.batch * weights), expected_dk(s.batch * weights);
  FloatConv(pool, s, x.data(), k.data(), expected_y.data());
  Bf16Conv(pool, s, x.data(), k.data(), y.data());
  KernelGradients(pool, s, x.data(), dy.data(), expected_dk.data());
  Bf16KernelGradients(pool, s, x.data(), dy.data(), dk.data());
  bool close = true;
  for (size_t i = 0; i < y.size(); ++i)
    close &= std::abs(y[i] - expected_y[i]) <= 1e-4 * (1 + std::abs(expected_y[i]));
  Check(close, "a convolution in bfloat16", s);
  close = true;
  for (size_t i = 0; i < dk.size(); ++i)
    close &= std::abs(dk[i] - expected_dk[i]) <= 1e-4 * (1 + std::abs(expected_dk[i]));
  Check(close, "a gradient of a kernel in bfloat16", s);
}
#endif

template <class Form>
void CheckForm(const char* name) {
  const int before = checks;
  for (const int64_t channels : {1, 3, 31, 32, 33, 64, 96, 128})
    for (const int64_t outputs : {1, 63, 64, 65}) CheckDots<Form>(AnyShape(channels, outputs));
  for (const ResidualKind kind :
       {ResidualKind::kNone, ResidualKind::kPlain, ResidualKind::kSpatial}) {
    for (const int64_t channels : {5, 33, 64, 128}) {
      CheckBranch<Form>(AnyShape(channels, channels), kind, 1);
      CheckBranch<Form>(AnyShape(channels, 4 * channels), kind, 2);
    }
    for (const int64_t shuffle : {1, 2, 3}) CheckUpsample<Form>(AnyShape(33, 0), 16, shuffle);
    if (kind != ResidualKind::kNone)
      for (const int64_t channels : {5, 33, 64, 128})
        for (const int64_t threads : {1, 2, 5}) {
          Shape s = AnyShape(channels, channels);
          s.height *= threads;
          CheckChain<Form>(s, kind, Any(1, 11), threads);
        }
  }
  using Kind = AttentionKind;
  for (const Kind binary : {Kind::kNone, Kind::kSpatial, Kind::kPixel, Kind::kGlobal, Kind::kSqueeze})
    for (const Kind residual : {Kind::kNone, Kind::kSpatial, Kind::kPixel, Kind::kSqueeze})
      for (const int64_t channels : {5, 33, 64, 80}) {
        Shape s = AnyShape(channels, channels);
        s.height *= Any(1, 3);
        s.width += Any(0, 1) * 50;
        CheckAttended<Form>(s, binary, residual, Any(1, 4), Any(1, 3));
      }
  std::printf("%s: %d checks\n", name, checks - before);
}

// An enlarged image that is added, beside the sum that is written out for each pixel.
void CheckSkip(Shape s, int64_t factor) {
  Threads pool(3);
  s.height *= 3;
  const int64_t channels = s.channels, height = s.height * factor, width = s.width * factor;
  const auto x = Numbers(s.batch * s.height * s.width * channels);
  const auto z = Numbers(s.batch * height * width * channels), n = Numbers(5 * channels);
  std::vector<float> y(z.size()), own = z;
  const auto numbers = SkipNumbers::Of(n.data(), channels);
  ImageSkip(pool, s, factor, x.data(), z.data(), numbers, y.data());
  ImageSkip(pool, s, factor, x.data(), own.data(), numbers, own.data());
  Check(own == y, "an image skip in the memory of its input", s);
  // The two input pixels of an output pixel along a side, and the weight of the second one.
  const auto place = [&](int64_t i, int64_t size, int64_t* from) {
    const double at = (i + 0.5) / factor - 0.5, below = std::floor(at);
    from[0] = std::max<int64_t>(0, static_cast<int64_t>(below));
    from[1] = std::min<int64_t>(size - 1, static_cast<int64_t>(below) + 1);
    return at - below;
  };
  bool close = true;
  Pixels({s.batch, height, width, 0, 0, 1, 1, 0}, [&](int64_t b, int64_t h, int64_t w, int64_t pixel) {
    for (int64_t c = 0; c < channels; ++c) {
      int64_t rows[2], columns[2];
      const double down = place(h, s.height, rows), right = place(w, s.width, columns);
      double sum = 0, size = 0;
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j) {
          const int64_t from = (b * s.height + rows[i]) * s.width + columns[j];
          const double one = n[2 * channels + c] * (double(x[from * channels + c]) - n[channels + c]);
          sum += (i ? down : 1 - down) * (j ? right : 1 - right) * one;
          size += std::abs(one);
        }
      const int64_t to = pixel * channels + c;
      const double v = n[3 * channels + c] * (double(z[to]) + n[c] + sum) + n[4 * channels + c];
      close &= std::abs(y[to] - v) <= 1e-4 * (1 + size + std::abs(v));
    }
  });
  Check(close, "an image skip", s);
}

}  // namespace

int main() {
  CheckForm<Portable>("portable");
#if defined(BINSR_AVX2_H_)
  CheckForm<Avx2>("avx2");
#endif
#if defined(BINSR_AVX512_H_)
  CheckForm<Avx512>("avx512");
#endif
#if defined(BINSR_AMX)
  if (HasAmx()) CheckForm<Amx>("amx");
#endif
#if defined(BINSR_NEON_H_)
  CheckForm<Neon>("neon");
#endif
  for (const int64_t channels : {8, 40, 64})
    for (const int64_t outputs : {1, 2, 3}) CheckFloats(AnyShape(channels, outputs));
  for (const int64_t channels : {1, 3, 16, 37})
    for (const int64_t outputs : {12, 16, 48, 80}) {
      CheckFloats(AnyShape(channels, outputs));
      Shape wide = AnyShape(channels, outputs);
      wide.width += 64;
      wide.height = 1 + wide.height / 4;
      CheckFloats(wide);
    }
  for (const int64_t channels : {1, 3})
    for (const int64_t factor : {1, 2, 3, 4}) CheckSkip(AnyShape(channels, channels), factor);
#ifdef BINSR_AMX_BF16
  if (HasAmx())
    for (const int64_t channels : {32, 64})
      for (const int64_t outputs : {32, 96}) CheckBf16(AnyShape(channels, outputs));
#endif
  std::printf("floats\n%d failures\n", failures);
  return failures > 0;
}

/* Restores a picture with the network of model.h: reads a PPM of 8 bits (a PGM where the network is for
 * grey) and writes one.
 *
 *     cc -O2 -o restore model.c -lm && ./restore < photo.ppm > restored.ppm
 *
 * C99 without other libraries. Features are float [height][width][BINSR_FEATURES]. A binary convolution
 * counts the bits in which the signs of the features and of the kernel differ:
 *     dot = channels * taps - 2 * popcount(x ^ w),    taps: those inside the image.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "model.h"

enum { C = BINSR_FEATURES, WORDS = (C + 31) / 32, COLOURS = BINSR_CHANNELS, MOST_PIXELS = 1 << 26 };
enum { N = BINSR_TAIL_SHUFFLE, OUTPUTS = COLOURS * N * N };

static void fail(const char *sentence) {
  fprintf(stderr, "error: %s\n", sentence);
  exit(1);
}

static void *memory(size_t count, size_t size) {
  void *block = calloc(count, size);
  if (!block) fail("The memory ran out.");
  return block;
}

static int popcount(uint32_t x) {
  x -= (x >> 1) & 0x55555555u;
  x = (x & 0x33333333u) + ((x >> 2) & 0x33333333u);
  return (int)((((x + (x >> 4)) & 0x0f0f0f0fu) * 0x01010101u) >> 24);
}

/* The float convolution of 3 x 3: [h][w][inputs] to [h][w][outputs]; kernel [3][3][inputs][outputs]. */
static float *convolve(const float *kernel, const float *bias, int inputs, int outputs, const float *x,
                       int h, int w) {
  float *y = memory((size_t)h * w * outputs, sizeof *y);
  for (int row = 0; row < h; row++)
    for (int column = 0; column < w; column++) {
      float *sum = y + ((size_t)row * w + column) * outputs;
      for (int o = 0; o < outputs; o++) sum[o] = bias[o];
      for (int tap = 0; tap < 9; tap++) {
        int r = row + tap / 3 - 1, c = column + tap % 3 - 1;
        if (r < 0 || r >= h || c < 0 || c >= w) continue;
        const float *in = x + ((size_t)r * w + c) * inputs;
        for (int i = 0; i < inputs; i++)
          for (int o = 0; o < outputs; o++) sum[o] += in[i] * kernel[(tap * inputs + i) * outputs + o];
      }
    }
  return y;
}

/* A unit or an upsampler: factor * RPReLU(scale * dot + bias) + residual(x), shuffled to
 * [n h][n w][C] with n = b->shuffle. */
static float *branch(const struct binsr_branch *b, const float *x, int h, int w) {
  int n = b->shuffle;
  uint32_t *bits = memory((size_t)h * w * WORDS, sizeof *bits);
  float *y = memory((size_t)h * w * C * n * n, sizeof *y);
  for (size_t p = 0; p < (size_t)h * w; p++)
    for (int c = 0; c < C; c++)
      if (x[p * C + c] > b->threshold[c]) bits[p * WORDS + c / 32] |= 1u << c % 32;
  for (int row = 0; row < h; row++)
    for (int column = 0; column < w; column++) {
      size_t p = (size_t)row * w + column;
      float gain = b->residual;
      if (b->attention) { /* sigmoid(weights . x + bias); the bias is the last number */
        float sum = b->attention[C];
        for (int c = 0; c < C; c++) sum += b->attention[c] * x[p * C + c];
        gain *= 1 / (1 + expf(-sum));
      }
      for (int o = 0; o < C * n * n; o++) {
        int taps = 0, differ = 0;
        for (int tap = 0; tap < 9; tap++) {
          int r = row + tap / 3 - 1, c = column + tap % 3 - 1;
          if (r < 0 || r >= h || c < 0 || c >= w) continue;
          const uint32_t *u = bits + ((size_t)r * w + c) * WORDS, *v = b->bits + (o * 9 + tap) * WORDS;
          for (int k = 0; k < WORDS; k++) differ += popcount(u[k] ^ v[k]);
          taps++;
        }
        float z = b->scale[o] * (float)(C * taps - 2 * differ) + b->bias[o];
        z = (z > 0 ? z : b->slope[o] * z) + b->shift[o];
        int i = o / C / n, j = o / C % n, c = o % C; /* the shuffle: o = (i n + j) C + c */
        y[(((size_t)row * n + i) * w * n + column * n + j) * C + c] = b->factor * z + gain * x[p * C + c];
      }
    }
  free(bits);
  return y;
}

/* The picture [h][w][COLOURS] enlarged bilinearly, at a pixel of the output. */
static float bilinear(const float *x, int h, int w, int row, int column, int colour) {
  float v[2], at[2] = {(row + 0.5f) / BINSR_SCALE - 0.5f, (column + 0.5f) / BINSR_SCALE - 0.5f};
  int low[2] = {(int)floorf(at[0]), (int)floorf(at[1])};
  float down = at[0] - low[0], right = at[1] - low[1];
  for (int i = 0; i < 2; i++) {
    int r = low[0] + i < 0 ? 0 : low[0] + i >= h ? h - 1 : low[0] + i;
    int c = low[1] < 0 ? 0 : low[1], next = low[1] + 1 >= w ? w - 1 : low[1] + 1;
    v[i] = (1 - right) * x[((size_t)r * w + c) * COLOURS + colour] +
           right * x[((size_t)r * w + next) * COLOURS + colour];
  }
  return (1 - down) * v[0] + down * v[1];
}

/* The picture x [h][w][COLOURS] in 0..1, restored: [BINSR_SCALE h][BINSR_SCALE w][COLOURS]. */
static float *restore(const float *x, int h, int w) {
  size_t pixels = (size_t)h * w, count = pixels * C;
  float *amplified = memory(pixels * COLOURS, sizeof *amplified);
  for (size_t i = 0; i < pixels * COLOURS; i++)
    amplified[i] = BINSR_AMPLIFICATION * (x[i] - binsr_mean[i % COLOURS]);
  float *f = convolve(binsr_head_kernel, binsr_head_bias, COLOURS, C, amplified, h, w);
  free(amplified);
  for (size_t i = 0; i < count; i++) f[i] = f[i] >= 0 ? f[i] : BINSR_HEAD_SLOPE * f[i];
  float *head = memory(count, sizeof *head);
  for (size_t i = 0; i < count; i++) head[i] = f[i];
  int height = h, width = w;
  for (int i = 0; i < BINSR_UNITS + BINSR_UPSAMPLERS; i++) {
    float *y = branch(binsr_branches + i, f, height, width);
    free(f);
    f = y, height *= binsr_branches[i].shuffle, width *= binsr_branches[i].shuffle;
    if (i == BINSR_UNITS - 1 && BINSR_SKIP)
      for (size_t k = 0; k < count; k++) f[k] += head[k];
  }
  float *tail = convolve(binsr_tail_kernel, binsr_tail_bias, C, OUTPUTS, f, height, width);
  float *y = memory((size_t)height * width * OUTPUTS, sizeof *y), *out = y;
  for (int row = 0; row < height * N; row++)
    for (int column = 0; column < width * N; column++)
      for (int c = 0; c < COLOURS; c++) { /* the shuffle of the tail: its output (c N + i) N + j */
        size_t pixel = (size_t)(row / N) * width + column / N;
        float change = tail[pixel * OUTPUTS + (c * N + row % N) * N + column % N] / BINSR_AMPLIFICATION;
        float base = BINSR_BASE ? bilinear(x, h, w, row, column, c) : binsr_mean[c];
        *out++ = base + (BINSR_NOISE ? -change : change);
      }
  free(f), free(head), free(tail);
  return y;
}

/* A number of the header; comments start with #. */
static int number(void) {
  int c = getchar(), value = 0;
  while (c == '#' || c == ' ' || (c >= '\t' && c <= '\r')) {
    if (c == '#')
      while (c != '\n' && c != EOF) c = getchar();
    c = getchar();
  }
  for (; c >= '0' && c <= '9' && value < MOST_PIXELS; c = getchar()) value = 10 * value + c - '0';
  return value; /* and the one white space behind it is read */
}

int main(void) {
  if (getchar() != 'P' || getchar() != (COLOURS == 3 ? '6' : '5'))
    fail(COLOURS == 3 ? "It is no PPM (P6)." : "It is no PGM (P5).");
  int w = number(), h = number(), most = number();
  if (w < 1 || h < 1 || most != 255 || h > MOST_PIXELS / w) fail("It is too large, or not of 8 bits.");
  size_t count = (size_t)h * w * COLOURS;
  float *x = memory(count, sizeof *x);
  for (size_t i = 0; i < count; i++) {
    int c = getchar();
    if (c == EOF) fail("It is cut off.");
    x[i] = (float)c / 255;
  }
  float *y = restore(x, h, w);
  printf("P%c\n%d %d\n255\n", COLOURS == 3 ? '6' : '5', w * BINSR_SCALE, h * BINSR_SCALE);
  for (size_t i = 0; i < count * BINSR_SCALE * BINSR_SCALE; i++)
    putchar((int)floorf(255 * (y[i] < 0 ? 0 : y[i] > 1 ? 1 : y[i]) + 0.5f));
  free(x), free(y);
  return ferror(stdout) || fflush(stdout) ? (fail("The output cannot be written."), 1) : 0;
}

// One decoding step of a trunk and its head on a CPU: inputs (b w) to logits (b k), over weights of float, bfloat16 or int8.
// A head without weights copies: the answer is then the trunk's output (b w).
//
// A step is bound by reading every weight once. Here it is one parallel region with five barriers a layer, and each product is a
// dot product over weights stored (out, in), which are read in order. Activations and sums are float32 whatever the weights are.
// Notable: a sum is always 16 partial sums and then one, so that a sample's logits depend neither on the batch it is in nor on
// the number of threads. Plain C++ with the vector types of GCC and Clang; no header of torch, so it compiles in a second.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../exponential.h"
#ifdef __AVX512F__
#include <immintrin.h>
#endif

typedef float vec __attribute__((vector_size(64)));
struct bf16 { uint16_t bits; };

// ---- what Python fills in (priors/autoregressive/native.py has the same fields in the same order)

struct Linear { const void *w; const float *scale, *b; int64_t n_in, n_out; };  // w (out, in); y = (w x) scale + b

struct Layer {
    Linear attn, proj, fc, mlp;
    const float *ln_0_w, *ln_0_b, *ln_1_w, *ln_1_b;
    void *k, *v;          // (page, b, h, slot, d)
    const void *bias;     // (b, h, t, slot) of a cross attention, or null
    const float *rotation; // (t, 2, d / 2): cosines, then sines, of a rotary embedding; or null
    const int64_t *places; // (t, 4): page written, slot written (-1: none), page read, slots seen
    int64_t slots, n_ctx;
};

struct Step {
    const Layer *layers;
    Linear head;
    int64_t depth, batch, width, state, heads, hidden, threads;
    float scale, eps;
    float *x, *qkv, *attended, *a, *m;  // room for the streams between phases
};

// ---- numbers

static inline float number(float x) { return x; }
static inline float number(int8_t x) { return x; }
static inline float number(bf16 x) { uint32_t w = (uint32_t)x.bits << 16; float f; std::memcpy(&f, &w, 4); return f; }
static inline void put(float *p, float x) { *p = x; }
static inline void put(bf16 *p, float x) {  // to nearest, ties to even
    uint32_t w; std::memcpy(&w, &x, 4);
    p->bits = (uint16_t)((w + 0x7fff + ((w >> 16) & 1)) >> 16);
}

// 16 numbers as float, and the sum of 16; compilers find the instructions for float, but not for all of these
static inline vec load(const float *p) { vec v; std::memcpy(&v, p, 64); return v; }
#ifdef __AVX512F__
static inline vec load(const int8_t *p) {
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
static inline vec load(const bf16 *p) {
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
}
static inline float sum(vec v) { return _mm512_reduce_add_ps((__m512)v); }
#else
template <class W>
static inline vec load(const W *p) {
    vec v;
    for (int i = 0; i < 16; i++) v[i] = number(p[i]);
    return v;
}
static inline float sum(vec v) {
    float s = 0;
    for (int i = 0; i < 4; i++) s += (v[i] + v[i + 8]) + (v[i + 4] + v[i + 12]);
    return s;
}
#endif

// ---- products

// R rows of x (r in) with O rows of w (o in): out[r * O + o]. Unrolled, so that all sums stay in registers.
template <class W, int R, int O>
static __attribute__((noinline)) void dots(const W *w, const float *x, int64_t n, float *out) {
    vec sums[R * O] = {};
    int64_t k = 0;
    for (; k + 16 <= n; k += 16) {
        vec row[O];
#pragma GCC unroll 4
        for (int o = 0; o < O; o++) row[o] = load(w + o * n + k);
#pragma GCC unroll 16
        for (int i = 0; i < R * O; i++) sums[i] += load(x + i / O * n + k) * row[i % O];
    }
#pragma GCC unroll 16
    for (int i = 0; i < R * O; i++) out[i] = sum(sums[i]);
    for (; k < n; k++)
        for (int i = 0; i < R * O; i++) out[i] += x[i / O * n + k] * number(w[i % O * n + k]);
}

// A block of O outputs for all rows of x, up to 4 at once; `end` says what becomes of their values.
template <class W, int O, class End>
static inline void outputs(const Linear &l, int64_t o, const float *x, int64_t rows, End end) {
    const W *w = (const W *)l.w + o * l.n_in;
    float y[4 * O];
    auto finish = [&](int64_t r, int R) {
        for (int i = 0; i < R; i++)
            for (int j = 0; j < O; j++)
                y[i * O + j] = y[i * O + j] * (l.scale ? l.scale[o + j] : 1.0f) + (l.b ? l.b[o + j] : 0.0f);
        end(r, R, o, O, y);
    };
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) { dots<W, 4, O>(w, x + r * l.n_in, l.n_in, y); finish(r, 4); }
    if (rows - r == 3) { dots<W, 3, O>(w, x + r * l.n_in, l.n_in, y); finish(r, 3); }
    if (rows - r == 2) { dots<W, 2, O>(w, x + r * l.n_in, l.n_in, y); finish(r, 2); }
    if (rows - r == 1) { dots<W, 1, O>(w, x + r * l.n_in, l.n_in, y); finish(r, 1); }
}

// All outputs, shared out among the threads of the region that this is called in; they wait for each other at its end.
template <class W, class End>
static inline void product(const Linear &l, const float *x, int64_t rows, End end) {
    int64_t blocks = (l.n_out + 3) / 4;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < blocks; i++) {
        if (4 * i + 4 <= l.n_out) outputs<W, 4>(l, 4 * i, x, rows, end);
        else for (int64_t o = 4 * i; o < l.n_out; o++) outputs<W, 1>(l, o, x, rows, end);
    }
}

static auto stored(float *y, int64_t n) {
    return [=](int64_t r, int R, int64_t o, int O, const float *v) {
        for (int i = 0; i < R; i++) for (int j = 0; j < O; j++) y[(r + i) * n + o + j] = v[i * O + j];
    };
}

// ---- the parts of a block

static void layer_norm(const float *x, const float *w, const float *b, float eps, int64_t n, float *y) {
    float mean = 0, square = 0;
#pragma omp simd reduction(+ : mean)
    for (int64_t i = 0; i < n; i++) mean += x[i];
    mean /= n;
#pragma omp simd reduction(+ : square)
    for (int64_t i = 0; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
    float norm = 1.0f / std::sqrt(square / n + eps);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * norm * w[i] + b[i];
}

// Attention of one query (d) over `count` keys and values (slot, d); over none it is zero.
template <class C>
static void attend(const float *q, const C *k, const C *v, const C *bias, int64_t count, int64_t d, float *logits, float *out) {
    float largest = -INFINITY, total = 0, root = 1.0f / std::sqrt((float)d);
    int64_t j = 0, i = 0;
    for (; j + 4 <= count; j += 4) dots<C, 1, 4>(k + j * d, q, d, logits + j);
    for (; j < count; j++) dots<C, 1, 1>(k + j * d, q, d, logits + j);
    for (j = 0; j < count; j++) {
        logits[j] = logits[j] * root + (bias ? number(bias[j]) : 0.0f);
        largest = logits[j] > largest ? logits[j] : largest;
    }
#pragma omp simd reduction(+ : total)
    for (j = 0; j < count; j++) { logits[j] = exponential(logits[j] - largest); total += logits[j]; }
    float share = count ? 1.0f / total : 0.0f;
    for (; i + 16 <= d; i += 16) {
        vec seen = {};
        for (j = 0; j < count; j++) seen += logits[j] * load(v + j * d + i);
        seen *= share;
        std::memcpy(out + i, &seen, 64);
    }
    for (; i < d; i++) {
        out[i] = 0;
        for (j = 0; j < count; j++) out[i] += share * logits[j] * number(v[j * d + i]);
    }
}

// A rotary embedding: planes (i, i + d / 2) of one head's query or key turned by `row`, cosines and then sines.
static void rotate(float *x, const float *row, int64_t d) {
    const int64_t half = d / 2;
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[half + i];
        x[i] = a * row[i] - b * row[half + i];
        x[half + i] = b * row[i] + a * row[half + i];
    }
}

// One head of one sample: its key and value go into the cache, then it looks at what its pattern shows.
template <class C>
static void head_of(const Step &s, const Layer &l, int64_t position, int64_t b, int64_t h, float *logits) {
    const int64_t d = s.state / s.heads, *place = l.places + 4 * position, wide = l.attn.n_out;
    float *q = s.qkv + b * wide + h * d;
    if (l.rotation)
        for (float *x : {q, q + s.state}) rotate(x, l.rotation + position * d, d);
    auto at = [&](void *buffer, int64_t page) { return (C *)buffer + ((page * s.batch + b) * s.heads + h) * l.slots * d; };
    if (place[1] >= 0)
        for (int64_t i = 0; i < d; i++) {
            put(at(l.k, place[0]) + place[1] * d + i, q[s.state + i]);
            put(at(l.v, place[0]) + place[1] * d + i, q[2 * s.state + i]);
        }
    const C *bias = l.bias ? (const C *)l.bias + ((b * s.heads + h) * l.n_ctx + position) * l.slots : nullptr;
    attend(q, at(l.k, place[2]), at(l.v, place[2]), bias, place[3], d, logits, s.attended + b * s.state + h * d);
}

template <class W, class C>
static void run(const Step &s, int64_t position, const float *again, float *answer) {
    const int64_t n = s.batch * s.width;
    int64_t longest = 0;
    for (int64_t i = 0; i < s.depth; i++) longest = s.layers[i].slots > longest ? s.layers[i].slots : longest;
#pragma omp parallel num_threads(s.threads)
    {
        std::vector<float> sum_(n), normed(n), logits(longest);  // each thread's own: cheaper than to wait for one
        for (int64_t i = 0; i < s.depth; i++) {
            const Layer &l = s.layers[i];
            for (int64_t b = 0; b < s.batch; b++)
                layer_norm(s.x + b * s.width, l.ln_0_w, l.ln_0_b, s.eps, s.width, &normed[b * s.width]);
            product<W>(l.attn, normed.data(), s.batch, stored(s.qkv, l.attn.n_out));
#pragma omp for schedule(static)
            for (int64_t j = 0; j < s.batch * s.heads; j++) head_of<C>(s, l, position, j / s.heads, j % s.heads, logits.data());
            product<W>(l.proj, s.attended, s.batch, stored(s.a, s.width));
#pragma omp simd
            for (int64_t j = 0; j < n; j++) sum_[j] = s.x[j] + s.a[j];
            for (int64_t b = 0; b < s.batch; b++)
                layer_norm(&sum_[b * s.width], l.ln_1_w, l.ln_1_b, s.eps, s.width, &normed[b * s.width]);
            product<W>(l.fc, normed.data(), s.batch, [&](int64_t r, int R, int64_t o, int O, float *v) {
#pragma omp simd
                for (int i = 0; i < R * O; i++) v[i] = v[i] / (1.0f + exponential(-1.702f * v[i]));
                stored(s.m, s.hidden)(r, R, o, O, v);
            });
            product<W>(l.mlp, s.m, s.batch, [&](int64_t r, int R, int64_t o, int O, const float *v) {
                for (int i = 0; i < R; i++)
                    for (int j = 0; j < O; j++) {
                        int64_t at = (r + i) * s.width + o + j;
                        s.x[at] += s.scale * (s.a[at] + v[i * O + j]);
                    }
            });
        }
        for (int64_t j = 0; j < n; j++) normed[j] = s.x[j] + (again ? again[j] : 0.0f);
        if (s.head.w) product<W>(s.head, normed.data(), s.batch, stored(answer, s.head.n_out));
        else {
#pragma omp single
            std::memcpy(answer, normed.data(), sizeof(float) * n);
        }
    }
}

extern "C" void step(const Step *s, int32_t bytes, int64_t position, const float *x, const float *again, float *answer) {
    std::memcpy(s->x, x, sizeof(float) * s->batch * s->width);
    if (bytes == 4) run<float, float>(*s, position, again, answer);
    else if (bytes == 2) run<bf16, bf16>(*s, position, again, answer);
    else run<int8_t, bf16>(*s, position, again, answer);
}

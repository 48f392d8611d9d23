// flags: -O3
// Steps of a WaveNet on a CPU: codes in, logits of the next out, or whole blocks of codes drawn from given uniform numbers.
//
// A step is a chain of small products, too short for threads or for one call of a library each. So the whole chain is here, drawing
// included, and rows of a batch are shared out among threads, which never wait for each other. Weights lie as in Python, input-major:
// y += x_i * (row i of w), in registers. A row's sums do not depend on the batch.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../exponential.h"

typedef float vec __attribute__((vector_size(64)));

// What Python fills in (priors/wavenet/step.py has the same fields in the same order).
struct Net {
    const float *embedding, *gates, *residual, *skip, *skip_bias, *hidden, *hidden_bias, *out, *out_bias;
    const float *conditions;  // (b, frames, layer, 2 gate)
    float *buffers;           // (slot, b, c)
    const int64_t *dilations, *first;  // of each layer: its dilation, and the first slot of its ring
    int64_t depth, kernel, channels, gate, skips, bins, batch, frame, frames, threads;
};

struct Params { double temperature, top_p; int64_t top_k; };

// V vectors of outputs from o on: y += x w.
template <int V>
static inline int64_t outputs(const float *w, const float *x, int64_t n_in, int64_t n_out, float *y, int64_t o) {
    for (; o + 16 * V <= n_out; o += 16 * V) {
        vec sums[V];
        std::memcpy(sums, y + o, sizeof sums);
        for (int64_t i = 0; i < n_in; i++) {
            vec row[V];
            std::memcpy(row, w + i * n_out + o, sizeof row);
            for (int v = 0; v < V; v++) sums[v] += x[i] * row[v];
        }
        std::memcpy(y + o, sums, sizeof sums);
    }
    return o;
}

static void product(const float *w, const float *x, int64_t n_in, int64_t n_out, float *y) {
    int64_t o = outputs<16>(w, x, n_in, n_out, y, 0);
    o = outputs<8>(w, x, n_in, n_out, y, o);
    o = outputs<4>(w, x, n_in, n_out, y, o);
    o = outputs<1>(w, x, n_in, n_out, y, o);
    for (; o < n_out; o++) for (int64_t i = 0; i < n_in; i++) y[o] += x[i] * w[i * n_out + o];
}

// Logits of one row after the code at a position; `room` is for what lies between the layers.
static void step(const Net &m, int64_t b, int64_t code, int64_t position, float *logits, std::vector<float> &room) {
    const int64_t C = m.channels, G = m.gate, S = m.skips;
    float *x = room.data(), *g = x + C, *z = g + 2 * G, *skips = z + G, *hidden = skips + S;
    const float *condition = m.conditions + (b * m.frames + position / m.frame) * m.depth * 2 * G;
    std::memcpy(x, m.embedding + code * C, sizeof(float) * C);
    std::memcpy(skips, m.skip_bias, sizeof(float) * S);
    for (int64_t l = 0; l < m.depth; l++) {
        const int64_t d = m.dilations[l], length = (m.kernel - 1) * d + 1;
        const float *w = m.gates + l * m.kernel * C * 2 * G;
        auto slot = [&](int64_t t) { return m.buffers + ((m.first[l] + (t % length + length) % length) * m.batch + b) * C; };
        std::memcpy(g, condition + l * 2 * G, sizeof(float) * 2 * G);
        for (int64_t k = 1; k < m.kernel; k++, w += C * 2 * G) product(w, slot(position - (m.kernel - k) * d), C, 2 * G, g);
        product(w, x, C, 2 * G, g);
        std::memcpy(slot(position), x, sizeof(float) * C);
        for (int64_t i = 0; i < G; i++)
            z[i] = (2.0f / (1.0f + exponential(-2.0f * g[i])) - 1.0f) / (1.0f + exponential(-g[G + i]));
        product(m.skip + l * G * S, z, G, S, skips);
        if (l + 1 < m.depth) product(m.residual + l * G * C, z, G, C, x);
    }
    for (int64_t i = 0; i < S; i++) skips[i] = skips[i] > 0 ? skips[i] : 0;
    std::memcpy(hidden, m.hidden_bias, sizeof(float) * S);
    product(m.hidden, skips, S, S, hidden);
    for (int64_t i = 0; i < S; i++) hidden[i] = hidden[i] > 0 ? hidden[i] : 0;
    std::memcpy(logits, m.out_bias, sizeof(float) * m.bins);
    product(m.out, hidden, S, m.bins, logits);
}

// The code at which the cumulative distribution passes `uniform`, as `draw` and `filter_logits` of priors/logits.py.
static int64_t draw(float *logits, int64_t bins, double uniform, const Params &p, std::vector<double> &shares, std::vector<int> &order) {
    if (p.temperature == 0) return std::max_element(logits, logits + bins) - logits;
    for (int64_t i = 0; i < bins; i++) logits[i] /= (float)p.temperature;
    for (int64_t i = 0; i < bins; i++) order[i] = i;
    if (p.top_k > 0 || p.top_p > 0)
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
    if (p.top_k > 0) {
        float least = logits[order[std::min(p.top_k, bins) - 1]];
        for (int64_t i = 0; i < bins; i++) if (logits[i] < least) logits[i] = -INFINITY;
    }
    auto fill = [&] {  // shares of all codes, and their sum
        double largest = *std::max_element(logits, logits + bins), total = 0;
        for (int64_t i = 0; i < bins; i++) total += shares[i] = std::exp(logits[i] - largest);
        return total;
    };
    double total = fill(), before = 0;
    if (p.top_p > 0) {
        for (int64_t i = 0; i < bins; i++) {
            double share = shares[order[i]] / total;
            if (before > p.top_p) logits[order[i]] = -INFINITY;
            before += share;
        }
        total = fill();
    }
    double at = uniform * total, running = 0;
    for (int64_t i = 0; i < bins; i++) if ((running += shares[i]) > at) return i;
    return bins - 1;
}

// `n` codes (b, n) after `code` (b), from uniform `numbers` (b, n); without numbers the logits (b, bins) of one step.
extern "C" void codes(const Net *net, const Params *params, int64_t position, int64_t n, const int64_t *code, const double *numbers,
                      int64_t *made, float *logits) {
    const Net &m = *net;
#pragma omp parallel for num_threads(std::min(m.threads, m.batch)) schedule(static)
    for (int64_t b = 0; b < m.batch; b++) {
        std::vector<float> room(m.channels + 3 * m.gate + 2 * m.skips);
        std::vector<double> shares(m.bins);
        std::vector<int> order(m.bins);
        int64_t last = code[b];
        for (int64_t i = 0; i < n; i++) {
            step(m, b, last, position + i, logits + b * m.bins, room);
            if (numbers) made[b * n + i] = last = draw(logits + b * m.bins, m.bins, numbers[b * n + i], *params, shares, order);
        }
    }
}

// flags: -O3 -ffp-contract=off
// The recursion of phases over the frames of a sound, as `vqvae/spectral/phase.py` has it in NumPy: the same operations in the same order,
// none of them fused, so that both give the same bits. A loop over bins is a vector loop; NumPy takes a microsecond to begin one.

#include <cmath>
#include <cstdint>
#include <vector>

typedef const float *__restrict in;

static void normalise(float *__restrict real, float *__restrict imag, int64_t bins) {
    for (int64_t k = 0; k < bins; k++) {
        float size = std::sqrt(real[k] * real[k] + imag[k] * imag[k]);
        size = size < 1e-9f ? 1e-9f : size;
        real[k] /= size;
        imag[k] /= size;
    }
}

// made (n, 2, bins): unit phasors of every frame. now (2, bins): those of the frame before; `along`, complex numbers (n, bins), takes them
// to what they propose, `doubt` (n, 2, bins) is added; below, above (n, bins) weigh the proposals of the neighbours in each round.
extern "C" void propagate(in along, in doubt, in below, in above, const float *now, float *made, int64_t n, int64_t bins, int64_t rounds) {
    std::vector<float> work(6 * (bins + 2), 0.0f);  // with a zero beyond either end
    float *own[2] = {&work[1], &work[bins + 3]}, *next[2] = {&work[2 * bins + 5], &work[3 * bins + 7]};
    float *proposed[2] = {&work[4 * bins + 9], &work[5 * bins + 11]};
    for (int64_t i = 0; i < n; i++, now = made, made += 2 * bins) {
        in turn = along + 2 * i * bins, low = below + i * bins, high = above + i * bins;
        for (int64_t k = 0; k < bins; k++) {
            float real = now[k], imag = now[bins + k];
            own[0][k] = proposed[0][k] = real * turn[2 * k] + imag * -turn[2 * k + 1] + doubt[2 * i * bins + k];
            own[1][k] = proposed[1][k] = imag * turn[2 * k] + real * turn[2 * k + 1] + doubt[(2 * i + 1) * bins + k];
        }
        normalise(own[0], own[1], bins);
        for (int64_t round = 0; round < rounds; round++) {
            for (int part = 0; part < 2; part++) {
                in old = own[part], add = proposed[part];
                float *__restrict sum = next[part];
                for (int64_t k = 0; k < bins; k++) sum[k] = old[k - 1] * low[k] + add[k] + old[k + 1] * high[k];
            }
            normalise(next[0], next[1], bins);
            for (int part = 0; part < 2; part++) {
                float *swap = own[part];
                own[part] = next[part];
                next[part] = swap;
            }
        }
        for (int64_t k = 0; k < bins; k++) made[k] = own[0][k], made[bins + k] = own[1][k];
    }
}

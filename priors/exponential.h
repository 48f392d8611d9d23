// The exponential of the compiled steps: the same bits in each of them.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

// e^x by 2^n e^r, r within ln 2 / 2, a polynomial for e^r: within 3e-7 of it, and a loop of it becomes vectors.
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = std::nearbyintf(x * 1.44269504f), r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f; p = p * r + 8.3334519073e-3f; p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f; p = p * r + 5.0000001201e-1f; p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float two_n; std::memcpy(&two_n, &bits, 4);
    return p * two_n;
}

// The cross-entropy of ten classes and its gradient; lenet5.cpp tells the order of their sums.
#pragma once
#include "vector.h"

namespace {

// Cephes' polynomials (Moshier): exp for x <= 0, log for x >= 1.
float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    const float shift = 12582912.0f;  // 1.5 * 2^23: the sum's last bits are a rounded integer
    float shifted = fma(x, 1.44269504088896341f, shift), n = shifted - shift;
    float r = fma(n, 2.12194440e-4f, fma(n, -0.693359375f, x)), p = 1.9875691500e-4f;
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                    5.0000001201e-1f})
        p = fma(p, r, c);
    p = fma(p, r * r, r) + 1.0f;
    uint32_t power;
    memcpy(&power, &shifted, 4);
    power = (power + 127) << 23;
    float scale;
    memcpy(&scale, &power, 4);
    return p * scale;
}

float logarithm(float x) {
    uint32_t word;
    memcpy(&word, &x, 4);
    float e = (int)(word >> 23) - 126, m;
    word = (word & 0x7fffff) | 0x3f000000;
    memcpy(&m, &word, 4);
    if (m < 0.70710678f) {
        m = m + m;
        e -= 1;
    }
    m -= 1;
    float z = m * m, p = 7.0376836292e-2f;
    for (float c : {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                    -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f})
        p = fma(p, m, c);
    p = fma(e, -2.12194440e-4f, p * m * z);
    return fma(e, 0.693359375f, m + fma(-0.5f, z, p));
}

struct Loss {
    float smoothing, batch_size, sum = 0, correct = 0;

    // The gradient of the cross-entropy is the probabilities minus the targets.
    void add(const float* logits, int64_t label, float* gradient) {
        int best = 0;
        for (int c = 1; c < 10; c++) if (logits[c] > logits[best]) best = c;
        correct += best == label;
        float top = logits[best], exponentials[10], total = 0, loss = 0;
        for (int c = 0; c < 10; c++) exponentials[c] = exponential(logits[c] - top);
        for (int c = 0; c < 10; c++) total += exponentials[c];
        float log_total = logarithm(total), other = smoothing / 10, own = (1 - smoothing) + other;
        for (int c = 0; c < 10; c++) {
            float target = c == label ? own : other;
            loss += (logits[c] - top - log_total) * target;
            gradient[c] = (exponentials[c] / total - target) / batch_size;
        }
        sum -= loss;
    }
};

}  // namespace

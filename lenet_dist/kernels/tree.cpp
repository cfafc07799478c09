// The sum of rows in the order of a binary tree, the same for any number of threads.
#include <cstring>

#include "parallel.h"
#include "vector.h"

namespace {

constexpr int STRIP = 512;  // columns that are summed together, in the first cache

// The sum of n rows: the tree's left half is the greatest power of two below n.
void tree(const float* rows, long width, int n, int columns, float* sum, float (*spare)[STRIP]) {
    if (n == 1) {
        memcpy(sum, rows, 4 * columns);
        return;
    }
    int half = 1;
    while (2 * half < n) half *= 2;
    const float *left = rows, *right = rows + half * width;
    if (half > 1) {
        tree(left, width, half, columns, sum, spare);
        left = sum;
    }
    if (n - half > 1) {
        tree(right, width, n - half, columns, *spare, spare + 1);
        right = *spare;
    }
    int i = 0;
    for (; i + LANES <= columns; i += LANES) store(sum + i, load(left + i) + load(right + i));
    for (; i < columns; i++) sum[i] = left[i] + right[i];
}

}  // namespace

extern "C" {

const char* fingerprint() { return FINGERPRINT; }

// sum [width] of rows [n, width], as a binary tree: rows 0 + 1, 2 + 3, ..., then their sums; a
// last one without a partner is passed on.
void tree_sum(const float* rows, int n, long width, float* sum, int threads) {
    // To start a thread takes as long as to add some 200,000 numbers.
    threads = std::min<long>(threads, 1 + n * width / (1 << 20));
    in_parallel(threads, (width + STRIP - 1) / STRIP, [] {}, [&](int strip, int) {
        float spare[32][STRIP];
        long first = (long)strip * STRIP;
        tree(rows + first, width, n, std::min(width - first, (long)STRIP), sum + first, spare);
    });
}
}

// Products of matrices in tiles that fill the registers; lenet5.cpp tells the order of their
// sums.
#pragma once
#include <type_traits>

#include "vector.h"

namespace {

// A matrix in memory: element (r, k) lies at r * row + k * column.
struct Matrix {
    const float* at;
    long row, column = 1;
};

// R x N vectors of sums, which stay in registers: sum (r, v) is start (r, v), then, for each k,
// one fma of a (r, k) and the vector v of b's row k.
template <int R, int N>
struct Sums {
    Floats sum[R][N];

    INLINE void start(Matrix from) {
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < N; v++)
            sum[r][v] = from.at ? load(from.at + r * from.row + v * LANES) : Floats{};
    }
    INLINE void add(int count, Matrix a, Matrix b) {
        for (int k = 0; k < count; k++) {
            Floats x[N];
            UNROLL for (int v = 0; v < N; v++) x[v] = load(b.at + k * b.row + v * LANES);
            UNROLL for (int r = 0; r < R; r++) {
                Floats factor = splat(a.at[r * a.row + k * a.column]);
                UNROLL for (int v = 0; v < N; v++) sum[r][v] = fma(factor, x[v], sum[r][v]);
            }
        }
    }
    // TAIL: how many lanes of the last vector are stored.
    template <int TAIL = LANES>
    INLINE void finish(float* to, long row) {
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < N; v++)
            memcpy(to + r * row + v * LANES, &sum[r][v], 4 * (v < N - 1 ? LANES : TAIL));
    }
};

constexpr Matrix ZERO = {nullptr, 0};

// out [rows, WIDTH] = start + a b, in tiles of R rows, as wide as the registers allow; `rows` is
// a multiple of R. Rows of b and of start are read in whole vectors.
template <int WIDTH, int R>
void product(int rows, int count, Matrix a, Matrix b, Matrix start, float* out, long out_row) {
    constexpr int VECTORS = (WIDTH + LANES - 1) / LANES, N = REGISTERS == 32 ? 5 : 3;
    constexpr int WHOLE = (VECTORS - 1) / N * N, TAIL = WIDTH - (VECTORS - 1) * LANES;
    for (int r = 0; r < rows; r += R) {
        auto tile = [&](auto sums, auto tail, int first) __attribute__((always_inline)) {
            sums.start({start.at ? start.at + r * start.row + first : nullptr, start.row});
            sums.add(count, {a.at + r * a.row, a.row, a.column}, {b.at + first, b.row});
            sums.template finish<decltype(tail)::value>(out + r * out_row + first, out_row);
        };
        for (int v = 0; v < WHOLE; v += N)
            tile(Sums<R, N>(), std::integral_constant<int, LANES>(), v * LANES);
        tile(Sums<R, VECTORS - WHOLE>(), std::integral_constant<int, TAIL>(), WHOLE * LANES);
    }
}

// out [images, WIDTH]. Up to three rows more are computed, and not used.
template <int WIDTH>
void layer(int images, int count, Matrix a, Matrix b, Matrix start, float* out, long out_row) {
    product<WIDTH, 4>((images + 3) / 4 * 4, count, a, b, start, out, out_row);
}

// out [OUTPUTS, WIDTH] from the gradients [images, g_row] of a block's outputs and from its
// inputs; `add` continues the sums that are there.
template <int OUTPUTS, int WIDTH>
void weight_gradient(int images, bool add, const float* g, long g_row, Matrix inputs, float* out) {
    Matrix start = add ? Matrix{out, WIDTH} : ZERO;
    product<WIDTH, OUTPUTS % 4 ? 2 : 4>(OUTPUTS, images, {g, 1, g_row}, inputs, start, out, WIDTH);
}

// to [columns, to_row] of `from` [rows, columns], some rows at once: as many as lie in a cache
// line, or fewer.
template <int AT_ONCE>
void transpose(int rows, int columns, const float* from, float* to, long to_row) {
    for (int first = 0; first < rows; first += AT_ONCE) for (int k = 0; k < columns; k++)
        UNROLL for (int r = first; r < first + AT_ONCE; r++)
            to[k * to_row + r] = from[r * columns + k];
}

}  // namespace

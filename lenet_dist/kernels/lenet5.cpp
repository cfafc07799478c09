// LeNet-5 in float32 on a CPU: the gradients of shards of images, and logits.
//
// The bits of a result depend on this file and on the numbers given, and on nothing else: not on
// the number of threads, the images beside it, the compiler or the width of the processor's
// vectors. A multiply-add is one explicit fma, rounded once; nothing else is fused or reordered
// (-ffp-contract=off, no -ffast-math), and exp and log are written out. Lanes of a vector hold
// different results and are never added to one another. Sums are made in this order:
//
// - Forward. Each output starts from its bias; then one fma for each input: C1 by (row, column)
//   of the patch, C3 by (row, column, map), C5 by (map, row, column), F6 and OUT by unit.
// - Gradients of C5, F6 and OUT. For their inputs: from zero, one fma for each output unit. For
//   their weights: one fma for each image of the shard, in order. For their biases: one addition
//   each.
// - Gradient of S2. By window of S4, then by place in it: from zero, one fma for each map of C3
//   that has its maximum at this place; this sum is added to the gradient.
// - Gradients of C3's weight and bias. In an image, from zero, one fma (addition) for each
//   window, then place, with a maximum; these sums are added image after image.
// - Gradients of C1's weight and bias. The same over the windows of S2, the even columns and the
//   odd ones apart; the two are added, then image after image.
// - Loss and correct count. Over the classes of an image, then image after image.
//
// ReLU and max pools keep NaN, as torch's do: what is not finite shows in the loss.
#include <algorithm>

#include "loss.h"
#include "parallel.h"
#include "product.h"
#include "vector.h"

namespace {

enum { C1W = 0, C1B = 150, C3W = 156, C3B = 2556, C5W = 2572, C5B = 50572, F6W = 50692 };
enum { F6B = 60772, OUTW = 60856, OUTB = 61696, PARAMETERS = 61706, ROW = PARAMETERS + 2 };
constexpr int BLOCK = 16;  // images that a linear layer takes at once
constexpr int MAPS = 6;    // of S2, side by side in memory: [14, 14, 6]
constexpr int PATCH = 32;  // floats of a row of C3's patch, [5, 6], filled up to whole vectors

// The weights, and copies of them in layouts that vectors can load: input x output, but for
// `_rows`.
struct alignas(64) Weights {
    const float* plain;  // torch's own
    alignas(64) float c3[150][16];            // (row, column, map) x output
    alignas(64) float c3_rows[16][5][PATCH];  // output x row x (column, map)
    alignas(64) float c5[400][128], f6[120][96], out[84][16], out_rows[10][96], out_bias[16];
};

// What the passes leave of an image for the gradients.
struct alignas(64) Image {
    float pixels[32 * 32 + 16];  // standardised, with C1's border of zeros
    float s2[14 * 14 * MAPS + 16];
    int32_t c1_patch[MAPS][14][16];  // where in `pixels` the patch of a window's maximum begins
    uint16_t c3_chosen[25][4];  // by window and place: bits of the maps with their maximum there
};

// What a thread works in. Names in _g are gradients.
struct alignas(64) Work {
    Image images[BLOCK];
    alignas(64) float s4[BLOCK][400], c5[BLOCK][128], f6[BLOCK][96], logits[BLOCK][16];
    alignas(64) float s4_g[BLOCK][400], c5_g[BLOCK][128], f6_g[BLOCK][96], logits_g[BLOCK][16];
    alignas(64) float columns[2][32 * 16 + 16];  // of an image's pixels, even ones and odd ones
    alignas(64) float s2_g[14 * 14 * MAPS + 16];
    alignas(64) float conv[100][16];
    alignas(64) float c3_w[16][5][PATCH], c1_w[MAPS][5][8];
    float c3_b[16], c1_b[MAPS];
};

// ReLU, and its gradient: NaN is kept.
INLINE Floats relu(Floats x) { return x <= 0 ? Floats{} : x; }
INLINE Floats cut(Floats gradient, Floats output) { return output <= 0 ? Floats{} : gradient; }

void relu(float* x, int count) {
    for (int i = 0; i < count; i += LANES) store(x + i, relu(load(x + i)));
}
void cut(float* gradient, const float* output, int count) {
    for (int i = 0; i < count; i += LANES)
        store(gradient + i, cut(load(gradient + i), load(output + i)));
}

void arrange(const float* plain, Weights& to) {
    memset(&to, 0, sizeof to);
    to.plain = plain;
    for (int o = 0; o < 16; o++) for (int i = 0; i < MAPS; i++) for (int k = 0; k < 25; k++) {
        float value = plain[C3W + (o * MAPS + i) * 25 + k];
        to.c3[k * MAPS + i][o] = value;
        to.c3_rows[o][k / 5][k % 5 * MAPS + i] = value;
    }
    transpose<8>(120, 400, plain + C5W, to.c5[0], 128);
    transpose<4>(84, 120, plain + F6W, to.f6[0], 96);
    transpose<2>(10, 84, plain + OUTW, to.out[0], 16);
    for (int o = 0; o < 10; o++) memcpy(to.out_rows[o], plain + OUTW + o * 84, 4 * 84);
    memcpy(to.out_bias, plain + OUTB, 4 * 10);
}

// A vector's lanes are adjacent windows of S2, each with four places: four sums a map.
void c1_s2(const float* pixels, float mean, float deviation, const Weights& w, Image& image,
           Work& t) {
    for (int y = 0; y < 28; y++) for (int x = 0; x < 28; x += LANES) {
        int first = std::min(x, 28 - LANES);
        Floats values = load(pixels + y * 28 + first);
        store(image.pixels + (y + 2) * 32 + 2 + first, (values - mean) / deviation);
    }
    for (int i = 0; i < 32 * 16; i += LANES) {
        Floats a = load(image.pixels + 2 * i), b = load(image.pixels + 2 * i + LANES);
        store(t.columns[0] + i, even(a, b));
        store(t.columns[1] + i, odd(a, b));
    }
    constexpr int AT_ONCE = REGISTERS == 32 ? MAPS : 2;
    Ints lane;
    UNROLL for (int l = 0; l < LANES; l++) lane[l] = l;
    for (int y = 0; y < 14; y++) {
        float maps[MAPS][16];
        for (int x = 0; x < 14; x += LANES) for (int first = 0; first < MAPS; first += AT_ONCE) {
            Floats sum[4][AT_ONCE];
            UNROLL for (int o = 0; o < AT_ONCE; o++) UNROLL for (int place = 0; place < 4; place++)
                sum[place][o] = splat(w.plain[C1B + first + o]);
            UNROLL for (int ky = 0; ky < 5; ky++) UNROLL for (int kx = 0; kx < 5; kx++) {
                Floats in[4];
                UNROLL for (int place = 0; place < 4; place++) {
                    int row = 2 * y + ky + place / 2, column = kx + place % 2;
                    in[place] = load(t.columns[column % 2] + row * 16 + x + column / 2);
                }
                UNROLL for (int o = 0; o < AT_ONCE; o++) {
                    Floats weight = splat(w.plain[C1W + (first + o) * 25 + ky * 5 + kx]);
                    UNROLL for (int place = 0; place < 4; place++)
                        sum[place][o] = fma(weight, in[place], sum[place][o]);
                }
            }
            UNROLL for (int o = 0; o < AT_ONCE; o++) {
                Floats best = sum[0][o];
                Ints patch = lane * 2 + (2 * y * 32 + 2 * x), at = patch;
                UNROLL for (int place = 1; place < 4; place++) {
                    Ints greater = (sum[place][o] > best) | is_nan(sum[place][o]);
                    best = greater ? sum[place][o] : best;
                    at = greater ? patch + (place / 2 * 32 + place % 2) : at;
                }
                store(image.c1_patch[first + o][y] + x, at);
                store(maps[first + o] + x, relu(best));
            }
        }
        for (int x = 0; x < 14; x++) UNROLL for (int o = 0; o < MAPS; o++)
            image.s2[(y * 14 + x) * MAPS + o] = maps[o][x];
    }
}

// A vector's lanes are maps of C3; the sums are those of adjacent places.
void c3_s4(const Weights& w, Image& image, float* s4, Work& t) {
    constexpr int PLACES = LANES == 16 ? 10 : 5;
    for (int y = 0; y < 10; y++) for (int x = 0; x < 10; x += PLACES) {
        Sums<PLACES, 16 / LANES> sums;
        sums.start({w.plain + C3B, 0});
        for (int ky = 0; ky < 5; ky++)
            sums.add(30, {image.s2 + ((y + ky) * 14 + x) * MAPS, MAPS}, {w.c3[ky * 30], 16});
        sums.finish(t.conv[y * 10 + x], 16);
    }
    for (int p = 0; p < 25; p++) {
        const float* first = t.conv[p / 5 * 20 + p % 5 * 2];
        unsigned chosen[4] = {};
        for (int o = 0; o < 16; o += LANES) {
            Floats best = load(first + o);
            Ints at = {};
            UNROLL for (int place = 1; place < 4; place++) {
                Floats value = load(first + o + (place / 2 * 10 + place % 2) * 16);
                Ints greater = (value > best) | is_nan(value);
                best = greater ? value : best;
                at = greater ? Ints{} + place : at;
            }
            Ints passes = ~(best <= 0);
            UNROLL for (int place = 0; place < 4; place++)
                chosen[place] |= bits((at == place) & passes) << o;
            best = relu(best);
            UNROLL for (int l = 0; l < LANES; l++) s4[(o + l) * 25 + p] = best[l];
        }
        for (int place = 0; place < 4; place++) image.c3_chosen[p][place] = chosen[place];
    }
}

void forward(const float* pixels, int images, float mean, float deviation, const Weights& w,
             Work& t) {
    for (int i = 0; i < images; i++) {
        c1_s2(pixels + i * 784, mean, deviation, w, t.images[i], t);
        c3_s4(w, t.images[i], t.s4[i], t);
    }
    layer<128>(images, 400, {t.s4[0], 400}, {w.c5[0], 128}, {w.plain + C5B, 0}, t.c5[0], 128);
    relu(t.c5[0], images * 128);
    layer<96>(images, 120, {t.c5[0], 128}, {w.f6[0], 96}, {w.plain + F6B, 0}, t.f6[0], 96);
    relu(t.f6[0], images * 96);
    layer<16>(images, 84, {t.f6[0], 96}, {w.out[0], 16}, {w.out_bias, 0}, t.logits[0], 16);
}

// Max pools and ReLU leave most of C3's outputs without a gradient: those are passed over.
// First S2's gradient, then that of C3's weight, over lists of the values and patches of each
// output map.
void c3_gradient(const Weights& w, const float* gradient, const Image& image, Work& t) {
    constexpr int WIDE = LANES == 16 ? PATCH : PATCH / 2, N = WIDE / LANES;
    float values[16][25];
    int patches[16][25], counts[16] = {};
    memset(t.s2_g, 0, sizeof t.s2_g);
    for (int p = 0; p < 25; p++) for (int place = 0; place < 4; place++) {
        int patch = ((p / 5 * 2 + place / 2) * 14 + p % 5 * 2 + place % 2) * MAPS;
        for (int column = 0; column < PATCH; column += WIDE) {
            Floats sum[5][N] = {};
            for (unsigned left = image.c3_chosen[p][place]; left; left &= left - 1) {
                int o = __builtin_ctz(left);
                float g = gradient[o * 25 + p];
                if (column == 0) {
                    values[o][counts[o]] = g;
                    patches[o][counts[o]++] = patch;
                }
                const float* weight = w.c3_rows[o][0] + column;
                UNROLL for (int r = 0; r < 5; r++) UNROLL for (int v = 0; v < N; v++)
                    sum[r][v] = fma(splat(g), load(weight + r * PATCH + v * LANES), sum[r][v]);
            }
            UNROLL for (int r = 0; r < 5; r++) UNROLL for (int v = 0; v < N; v++)
                add_to(t.s2_g + patch + r * 14 * MAPS + column + v * LANES, sum[r][v]);
        }
    }
    for (int o = 0; o < 16; o++) {
        float bias = 0;
        for (int e = 0; e < counts[o]; e++) bias += values[o][e];
        t.c3_b[o] += bias;
        for (int column = 0; column < PATCH; column += WIDE) {
            Floats sum[5][N] = {};
            for (int e = 0; e < counts[o]; e++) {
                Floats g = splat(values[o][e]);
                const float* in = image.s2 + patches[o][e] + column;
                UNROLL for (int r = 0; r < 5; r++) UNROLL for (int v = 0; v < N; v++)
                    sum[r][v] = fma(g, load(in + r * 14 * MAPS + v * LANES), sum[r][v]);
            }
            UNROLL for (int r = 0; r < 5; r++) UNROLL for (int v = 0; v < N; v++)
                add_to(t.c3_w[o][r] + column + v * LANES, sum[r][v]);
        }
    }
}

// Five lanes of a vector of eight are the columns of a patch.
void c1_gradient(const Image& image, Work& t) {
    constexpr int WIDE = LANES < 8 ? LANES : 8, N = 8 / WIDE;
    typedef Lanes<WIDE>::Floats Row;
    cut(t.s2_g, image.s2, 14 * 14 * MAPS + 8);
    for (int o = 0; o < MAPS; o++) {
        Row sum[2][5][N] = {};
        float bias[2] = {};
        for (int y = 0; y < 14; y++) for (int x = 0; x < 14; x += 2)
            UNROLL for (int odd = 0; odd < 2; odd++) {
                float g = t.s2_g[(y * 14 + x + odd) * MAPS + o];
                const float* in = image.pixels + image.c1_patch[o][y][x + odd];
                bias[odd] += g;
                UNROLL for (int r = 0; r < 5; r++) UNROLL for (int v = 0; v < N; v++) {
                    Row row = load<Row>(in + r * 32 + v * WIDE);
                    sum[odd][r][v] = fma(splat<Row>(g), row, sum[odd][r][v]);
                }
            }
        t.c1_b[o] += bias[0] + bias[1];
        UNROLL for (int r = 0; r < 5; r++) UNROLL for (int v = 0; v < N; v++)
            add_to(t.c1_w[o][r] + v * WIDE, sum[0][r][v] + sum[1][r][v]);
    }
}

void add(float* sum, const float* values, int count) {
    for (int i = 0; i < count; i++) sum[i] += values[i];
}

// row [ROW] of a shard: its gradient, its summed loss, and how many images are right.
void shard_row(const float* pixels, const int64_t* labels, int images, float mean, float deviation,
               Loss loss, const Weights& w, Work& t, float* row) {
    memset(t.c1_w, 0, sizeof t.c1_w);
    memset(t.c1_b, 0, sizeof t.c1_b);
    memset(t.c3_w, 0, sizeof t.c3_w);
    memset(t.c3_b, 0, sizeof t.c3_b);
    memset(row + C5B, 0, 4 * 120);
    memset(row + F6B, 0, 4 * 84);
    memset(row + OUTB, 0, 4 * 10);
    for (int first = 0; first < images; first += BLOCK) {
        int count = std::min(images - first, BLOCK);
        forward(pixels + (long)first * 784, count, mean, deviation, w, t);
        for (int i = 0; i < count; i++) loss.add(t.logits[i], labels[first + i], t.logits_g[i]);
        layer<96>(count, 10, {t.logits_g[0], 16}, {w.out_rows[0], 96}, ZERO, t.f6_g[0], 96);
        cut(t.f6_g[0], t.f6[0], count * 96);
        layer<120>(count, 84, {t.f6_g[0], 96}, {w.plain + F6W, 120}, ZERO, t.c5_g[0], 128);
        cut(t.c5_g[0], t.c5[0], count * 128);
        layer<400>(count, 120, {t.c5_g[0], 128}, {w.plain + C5W, 400}, ZERO, t.s4_g[0], 400);
        weight_gradient<10, 84>(count, first, t.logits_g[0], 16, {t.f6[0], 96}, row + OUTW);
        weight_gradient<84, 120>(count, first, t.f6_g[0], 96, {t.c5[0], 128}, row + F6W);
        weight_gradient<120, 400>(count, first, t.c5_g[0], 128, {t.s4[0], 400}, row + C5W);
        for (int i = 0; i < count; i++) {
            add(row + OUTB, t.logits_g[i], 10);
            add(row + F6B, t.f6_g[i], 84);
            add(row + C5B, t.c5_g[i], 120);
            c3_gradient(w, t.s4_g[i], t.images[i], t);
            c1_gradient(t.images[i], t);
        }
    }
    for (int o = 0; o < 6; o++) for (int k = 0; k < 25; k++)
        row[C1W + o * 25 + k] = t.c1_w[o][k / 5][k % 5];
    for (int o = 0; o < 16; o++) for (int i = 0; i < 6; i++) for (int k = 0; k < 25; k++)
        row[C3W + (o * 6 + i) * 25 + k] = t.c3_w[o][k / 5][k % 5 * 6 + i];
    memcpy(row + C1B, t.c1_b, sizeof t.c1_b);
    memcpy(row + C3B, t.c3_b, sizeof t.c3_b);
    row[PARAMETERS] = loss.sum;
    row[PARAMETERS + 1] = loss.correct;
}

// What a call works in: the caller's, so that calls at the same time share nothing. All zero at
// first; borders and what fills up vectors stay so.
struct Scratch {
    Weights weights;
    Work work[1];  // one a thread
};

}  // namespace

extern "C" {

long lenet5_scratch_bytes(int threads) { return sizeof(Scratch) + (threads - 1) * sizeof(Work); }

// rows [shards, ROW] of shards of `images` images each; false, and nothing done, for a label that
// is no class.
int lenet5_gradients(const float* weights, const float* pixels, const int64_t* labels, int shards,
                      int images, float mean, float deviation, float smoothing, float batch_size,
                      float* rows, int threads, void* memory) {
    auto is_class = [](int64_t label) { return 0 <= label && label < 10; };
    if (!std::all_of(labels, labels + (long)shards * images, is_class)) return false;
    auto scratch = static_cast<Scratch*>(memory);
    auto prepare = [&] { arrange(weights, scratch->weights); };
    in_parallel(threads, shards, prepare, [&](int s, int thread) {
        long first = (long)s * images;
        shard_row(pixels + first * 784, labels + first, images, mean, deviation,
                  {smoothing, batch_size}, scratch->weights, scratch->work[thread],
                  rows + (long)s * ROW);
    });
    return true;
}

// logits [images, 10].
void lenet5_logits(const float* weights, const float* pixels, int images, float mean,
                   float deviation, float* logits, int threads, void* memory) {
    auto scratch = static_cast<Scratch*>(memory);
    auto prepare = [&] { arrange(weights, scratch->weights); };
    in_parallel(threads, (images + BLOCK - 1) / BLOCK, prepare, [&](int block, int thread) {
        Work& t = scratch->work[thread];
        int first = block * BLOCK, count = std::min(images - first, BLOCK);
        forward(pixels + (long)first * 784, count, mean, deviation, scratch->weights, t);
        for (int i = 0; i < count; i++) memcpy(logits + (first + i) * 10L, t.logits[i], 40);
    });
}
}

// Distortion of images as data/augment.py defines it: rotation, shift, scale, shear and an
// elastic part, by random numbers that depend on (stream, sample id) alone.
//
// The bits depend on this file and the numbers given alone, as lenet5.cpp says. Coordinates run
// from -1 to 1 over an image, right and down. The matrix is computed in float64, all else in
// float32: a pixel comes from the place across * column + (downward * row + shift), plus the
// elastic part, which is one fma for each column of knots, each of them one fma for each row of
// knots. Its value lies between those of four pixels: along the upper row, along the lower row,
// then between the two, each by one fma.
#include <cmath>
#include <cstdint>

#include "parallel.h"
#include "vector.h"

namespace {

constexpr int SIDE = 28, PIXELS = SIDE * SIDE;
constexpr int KNOTS = 4, DRAWS = 5, ELASTIC_DRAWS = 2 * KNOTS * KNOTS;
constexpr int64_t FIRST_ELASTIC = int64_t(1) << 40;
constexpr int BORDERED = 32;  // a row with its border of zeros, one before and three after

struct Ranges {
    double rotate, translate, scale, shear, elastic;  // radians, fractions
};

// SplitMix64's output at position `counter`, as a number in [-1, 1).
double draw(uint64_t stream, int64_t counter) {
    uint64_t z = uint64_t(counter + 1) * 0x9E3779B97F4A7C15 + stream;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    z ^= z >> 31;
    return double(z >> 11) * 0x1p-53 * 2 - 1;
}

// Sine and cosine by their power series: to float64's precision for angles up to half a turn.
void sine_cosine(double angle, double& sine, double& cosine) {
    double square = angle * angle;
    sine = cosine = 1;
    for (int k = 28; k > 0; k -= 2) {
        cosine = 1 - square / (k * (k - 1)) * cosine;
        sine = 1 - square / (k * (k + 1)) * sine;
    }
    sine *= angle;
}

// What all images have in common.
struct Table {
    float shades[256], centers[SIDE];
    float weights[KNOTS][SIDE] = {};  // of a knot at each pixel: torch's bicubic interpolation

    Table() {
        for (int i = 0; i < 256; i++) shades[i] = i / 255.0f;
        for (int x = 0; x < SIDE; x++) {
            centers[x] = (2 * x + 1) / float(SIDE) - 1;
            double place = (x + 0.5) * KNOTS / SIDE - 0.5;
            int before = int(place + 1) - 1;
            for (int k = before - 1; k <= before + 2; k++) {
                double d = std::abs(place - k), a = -0.75;
                double weight = d <= 1 ? ((a + 2) * d - (a + 3)) * d * d + 1
                                       : ((a * d - 5 * a) * d + 8 * a) * d - 4 * a;
                weights[std::min(std::max(k, 0), KNOTS - 1)][x] += float(weight);
            }
        }
    }
};

const Table table;

// From coordinates to places in a bordered image, where those outside have a border of zeros.
INLINE Floats in_pixels(Floats x) {
    Floats place = fma(x, splat(SIDE / 2), splat((SIDE + 1) / 2.0f));
    place = place > 0 ? place : Floats{};
    return place < SIDE + 1 ? place : splat(SIDE + 1);
}

void distort_image(const uint8_t* image, int64_t id, uint64_t stream, double strength,
                   Ranges ranges, float* out) {
    float bordered[BORDERED * BORDERED] = {};
    for (int y = 0; y < SIDE; y++) for (int x = 0; x < SIDE; x++)
        bordered[(y + 1) * BORDERED + x + 1] = table.shades[image[y * SIDE + x]];

    double of_image[DRAWS];
    for (int i = 0; i < DRAWS; i++) of_image[i] = draw(stream, id * DRAWS + i) * strength;
    auto [turn, right, down, larger, slant] = of_image;
    double size = 1 + larger * ranges.scale, shear = slant * ranges.shear, sine, cosine;
    sine_cosine(turn * ranges.rotate, sine, cosine);
    cosine /= size;
    sine /= size;
    double shift = 2 * ranges.translate;
    float across[2] = {float(cosine), float(sine)};
    float downward[2] = {float(cosine * shear - sine), float(sine * shear + cosine)};
    float shifts[2] = {float(right * shift), float(down * shift)};
    float knots[2][KNOTS][KNOTS];
    for (int i = 0; ranges.elastic && i < ELASTIC_DRAWS; i++) {
        double value = draw(stream, id * ELASTIC_DRAWS + i + FIRST_ELASTIC) * strength;
        float& knot = knots[i / (KNOTS * KNOTS)][i / KNOTS % KNOTS][i % KNOTS];
        knot = float(2 * ranges.elastic * value);
    }

    // Which four pixels, and how far between them; then the pixels; then the values. In one pass,
    // vectors would be loaded from what had just been stored in pieces, and wait for it.
    int32_t corners[PIXELS];
    float parts[2][PIXELS], pairs[2][2 * PIXELS];
    for (int y = 0; y < SIDE; y++) {
        float of_row[2], columns[2][KNOTS] = {};
        for (int c = 0; c < 2; c++) {
            of_row[c] = downward[c] * table.centers[y] + shifts[c];
            for (int row = 0; ranges.elastic && row < KNOTS; row++) for (int k = 0; k < KNOTS; k++)
                columns[c][k] = fma(knots[c][row][k], table.weights[row][y], columns[c][k]);
        }
        for (int x = 0; x < SIDE; x += LANES) {
            int first = std::min(x, SIDE - LANES);
            Ints whole[2];
            UNROLL for (int c = 0; c < 2; c++) {
                Floats place = load(table.centers + first) * across[c] + of_row[c];
                if (ranges.elastic) UNROLL for (int k = 0; k < KNOTS; k++)
                    place = fma(splat(columns[c][k]), load(table.weights[k] + first), place);
                place = in_pixels(place);
                whole[c] = __builtin_convertvector(place, Ints);
                Floats part = place - __builtin_convertvector(whole[c], Floats);
                store(parts[c] + y * SIDE + first, part);
            }
            store(corners + y * SIDE + first, whole[1] * BORDERED + whole[0]);
        }
    }
    for (int i = 0; i < PIXELS; i++) {
        memcpy(pairs[0] + 2 * i, bordered + corners[i], 8);
        memcpy(pairs[1] + 2 * i, bordered + corners[i] + BORDERED, 8);
    }
    for (int i = 0; i < PIXELS; i += LANES) {
        Floats along[2];
        UNROLL for (int row = 0; row < 2; row++) {
            Floats a = load(pairs[row] + 2 * i), b = load(pairs[row] + 2 * i + LANES);
            along[row] = fma(load(parts[0] + i), odd(a, b) - even(a, b), even(a, b));
        }
        store(out + i, fma(load(parts[1] + i), along[1] - along[0], along[0]));
    }
}

}  // namespace

// out [n, 1, 28, 28], in [0, 1], of images [n, 28, 28] with sample ids [n].
extern "C" void distort(const uint8_t* images, const int64_t* ids, int n, uint64_t stream,
                        double strength, double rotate, double translate, double scale,
                        double shear, double elastic, float* out, int threads) {
    constexpr int AT_ONCE = 8;
    in_parallel(threads, (n + AT_ONCE - 1) / AT_ONCE, [] {}, [&](int piece, int) {
        for (long i = piece * AT_ONCE; i < std::min(n, (piece + 1) * AT_ONCE); i++)
            distort_image(images + i * SIDE * SIDE, ids[i], stream, strength,
                          {rotate, translate, scale, shear, elastic}, out + i * SIDE * SIDE);
    });
}

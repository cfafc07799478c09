// One vector register of floats, and what GCC and clang do not spell alike for every processor.
#pragma once
#include <cstdint>
#include <cstring>
#if defined __x86_64__
#include <immintrin.h>
#elif defined __aarch64__
#include <arm_neon.h>
#endif

#define INLINE inline __attribute__((always_inline))
// Arrays of vectors stay in registers only where every index is known.
#define UNROLL _Pragma("GCC unroll 32")

template <int LANES>
struct Lanes {
    typedef float Floats __attribute__((vector_size(4 * LANES)));
    typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
};

// `fma` is a * b + c, rounded once. `bits` has bit l set where all of lane l's are. `even` and
// `odd` are those lanes of a, then of b.
#if defined __AVX512F__ && defined __AVX512DQ__ && defined __AVX512VL__
constexpr int LANES = 16, REGISTERS = 32;
INLINE Lanes<16>::Floats fma(Lanes<16>::Floats a, Lanes<16>::Floats b, Lanes<16>::Floats c) {
    return _mm512_fmadd_ps(a, b, c);
}
INLINE unsigned bits(Lanes<16>::Ints mask) { return _mm512_movepi32_mask((__m512i)mask); }
INLINE Lanes<16>::Floats even(Lanes<16>::Floats a, Lanes<16>::Floats b) {
    const Lanes<16>::Ints lanes = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
    return _mm512_permutex2var_ps(a, (__m512i)lanes, b);
}
INLINE Lanes<16>::Floats odd(Lanes<16>::Floats a, Lanes<16>::Floats b) {
    const Lanes<16>::Ints lanes = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
    return _mm512_permutex2var_ps(a, (__m512i)lanes, b);
}
#elif defined __AVX2__ && defined __FMA__
constexpr int LANES = 8, REGISTERS = 16;
INLINE unsigned bits(Lanes<8>::Ints mask) { return _mm256_movemask_ps((__m256)mask); }
INLINE Lanes<8>::Floats even(Lanes<8>::Floats a, Lanes<8>::Floats b) {
    return (__m256)_mm256_permute4x64_pd((__m256d)_mm256_shuffle_ps(a, b, 0b10001000), 0b11011000);
}
INLINE Lanes<8>::Floats odd(Lanes<8>::Floats a, Lanes<8>::Floats b) {
    return (__m256)_mm256_permute4x64_pd((__m256d)_mm256_shuffle_ps(a, b, 0b11011101), 0b11011000);
}
#elif defined __aarch64__
constexpr int LANES = 4, REGISTERS = 32;
INLINE Lanes<4>::Floats fma(Lanes<4>::Floats a, Lanes<4>::Floats b, Lanes<4>::Floats c) {
    return vfmaq_f32(c, a, b);
}
INLINE unsigned bits(Lanes<4>::Ints mask) {
    return vaddvq_u32(vandq_u32((uint32x4_t)mask, uint32x4_t{1, 2, 4, 8}));
}
INLINE Lanes<4>::Floats even(Lanes<4>::Floats a, Lanes<4>::Floats b) { return vuzp1q_f32(a, b); }
INLINE Lanes<4>::Floats odd(Lanes<4>::Floats a, Lanes<4>::Floats b) { return vuzp2q_f32(a, b); }
#else
#error "needs a processor that multiplies and adds in one rounding: AVX-512, AVX2 with FMA, or NEON"
#endif
#if defined __AVX2__
INLINE Lanes<8>::Floats fma(Lanes<8>::Floats a, Lanes<8>::Floats b, Lanes<8>::Floats c) {
    return _mm256_fmadd_ps(a, b, c);
}
#endif
INLINE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

typedef Lanes<LANES>::Floats Floats;
typedef Lanes<LANES>::Ints Ints;

template <class Vector = Floats>
INLINE Vector load(const void* from) {
    Vector v;
    memcpy(&v, from, sizeof v);
    return v;
}

template <class Vector>
INLINE void store(void* to, Vector v) {
    memcpy(to, &v, sizeof v);
}

// x in every lane. x - 0 is x, for -0 and NaN too.
template <class Vector = Floats>
INLINE Vector splat(float x) {
    return x - Vector{};
}

template <class Vector>
INLINE void add_to(float* sum, Vector v) {
    store(sum, load<Vector>(sum) + v);
}

INLINE Ints is_nan(Floats x) { return x != x; }

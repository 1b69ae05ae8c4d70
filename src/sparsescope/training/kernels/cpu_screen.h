// Screening: pre-activations in integers of 8 bits, with a proven bound on how far they are off.
//
// Dimensions are balanced first: x' = x / c and w' = w · c have the same products for any positive c. Then
// x' ≈ x̂ = a · (integers from -127 to 127), likewise w' ≈ ŵ, and by Cauchy and Schwarz
//     |x'·w' − x̂·ŵ| = |(x' − x̂)·w' + x̂·(w' − ŵ)| <= ‖x' − x̂‖ ‖w'‖ + ‖x̂‖ ‖w' − ŵ‖,
// the margin. Rounding in float32 (of the balancing, the exact dot product, the scaling) moves a sum of d
// products by at most a small multiple of d · 2^-24 · Σ|x_i w_i|, and that sum is at most ‖x'‖ ‖w'‖:
// `rounding` adds it, generously. Norms are enlarged by 1e-4, more than they are rounded by. Vectors too small
// to be squared safely are taken for 0, the whole of them being error; with vectors too large or not finite
// the margin is not finite, and all is computed.
#pragma once

#include "cpu_select.h"

constexpr int PANEL = 64;  // latents whose integers lie together
constexpr int SIX = 6;     // rows that one product works on at a time

static inline double rounding(int64_t d) { return (d / LANES + 64.0) / (1 << 23); }

struct Quantised {
    float scale, norm, error;  // of the integers; the vector's norm; ‖vector − scale · integers‖
};

// Integers for x[i] · by[i], i < d. Not finite: integers 0, norm and error not finite.
static inline Quantised quantise(const float* x, const float* by, int64_t d, float* balanced, int8_t* out) {
    Vec top{};
    float largest = 0;
    for (int64_t i = 0; i < d; i++) balanced[i] = x[i] * by[i];
    for (int64_t i = 0; i + LANES <= d; i += LANES) {
        const Vec v = load(balanced + i), size = v < 0 ? -v : v;
        top = size > top ? size : top;
    }
    for (int lane = 0; lane < LANES; lane++) largest = std::max(largest, (float)top[lane]);
    for (int64_t i = d / LANES * LANES; i < d; i++) largest = std::max(largest, std::fabs(balanced[i]));
    const float square = dot(balanced, balanced, d);
    if (!(square < INFINITY) || largest < 1e-12f) {
        std::fill_n(out, d, 0);
        const float bound = square < INFINITY ? largest * std::sqrt((float)d) * 1.0001f : square;
        return {0, bound, bound};
    }
    const float scale = largest / 127, inverse = 127 / largest;
    for (int64_t i = 0; i < d; i++) {
        const float whole = std::nearbyint(balanced[i] * inverse);
        out[i] = (int8_t)whole;
        balanced[i] -= scale * whole;
    }
    return {scale, std::sqrt(square) * 1.0001f, std::sqrt(dot(balanced, balanced, d)) * 1.0001f};
}

// What is kept beside an encoder: integers, or bfloat16 where the processor multiplies no integers.
//
// `packed` holds, for each panel of 64 latents and each 4 dimensions, 64 times 4 bytes: integers plus 128.
// Panels are filled up with latents of scale 0. `half` holds rows of bfloat16, not balanced.
struct Screen {
    uint8_t* packed;
    uint16_t* half;
    float *scale, *norm, *error;      // ‖w'‖ and ‖w' − ŵ‖, of each latent
    const float *balance, *inverse;   // c and 1 / c
    int64_t d, n;

    int64_t quads() const { return (d + 3) / 4; }
    uint8_t* panel(int64_t latent) const { return packed + latent / PANEL * PANEL * quads() * 4; }
};

// The margin of a row. `extra` is further error, relative to the product of the norms.
static inline Margin margin_of(const Quantised& row, double extra) {
    const double size = (double)row.norm + row.error;  // not less than ‖x̂‖
    const float error = 1.0001 * (row.error + extra * size);
    // A product of two tiny numbers would vanish.
    return {error > 0 ? std::max(error, 1e-18f) : error, (float)(1.0001 * size)};
}

// The nearest bfloat16, ties to even, as the upper half of a float; `rest` becomes what is lost.
static inline uint16_t to_half(float x, float* rest) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const bool finite = (bits & 0x7f800000) != 0x7f800000;
    bits = finite ? bits + 0x7fff + ((bits >> 16) & 1) : bits | ((bits & 0x7fffff) ? 0x400000 : 0);
    const uint16_t half = bits >> 16;
    bits = (uint32_t)half << 16;
    float rounded;
    std::memcpy(&rounded, &bits, 4);
    *rest = x - rounded;
    return half;
}

static inline Quantised halve(const float* x, int64_t d, float* work, uint16_t* out) {
    float largest = 0;
    for (int64_t i = 0; i < d; i++) {
        out[i] = to_half(x[i], work + i);
        largest = std::max(largest, std::fabs(x[i]));
    }
    const float square = dot(x, x, d), root = std::sqrt((float)d) * 1.0001f;
    if (!(square < INFINITY)) return {1, square, square};
    if (largest < 1e-12f) return {1, largest * root, largest * root};
    // Relative to the largest, squares too small to be represented are nothing.
    return {1, std::sqrt(square) * 1.0001f, std::sqrt(dot(work, work, d)) * 1.0001f + 1e-6f * largest};
}

static inline void screen_latent(const Screen& s, int64_t latent, const float* weight, float* work, int8_t* bytes) {
    const Quantised q = s.packed ? quantise(weight, s.balance, s.d, work, bytes)
                                 : halve(weight, s.d, work, s.half + latent * s.d);
    s.norm[latent] = q.norm;
    s.error[latent] = q.error;
    if (!s.packed) return;
    s.scale[latent] = q.scale;
    std::fill(bytes + s.d, bytes + s.quads() * 4, 0);
    uint8_t* to = s.panel(latent) + latent % PANEL * 4;
    for (int64_t i = 0; i < s.quads(); i++, to += PANEL * 4) {
        uint32_t four;
        std::memcpy(&four, bytes + 4 * i, 4);
        four ^= 0x80808080;  // plus 128, each
        std::memcpy(to, &four, 4);
    }
}

// The rows of a chunk in integers, `stride` bytes a row.
struct ScreenedRows {
    int8_t* bytes;
    int64_t stride;
    int32_t* start;  // −128 · Σ integers: undoes the offset of the latents
    float* scale;
    Margin* margin;

    void set(int64_t r, const float* x, const Screen& s, float* work) const {
        int8_t* to = bytes + r * stride;
        const Quantised q = quantise(x, s.inverse, s.d, work, to);
        std::fill(to + s.d, to + stride, 0);
        int32_t sum = 0;
        for (int64_t i = 0; i < s.d; i++) sum += to[i];
        start[r] = -128 * sum;
        scale[r] = q.scale;
        margin[r] = margin_of(q, rounding(s.d));
    }
};

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
constexpr bool HAS_SCREEN = true;

struct Quad {
    __m512i a, b, c, d;  // 64 latents
};

// An instruction, because GCC, given the intrinsic, keeps copying accumulators between registers and the stack.
// For the same reason there is no array of them below.
static inline __attribute__((always_inline)) void add_products(__m512i& sum, __m512i latents, __m512i x) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(latents), "v"(x));
}

static inline __attribute__((always_inline)) void step(Quad& sum, const Quad& latents, const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    const __m512i all_four = _mm512_set1_epi32(four);
    add_products(sum.a, latents.a, all_four);
    add_products(sum.b, latents.b, all_four);
    add_products(sum.c, latents.c, all_four);
    add_products(sum.d, latents.d, all_four);
}

static inline Quad fill_quad(int32_t start) {
    const __m512i v = _mm512_set1_epi32(start);
    return {v, v, v, v};
}

static inline void put(__m512i sum, __m512 row_scale, const float* scale, float* out) {
    _mm512_storeu_ps(out, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(row_scale, _mm512_loadu_ps(scale))));
}

static inline void put(const Quad& sum, float row_scale, const float* scale, float* out) {
    const __m512 by = _mm512_set1_ps(row_scale);
    put(sum.a, by, scale, out);
    put(sum.b, by, scale + 16, out + 16);
    put(sum.c, by, scale + 32, out + 32);
    put(sum.d, by, scale + 48, out + 48);
}

// Scores, without bias, of rows r to r + 5 and the 64 latents from `latent`.
static inline void score_six(const Screen& s, const ScreenedRows& rows, int r, int64_t latent, float* out,
                             int64_t stride) {
    const int8_t* x = rows.bytes + r * rows.stride;
    const int64_t next = rows.stride;
    const __m512i* packed = (const __m512i*)s.panel(latent);
    const int32_t* start = rows.start + r;
    Quad q0 = fill_quad(start[0]), q1 = fill_quad(start[1]), q2 = fill_quad(start[2]), q3 = fill_quad(start[3]),
         q4 = fill_quad(start[4]), q5 = fill_quad(start[5]);
    for (int64_t i = s.quads(); i > 0; i--, x += 4, packed += 4) {
        const Quad latents = {packed[0], packed[1], packed[2], packed[3]};
        step(q0, latents, x);
        step(q1, latents, x + next);
        step(q2, latents, x + 2 * next);
        step(q3, latents, x + 3 * next);
        step(q4, latents, x + 4 * next);
        step(q5, latents, x + 5 * next);
    }
    const float *row = rows.scale + r, *scale = s.scale + latent;
    put(q0, row[0], scale, out);
    put(q1, row[1], scale, out + stride);
    put(q2, row[2], scale, out + 2 * stride);
    put(q3, row[3], scale, out + 3 * stride);
    put(q4, row[4], scale, out + 4 * stride);
    put(q5, row[5], scale, out + 5 * stride);
}
#else
constexpr bool HAS_SCREEN = false;

static inline void score_six(const Screen&, const ScreenedRows&, int, int64_t, float*, int64_t) {}
#endif

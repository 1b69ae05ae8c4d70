// Short vectors of floats as wide as the processor has them, and what every kernel does with them.
//
// Sums run in a fixed order: lanes first, then a tree over the lanes. So a dot product has the same
// bits whoever asks for it, on however many threads.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif
#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int BLOCK = 16;  // accumulators that fit into the registers beside what they are fed with
#elif defined(__AVX__)
constexpr int LANES = 8;
constexpr int BLOCK = 8;
#else
constexpr int LANES = 4;
constexpr int BLOCK = 8;
#endif
constexpr int SPARE = 16;  // room behind a list, so that whole vectors can be written
typedef float Vec __attribute__((vector_size(LANES * 4)));

static inline Vec all(float x) { return x - Vec{}; }

static inline Vec load(const float* from) {
    Vec v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

static inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }

// The first n < LANES floats, and `fill` behind them; nothing beyond them is touched.
static inline Vec load_some(const float* from, int n, float fill = 0) {
#if defined(__AVX512F__)
    return (Vec)_mm512_mask_loadu_ps(_mm512_set1_ps(fill), (__mmask16)((1u << n) - 1), from);
#else
    Vec v = all(fill);
    std::memcpy(&v, from, n * sizeof(float));
    return v;
#endif
}

static inline void store_some(float* to, Vec v, int n) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << n) - 1), (__m512)v);
#else
    std::memcpy(to, &v, n * sizeof(float));
#endif
}

static inline float total(Vec v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float lane[LANES];
    std::memcpy(lane, &v, sizeof v);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
#endif
}

// Bit i says that v[i] is not below limit[i]. NaN is not below anything.
static inline uint32_t not_below(Vec v, Vec limit) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)v, (__m512)limit, _CMP_NLT_UQ);
#elif defined(__AVX__)
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)v, (__m256)limit, _CMP_NLT_UQ));
#else
    uint32_t mask = 0;
    for (int i = 0; i < LANES; i++) mask |= (uint32_t)!(v[i] < limit[i]) << i;
    return mask;
#endif
}

// Bit i says that v[i] is above 0, or NaN.
static inline uint32_t positive(Vec v) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)v, _mm512_setzero_ps(), _CMP_NLE_UQ);
#elif defined(__AVX__)
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)v, _mm256_setzero_ps(), _CMP_NLE_UQ));
#else
    uint32_t mask = 0;
    for (int i = 0; i < LANES; i++) mask |= (uint32_t)!(v[i] <= 0) << i;
    return mask;
#endif
}

// Appends the marked lanes of v, numbered from `first`, to two lists of n; they need room for LANES more.
static inline int append(uint32_t mask, Vec v, int first, int32_t* number, float* value, int n) {
#if defined(__AVX512F__)
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i numbers = _mm512_add_epi32(lane, _mm512_set1_epi32(first));
    _mm512_storeu_si512(number + n, _mm512_maskz_compress_epi32((__mmask16)mask, numbers));
    _mm512_storeu_ps(value + n, _mm512_maskz_compress_ps((__mmask16)mask, (__m512)v));
    return n + __builtin_popcount(mask);
#else
    for (; mask; mask &= mask - 1, n++) {
        const int i = __builtin_ctz(mask);
        number[n] = first + i;
        value[n] = v[i];
    }
    return n;
#endif
}

// The same for entries of two lists, which may be the ones appended to.
static inline int move_marked(
    uint32_t mask, const int32_t* number, const float* value, int32_t* to_number, float* to_value, int n) {
#if defined(__AVX512F__)
    const __m512i numbers = _mm512_maskz_compress_epi32((__mmask16)mask, _mm512_loadu_si512(number));
    const __m512 values = _mm512_maskz_compress_ps((__mmask16)mask, _mm512_loadu_ps(value));
    _mm512_storeu_si512(to_number + n, numbers);
    _mm512_storeu_ps(to_value + n, values);
    return n + __builtin_popcount(mask);
#else
    for (; mask; mask &= mask - 1, n++) {
        const int i = __builtin_ctz(mask);
        to_number[n] = number[i];
        to_value[n] = value[i];
    }
    return n;
#endif
}

static inline float dot(const float* a, const float* b, int64_t d) {
    Vec sum{};
    int64_t i = 0;
    for (; i + LANES <= d; i += LANES) sum += load(a + i) * load(b + i);
    if (i < d) sum += load_some(a + i, d - i) * load_some(b + i, d - i);
    return total(sum);
}

// N dot products with x, each in the order of `dot`.
template <int N>
static inline void dot_several(const float* x, const float* table, int64_t d, const int32_t* number, float* out) {
    const float* row[N];
    Vec sum[N];
    for (int r = 0; r < N; r++) {
        row[r] = table + number[r] * d;
        sum[r] = Vec{};
    }
    int64_t i = 0;
    for (; i + LANES <= d; i += LANES) {
        const Vec v = load(x + i);
        for (int r = 0; r < N; r++) sum[r] += v * load(row[r] + i);
    }
    if (i < d) {
        const Vec v = load_some(x + i, d - i);
        for (int r = 0; r < N; r++) sum[r] += v * load_some(row[r] + i, d - i);
    }
    for (int r = 0; r < N; r++) out[r] = total(sum[r]);
}

// out[i] = x · table[number[i]]
static inline void dots(const float* x, const float* table, int64_t d, const int32_t* number, int n, float* out) {
    int i = 0;
    for (; i + 4 <= n; i += 4) dot_several<4>(x, table, d, number + i, out + i);
    if (n - i == 3) dot_several<3>(x, table, d, number + i, out + i);
    if (n - i == 2) dot_several<2>(x, table, d, number + i, out + i);
    if (n - i == 1) dot_several<1>(x, table, d, number + i, out + i);
}

// Adds factor[i] · table[number[i]] to `sum`, in the columns of N vectors.
template <int N>
static inline void add_columns(
    const float* table, int64_t d, const int32_t* number, const float* factor, int n, float* sum) {
    Vec s[N];
    for (int u = 0; u < N; u++) s[u] = load(sum + u * LANES);
    for (int i = 0; i < n; i++) {
        const float* row = table + number[i] * d;
        const Vec f = all(factor[i]);
        for (int u = 0; u < N; u++) s[u] += f * load(row + u * LANES);
    }
    for (int u = 0; u < N; u++) store(sum + u * LANES, s[u]);
}

// sum += Σ_i factor[i] · table[number[i]], over d columns
static inline void add_rows(
    const float* table, int64_t d, const int32_t* number, const float* factor, int n, float* sum) {
    int64_t c = 0;
    for (; c + BLOCK * LANES <= d; c += BLOCK * LANES) add_columns<BLOCK>(table + c, d, number, factor, n, sum + c);
    for (; c + 4 * LANES <= d; c += 4 * LANES) add_columns<4>(table + c, d, number, factor, n, sum + c);
    for (; c + LANES <= d; c += LANES) add_columns<1>(table + c, d, number, factor, n, sum + c);
    if (c == d) return;
    Vec rest = load_some(sum + c, d - c);
    for (int i = 0; i < n; i++) rest += all(factor[i]) * load_some(table + number[i] * d + c, d - c);
    store_some(sum + c, rest, d - c);
}

// The size of the second cache: what lies in it is read several times faster than what lies beyond.
static inline int64_t cache_bytes() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
    static const int64_t found = sysconf(_SC_LEVEL2_CACHE_SIZE);
#else
    static const int64_t found = 0;
#endif
    return found < (1 << 18) ? 1 << 20 : found > (1 << 22) ? 1 << 22 : found;
}

// Memory of one thread that lasts from call to call: nothing is allocated once the largest call has been seen.
class Scratch {
  public:
    // Everything taken before is given up.
    void reset() {
        if (blocks.size() > 1) {
            size_t size = 0;
            for (const Block& b : blocks) size += b.size;
            blocks.clear();
            add(size);
        }
        used = 0;
    }

    template <class T>
    T* take(size_t n) {
        const size_t bytes = (n * sizeof(T) + 63) / 64 * 64;
        if (blocks.empty() || used + bytes > blocks.back().size) {
            add(bytes);
            used = 0;
        }
        char* at = blocks.back().start() + used;
        used += bytes;
        return reinterpret_cast<T*>(at);
    }

  private:
    struct Block {
        std::unique_ptr<char[]> memory;
        size_t size;
        char* start() const { return reinterpret_cast<char*>(((uintptr_t)memory.get() + 63) / 64 * 64); }
    };
    void add(size_t size) { blocks.push_back({std::unique_ptr<char[]>(new char[size + 64]), size}); }
    std::vector<Block> blocks;
    size_t used = 0;
};

static inline Scratch& scratch() {
    static thread_local Scratch mine;
    mine.reset();
    return mine;
}

// Gradients of matrices from entries by latent, and Adam.
#pragma once

#include <algorithm>

#include "cpu_vector.h"

// Division of numbers below 2^32 by one divisor, by a multiplication.
struct Divider {
    uint64_t by, inverse;
    explicit Divider(uint64_t divisor) : by(divisor), inverse(divisor > 1 ? ~0ull / divisor + 1 : 0) {}
    uint64_t operator()(uint64_t n) const {
        if (by == 1) return n;
        if (n >> 32) return n / by;
        return (uint64_t)(((unsigned __int128)n * inverse) >> 64);
    }
};

// Row j of a gradient gains Σ factor[e] · table[level of j][e / slots] over entry[start[j]] to entry[start[j + 1]].
struct Term {
    const int64_t *start, *entry;
    const float *factor, *table;
    const int64_t* bounds;
    int64_t slots, rows, levels;

    // The rows that latent j draws on; null for a latent beyond the bounds.
    const float* rows_for(int64_t j, int64_t d) const {
        for (int64_t level = 0; level < levels; level++)
            if (j < bounds[level]) return table + level * rows * d;
        return nullptr;
    }
};

// Adds to the gradient of latent j its entries from `at` on in rows below `limit`, and moves `at`.
// False when an entry lies outside the tables.
static inline bool add_entries(const Term& term, int64_t j, int64_t limit, int64_t d, int64_t& at, float* gradient) {
    constexpr int AT_ONCE = 128;
    int32_t row[AT_ONCE];
    float factor[AT_ONCE];
    const Divider to_row(term.slots);
    const uint64_t below = std::min(limit, term.rows) * term.slots;
    const int64_t end = term.start[j + 1];
    if (at == end) return true;
    const float* table = term.rows_for(j, d);
    if (!table) return false;
    while (at < end && (uint64_t)term.entry[at] < below) {
        int n = 0;
        for (; n < AT_ONCE && at < end && (uint64_t)term.entry[at] < below; n++, at++) {
            row[n] = to_row(term.entry[at]);
            factor[n] = term.factor[term.entry[at]];
        }
        add_rows(table, d, row, factor, n, gradient);
    }
    return at == end || limit < term.rows;
}

// The gradients of n latents from `first` on, added to `gradient`: all of them take what they need from one block of
// rows before the next. `at` has room for n numbers per term.
static inline bool add_terms(
    const Term* terms, int count, int64_t first, int64_t n, int64_t rows, int64_t d, int64_t* at, float* gradient) {
    bool inside = true;
    int64_t most = 0;
    for (int t = 0; t < count; t++) {
        std::copy_n(terms[t].start + first, n, at + t * n);
        most = std::max(most, terms[t].rows);
    }
    for (int64_t limit = rows; inside; limit += rows) {
        for (int64_t j = 0; j < n; j++)
            for (int t = 0; t < count; t++)
                inside = add_entries(terms[t], first + j, limit, d, at[t * n + j], gradient + j * d) && inside;
        if (limit >= most) break;
    }
    return inside;
}

// How a gradient is best put together: groups of latents whose gradients stay in the second cache with a block of
// rows, where each row is asked for several times; else each latent by itself. Rows decide the order of sums, so
// they depend on the problem alone.
struct Blocking {
    int64_t latents, rows;

    static Blocking of(const Term* terms, int count, int64_t n, int64_t d, int64_t cache, int threads) {
        const int64_t row_bytes = d * sizeof(float), near = std::max<int64_t>(1, cache / 4 / row_bytes);
        int64_t entries = 0, rows = 1;
        for (int t = 0; t < count; t++) {
            entries += terms[t].start[n];
            rows = std::max(rows, terms[t].rows);
        }
        const int64_t group = std::max<int64_t>(1, cache / 2 / row_bytes / 16) * 16;
        const bool often = (double)entries / n * near / rows >= 4;
        if (!often || rows <= near) return {16, rows};
#ifdef GG
        return {GG, RR};
#endif
        return {std::min(group, std::max<int64_t>(16, n / (2 * threads) / 16 * 16)), near / std::max(1, count)};
    }
};

struct AdamStep {
    float step, beta1, beta2, epsilon, root;  // learning rate / (1 − β1^t); √(1 − β2^t)
};

// One row: gradient (less its part along the weights, if `unit`), Adam, norm 1 again (if `unit`).
static inline void adam_row(const AdamStep& by, bool unit, const float* gradient, int64_t d, float* __restrict weight,
                            float* __restrict mean, float* __restrict square) {
    const float along = unit ? dot(gradient, weight, d) : 0, inverse = 1 / by.root;
    for (int64_t i = 0; i < d; i++) {
        const float g = gradient[i] - along * weight[i];
        mean[i] = by.beta1 * mean[i] + (1 - by.beta1) * g;
        square[i] = by.beta2 * square[i] + (1 - by.beta2) * g * g;
        weight[i] -= by.step * mean[i] / (std::sqrt(square[i]) * inverse + by.epsilon);
    }
    if (!unit) return;
    const float norm = std::sqrt(dot(weight, weight, d)), shrink = 1 / (norm < 1e-8f ? 1e-8f : norm);
    for (int64_t i = 0; i < d; i++) weight[i] *= shrink;
}

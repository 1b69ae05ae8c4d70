// Gradients of matrices from entries by latent, and Adam.
#pragma once

#include <algorithm>

#include "cpu_vector.h"

// Division of numbers below 2^32 by one divisor, by a multiplication.
struct Divider {
    uint64_t inverse;  // rounded up, by too little for a quotient to notice
    explicit Divider(uint64_t divisor) : inverse(((1ull << 63) - 1) / divisor + 1) {}
    int64_t operator()(uint32_t n) const { return (uint64_t)(((unsigned __int128)n * inverse) >> 63); }
};

// Row j of a gradient gains Σ factor[e] · table[level of j][e / slots] over entry[start[j]] to entry[start[j + 1]].
struct Term {
    const int64_t *start, *entry;
    const float *factor, *table;
    const int64_t* bounds;
    int64_t slots, rows, levels;
};

// How a gradient is put together. Where rows are asked for several times each, groups of latents go through them block
// by block, so that rows and gradients stay in the second cache; else each latent goes its own way. The blocks decide
// the order of sums: they depend on the problem alone.
struct Grouping {
    int64_t latents, rows;

    static Grouping of(const Term* terms, int count, int64_t n, int64_t d, int threads) {
        const int64_t near = std::max<int64_t>(16, cache_bytes() / 2 / (d * sizeof(float)) / 16 * 16);
        int64_t entries = 0, rows = 1;
        for (int t = 0; t < count; t++) {
            entries = std::max(entries, terms[t].start[n]);
            rows = std::max(rows, terms[t].rows);
        }
        const int64_t block = std::max<int64_t>(1, near / std::max(1, count));
        const bool often = (double)entries / n * near / rows >= 4 && (double)entries / n * block / rows >= 3;
        if (!often || rows <= block) return {16, rows};
        return {std::min(near, std::max<int64_t>(16, n / (2 * threads) / 16 * 16)), block};
    }
};

// The gradients of n latents from `first` on.
class Gradients {
  public:
    // `at` has room for n numbers per term.
    Gradients(const Term* terms, int count, int64_t first, int64_t n, int64_t d, int64_t* at, float* sums)
        : terms(terms), count(count), first(first), n(n), d(d), at(at), sums(sums) {
        for (int t = 0; t < count; t++) std::copy_n(terms[t].start + first, n, at + t * n);
    }

    // Adds all terms, block after block of rows. False when an entry lies outside the tables.
    bool add(int64_t block) {
        bool inside = true;
        int64_t rows = 0;
        for (int t = 0; t < count; t++) rows = std::max(rows, terms[t].rows);
        for (int64_t limit = block; limit < rows + block; limit += block)
            for (int64_t j = 0; j < n; j++)
                for (int t = 0; t < count; t++) add_some(terms[t], j, limit, at[t * n + j]);
        for (int t = 0; t < count; t++)
            for (int64_t j = 0; j < n; j++) inside = inside && at[t * n + j] == terms[t].start[first + j + 1];
        return inside;
    }

  private:
    // Adds to the gradient of latent j its entries from `next` on in rows below `limit`, and moves `next`.
    void add_some(const Term& term, int64_t j, int64_t limit, int64_t& next) {
        constexpr int AT_ONCE = 128;
        int32_t row[AT_ONCE];
        float factor[AT_ONCE];
        const int64_t end = term.start[first + j + 1];
        const uint64_t below = std::min(limit, term.rows) * term.slots;
        if (next == end || (uint64_t)term.entry[next] >= below) return;
        int64_t level = 0;
        while (level < term.levels && first + j >= term.bounds[level]) level++;
        if (level == term.levels) return;
        const Divider to_row(term.slots);
        while (next < end && (uint64_t)term.entry[next] < below) {
            int m = 0;
            for (; m < AT_ONCE && next < end && (uint64_t)term.entry[next] < below; m++, next++) {
                row[m] = to_row(term.entry[next]);
                factor[m] = term.factor[term.entry[next]];
            }
            add_rows(term.table + level * term.rows * d, d, row, factor, m, sums + j * d);
        }
    }

    const Term* terms;
    int count;
    int64_t first, n, d;
    int64_t* at;
    float* sums;
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

// Decoding: reconstructions, residuals, and the slope of each entry.
//
// Weights and rows together do not fit into the second cache, and from beyond it they come four times slower. So
// where rows ask for the same latents often enough, a chunk of rows goes through the latents block by block.
// Sums are the same either way: each row adds its entries in the order of the latents.
#pragma once

#include <algorithm>
#include <numeric>

#include "cpu_vector.h"

struct Table {
    const int32_t* latent;
    const float* value;
    const int32_t* count;
    int64_t rows, slots;
};

struct Decoding {
    const float *directions, *bias, *target;
    float factor;
    const int64_t* bounds;
    int64_t levels, d;
    float* residual;  // levels × rows × d
    double* squares;  // levels × rows
    float* slope;
};

// The entries of a chunk of rows, each row's in the order of the latents; `slot` is where each was.
struct Entries {
    int32_t *latent, *slot;
    float *value, *slope;
    int64_t *count, *at;
    int64_t slots;

    static Entries take(Scratch& memory, int64_t rows, int64_t slots) {
        return {memory.take<int32_t>(rows * slots), memory.take<int32_t>(rows * slots),
                memory.take<float>(rows * slots), memory.take<float>(slots),
                memory.take<int64_t>(rows),         memory.take<int64_t>(rows),
                slots};
    }

    // Reads row `from` of the codes as row r; entries beyond the last bound are left out.
    void read(int64_t r, const Table& codes, int64_t from, int64_t bound) const {
        const int32_t* latents = codes.latent + from * slots;
        int32_t *sorted = latent + r * slots, *places = slot + r * slots;
        const int64_t n = std::min<int64_t>(codes.count[from], slots);
        std::iota(places, places + n, 0);
        if (!std::is_sorted(latents, latents + n))
            std::sort(places, places + n, [&](int32_t a, int32_t b) { return latents[a] < latents[b]; });
        count[r] = at[r] = 0;
        for (int64_t i = 0; i < n; i++) {
            const int32_t place = places[i];
            if (latents[place] < 0 || latents[place] >= bound) continue;
            sorted[count[r]] = latents[place];
            value[r * slots + count[r]] = codes.value[from * slots + place];
            places[count[r]++] = place;
        }
    }

    // Calls visit(row, first entry, number of entries) for the entries of latents below `limit` not yet visited.
    template <class Visit>
    void visit(int64_t rows, int64_t limit, Visit call) const {
        for (int64_t r = 0; r < rows; r++) {
            const int64_t from = r * slots + at[r];
            while (at[r] < count[r] && latent[r * slots + at[r]] < limit) at[r]++;
            const int64_t n = r * slots + at[r] - from;
            if (n) call(r, from, n);
        }
    }
};

static inline double square(const float* row, int64_t d) {
    Vec squares{};
    double sum = 0;
    int64_t i = 0;
    for (; i + LANES <= d; i += LANES) squares += load(row + i) * load(row + i);
    for (; i < d; i++) sum += (double)row[i] * row[i];
    for (int lane = 0; lane < LANES; lane++) sum += squares[lane];
    return sum;
}

// Rows `first` to first + n, block after block of latents.
struct Decoder {
    const Decoding& to;
    const Table& codes;
    const Entries& entries;
    int64_t first, n, block;

    float* residual(int64_t level, int64_t row) const {
        return to.residual + (level * codes.rows + first + row) * to.d;
    }

    // Calls visit as Entries::visit does, with the level as well, in blocks that end where levels end.
    template <class Visit, class End>
    void by_level(Visit call, End end) const {
        int64_t limit = 0;
        for (int64_t level = 0; level < to.levels; level++) {
            while (limit < to.bounds[level]) {
                limit = std::min(limit + block, to.bounds[level]);
                entries.visit(n, limit, [&](int64_t r, int64_t from, int64_t m) { call(level, r, from, m); });
            }
            end(level);
        }
    }

    void begin(int64_t r) const {
        float* sum = residual(0, r);
        const float* target = to.target + (first + r) * to.d;
        for (int64_t i = 0; i < to.d; i++) sum[i] = (to.bias ? to.bias[i] : 0) - target[i];
    }

    // Residuals, unscaled, of each level by itself.
    void reconstruct() const {
        for (int64_t r = 0; r < n; r++) begin(r);
        by_level(
            [&](int64_t level, int64_t r, int64_t from, int64_t m) {
                add_rows(to.directions, to.d, entries.latent + from, entries.value + from, m, residual(level, r));
            },
            [&](int64_t level) {
                for (int64_t r = 0; r < n; r++) {
                    to.squares[level * codes.rows + first + r] = square(residual(level, r), to.d);
                    if (level + 1 < to.levels) std::copy_n(residual(level, r), to.d, residual(level + 1, r));
                }
            });
    }

    // From each level's own residual to the gradient that reaches its latents.
    void scale() const {
        for (int64_t r = 0; r < n; r++)
            for (int64_t level = to.levels - 1; level >= 0; level--) {
                float* own = residual(level, r);
                const float* later = level + 1 < to.levels ? residual(level + 1, r) : nullptr;
                for (int64_t i = 0; i < to.d; i++) own[i] = to.factor * own[i] + (later ? later[i] : 0);
            }
    }

    void slopes() const {
        std::fill_n(entries.at, n, 0);
        std::fill_n(to.slope + first * codes.slots, n * codes.slots, 0.f);
        by_level(
            [&](int64_t level, int64_t r, int64_t from, int64_t m) {
                dots(residual(level, r), to.directions, to.d, entries.latent + from, m, entries.slope);
                float* slope = to.slope + (first + r) * codes.slots;
                for (int64_t i = 0; i < m; i++) slope[entries.slot[from + i]] = entries.slope[i];
            },
            [](int64_t) {});
    }
};

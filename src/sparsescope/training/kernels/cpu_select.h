// Selection of the largest scores of a row, and the bounds that let a cheap score stand for an exact one.
//
// An exact score is x · w + b in float32, summed in the order of `dot`. A screened score differs from it by
// at most a margin, that of the row and the latent (see cpu_screen.h). NaN is larger than every number, and
// every comparison below is written so that it is kept.
#pragma once

#include <algorithm>

#include "cpu_vector.h"

// An order-preserving map of floats to unsigned integers; NaN of either sign comes last.
static inline uint32_t key(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0xffffffff;
    return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

// How many of n keys, padded with zeros to a multiple of 16, are not below `least` > 0.
static inline int count_from(const uint32_t* keys, int n, uint32_t least) {
    int found = 0;
    for (int i = 0; i < n; i += 16)
        for (int lane = 0; lane < 16; lane++) found += keys[i + lane] >= least;
    return found;
}

static inline void make_keys(const float* value, int n, uint32_t* keys) {
    for (int i = 0; i < n; i++) keys[i] = key(value[i]);
    for (int i = n; i % 16; i++) keys[i] = 0;
}

// A key that at least k of n >= k keys reach: one that just k reach, or else the k-th largest. Bit by bit from the
// top; `found` is how many reach it. Padding as in `count_from`.
static inline uint32_t dividing_key(const uint32_t* keys, int n, int k, int& found) {
    uint32_t least = 0;
    found = n;
    for (int bit = 31; bit >= 0 && found > k; bit--) {
        const uint32_t attempt = least | (1u << bit);
        const int reach = count_from(keys, n, attempt);
        if (reach < k) continue;
        least = attempt;
        found = reach;
    }
    return least;
}

// Keeps the k largest of n entries, in their order; among equals the first. Returns how many are left.
// `keys`, like the lists, has room for n and SPARE more.
static inline int keep_largest(int32_t* latent, float* value, int n, int k, uint32_t* keys) {
    if (n <= k) return n;
    make_keys(value, n, keys);
    int found, kept = 0;
    const uint32_t least = dividing_key(keys, n, k, found);
    if (found == k) {
        for (int i = 0; i < n; i += LANES) {
            uint32_t mask = 0;
            for (int lane = 0; lane < LANES; lane++) mask |= (uint32_t)(keys[i + lane] >= least) << lane;
            kept = move_marked(mask, latent + i, value + i, latent, value, kept);
        }
        return kept;
    }
    int equals = k - (least == 0xffffffff ? 0 : count_from(keys, n, least + 1));
    for (int i = 0; i < n; i++) {
        if (keys[i] < least || (keys[i] == least && equals-- <= 0)) continue;
        latent[kept] = latent[i];
        value[kept++] = value[i];
    }
    return kept;
}

// Codes being written: tables of `slots` columns.
struct Codes {
    int32_t* latent;
    float* value;
    int32_t* count;
    int64_t slots;
};

// The latents that scores are for: their biases; and when scores are screened, ‖w'‖ and ‖w' − ŵ‖.
struct Latents {
    const float *bias, *norm, *error;
    int64_t n;
};

// What a row contributes to its margins: error · norm + size · error of the latent.
struct Margin {
    float error, size;
};

// A floor lowered by more than what adding the bias can round away. (Margins have an allowance of their own.)
static inline float eased(float floor) { return floor * (1 - 1e-6f); }

// What rows have shown so far of their k largest scores. `best` holds maxima of disjoint groups of scores (of
// their lower bounds), so the k-th largest of them is a lower bound, `floor`, on the k-th largest score. Lists
// hold what is not below the floor, with exact scores or the upper bounds of screened ones. A list of the latter
// that does not fit is given up: its count becomes -1.
struct Search {
    float* best;
    float* floor;
    int32_t* latent;
    float* score;
    int32_t* count;
    int64_t groups, capacity, k;

    void start(int64_t row) {
        std::fill_n(best + row * groups, groups, -INFINITY);
        floor[row] = 0;
        count[row] = 0;
    }
    Search from(int64_t row) const {
        return {best + row * groups, floor + row, latents(row), scores(row), count + row, groups, capacity, k};
    }
    int32_t* latents(int64_t row) const { return latent + row * (capacity + SPARE); }
    float* scores(int64_t row) const { return score + row * (capacity + SPARE); }
};

// Calls visit(first column, scores with bias, margins, number of live lanes) for each vector of a row of scores without
// bias. The other lanes hold -infinity.
template <bool SCREENED, class Visit>
static inline void complete(
    const float* score, const Latents& of, Margin row, int64_t first, int64_t columns, Visit visit) {
    const float *bias = of.bias + first, *norm = of.norm + first, *error = of.error + first;
    Vec margin{};
    int64_t j = 0;
    for (; j + LANES <= columns; j += LANES) {
        if (SCREENED) margin = all(row.error) * load(norm + j) + all(row.size) * load(error + j);
        visit(j, load(score + j) + load(bias + j), margin, LANES);
    }
    if (j == columns) return;
    const int n = columns - j;
    if (SCREENED) margin = all(row.error) * load_some(norm + j, n, 1) + all(row.size) * load_some(error + j, n, 1);
    visit(j, load_some(score + j, n, -INFINITY) + load_some(bias + j, n), margin, n);
}

// Calls visit(first column, values, mask of lanes) for each vector of a row with values that are not below `limit`,
// as long as it returns true.
template <class Visit>
static inline void visit_above(const float* value, int64_t columns, float limit, Visit visit) {
    const Vec least = all(limit);
    int64_t j = 0;
    for (; j + 4 * LANES <= columns; j += 4 * LANES) {
        uint32_t mask[4];
        for (int u = 0; u < 4; u++) mask[u] = not_below(load(value + j + u * LANES), least);
        if (!(mask[0] | mask[1] | mask[2] | mask[3])) continue;
        for (int u = 0; u < 4; u++)
            if (mask[u] && !visit(j + u * LANES, load(value + j + u * LANES), mask[u])) return;
    }
    for (; j < columns; j += LANES) {
        const int n = std::min<int64_t>(LANES, columns - j);
        const Vec v = n == LANES ? load(value + j) : load_some(value + j, n, -INFINITY);
        const uint32_t mask = not_below(v, least);
        if (mask && !visit(j, v, mask)) return;
    }
}

// A bound, found by halving, with at least k of n values not below it, and few more; not less than `bound`, of
// which the same must be true or known. `values` are readable up to a multiple of LANES, and -infinity there.
static inline float raised(const float* values, int64_t n, int64_t k, float bound, int steps) {
    Vec top = all(bound);
    for (int64_t i = 0; i < n; i += LANES) {
        const Vec v = load(values + i);
        top = v > top ? v : top;
    }
    float highest = bound;
    for (int lane = 0; lane < LANES; lane++) highest = std::max(highest, (float)top[lane]);
    for (int step = 0; step < steps; step++) {
        const float attempt = bound + 0.5f * (highest - bound);
        int64_t found = 0;
        for (int64_t i = 0; i < n; i += LANES)
            found += __builtin_popcount(not_below(load(values + i), all(attempt)));
        (found >= k ? bound : highest) = attempt;
    }
    return bound;
}

// Shows scores to `best` and the floor, and leaves in their place what lists are made of: see Search.
template <bool SCREENED>
static inline void raise_floor(
    Search& s, int64_t row, float* score, const Latents& of, Margin by, int64_t first, int64_t columns) {
    float* best = s.best + row * s.groups;
    int64_t group = first % s.groups;
    complete<SCREENED>(score, of, by, first, columns, [&](int64_t j, Vec v, Vec margin, int live) {
        if (live == LANES)
            store(score + j, v + margin);
        else
            store_some(score + j, v + margin, live);
        const Vec held = load(best + group), lower = v - margin;
        store(best + group, lower > held ? lower : held);
        group = group + LANES == s.groups ? 0 : group + LANES;
    });
    s.floor[row] = raised(best, s.groups, s.k, s.floor[row], 8);
}

// The smallest of n values, NaN counting as large; infinity among none.
static inline float smallest(const float* value, int n) {
    float least = INFINITY;
    for (int i = 0; i < n; i++) least = value[i] < least ? value[i] : least;
    return least;
}

// Makes room in a full list. Exact scores: only the k largest matter. Screened ones: the list is given up.
template <bool SCREENED>
static inline int make_room(Search& s, int64_t row, int n, uint32_t* keys) {
    if (SCREENED) return -1;
    n = keep_largest(s.latents(row), s.scores(row), n, s.k, keys);
    s.floor[row] = std::max(s.floor[row], smallest(s.scores(row), n));
    return n;
}

// Shows a row of scores, without bias, to the search; overwrites them. `first` is the latent of the first column, a
// multiple of LANES. `keys` has room for the capacity of a list and SPARE more.
template <bool SCREENED>
static inline void look(Search& s, int64_t row, float* score, const Latents& of, Margin by, int64_t first,
                        int64_t columns, uint32_t* keys) {
    if (s.count[row] < 0) return;
    raise_floor<SCREENED>(s, row, score, of, by, first, columns);
    int n = s.count[row];
    const float floor = SCREENED ? eased(s.floor[row]) : s.floor[row];
    visit_above(score, columns, floor, [&](int64_t j, Vec v, uint32_t mask) {
        if (n + LANES > s.capacity) n = make_room<SCREENED>(s, row, n, keys);
        if (n < 0) return false;
        n = append(mask & positive(v), v, first + j, s.latents(row), s.scores(row), n);
        return true;
    });
    s.count[row] = n;
}

// Writes entries that are above 0 (or NaN) as row `row` of codes, and clears its other slots.
static inline void write_row(const Codes& codes, int64_t row, const int32_t* latent, const float* value, int n) {
    int32_t* to = codes.latent + row * codes.slots;
    float* values = codes.value + row * codes.slots;
    int64_t kept = 0;
    for (int i = 0; i < n && kept < codes.slots; i++) {
        if (value[i] <= 0) continue;
        to[kept] = latent[i];
        values[kept++] = value[i];
    }
    codes.count[row] = kept;
    std::fill(to + kept, to + codes.slots, 0);
    std::fill(values + kept, values + codes.slots, 0.f);
}

// From screened scores to exact codes: candidates are computed again in float32, and only those count.
#pragma once

#include "cpu_screen.h"

// What exact scores are made of.
struct Exact {
    const float *x, *weight, *bias;
    int64_t d;

    // value[i] = x_row · weight[latent[i]] + bias[latent[i]]
    void score(int64_t row, const int32_t* latent, int n, float* value) const {
        dots(x + row * d, weight, d, latent, n, value);
        for (int i = 0; i < n; i++) value[i] += bias[latent[i]];
    }
};

// Room to work in, for lists of one row.
struct Work {
    uint32_t* keys;
    int32_t* latent;
    float* value;

    static Work take(Scratch& memory, int64_t capacity) {
        return {memory.take<uint32_t>(capacity + SPARE), memory.take<int32_t>(capacity + SPARE),
                memory.take<float>(capacity + SPARE)};
    }
};

// Sorts n entries, in place and keeping their order, into those not below `bound` and the others. Returns how
// many come first. Readable as for `raised`.
static inline int part(int32_t* latent, float* value, int n, float bound, Work& work) {
    int first = 0, others = 0;
    for (int i = 0; i < n; i += LANES) {
        const uint32_t live = n - i < LANES ? (1u << (n - i)) - 1 : (uint32_t)((1ull << LANES) - 1);
        const uint32_t above = not_below(load(value + i), all(bound)) & live;
        others = move_marked(live & ~above, latent + i, value + i, work.latent, work.value, others);
        first = move_marked(above, latent + i, value + i, latent, value, first);
    }
    std::copy_n(work.latent, others, latent + first);
    std::copy_n(work.value, others, value + first);
    return first;
}

static inline void pad(float* value, int n) { std::fill_n(value + n, SPARE, -INFINITY); }

// Computes the scores at places begin[r] to end[r] of the lists of n rows exactly, in place; moves `begin`.
// Each list ascends between them. A block of latents is gone through with all rows while its weights are near.
static inline void rescore(
    const Exact& exact, Search& s, int64_t first, int64_t n, int32_t* begin, const int32_t* end, int64_t block) {
    int64_t left = n;
    for (int64_t limit = block; left > 0; limit += block) {
        left = n;
        for (int64_t r = 0; r < n; r++) {
            const int32_t* latent = s.latents(r);
            const int from = begin[r];
            while (begin[r] < end[r] && latent[begin[r]] < limit) begin[r]++;
            exact.score(first + r, latent + from, begin[r] - from, s.scores(r) + from);
            left -= begin[r] == end[r];
        }
    }
}

// Merges two ascending runs of a list, 0 to middle and middle to n, into the room to work in.
static inline void merge(const int32_t* latent, const float* value, int middle, int n, Work& work) {
    int i = 0, j = middle;
    for (int to = 0; to < n; to++) {
        const int from = j == n || (i < middle && latent[i] < latent[j]) ? i++ : j++;
        work.latent[to] = latent[from];
        work.value[to] = value[from];
    }
}

// About where the k-th largest exact score of a list of upper bounds will be, rather below than above.
static inline float guess(const int32_t* latent, const float* bound, int n, int64_t k, const Latents& of, Margin by) {
    constexpr int SOME = 8;
    const float least = raised(bound, n, k, 0, 9);
    float margins = 0;
    int found = 0;
    for (int i = 0; i < n && found < SOME; i++) {
        if (!(bound[i] >= least)) continue;
        margins += by.error * of.norm[latent[i]] + by.size * of.error[latent[i]];
        found++;
    }
    return found ? least - 1.125f * margins / found : 0;
}

// A number that k of n >= k values reach, and few more do.
static inline float reached(const float* value, int n, int64_t k, float* work) {
    std::copy_n(value, n, work);
    pad(work, n);
    const float least = smallest(value, n);
    return raised(work, n, k, std::min(least, 3e38f), 10);
}

// The codes of n rows from their lists of upper bounds.
//
// What lies above a guess at the k-th largest exact score is computed. The k-th largest of these scores is a bound
// on the k-th largest of all; what can reach it and was not computed (little, or the guess was bad) follows.
static inline void refine(const Exact& exact, Search& s, const Latents& of, const Margin* margin, int64_t first,
                          int64_t n, const Codes& codes, int64_t block, int32_t* counts, Work& work) {
    int32_t *begin = counts, *likely = counts + n, *end = counts + 2 * n;
    for (int64_t r = 0; r < n; r++) {
        float* bound = s.scores(r);
        int have = std::max(0, s.count[r]);
        pad(bound, have);
        have = part(s.latents(r), bound, have, eased(s.floor[r]), work);
        pad(bound, have);
        const float least = have <= s.k ? -INFINITY : guess(s.latents(r), bound, have, s.k, of, margin[r]);
        begin[r] = 0;
        likely[r] = part(s.latents(r), bound, have, least, work);
        end[r] = have;
    }
    rescore(exact, s, first, n, begin, likely, block);
    for (int64_t r = 0; r < n; r++) {
        if (end[r] == likely[r]) continue;
        float floor = s.floor[r];
        if (likely[r] >= s.k) floor = std::max(floor, reached(s.scores(r), likely[r], s.k, work.value));
        float* rest = s.scores(r) + likely[r];
        pad(rest, end[r] - likely[r]);
        end[r] = likely[r] + part(s.latents(r) + likely[r], rest, end[r] - likely[r], eased(floor), work);
    }
    rescore(exact, s, first, n, begin, end, block);
    for (int64_t r = 0; r < n; r++) {
        if (s.count[r] < 0) continue;
        merge(s.latents(r), s.scores(r), likely[r], end[r], work);
        write_row(codes, first + r, work.latent, work.value,
                  keep_largest(work.latent, work.value, end[r], s.k, work.keys));
    }
}

// The codes of rows whose lists were given up, from exact scores of all latents. Row at[i] of the search is row
// first + at[i] of the batch; `tile` has room for n times `width` floats.
static inline void search_exactly(Search& s, const Exact& exact, int64_t latents, int64_t first, const int32_t* at,
                                  int64_t n, const Codes& codes, float* tile, int64_t width, Work& work) {
    const Latents certain = {exact.bias, nullptr, nullptr, latents};
    for (int64_t i = 0; i < n; i++) s.start(at[i]);
    for (int64_t from = 0; from < latents; from += width) {
        const int64_t columns = std::min(width, latents - from);
        for (int64_t j = 0; j < columns; j += 4) {
            const int32_t next = from + j, latent[4] = {next, next + 1, next + 2, next + 3};
            for (int64_t i = 0; i < n; i++)
                dots(exact.x + (first + at[i]) * exact.d, exact.weight, exact.d, latent,
                     std::min<int64_t>(4, columns - j), tile + i * width + j);
        }
        for (int64_t i = 0; i < n; i++)
            look<false>(s, at[i], tile + i * width, certain, {}, from, columns, work.keys);
    }
    for (int64_t i = 0; i < n; i++) {
        const int64_t r = at[i];
        const int kept = keep_largest(s.latents(r), s.scores(r), s.count[r], s.k, work.keys);
        write_row(codes, first + r, s.latents(r), s.scores(r), kept);
    }
}

// Appends to row `row` of codes the latents whose exact score is not below `floor` and above 0. Entries that do
// not fit are only counted.
static inline void append_exact(
    const Codes& codes, int64_t row, const int32_t* latent, const float* value, int n, float floor) {
    int64_t count = codes.count[row];
    for (int i = 0; i < n; i++) {
        if (value[i] < floor || value[i] <= 0) continue;
        if (count < codes.slots) {
            codes.latent[row * codes.slots + count] = latent[i];
            codes.value[row * codes.slots + count] = value[i];
        }
        // Nothing is learned from more than one row full of NaN or infinity: they do not ask for more room.
        if (count < codes.slots || std::isfinite(value[i])) count++;
    }
    codes.count[row] = count;
}

// Appends what a row of scores without bias, exact or screened, says is (or may be) not below the floor and above 0.
template <bool SCREENED>
static inline void append_row(const Codes& codes, int64_t row, const float* score, const Latents& of, Margin by,
                              int64_t first, int64_t columns, float floor, const Exact& exact, Work& work) {
    const Vec limit = all(SCREENED ? eased(floor) : floor);
    int n = 0;
    complete<SCREENED>(score, of, by, first, columns, [&](int64_t j, Vec v, Vec margin, int live) {
        const Vec upper = v + margin;
        const uint32_t mask = not_below(upper, limit) & positive(upper) & ((1ull << live) - 1);
        if (mask) n = append(mask, upper, first + j, work.latent, work.value, n);
    });
    if (SCREENED) exact.score(row, work.latent, n, work.value);
    append_exact(codes, row, work.latent, work.value, n, floor);
}

static inline void clear_rest(const Codes& codes, int64_t row) {
    const int64_t count = std::min<int64_t>(codes.count[row], codes.slots);
    std::fill(codes.latent + row * codes.slots + count, codes.latent + (row + 1) * codes.slots, 0);
    std::fill(codes.value + row * codes.slots + count, codes.value + (row + 1) * codes.slots, 0.f);
}

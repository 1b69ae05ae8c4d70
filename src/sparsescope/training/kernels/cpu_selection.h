// What Python calls to select entries.
#pragma once

#include "cpu_screened.h"

constexpr int64_t CHUNK = 192;            // rows that are screened together; a multiple of SIX
constexpr int64_t SEARCH_COLUMNS = 1024;  // latents between two raisings of the floors
constexpr int64_t ABOVE_COLUMNS = 128;    // latents whose weights stay near while a chunk of rows asks for them
constexpr int64_t SOME_LATENTS = 16;      // a line of a panel: no two threads write to one

// Pre-activations to be had: x · weight_j + bias_j, rows × n of them.
struct Problem {
    const float *x, *weight, *bias;
    int64_t rows, d, n;

    Exact exact() const { return {x, weight, bias, d}; }
};

static int64_t chunk_rows(int64_t rows, int threads) {
    const int64_t fair = (rows + threads * 4 - 1) / (threads * 4);
    return std::min(CHUNK, std::max<int64_t>(SIX, (fair + SIX - 1) / SIX * SIX));
}

static ScreenedRows take_rows(Scratch& memory, const Screen& s, int64_t rows) {
    const int64_t stride = s.quads() * 4;
    ScreenedRows r{memory.take<int8_t>(rows * stride), stride, memory.take<int32_t>(rows), memory.take<float>(rows),
                   memory.take<Margin>(rows)};
    // A last group of less than six rows computes with what is left here, whatever that is.
    std::fill_n(r.bytes, rows * stride, 0);
    std::fill_n(r.start, rows, 0);
    return r;
}

static Search take_search(Scratch& memory, int64_t rows, int64_t groups, int64_t capacity, int64_t k) {
    return {memory.take<float>(rows * groups),
            memory.take<float>(rows),
            memory.take<int32_t>(rows * (capacity + SPARE)),
            memory.take<float>(rows * (capacity + SPARE)),
            memory.take<int32_t>(rows),
            groups,
            capacity,
            k};
}

// Scores, without bias, of the first n rows for `columns` latents from `first` on, `stride` apart.
static void score_chunk(const Screen& s, const ScreenedRows& rows, int64_t n, int64_t first, int64_t columns,
                        float* scores, int64_t stride) {
    for (int64_t j = 0; j < columns; j += PANEL)
        for (int64_t r = 0; r < n; r += SIX) score_six(s, rows, r, first + j, scores + r * stride + j, stride);
}

// Room for what follows a search over a chunk of rows.
struct Ending {
    float* tile;  // chunk × SEARCH_COLUMNS
    int32_t *counts, *given_up;
    Work work;

    static Ending take(Scratch& memory, int64_t chunk, int64_t capacity) {
        return {memory.take<float>(chunk * SEARCH_COLUMNS), memory.take<int32_t>(3 * chunk),
                memory.take<int32_t>(chunk), Work::take(memory, capacity)};
    }
};

// How many latents to go through with all rows of a chunk before the next: as many as the second cache holds,
// if each is asked for several times; else all.
static int64_t near_latents(const Problem& p, int64_t chunk, int64_t k) {
    const int64_t near = std::max<int64_t>(SOME_LATENTS, cache_bytes() / 2 / (p.d * sizeof(float)));
    return chunk * k >= 2 * p.n ? near : p.n;
}

// The codes of n rows, from lists of upper bounds.
static void finish_screened(Search& s, const Problem& p, const Latents& of, const Margin* margin, int64_t first,
                            int64_t n, const Codes& codes, int64_t block, Ending& room) {
    refine(p.exact(), s, of, margin, first, n, codes, block, room.counts, room.work);
    int64_t lost = 0;
    for (int64_t r = 0; r < n; r++)
        if (s.count[r] < 0) room.given_up[lost++] = r;
    if (lost)
        search_exactly(s, p.exact(), p.n, first, room.given_up, lost, codes, room.tile, SEARCH_COLUMNS, room.work);
}

// What bounds the rounding of products of bfloat16: of the sum, and of the result.
static double half_rounding(int64_t d) { return 1.0 / 256 + d / 8388608.0 + rounding(d); }

extern "C" {

// 2: 8-bit integers are multiplied; 1: bfloat16; 0: neither is faster than float32.
int screening() {
#if defined(__AVX512BF16__) || defined(__AMX_BF16__)
    return HAS_SCREEN ? 2 : 1;
#else
    return HAS_SCREEN ? 2 : 0;
#endif
}

void screen_weights(const Screen* s, const float* weight, int threads) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Scratch& memory = scratch();
        float* work = memory.take<float>(s->d);
        int8_t* bytes = memory.take<int8_t>(s->quads() * 4);
#pragma omp for schedule(static)
        for (int64_t j = 0; j < s->n; j += SOME_LATENTS)
            for (int64_t i = j; i < std::min(s->n, j + SOME_LATENTS); i++)
                screen_latent(*s, i, weight + i * s->d, work, bytes);
    }
}

// Rows in bfloat16, with their margins.
void screen_rows(const float* x, int64_t rows, int64_t d, uint16_t* half, Margin* margin, int threads) {
    const double extra = half_rounding(d);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        float* work = scratch().take<float>(d);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) margin[r] = margin_of(halve(x + r * d, d, work, half + r * d), extra);
    }
}

void largest_screened(const Problem* p, const Screen* s, int64_t k, int64_t groups, int64_t capacity,
                      const Codes* codes, int threads) {
    const Latents latents{p->bias, s->norm, s->error, p->n};
    const int64_t chunk = chunk_rows(p->rows, threads), block = near_latents(*p, chunk, k);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Scratch& memory = scratch();
        const ScreenedRows rows = take_rows(memory, *s, chunk);
        Search search = take_search(memory, chunk, groups, capacity, k);
        Ending room = Ending::take(memory, chunk, capacity);
        float* balanced = memory.take<float>(p->d);
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < p->rows; first += chunk) {
            const int64_t n = std::min(chunk, p->rows - first);
            for (int64_t r = 0; r < n; r++) {
                rows.set(r, p->x + (first + r) * p->d, *s, balanced);
                search.start(r);
            }
            for (int64_t j = 0; j < p->n; j += SEARCH_COLUMNS) {
                const int64_t columns = std::min(SEARCH_COLUMNS, p->n - j);
                score_chunk(*s, rows, n, j, columns, room.tile, SEARCH_COLUMNS);
                for (int64_t r = 0; r < n; r++)
                    look<true>(search, r, room.tile + r * SEARCH_COLUMNS, latents, rows.margin[r], j, columns,
                               room.work.keys);
            }
            finish_screened(search, *p, latents, rows.margin, first, n, *codes, block, room);
        }
    }
}

// All entries whose exact value is not below the floor and above 0. Counts may exceed the slots.
void above_screened(const Problem* p, const Screen* s, float floor, const Codes* codes, int threads) {
    const Latents latents{p->bias, s->norm, s->error, p->n};
    const int64_t chunk = chunk_rows(p->rows, threads);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Scratch& memory = scratch();
        const ScreenedRows rows = take_rows(memory, *s, chunk);
        Work work = Work::take(memory, ABOVE_COLUMNS);
        float *tile = memory.take<float>(chunk * ABOVE_COLUMNS), *balanced = memory.take<float>(p->d);
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < p->rows; first += chunk) {
            const int64_t n = std::min(chunk, p->rows - first);
            for (int64_t r = 0; r < n; r++) {
                rows.set(r, p->x + (first + r) * p->d, *s, balanced);
                codes->count[first + r] = 0;
            }
            for (int64_t j = 0; j < p->n; j += ABOVE_COLUMNS) {
                const int64_t columns = std::min(ABOVE_COLUMNS, p->n - j);
                score_chunk(*s, rows, n, j, columns, tile, ABOVE_COLUMNS);
                for (int64_t r = 0; r < n; r++)
                    append_row<true>(*codes, first + r, tile + r * ABOVE_COLUMNS, latents, rows.margin[r], j,
                                     columns, floor, p->exact(), work);
            }
        }
    }
}

// Scores computed elsewhere (and overwritten here), of `columns` latents from `first` on; exact without margins.
struct Tile {
    float* scores;
    int64_t first, columns;
    const float *norm, *error;
    const Margin* margin;
};

void start_search(Search* s, int64_t rows) {
    for (int64_t r = 0; r < rows; r++) s->start(r);
}

void look_at_tile(Search* s, const Problem* p, const Tile* tile, int threads) {
    const Latents latents{p->bias, tile->norm, tile->error, p->n};
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        uint32_t* keys = scratch().take<uint32_t>(s->capacity + SPARE);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < p->rows; r++) {
            float* scores = tile->scores + r * tile->columns;
            if (tile->margin)
                look<true>(*s, r, scores, latents, tile->margin[r], tile->first, tile->columns, keys);
            else
                look<false>(*s, r, scores, latents, {}, tile->first, tile->columns, keys);
        }
    }
}

void finish_search(Search* s, const Problem* p, const Tile* tile, const Codes* codes, int threads) {
    const Latents latents{p->bias, tile->norm, tile->error, p->n};
    const int64_t chunk = chunk_rows(p->rows, threads), block = near_latents(*p, chunk, s->k);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Ending room = Ending::take(scratch(), chunk, s->capacity);
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < p->rows; first += chunk) {
            const int64_t n = std::min(chunk, p->rows - first);
            Search part = s->from(first);
            if (tile->margin) finish_screened(part, *p, latents, tile->margin + first, first, n, *codes, block, room);
            for (int64_t r = 0; r < n && !tile->margin; r++)
                write_row(*codes, first + r, part.latents(r), part.scores(r),
                          keep_largest(part.latents(r), part.scores(r), part.count[r], part.k, room.work.keys));
        }
    }
}

void append_tile(const Problem* p, const Tile* tile, float floor, const Codes* codes, int threads) {
    const Latents latents{p->bias, tile->norm, tile->error, p->n};
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Work work = Work::take(scratch(), tile->columns);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < p->rows; r++) {
            float* scores = tile->scores + r * tile->columns;
            if (tile->margin)
                append_row<true>(*codes, r, scores, latents, tile->margin[r], tile->first, tile->columns, floor,
                                 p->exact(), work);
            else
                append_row<false>(*codes, r, scores, latents, {}, tile->first, tile->columns, floor, p->exact(),
                                  work);
        }
    }
}
}

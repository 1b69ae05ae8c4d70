// The kernels of training for processors: what Python calls. See base.py for what each is to compute.
//
// Work is divided by rows or by latents, and within each the order is fixed, so results do not depend on the
// number of threads. OpenMP is the one that torch has loaded: both share one pool of threads.

#include "cpu_decode.h"
#include "cpu_selection.h"
#include "cpu_update.h"

extern "C" {

// Zeros the slots behind each row's entries. Returns the largest count, which may exceed the slots.
int64_t finish_above(const Codes* codes, int64_t rows, int threads) {
    int64_t most = 0;
#pragma omp parallel for num_threads(threads) if (threads > 1) reduction(max : most)
    for (int64_t r = 0; r < rows; r++) {
        clear_rest(*codes, r);
        most = std::max<int64_t>(most, codes->count[r]);
    }
    return most;
}

// Leaves the `total` largest entries, in place. Sets the smallest of them; returns how many there are.
int64_t keep_total(const Codes* codes, int64_t rows, int64_t total, float* smallest, uint32_t* keys) {
    int64_t found = 0;
    for (int64_t r = 0; r < rows; r++) {
        const float* value = codes->value + r * codes->slots;
        for (int64_t i = 0; i < codes->count[r]; i++) keys[found++] = key(value[i]);
    }
    *smallest = 0;
    if (found < total) return found;
    std::nth_element(keys, keys + total - 1, keys + found, std::greater<uint32_t>());
    const uint32_t least = keys[total - 1];
    int64_t equals = 1;
    for (int64_t i = 0; i < total - 1; i++) equals += keys[i] == least;
    for (int64_t r = 0; r < rows; r++) {
        int32_t* latent = codes->latent + r * codes->slots;
        float* value = codes->value + r * codes->slots;
        int64_t kept = 0;
        for (int64_t i = 0; i < codes->count[r]; i++) {
            const uint32_t mine = key(value[i]);
            if (mine < least || (mine == least && equals-- <= 0)) continue;
            if (mine == least) *smallest = value[i];
            latent[kept] = latent[i];
            value[kept++] = value[i];
        }
        std::fill(latent + kept, latent + codes->count[r], 0);
        std::fill(value + kept, value + codes->count[r], 0.f);
        codes->count[r] = kept;
    }
    return total;
}

void decode(const Decoding* to, const Table* codes, int threads) {
    const int64_t n = to->bounds[to->levels - 1];
    const int64_t near = std::max<int64_t>(16, cache_bytes() / 2 / (to->d * sizeof(float)));
    const int64_t entries = std::accumulate(codes->count, codes->count + codes->rows, (int64_t)0);
    const bool often = n > near && (double)entries / n * near / codes->rows >= 3;
    const int64_t fair = std::max<int64_t>(16, (codes->rows + 4 * threads - 1) / (4 * threads));
    const int64_t chunk = often ? std::min(near, fair) : 16, block = often ? near : n;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const Entries list = Entries::take(scratch(), chunk, codes->slots);
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < codes->rows; first += chunk) {
            const Decoder part{*to, *codes, list, first, std::min(chunk, codes->rows - first), block};
            for (int64_t r = 0; r < part.n; r++) list.read(r, *codes, first + r, n);
            part.reconstruct();
            part.scale();
            part.slopes();
        }
    }
}

// Orders entries by latent, rows ascending. `places` has room for `parts` times n numbers: how many entries of
// each latent lie in each part of the rows, and then where the next of them goes. False for an unknown latent.
bool by_latent(const Table* codes, int64_t n, int64_t* start, int64_t* entry, int64_t* places, int parts) {
    const int64_t share = (codes->rows + parts - 1) / parts;
    bool known = true;
#pragma omp parallel for num_threads(parts) if (parts > 1) reduction(&& : known)
    for (int part = 0; part < parts; part++) {
        int64_t* count = places + part * n;
        std::fill_n(count, n, 0);
        for (int64_t r = part * share; r < std::min(codes->rows, (part + 1) * share); r++) {
            const int32_t* latent = codes->latent + r * codes->slots;
            for (int64_t i = 0; i < codes->count[r]; i++) {
                if ((uint64_t)latent[i] < (uint64_t)n)
                    count[latent[i]]++;
                else
                    known = false;
            }
        }
    }
    if (!known) return false;
    int64_t sum = 0;
    for (int64_t j = 0; j < n; j++) {
        start[j] = sum;
        for (int part = 0; part < parts; part++) {
            const int64_t count = places[part * n + j];
            places[part * n + j] = sum;
            sum += count;
        }
    }
    start[n] = sum;
#pragma omp parallel for num_threads(parts) if (parts > 1)
    for (int part = 0; part < parts; part++) {
        int64_t* next = places + part * n;
        for (int64_t r = part * share; r < std::min(codes->rows, (part + 1) * share); r++) {
            const int32_t* latent = codes->latent + r * codes->slots;
            for (int64_t i = 0; i < codes->count[r]; i++) entry[next[latent[i]]++] = r * codes->slots + i;
        }
    }
    return true;
}

void sums(const int64_t* start, const int64_t* entry, const float* factor, int64_t n, float* sum, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic, 256)
    for (int64_t j = 0; j < n; j++) {
        double s = 0;
        for (int64_t i = start[j]; i < start[j + 1]; i++) s += factor[entry[i]];
        sum[j] = s;
    }
}

// False when an entry lies outside the tables.
bool gradient(const Term* terms, int count, int64_t n, int64_t d, float* out, int threads) {
    const Grouping by = Grouping::of(terms, count, n, d, threads);
    bool inside = true;
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(&& : inside)
    {
        int64_t* at = scratch().take<int64_t>(by.latents * count);
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < n; first += by.latents) {
            const int64_t some = std::min(by.latents, n - first);
            std::fill_n(out + first * d, some * d, 0.f);
            inside = Gradients(terms, count, first, some, d, at, out + first * d).add(by.rows) && inside;
        }
    }
    return inside;
}

// A matrix and Adam's averages of it.
struct Matrix {
    float *weight, *mean, *square;
    int64_t n, d;
    int32_t unit;
};

// One Adam step. `dense` (or null) is added to the terms; the screen (or null) follows the weights.
// False when an entry lies outside the tables.
bool update(const Matrix* m, const AdamStep* by, const Term* terms, int count, const float* dense,
            const Screen* screen, int threads) {
    const Grouping group = Grouping::of(terms, count, m->n, m->d, threads);
    const int64_t d = m->d;
    bool inside = true;
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(&& : inside)
    {
        Scratch& memory = scratch();
        float* sums = memory.take<float>(group.latents * d);
        int64_t* at = memory.take<int64_t>(group.latents * count);
        int8_t* bytes = memory.take<int8_t>(d + 4);
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < m->n; first += group.latents) {
            const int64_t n = std::min(group.latents, m->n - first);
            if (dense)
                std::copy_n(dense + first * d, n * d, sums);
            else
                std::fill_n(sums, n * d, 0.f);
            inside = Gradients(terms, count, first, n, d, at, sums).add(group.rows) && inside;
            for (int64_t j = 0; j < n; j++) {
                const int64_t row = (first + j) * d;
                adam_row(*by, m->unit, sums + j * d, d, m->weight + row, m->mean + row, m->square + row);
                if (screen) screen_latent(*screen, first + j, m->weight + row, sums + j * d, bytes);
            }
        }
    }
    return inside;
}
}

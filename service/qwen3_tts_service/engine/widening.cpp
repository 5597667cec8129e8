// Rows of float32 times a matrix of bfloat16 for the CPU, computed in float32: a number of bfloat16 is the upper half
// of a float32, so it is widened in a register and half as many bytes come from memory. Built once per host for its
// own processor.
//
// Weights come packed in the order in which they are read, the last outputs filled up: [outputs / 4]
// [inputs / (2 lanes)][4][lanes][2], where one word of 32 bits holds the inputs k and k + lanes. Every sum is added up in the same order whatever the number of rows, so a row's result knows no neighbours.

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 6;
#else
constexpr int LANES = 8, ROWS = 2;
#endif
// Outputs that share the rows that are loaded; rows that stay in the second cache while all weights pass by.
constexpr int OUTS = 4, TASK_ROWS = 30;
// Weights that are asked for before they are needed: one core waits for memory less that way.
constexpr int AHEAD = 1024;

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

inline vec load(const float* p) { return *reinterpret_cast<const vec*>(p); }
inline vec low(words v) { return (vec)(v << 16); }
inline vec high(words v) { return (vec)(v & 0xffff0000u); }
// Halves on top of each other, until one number is left.
inline float sum(vec v) {
    typedef float eight __attribute__((vector_size(32)));
    typedef float four __attribute__((vector_size(16)));
    eight parts[LANES / 8];
    std::memcpy(parts, &v, sizeof v);
#if defined(__AVX512F__)
    parts[0] += parts[1];
#endif
    four halves_of[2];
    std::memcpy(halves_of, parts, sizeof halves_of);
    four q = halves_of[0] + halves_of[1];
    return (q[0] + q[2]) + (q[1] + q[3]);
}

// R rows by OUTS outputs, of which the first `outs` are there.
template <int R>
void multiply(const float* x, int64_t in, const uint16_t* weight, float* y, int64_t out, int outs) {
    vec sums[R][OUTS] = {};
    for (int64_t k = 0; k < in; k += 2 * LANES, weight += OUTS * 2 * LANES) {
        words both[OUTS];
#pragma GCC unroll 4
        for (int o = 0; o < OUTS; o++) {
            both[o] = *reinterpret_cast<const words*>(weight + o * 2 * LANES);
            __builtin_prefetch(weight + o * 2 * LANES + AHEAD);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            vec row = load(x + r * in + k);
#pragma GCC unroll 4
            for (int o = 0; o < OUTS; o++) sums[r][o] += row * low(both[o]);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            vec row = load(x + r * in + k + LANES);
#pragma GCC unroll 4
            for (int o = 0; o < OUTS; o++) sums[r][o] += row * high(both[o]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int o = 0; o < outs; o++) y[r * out + o] = sum(sums[r][o]);
}

void multiply_rows(const float* x, int64_t rows, int64_t in, const uint16_t* weight, float* y, int64_t out, int outs) {
    int64_t r = 0;
    for (; r + ROWS <= rows; r += ROWS) multiply<ROWS>(x + r * in, in, weight, y + r * out, out, outs);
    if constexpr (ROWS > 4)
        for (; r + 4 <= rows; r += 4) multiply<4>(x + r * in, in, weight, y + r * out, out, outs);
    if constexpr (ROWS > 2)
        for (; r + 2 <= rows; r += 2) multiply<2>(x + r * in, in, weight, y + r * out, out, outs);
    for (; r < rows; r++) multiply<1>(x + r * in, in, weight, y + r * out, out, outs);
}

}  // namespace

extern "C" {

int widening_lanes() { return LANES; }
int widening_outs() { return OUTS; }

// y [rows, out] = x [rows, in] times the transpose of a matrix [out, in], packed; `in` is a multiple of 2 lanes.
void widening_product(const float* x, int64_t rows, int64_t in, const uint16_t* weight, int64_t out, float* y,
                      int threads) {
    int64_t blocks = (out + OUTS - 1) / OUTS;
#pragma omp parallel num_threads(threads)
    for (int64_t first = 0; first < rows; first += TASK_ROWS) {
        int64_t count = std::min<int64_t>(TASK_ROWS, rows - first);
#pragma omp for schedule(static) nowait
        for (int64_t block = 0; block < blocks; block++) {
            int64_t o = block * OUTS;
            multiply_rows(x + first * in, count, in, weight + o * in, y + first * out + o, out,
                          (int)std::min<int64_t>(OUTS, out - o));
        }
    }
}

}  // extern "C"

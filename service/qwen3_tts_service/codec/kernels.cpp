// The codec decoder's inner loops for the CPU: a causal convolution over rows of channels as a blocked matrix
// product that reads overlapping rows where they lie, with what follows it (bias, residual, SnakeBeta) done
// while the result is still in registers or in the first cache. Built once per host for its own processor.
//
// Rows are time steps. Weights come packed in panels of 3 vectors: [panel][k][3 * lanes], for bfloat16 with
// two neighbouring k side by side: [panel][k / 2][3 * lanes][2]. Sums, residuals and SnakeBeta are float32.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8;
#else
constexpr int LANES = 8, ROWS = 4;
#endif
constexpr int PANEL = 3 * LANES;
// Weights of one inner loop stay in the first cache (KEEP * PANEL * 4 bytes), rows of one task in the second.
constexpr int KEEP = 192, TASK_ROWS = 128;

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

inline vec load(const float* p) { return *reinterpret_cast<const vec*>(p); }
inline void store(float* p, vec v) { *reinterpret_cast<vec*>(p) = v; }
inline vec all(float x) {
#if defined(__AVX512F__)
    return (vec)_mm512_set1_ps(x);
#else
    return x - vec{};
#endif
}

struct Float {
    typedef float element;  // as it lies in a row
    typedef float word;     // what meets one vector of weights in one step
    static constexpr int width = 1;
    static inline void step(vec& sum, word a, const vec& b) { sum += all(a) * b; }
    static inline void put(element* p, vec v) { store(p, v); }
    static inline element one(float v) { return v; }
    static inline float read(element v) { return v; }
    static inline vec get(const element* p) { return load(p); }
};

#if defined(__AVX512BF16__)
struct Bfloat {
    typedef uint16_t element;
    typedef uint32_t word __attribute__((may_alias, aligned(2)));
    static constexpr int width = 2;
    static inline void step(vec& sum, uint32_t a, const vec& b) {
        sum = (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)a), (__m512bh)b);
    }
    static inline void put(element* p, vec v) {
        _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh((__m512)v));
    }
    static inline element one(float v) {
        uint32_t bits;
        std::memcpy(&bits, &v, 4);
        return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    }
    static inline float read(element v) {
        uint32_t bits = (uint32_t)v << 16;
        float value;
        std::memcpy(&value, &bits, 4);
        return value;
    }
    static inline vec get(const element* p) {
        __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
        return (vec)_mm512_slli_epi32(wide, 16);
    }
};
#endif

// x + depth * sin(frequency * x) ** 2: sin ** 2 has the period pi, so its argument is taken to [-pi/2, pi/2]
// with pi in three parts; polynomial Abramowitz and Stegun 4.3.97, absolute error 2e-9.
inline vec snake(vec x, vec frequency, vec depth) {
    const vec magic = all(12582912.0f);  // 1.5 * 2 ** 23: adding it rounds to an integer
    vec y = x * frequency;
    vec turns = (y * all(0.318309886f) + magic) - magic;
    vec r = y - turns * all(3.140625f);
    r = r - turns * all(9.67502593994140625e-4f);
    r = r - turns * all(1.509957990978376e-7f);
    vec q = r * r;
    vec p = all(-2.39e-8f);
    p = p * q + all(2.7526e-6f);
    p = p * q + all(-1.984090e-4f);
    p = p * q + all(8.3333315e-3f);
    p = p * q + all(-0.1666666664f);
    vec s = r + r * q * p;
    return x + depth * (s * s);
}

// A convolution and the SnakeBeta that follows it (null: none). Pointers per channel are padded to panels.
struct Convolution {
    int64_t channels, taps, dilation, width;  // width: channels out
    const void* weight;                       // packed
    const float* bias;
    const float* frequency;
    const float* depth;
};

// Where sums go, bias added: + residual, as they are, and through SnakeBeta; each if given. Rows of `width`,
// `step` elements from one stream to the next.
struct Target {
    const float* residual;
    float* out;
    int64_t out_step;  // of residual too
    void* activated;   // the element type of the rows
    int64_t activated_step;
};

// M rows by one panel, over `taps` taps of `count` words each; `a` is the first row's first word.
template <class T, int M>
void multiply(const typename T::word* a, int64_t row, int64_t tap, int taps, int count, const float* b, float* sums,
              bool first) {
    vec s[M][3];
    for (int i = 0; i < M; i++)
        for (int j = 0; j < 3; j++) s[i][j] = first ? vec{} : load(sums + i * PANEL + j * LANES);
    for (int t = 0; t < taps; t++) {
        const typename T::word* at = a + t * tap;
        for (int k = 0; k < count; k++) {
            vec b0 = load(b), b1 = load(b + LANES), b2 = load(b + 2 * LANES);
            b += PANEL;
#pragma GCC unroll 16
            for (int i = 0; i < M; i++) {
                typename T::word v = at[i * row + k];
                T::step(s[i][0], v, b0);
                T::step(s[i][1], v, b1);
                T::step(s[i][2], v, b2);
            }
        }
    }
    for (int i = 0; i < M; i++)
        for (int j = 0; j < 3; j++) store(sums + i * PANEL + j * LANES, s[i][j]);
}

template <class T>
void multiply_some(int m, const typename T::word* a, int64_t row, int64_t tap, int taps, int count, const float* b,
                   float* sums, bool first) {
    switch (m) {
        case 1: return multiply<T, 1>(a, row, tap, taps, count, b, sums, first);
        case 2: return multiply<T, 2>(a, row, tap, taps, count, b, sums, first);
        case 3: return multiply<T, 3>(a, row, tap, taps, count, b, sums, first);
        case 4: return multiply<T, 4>(a, row, tap, taps, count, b, sums, first);
#if defined(__AVX512F__)
        case 5: return multiply<T, 5>(a, row, tap, taps, count, b, sums, first);
        case 6: return multiply<T, 6>(a, row, tap, taps, count, b, sums, first);
        case 7: return multiply<T, 7>(a, row, tap, taps, count, b, sums, first);
        default: return multiply<T, 8>(a, row, tap, taps, count, b, sums, first);
#endif
    }
}

template <class T>
void finish_row(const float* sum, int64_t place, int64_t column, const Convolution& c, const Target& target) {
    typedef typename T::element element;
    for (int64_t j = column; j < std::min<int64_t>(column + PANEL, c.width); j += LANES, sum += LANES) {
        const int64_t at = place * c.width + j;
        element* activated = target.activated ? static_cast<element*>(target.activated) + at : nullptr;
        vec v = load(sum) + load(c.bias + j);
        if (j + LANES <= c.width) {
            if (target.residual) v += load(target.residual + at);
            if (target.out) store(target.out + at, v);
            if (activated) T::put(activated, c.frequency ? snake(v, load(c.frequency + j), load(c.depth + j)) : v);
            continue;
        }
        for (int i = 0; i < c.width - j; i++) {
            if (target.residual) v[i] += target.residual[at + i];
            if (target.out) target.out[at + i] = v[i];
        }
        vec w = c.frequency ? snake(v, load(c.frequency + j), load(c.depth + j)) : v;
        for (int i = 0; activated && i < c.width - j; i++) activated[i] = T::one(w[i]);
    }
}

// `rows` <= TASK_ROWS output rows by the panels [from, to). `x`: the oldest row that the first of them needs;
// `place`: which row of the target the first is.
template <class T>
void block(const Convolution& c, const typename T::element* x, int64_t rows, int64_t from, int64_t to,
           const Target& target, int64_t place) {
    typedef typename T::word word;
    alignas(64) float sums[TASK_ROWS * PANEL];
    const int64_t row = c.channels / T::width;  // words
    const int64_t together = std::max<int64_t>(1, KEEP / row);
    for (int64_t panel = from; panel < to; panel++) {
        const float* weights = static_cast<const float*>(c.weight) + panel * c.taps * row * PANEL;
        for (int64_t tap = 0; tap < c.taps; tap += together) {
            const int taps = (int)std::min(together, c.taps - tap);
            for (int64_t k = 0; k < row; k += KEEP) {
                const int count = (int)std::min<int64_t>(KEEP, row - k);
                const float* b = weights + (tap * row + k) * PANEL;
                const word* a = reinterpret_cast<const word*>(x) + tap * c.dilation * row + k;
                for (int64_t r = 0; r < rows; r += ROWS)
                    multiply_some<T>((int)std::min<int64_t>(ROWS, rows - r), a + r * row, row, c.dilation * row, taps,
                                     count, b, sums + r * PANEL, tap == 0 && k == 0);
            }
        }
        for (int64_t r = 0; r < rows; r++) finish_row<T>(sums + r * PANEL, place + r, panel * PANEL, c, target);
    }
}

int64_t panels_of(const Convolution& c) { return (c.width + PANEL - 1) / PANEL; }

template <class T>
Target of_stream(const Target& target, int64_t stream) {
    Target mine = target;
    if (mine.residual) mine.residual += stream * target.out_step;
    if (mine.out) mine.out += stream * target.out_step;
    if (mine.activated)
        mine.activated = static_cast<typename T::element*>(mine.activated) + stream * target.activated_step;
    return mine;
}

template <class T>
void convolve(const Convolution& c, const void* input, int64_t input_step, int64_t streams, int64_t rows,
              const Target& target, int threads) {
    const auto* x = static_cast<const typename T::element*>(input);
    const int64_t panels = panels_of(c), blocks = (rows + TASK_ROWS - 1) / TASK_ROWS;
    // With few blocks of rows the panels are shared out as well, so that every thread has work to the end.
    const int64_t wanted = (8 * threads + blocks * streams - 1) / (blocks * streams);
    const int64_t groups = std::min(panels, std::max<int64_t>(1, wanted));
#pragma omp parallel for collapse(3) schedule(dynamic) num_threads(threads)
    for (int64_t group = 0; group < groups; group++)
        for (int64_t stream = 0; stream < streams; stream++)
            for (int64_t b = 0; b < blocks; b++) {
                const int64_t start = b * TASK_ROWS;
                block<T>(c, x + stream * input_step + start * c.channels, std::min<int64_t>(TASK_ROWS, rows - start),
                         panels * group / groups, panels * (group + 1) / groups, of_stream<T>(target, stream), start);
            }
}

// A dilated convolution and the projection after it, block by block, so that what is between them stays in the
// second cache. Where there are too few blocks for the threads, one after the other.
template <class T>
void unit(const Convolution& dilated, const Convolution& project, const void* input, int64_t input_step,
          int64_t streams, int64_t rows, const Target& target, void* between, int threads) {
    typedef typename T::element element;
    const auto* x = static_cast<const element*>(input);
    int64_t size = rows * streams / (4 * threads) / ROWS * ROWS;
    size = std::min<int64_t>(TASK_ROWS, size);
    if (size < 4 * ROWS) {
        const Target hidden = {nullptr, nullptr, 0, between, rows * dilated.width};
        convolve<T>(dilated, input, input_step, streams, rows, hidden, threads);
        convolve<T>(project, between, rows * dilated.width, streams, rows, target, threads);
        return;
    }
    const int64_t blocks = (rows + size - 1) / size;
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(threads)
    for (int64_t stream = 0; stream < streams; stream++)
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t start = b * size, count = std::min(size, rows - start);
            static thread_local std::vector<element> scratch;
            scratch.resize(TASK_ROWS * dilated.width);
            element* hidden = scratch.data();
            block<T>(dilated, x + stream * input_step + start * dilated.channels, count, 0, panels_of(dilated),
                     {nullptr, nullptr, 0, hidden, 0}, 0);
            block<T>(project, hidden, count, 0, panels_of(project), of_stream<T>(target, stream), start);
        }
}

// To one channel, clamped to [-1, 1]; `weight` [taps * channels], taps side by side (dilation 1), not packed.
template <class T>
void leave(const Convolution& c, const void* input, int64_t input_step, int64_t streams, int64_t rows, float* sound,
           int threads) {
    const auto* x = static_cast<const typename T::element*>(input);
    const float* w = static_cast<const float*>(c.weight);
    const int64_t length = c.taps * c.channels, blocks = (rows + TASK_ROWS - 1) / TASK_ROWS;
#pragma omp parallel for collapse(2) num_threads(threads)
    for (int64_t stream = 0; stream < streams; stream++)
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t r = b * TASK_ROWS; r < std::min(rows, (b + 1) * TASK_ROWS); r++) {
                const auto* at = x + stream * input_step + r * c.channels;
                vec even = {}, odd = {};
                int64_t k = 0;
                for (; k + 2 * LANES <= length; k += 2 * LANES) {
                    even += T::get(at + k) * load(w + k);
                    odd += T::get(at + k + LANES) * load(w + k + LANES);
                }
                even += odd;
                float sum = c.bias[0];
                for (int i = 0; i < LANES; i++) sum += even[i];
                for (; k < length; k++) sum += T::read(at[k]) * w[k];
                sound[stream * rows + r] = std::min(1.0f, std::max(-1.0f, sum));
            }
}

}  // namespace

#if defined(__AVX512BF16__)
#define FOR_ELEMENT(bfloat, call) if (bfloat) { typedef Bfloat T; call; } else { typedef Float T; call; }
#else
#define FOR_ELEMENT(bfloat, call) { (void)(bfloat); typedef Float T; call; }
#endif

extern "C" {

int codec_panel() { return PANEL; }

int codec_has_bfloat() {
#if defined(__AVX512BF16__)
    return 1;
#else
    return 0;
#endif
}

void codec_convolve(int bfloat, const Convolution* c, const void* x, int64_t x_step, int64_t streams, int64_t rows,
                    const Target* target, int threads) {
    FOR_ELEMENT(bfloat, convolve<T>(*c, x, x_step, streams, rows, *target, threads))
}

void codec_unit(int bfloat, const Convolution* dilated, const Convolution* project, const void* x, int64_t x_step,
                int64_t streams, int64_t rows, const Target* target, void* between, int threads) {
    FOR_ELEMENT(bfloat, unit<T>(*dilated, *project, x, x_step, streams, rows, *target, between, threads))
}

void codec_leave(int bfloat, const Convolution* c, const void* x, int64_t x_step, int64_t streams, int64_t rows,
                 float* sound, int threads) {
    FOR_ELEMENT(bfloat, leave<T>(*c, x, x_step, streams, rows, sound, threads))
}
}

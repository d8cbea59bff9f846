// registers.cuh: what the state-vector kernels share: a compiled program's records, and its operations on amplitudes held in
// registers, K = 2^k of them a thread.
//
// A block is 256 threads and holds 256·K amplitudes: one state, several small ones, or a part of a large one. The words of a
// segment (src/statevec/records/mod.rs writes them) say which stored index each (thread, register) holds, how amplitudes move
// there through shared memory, and what is done to them. Everything but parities over the thread number is the same for all
// threads of a block.
#pragma once
#include "device.cuh"
#include "statevec/norm.cuh"

namespace statevec {

using gw::i64;

enum Flag : u32 { EXCHANGE = 1, MEASURE = 2, IMAGINARY = 4, PAIRS = 8, APPLY = 16, UNDO = 32, LOAD = 64 };
enum Opcode : u32 { REAL = 0, IMAG = 1, PHASE = 2, MATRIX1 = 3, MATRIX2 = 4, MATRIX3 = 5, DIAGONAL = 6 };

constexpr u32 BLOCK = 256, SEGMENT_WORDS = 2048;
constexpr u32 NONE = 0xffffffffu;
constexpr u32 STATUS_PARAMETER = 2;

// Words of a segment's header.
constexpr u32 FLAGS = 1, SLOTS = 2, COUNT = 3, DIRECTION = 4, BODY = 5, FIRST = 6, NEXT = 7;
// Tables {origin, 5 register bits, thread bits}: stored indices; shared addresses of the last mapping and of this one.
constexpr u32 MAPPING = 8, WRITE = 22, READ = 36, HEADER = 50;
constexpr u32 TABLE_REGISTERS = 1, TABLE_THREADS = 6;

/// An amplitude; 8 or 16 bytes move at a time.
template <typename R>
struct alignas(2 * sizeof(R)) Amplitude {
    R x, y;
};

GW_DEVICE u32 odd(u32 x) {
    x ^= x >> 16;
    x ^= x >> 8;
    x ^= x >> 4;
    return (0x6996u >> (x & 15u)) & 1u;
}

/// Bit j: parity of mask & j, for register number j.
GW_DEVICE u32 register_parities(u32 mask) {
    u32 bits = (mask & 1u) != 0 ? 0xaaaaaaaau : 0u;
    bits ^= (mask & 2u) != 0 ? 0xccccccccu : 0u;
    bits ^= (mask & 4u) != 0 ? 0xf0f0f0f0u : 0u;
    bits ^= (mask & 8u) != 0 ? 0xff00ff00u : 0u;
    return bits ^ ((mask & 16u) != 0 ? 0xffff0000u : 0u);
}

/// The parity {thread mask, register mask | odd << 31} at `at`, for each register.
GW_DEVICE u32 parity_bits(Shared<u32> words, u32 at, u32 thread) {
    const u32 registers = words[at + 1];
    const u32 flip = odd(words[at] & thread) ^ (registers >> 31);
    return register_parities(registers) ^ (0u - flip);
}

/// This thread's share of a state.
struct Place {
    u32 thread;   // number within its state
    u32 local;    // state within the block
    u32 sample;
    u32 first_sample;  // of the block
    u32 threads;       // of one state, in this block
    u32 states;        // of the block
    bool inside;       // the sample exists
};

GW_DEVICE Place place_of(u32 thread_bits, u32 samples) {
    Place place;
    place.threads = thread_bits < 8u ? 1u << thread_bits : BLOCK;
    place.states = BLOCK / place.threads;
    if (thread_bits <= 8u) {
        place.local = threadIdx.x >> thread_bits;
        place.thread = threadIdx.x & (place.threads - 1u);
        place.first_sample = blockIdx.x * place.states;
    } else {
        const u32 block_bits = thread_bits - 8u;
        place.local = 0;
        place.thread = (blockIdx.x & ((1u << block_bits) - 1u)) * BLOCK + threadIdx.x;
        place.first_sample = blockIdx.x >> block_bits;
    }
    place.sample = place.first_sample + place.local;
    place.inside = place.sample < samples;
    return place;
}

/// What states start from: a caller's rows as they are, picked by task, or to be normalised; or the numbers of basis states.
enum StartKind : u32 { ZERO_START = 0, ROWS = 1, TASK_ROWS = 2, COMPLEX_ROWS = 3, REAL_ROWS = 4, NUMBERS = 5 };
struct Start {
    const float2* given;
    // Of each sample: the number of a basis state, or, where a state spans blocks, {power, factor} that normalise its row.
    const u32* words;
    i64 row_step;  // elements
    u32 word_step, kind, width;
};

/// Index of register 0, and what each register bit adds.
struct Mapping {
    u32 base, r0, r1, r2, r3, r4;
    GW_DEVICE u32 at(int j) const {
        return base ^ ((j & 1) ? r0 : 0u) ^ ((j & 2) ? r1 : 0u) ^ ((j & 4) ? r2 : 0u) ^ ((j & 8) ? r3 : 0u) ^
               ((j & 16) ? r4 : 0u);
    }
};

GW_DEVICE Mapping mapping_of(Shared<u32> segment, u32 table, u32 thread, u32 thread_bits) {
    const u32 first = table + TABLE_REGISTERS;
    Mapping m = {segment[table], segment[first], segment[first + 1], segment[first + 2], segment[first + 3], segment[first + 4]};
    for (u32 i = 0; i < thread_bits; ++i) {
        if ((thread >> i & 1u) != 0) m.base ^= segment[table + TABLE_THREADS + i];
    }
    return m;
}

/// Moves amplitudes from the last segment's mapping to this one's, one component at a time. The tables map both to shared
/// addresses in which the lanes of a warp meet 32 different banks. `plane` must be free; it is again afterwards.
template <typename R, int K>
GW_DEVICE void exchange(Amplitude<R> (&a)[K], Shared<u32> words, Shared<R> plane) {
    const Mapping from = mapping_of(words, WRITE, threadIdx.x, 8u), to = mapping_of(words, READ, threadIdx.x, 8u);
#pragma unroll
    for (int j = 0; j < K; ++j) plane[from.at(j)] = a[j].x;
    gw::sync_threads();
#pragma unroll
    for (int j = 0; j < K; ++j) a[j].x = plane[to.at(j)];
    gw::sync_threads();
#pragma unroll
    for (int j = 0; j < K; ++j) plane[from.at(j)] = a[j].y;
    gw::sync_threads();
#pragma unroll
    for (int j = 0; j < K; ++j) a[j].y = plane[to.at(j)];
    gw::sync_threads();
}

GW_DEVICE bool is_lower(int j, int flip) { return (j & (flip & -flip)) == 0; }

template <typename R>
GW_DEVICE Amplitude<R> times(Amplitude<R> a, Amplitude<R> b) {
    return {gw::fma(-a.y, b.y, a.x * b.x), gw::fma(a.y, b.x, a.x * b.y)};
}
template <typename R>
GW_DEVICE Amplitude<R> plus_times(Amplitude<R> sum, Amplitude<R> a, Amplitude<R> b) {
    return {gw::fma(-a.y, b.y, gw::fma(a.x, b.x, sum.x)), gw::fma(a.y, b.x, gw::fma(a.x, b.y, sum.y))};
}

/// (x, y) → (c·x − s·y, c·y + s·x), or (c·x − is·y, c·y − is·x); the sign of s is the role's.
template <int FLIP, typename R, int K>
GW_DEVICE void rotate(Amplitude<R> (&a)[K], R cosine, R sine, u32 roles, u32 active, bool imaginary) {
#pragma unroll
    for (int j = 0; j < K; ++j) {
        if (!is_lower(j, FLIP)) continue;
        const bool acts = (active >> j & 1u) != 0;
        const R c = acts ? cosine : R(1);
        const R signed_sine = (roles >> j & 1u) != 0 ? -sine : sine;
        const R s = acts ? signed_sine : R(0);
        const Amplitude<R> x = a[j], y = a[j ^ FLIP];
        if (imaginary) {
            a[j] = {gw::fma(s, y.y, c * x.x), gw::fma(-s, y.x, c * x.y)};
            a[j ^ FLIP] = {gw::fma(s, x.y, c * y.x), gw::fma(-s, x.x, c * y.y)};
        } else {
            a[j] = {gw::fma(-s, y.x, c * x.x), gw::fma(-s, y.y, c * x.y)};
            a[j ^ FLIP] = {gw::fma(s, x.x, c * y.x), gw::fma(s, x.y, c * y.y)};
        }
    }
}

/// 2·Re⟨λ|∂ψ⟩ of this thread's pairs by a rotation's angle: ∂(x, y) = ½(−y, x), or ½(−iy, −ix), signed by the role.
template <int FLIP, typename R, int K>
GW_DEVICE R rotation_gradient(const Amplitude<R> (&a)[K], const Amplitude<R> (&u)[K], u32 roles, u32 active,
                              bool imaginary) {
    R sum = R(0);
#pragma unroll
    for (int j = 0; j < K; ++j) {
        if (!is_lower(j, FLIP)) continue;
        const Amplitude<R> x = a[j], y = a[j ^ FLIP], v = u[j], w = u[j ^ FLIP];
        const R real = gw::fma(w.x, x.x, gw::fma(w.y, x.y, gw::fma(-v.x, y.x, -(v.y * y.y))));
        const R imag = gw::fma(v.x, y.y, gw::fma(-v.y, y.x, gw::fma(w.x, x.y, -(w.y * x.x))));
        const R term = imaginary ? imag : real;
        const R sign = (roles >> j & 1u) != 0 ? -term : term;
        sum += (active >> j & 1u) != 0 ? sign : R(0);
    }
    return sum;
}

/// The number at `at`: a word, or two for a double, low word first.
template <typename R>
struct Number;
template <>
struct Number<float> {
    static constexpr u32 WORDS = 1;
    GW_DEVICE static float at(Shared<u32> words, u32 i) { return gw::float_from_bits(words[i]); }
};

template <typename R>
GW_DEVICE Amplitude<R> entry(Shared<u32> words, u32 at, u32 number) {
    constexpr u32 W = Number<R>::WORDS;
    return {Number<R>::at(words, at + 2u * W * number), Number<R>::at(words, at + 2u * W * number + W)};
}

template <int FLIP, typename R, int K>
GW_DEVICE void matrix1(Amplitude<R> (&a)[K], Shared<u32> words, u32 at, u32 roles, u32 active) {
#pragma unroll
    for (int j = 0; j < K; ++j) {
        if (!is_lower(j, FLIP) || (active >> j & 1u) == 0) continue;
        const u32 role = roles >> j & 1u;
        const Amplitude<R> x = a[j], y = a[j ^ FLIP];
        a[j] = plus_times(times(entry<R>(words, at, 3u * role), x), entry<R>(words, at, 1u + role), y);
        // Row 1 ^ role: entries (1^role, role) and (1^role, 1^role).
        a[j ^ FLIP] = plus_times(times(entry<R>(words, at, 2u - role), x), entry<R>(words, at, 3u - 3u * role), y);
    }
}

/// The matrix's directions are register bits 0..WIDTH-1; other register bits and the thread exchange its indices.
template <int WIDTH, typename R, int K>
GW_DEVICE void matrix(Amplitude<R> (&a)[K], Shared<u32> words, u32 at, const u32 (&roles)[3], u32 active) {
    constexpr int SIDE = 1 << WIDTH;
#pragma unroll
    for (int group = 0; group < K; group += SIDE) {
        if ((active >> group & 1u) == 0) continue;
        u32 first = 0;
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) first |= (roles[i] >> group & 1u) << i;
        Amplitude<R> old[SIDE];
#pragma unroll
        for (int i = 0; i < SIDE; ++i) old[i] = a[group + i];
#pragma unroll
        for (int row = 0; row < SIDE; ++row) {
            const u32 start = SIDE * (row ^ first);
            Amplitude<R> sum = {R(0), R(0)};
#pragma unroll
            for (int column = 0; column < SIDE; ++column) {
                sum = plus_times(sum, entry<R>(words, at, start + (column ^ first)), old[column]);
            }
            a[group + row] = sum;
        }
    }
}

#define STATEVEC_FLIP(flip, call) \
    case flip: {                  \
        constexpr int FLIP = flip; \
        call;                     \
        break;                    \
    }
#define STATEVEC_WITH_FLIP(flip, call)                                                                        \
    switch (flip) {                                                                                           \
        STATEVEC_FLIP(1, call) STATEVEC_FLIP(2, call) STATEVEC_FLIP(3, call) STATEVEC_FLIP(4, call)           \
        STATEVEC_FLIP(5, call) STATEVEC_FLIP(6, call) STATEVEC_FLIP(7, call) STATEVEC_FLIP(8, call)           \
        STATEVEC_FLIP(9, call) STATEVEC_FLIP(10, call) STATEVEC_FLIP(11, call) STATEVEC_FLIP(12, call)        \
        STATEVEC_FLIP(13, call) STATEVEC_FLIP(14, call) STATEVEC_FLIP(15, call)                               \
        default: break;                                                                                       \
    }

/// (cos, sin) of sum + constant + quadrant·π/2. A sum that is an f32 keeps all its digits however large it is; another one is
/// reduced in f64, where the rounding of an affine parameter does not show.
GW_DEVICE Amplitude<float> turn_of(double sum, float constant, u32 quadrant) {
    constexpr double TWO_OVER_PI = 0.6366197723675814;
    constexpr double PI_2 = 1.5707963267948966;
    constexpr double PI_2_REST = 6.123233995736766e-17;
    gw::SinCos turn;
    const float single = static_cast<float>(sum);
    if (static_cast<double>(single) == sum && constant == 0.0f) {
        turn = gw::sincos(single);
    } else {
        const double turns = ::rint(sum * TWO_OVER_PI);
        double rest = gw::fma(-turns, PI_2, sum);
        rest = gw::fma(-turns, PI_2_REST, rest);
        turn = gw::sincos(static_cast<float>(rest + constant));
        // Beyond 2^53 quarter turns an f64 has lost the angle too.
        quadrant += ::fabs(turns) < 9.0e15 ? static_cast<u32>(static_cast<i64>(turns) & 3) : 0u;
    }
    const float c = (quadrant & 1u) != 0 ? -turn.sin : turn.cos;
    const float s = (quadrant & 1u) != 0 ? turn.cos : turn.sin;
    return (quadrant & 2u) != 0 ? Amplitude<float>{-c, -s} : Amplitude<float>{c, s};
}

/// Where parameters are.
struct Parameters {
    const float* theta;
    const float* inputs;
    const u32* theta_rows;  // of theta, for each sample; null if there is one for all
    i64 theta_step, task_step, sample_step, input_step;
    u32* status;
    u32 samples;
};

/// Sines and cosines of a segment's variable angles, each computed once for each state of the block.
template <typename R>
GW_DEVICE void coefficients(Shared<u32> words, Shared<R> plane, const Parameters& p, const Place& place) {
    const u32 slots = words[SLOTS], states = place.states;
    for (u32 i = threadIdx.x; i < slots * states; i += BLOCK) {
        const u32 slot = i / states, sample = place.first_sample + i % states;
        const u32 record = HEADER + 4u * slot;
        const u32 row = p.theta_rows != nullptr && sample < p.samples ? gw::load_global_cached(p.theta_rows + sample) : 0u;
        double sum = 0.0;
        bool finite = true;
        if (sample < p.samples && row != NONE) {
            for (u32 term = 0; term < words[record + 1]; ++term) {
                const u32 at = words[record] + 3u * term;
                const u32 source = words[at], index = source & 0x7fffffffu;
                const float value = (source >> 31) != 0
                                        ? gw::load_global_cached(p.inputs + sample * p.sample_step + index * p.input_step)
                                        : gw::load_global_cached(p.theta + row * p.task_step + index * p.theta_step);
                finite = finite && gw::is_finite(value);
                const double factor = static_cast<double>(gw::float_from_bits(words[at + 1])) +
                                      static_cast<double>(gw::float_from_bits(words[at + 2]));
                sum = gw::fma(factor, static_cast<double>(value), sum);
            }
        }
        Amplitude<R> turn = {NAN, NAN};
        if (row == NONE) {
            // The task id has been reported.
        } else if (finite) {
            turn = turn_of(sum, gw::float_from_bits(words[record + 2]), words[record + 3]);
        } else {
            gw::atomic_or_global(p.status + STATUS_PARAMETER, 1u);
        }
        plane[2u * i] = turn.x;
        plane[2u * i + 1u] = turn.y;
    }
}

/// The largest, or the sum, of a number of each thread of a state, in an order that depends on the number of threads alone.
/// `plane` must be free; it is again afterwards.
template <bool SUM>
GW_DEVICE float over_state(float value, Shared<float> plane, const Place& place) {
    if (place.threads == 1) return value;
    const u32 own = place.thread % place.threads;
    plane[threadIdx.x] = value;
    gw::sync_threads();
    for (u32 half = place.threads / 2; half > 0; half /= 2) {
        if (own < half) {
            const float mine = plane[threadIdx.x], other = plane[threadIdx.x + half];
            plane[threadIdx.x] = SUM ? mine + other : mine < other ? other : mine;
        }
        gw::sync_threads();
    }
    value = plane[threadIdx.x - own];
    gw::sync_threads();
    return value;
}

/// What multiplies the amplitudes of a state that these threads hold.
template <int K>
GW_DEVICE Amplitude<float> norm_of(const Amplitude<float> (&a)[K], Shared<float> plane, const Place& place) {
    u32 largest = 0;
#pragma unroll
    for (int j = 0; j < K; ++j) {
        const u32 x = biased_exponent(a[j].x), y = biased_exponent(a[j].y);
        largest = largest < x ? x : largest;
        largest = largest < y ? y : largest;
    }
    largest = static_cast<u32>(over_state<false>(static_cast<float>(largest), plane, place));
    const float power = power_against(largest);
    float level[K];
#pragma unroll
    for (int j = 0; j < K; ++j) {
        const float x = a[j].x * power, y = a[j].y * power;
        level[j] = gw::fma(x, x, y * y);
    }
    static_assert(K == 16, "the levels are spelt out: a loop over them is not unrolled, and the array leaves the registers");
#pragma unroll
    for (int j = 0; j < 8; ++j) level[j] += level[j + 8];
#pragma unroll
    for (int j = 0; j < 4; ++j) level[j] += level[j + 4];
    level[0] = (level[0] + level[2]) + (level[1] + level[3]);
    return {power, factor_of(largest, over_state<true>(level[0], plane, place))};
}

/// Fills `a` with the start of the thread's state; `bad` is set where there is none. Every thread of the block must come;
/// `plane` must be free, and is again afterwards.
template <int K>
GW_DEVICE void begin(Amplitude<float> (&a)[K], const Mapping& mapping, const Start& start, const Parameters& p,
                     const Place& place, Shared<float> plane, bool whole, bool& bad) {
    const u32* words = start.words + static_cast<i64>(place.sample) * start.word_step;
    u32 number = 0;
    if (start.kind == NUMBERS) {
        number = place.inside ? gw::load_global_cached(words) : NONE;
        bad = bad || (place.inside && number == NONE);
    }
    i64 row = place.sample;
    if (start.kind == TASK_ROWS && place.inside && !bad) row = gw::load_global_cached(p.theta_rows + row);
    const bool reads = start.kind != ZERO_START && start.kind != NUMBERS;
    const bool readable = reads && place.inside && !bad;
    const float2* from = start.given + (start.kind == REAL_ROWS ? 0 : row * start.row_step);
    const float* real = reinterpret_cast<const float*>(start.given) + (start.kind == REAL_ROWS ? row * start.row_step : 0);
#pragma unroll
    for (int j = 0; j < K; ++j) {
        const u32 x = mapping.at(j);
        a[j] = {!reads && x == number ? 1.0f : 0.0f, 0.0f};
        if (!readable || x >= start.width) continue;
        if (start.kind == REAL_ROWS) {
            a[j].x = gw::load_global_cached(real + x);
        } else {
            const float2 value = gw::load_global_cached(from + x);
            a[j] = {value.x, value.y};
        }
    }
    if (start.kind != COMPLEX_ROWS && start.kind != REAL_ROWS) return;
    Amplitude<float> norm;
    if (whole) {
        norm = norm_of(a, plane, place);
        if (norm.y == 0.0f && place.inside && place.thread == 0) gw::atomic_or_global(p.status + STATUS_NORM, 1u);
    } else {
        // Its kernel has reported it.
        norm.x = gw::float_from_bits(gw::load_global_cached(words));
        norm.y = gw::float_from_bits(gw::load_global_cached(words + 1));
    }
    bad = bad || (place.inside && norm.y == 0.0f);
#pragma unroll
    for (int j = 0; j < K; ++j) a[j] = {a[j].x * norm.x * norm.y, a[j].y * norm.x * norm.y};
}

/// Runs a segment's operations on `a`; if `both`, on `u` too, and gives `gradient` this thread's part of
/// 2·Re⟨u|∂a⟩ for each operation that is marked, in order. `ADJOINT` false: `u` and `gradient` are not used.
template <bool ADJOINT, typename R, int K, typename Gradient>
GW_DEVICE void run_ops(Amplitude<R> (&a)[K], Amplitude<R> (&u)[K], bool both, Shared<u32> words, Shared<R> plane,
                       const Place& place, bool& bad, Gradient& gradient) {
    constexpr u32 W = Number<R>::WORDS;
    constexpr u32 ALL = K == 32 ? 0xffffffffu : (1u << (K & 31)) - 1u;
    u32 at = words[BODY];
    for (u32 op = 0; op < words[COUNT]; ++op) {
        const u32 head = words[at], slot = words[at + 1];
        const u32 opcode = head & 127u, flip = head >> 8 & 255u, role_count = head >> 16 & 255u, controls = head >> 24;
        const bool differentiated = ADJOINT && (head & 128u) != 0;
        R cosine = Number<R>::at(words, at + 2), sine = Number<R>::at(words, at + 2 + W);
        if (slot != NONE) {
            const u32 from = 2u * (slot * place.states + place.local);
            cosine = plane[from];
            sine = plane[from + 1u];
            bad = bad || !(cosine == cosine);
        }
        at += 2u + 2u * W;
        const u32 roles_at = at;
        const u32 roles = role_count != 0 ? parity_bits(words, at, place.thread) : 0u;
        at += 2u * role_count;
        u32 active = ALL;
        for (u32 i = 0; i < controls; ++i, at += 2u) active &= parity_bits(words, at, place.thread);
        switch (opcode) {
            case REAL:
            case IMAG: {
                const bool imaginary = opcode == IMAG;
                if (ADJOINT && both) {
                    R part = R(0);
                    STATEVEC_WITH_FLIP(flip, {
                        if (differentiated) part = rotation_gradient<FLIP>(a, u, roles, active, imaginary);
                        rotate<FLIP>(a, cosine, sine, roles, active, imaginary);
                        rotate<FLIP>(u, cosine, sine, roles, active, imaginary);
                    });
                    if (differentiated) gradient.add(part);
                } else {
                    STATEVEC_WITH_FLIP(flip, (rotate<FLIP>(a, cosine, sine, roles, active, imaginary)));
                }
                break;
            }
            case PHASE: {
                const Amplitude<R> factor = {cosine, sine};
                R part = R(0);
#pragma unroll
                for (int j = 0; j < K; ++j) {
                    if ((active >> j & 1u) == 0) continue;
                    if (ADJOINT && both) {
                        // −Im(conj(u)·a): half of 2·Re⟨u|ia⟩.
                        part = gw::fma(u[j].y, a[j].x, gw::fma(-u[j].x, a[j].y, part));
                        u[j] = times(factor, u[j]);
                    }
                    a[j] = times(factor, a[j]);
                }
                if (differentiated) gradient.add(part + part);
                break;
            }
            case MATRIX1:
                STATEVEC_WITH_FLIP(flip, {
                    matrix1<FLIP>(a, words, at, roles, active);
                    if (ADJOINT && both) matrix1<FLIP>(u, words, at, roles, active);
                });
                at += 8u * W;
                break;
            case MATRIX2:
            case MATRIX3: {
                u32 all[3];
#pragma unroll
                for (u32 i = 0; i < 3; ++i) all[i] = i < role_count ? parity_bits(words, roles_at + 2u * i, place.thread) : 0u;
                if (opcode == MATRIX2) {
                    matrix<2>(a, words, at, all, active);
                    if (ADJOINT && both) matrix<2>(u, words, at, all, active);
                    at += 32u * W;
                } else {
                    matrix<3>(a, words, at, all, active);
                    if (ADJOINT && both) matrix<3>(u, words, at, all, active);
                    at += 128u * W;
                }
                break;
            }
            default: {
                // The roles are read again for each register: an array of indices would live in slow local memory.
#pragma unroll
                for (int j = 0; j < K; ++j) {
                    u32 index = 0;
                    for (u32 i = 0; i < role_count; ++i) {
                        index |= (parity_bits(words, roles_at + 2u * i, place.thread) >> j & 1u) << i;
                    }
                    if ((active >> j & 1u) == 0) continue;
                    const Amplitude<R> factor = entry<R>(words, at, index);
                    a[j] = times(factor, a[j]);
                    if (ADJOINT && both) u[j] = times(factor, u[j]);
                }
                at += 2u * W << role_count;
                break;
            }
        }
    }
}

/// Whether the sample's task does not exist.
GW_DEVICE bool without_task(const Parameters& p, const Place& place) {
    return p.theta_rows != nullptr && place.inside && gw::load_global_cached(p.theta_rows + place.sample) == NONE;
}

/// What [`run_ops`] is given where nothing is differentiated.
struct NoGradient {
    template <typename R>
    GW_DEVICE void add(R) {}
};

/// Stages the next segment's words, `length` of them from word `at` on. Every thread may read them afterwards.
GW_DEVICE void stage(Shared<u32> words, const u32* program, u32 at, u32 length) {
    gw::sync_threads();  // the last segment's words and coefficients may still be read
    for (u32 i = threadIdx.x; i < length; i += BLOCK) words[i] = gw::load_global_cached(program + at + i);
    gw::sync_threads();
}

}  // namespace statevec

// statevec_circuit_f32: runs a compiled program (src/statevec/records.rs) on states held in registers, 16 amplitudes a thread.
// Shapes    program words; theta [thetas], inputs [samples, inputs], initial [samples|1, 2^n] strided; state [samples, 2^bits]
//           contiguous, used only when a state spans blocks; out [samples, 2^n or observables], rows strided
// Mapping   2^(bits-4) threads a state, block 256: a block holds 2^(12-bits) states, or 2^(bits-12) blocks hold one
// Shared    one f32 plane of 4096 words for exchanges, coefficients and reductions, and one segment of the program: 24 KiB
// Traffic   bits ≤ 12: parameters once, program once a block, the result once; the states never leave the chip.
//           Otherwise one launch a segment, and each amplitude is read and written once in each
// FLOPs     8 an amplitude for a rotation, 6 for a phase
// Numerics  angles in f64 until they are below π/4, sines from device.cuh; a parameter that is NaN or infinite makes its sample's
//           result NaN and sets the status word
// Host      bits ≤ 30; samples · blocks < 2^31; every index in the program is in range
// Twin      src/statevec/cpu/sweep.rs        Source  Häner & Steiger, arXiv:1704.01127 (fusion in registers); relabelling our own
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;

struct Params {
    i64 theta_step, sample_step, input_step;  // elements
    i64 initial_step, out_step;               // from sample to sample, in elements
    u32 samples;
    u32 bits;      // of the stored index
    u32 qubits;    // 2^qubits amplitudes are given and returned
    u32 first;     // word of the first segment to run
    u32 length;    // its words
    u32 segments;  // segments to run
    u32 source;    // Source
    u32 sink;      // Sink
    u32 strings;   // strings of all segments, where the sink is PARTIALS
};

enum Source : u32 { ZERO_STATE = 0, INITIAL = 1, STATE = 2 };
enum Sink : u32 { STATES = 0, PROBABILITIES = 1, EXPECTATIONS = 2, BACK_TO_STATE = 3, PARTIALS = 4 };
enum Flag : u32 { EXCHANGE = 1, MEASURE = 2, IMAGINARY = 4, PAIRS = 8 };
enum Opcode : u32 { REAL = 0, IMAG = 1, PHASE = 2, MATRIX1 = 3, MATRIX2 = 4, MATRIX3 = 5, DIAGONAL = 6 };

constexpr u32 BLOCK = 256, PLANE = 4096, SEGMENT_WORDS = 2048, HEADER = 40;
constexpr int K = 16;
constexpr u32 NONE = 0xffffffffu;
constexpr u32 STATUS_PARAMETER = 2;

GW_DEVICE u32 odd(u32 x) {
    x ^= x >> 16;
    x ^= x >> 8;
    x ^= x >> 4;
    return (0x6996u >> (x & 15u)) & 1u;
}

// Bit j: parity of mask & j, for register number j.
GW_DEVICE u32 register_parities(u32 mask) {
    u32 bits = (mask & 1u) != 0 ? 0xaaaau : 0u;
    bits ^= (mask & 2u) != 0 ? 0xccccu : 0u;
    bits ^= (mask & 4u) != 0 ? 0xf0f0u : 0u;
    return bits ^ ((mask & 8u) != 0 ? 0xff00u : 0u);
}

// This thread's share of a state.
struct Place {
    u32 thread;   // number within its state
    u32 local;    // state within the block
    u32 sample;
    bool inside;  // the sample exists
};

// The stored index of register 0, and what each register bit adds.
struct Mapping {
    u32 base, r0, r1, r2, r3;
    GW_DEVICE u32 at(int j) const {
        return base ^ ((j & 1) ? r0 : 0u) ^ ((j & 2) ? r1 : 0u) ^ ((j & 4) ? r2 : 0u) ^ ((j & 8) ? r3 : 0u);
    }
};

GW_DEVICE Mapping mapping_of(gw::Shared<u32> segment, u32 thread, u32 bits) {
    Mapping m = {segment[4], segment[8], segment[9], segment[10], segment[11]};
    for (u32 i = 0; i + 4u < bits; ++i) {
        if ((thread >> i & 1u) != 0) m.base ^= segment[12 + i];
    }
    return m;
}

// (parity over the thread number) for each register: two words of the program.
GW_DEVICE u32 parity_bits(gw::Shared<u32> words, u32 at, u32 thread) {
    const u32 registers = words[at + 1];
    const u32 flip = odd(words[at] & thread) ^ (registers >> 31);
    return register_parities(registers) ^ (0u - flip);
}

GW_DEVICE bool is_lower(int j, int flip) { return (j & (flip & -flip)) == 0; }

GW_DEVICE float2 times(float2 a, float2 b) {
    return make_float2(gw::fma(-a.y, b.y, a.x * b.x), gw::fma(a.y, b.x, a.x * b.y));
}
GW_DEVICE float2 plus_times(float2 sum, float2 a, float2 b) {
    return make_float2(gw::fma(-a.y, b.y, gw::fma(a.x, b.x, sum.x)), gw::fma(a.y, b.x, gw::fma(a.x, b.y, sum.y)));
}

// (x, y) → (c·x − s·y, c·y + s·x), or (c·x − is·y, c·y − is·x); the sign of s is the role's.
template <int FLIP>
GW_DEVICE void rotate(float2 (&a)[K], float cosine, float sine, u32 roles, u32 active, bool imaginary) {
#pragma unroll
    for (int j = 0; j < K; ++j) {
        if (!is_lower(j, FLIP)) continue;
        const bool acts = (active >> j & 1u) != 0;
        const float c = acts ? cosine : 1.0f;
        const float signed_sine = (roles >> j & 1u) != 0 ? -sine : sine;
        const float s = acts ? signed_sine : 0.0f;
        const float2 x = a[j], y = a[j ^ FLIP];
        if (imaginary) {
            a[j] = make_float2(gw::fma(s, y.y, c * x.x), gw::fma(-s, y.x, c * x.y));
            a[j ^ FLIP] = make_float2(gw::fma(s, x.y, c * y.x), gw::fma(-s, x.x, c * y.y));
        } else {
            a[j] = make_float2(gw::fma(-s, y.x, c * x.x), gw::fma(-s, y.y, c * x.y));
            a[j ^ FLIP] = make_float2(gw::fma(s, x.x, c * y.x), gw::fma(s, x.y, c * y.y));
        }
    }
}

GW_DEVICE float2 entry(gw::Shared<u32> words, u32 at) {
    return make_float2(gw::float_from_bits(words[at]), gw::float_from_bits(words[at + 1]));
}

template <int FLIP>
GW_DEVICE void matrix1(float2 (&a)[K], gw::Shared<u32> words, u32 at, u32 roles, u32 active) {
#pragma unroll
    for (int j = 0; j < K; ++j) {
        if (!is_lower(j, FLIP) || (active >> j & 1u) == 0) continue;
        const u32 role = roles >> j & 1u;
        const float2 x = a[j], y = a[j ^ FLIP];
        a[j] = plus_times(times(entry(words, at + 6u * role), x), entry(words, at + 2u + 2u * role), y);
        // Row 1 ^ role: entries (1^role, role) and (1^role, 1^role).
        a[j ^ FLIP] = plus_times(times(entry(words, at + 4u - 2u * role), x), entry(words, at + 6u - 6u * role), y);
    }
}

// The matrix's directions are register bits 0..WIDTH-1; other register bits and the thread exchange its indices.
template <int WIDTH>
GW_DEVICE void matrix(float2 (&a)[K], gw::Shared<u32> words, u32 at, const u32 (&roles)[3], u32 active) {
    constexpr int SIDE = 1 << WIDTH;
#pragma unroll
    for (int group = 0; group < K; group += SIDE) {
        if ((active >> group & 1u) == 0) continue;
        u32 first = 0;
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) first |= (roles[i] >> group & 1u) << i;
        float2 old[SIDE];
#pragma unroll
        for (int i = 0; i < SIDE; ++i) old[i] = a[group + i];
#pragma unroll
        for (int row = 0; row < SIDE; ++row) {
            const u32 start = at + 2u * SIDE * (row ^ first);
            float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll
            for (int column = 0; column < SIDE; ++column) {
                sum = plus_times(sum, entry(words, start + 2u * (column ^ first)), old[column]);
            }
            a[group + row] = sum;
        }
    }
}

#define GW_WITH_FLIP(flip, call)            \
    switch (flip) {                         \
        case 1: { constexpr int FLIP = 1; call; break; }   \
        case 2: { constexpr int FLIP = 2; call; break; }   \
        case 3: { constexpr int FLIP = 3; call; break; }   \
        case 4: { constexpr int FLIP = 4; call; break; }   \
        case 5: { constexpr int FLIP = 5; call; break; }   \
        case 6: { constexpr int FLIP = 6; call; break; }   \
        case 7: { constexpr int FLIP = 7; call; break; }   \
        case 8: { constexpr int FLIP = 8; call; break; }   \
        case 9: { constexpr int FLIP = 9; call; break; }   \
        case 10: { constexpr int FLIP = 10; call; break; } \
        case 11: { constexpr int FLIP = 11; call; break; } \
        case 12: { constexpr int FLIP = 12; call; break; } \
        case 13: { constexpr int FLIP = 13; call; break; } \
        case 14: { constexpr int FLIP = 14; call; break; } \
        default: { constexpr int FLIP = 15; call; break; } \
    }

// (cos, sin) of sum + constant + quadrant·π/2. A sum that is an f32 keeps all its digits however large it is; another one is
// reduced in f64, where the rounding of an affine parameter does not show.
GW_DEVICE float2 turn_of(double sum, float constant, u32 quadrant) {
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
    return (quadrant & 2u) != 0 ? make_float2(-c, -s) : make_float2(c, s);
}

// Sines and cosines of a segment's variable angles, each computed once for each state of the block.
GW_DEVICE void coefficients(gw::Shared<u32> words, gw::Shared<float> plane, const float* theta, const float* inputs,
                            u32* status, const Params& p, u32 first_sample, u32 states) {
    const u32 slots = words[2];
    for (u32 i = threadIdx.x; i < slots * states; i += BLOCK) {
        const u32 slot = i / states, sample = first_sample + i % states;
        const u32 record = HEADER + 4u * slot;
        double sum = 0.0;
        bool finite = true;
        if (sample < p.samples) {
            for (u32 term = 0; term < words[record + 1]; ++term) {
                const u32 at = words[record] + 3u * term;
                const u32 source = words[at], index = source & 0x7fffffffu;
                const float value = (source >> 31) != 0
                                        ? gw::load_global_cached(inputs + sample * p.sample_step + index * p.input_step)
                                        : gw::load_global_cached(theta + index * p.theta_step);
                finite = finite && gw::is_finite(value);
                const double factor = static_cast<double>(gw::float_from_bits(words[at + 1])) +
                                      static_cast<double>(gw::float_from_bits(words[at + 2]));
                sum = gw::fma(factor, static_cast<double>(value), sum);
            }
        }
        float2 turn = make_float2(NAN, NAN);
        if (finite) {
            turn = turn_of(sum, gw::float_from_bits(words[record + 2]), words[record + 3]);
        } else {
            gw::atomic_or_global(status + STATUS_PARAMETER, 1u);
        }
        plane[2u * i] = turn.x;
        plane[2u * i + 1u] = turn.y;
    }
}

GW_DEVICE void run_ops(float2 (&a)[K], gw::Shared<u32> words, gw::Shared<float> plane, const Place& place, u32 states,
                       bool& bad) {
    u32 at = words[5];
    for (u32 op = 0; op < words[3]; ++op) {
        const u32 head = words[at], slot = words[at + 1];
        const u32 opcode = head & 255u, flip = head >> 8 & 255u, role_count = head >> 16 & 255u, controls = head >> 24;
        float cosine = gw::float_from_bits(words[at + 2]), sine = gw::float_from_bits(words[at + 3]);
        if (slot != NONE) {
            const u32 from = 2u * (slot * states + place.local);
            cosine = plane[from];
            sine = plane[from + 1u];
            bad = bad || gw::is_nan(cosine);
        }
        at += 4u;
        const u32 roles_at = at;
        const u32 roles = role_count != 0 ? parity_bits(words, at, place.thread) : 0u;
        at += 2u * role_count;
        u32 active = 0xffffu;
        for (u32 i = 0; i < controls; ++i, at += 2u) active &= parity_bits(words, at, place.thread);
        switch (opcode) {
            case REAL:
            case IMAG: {
                const bool imaginary = opcode == IMAG;
                GW_WITH_FLIP(flip, (rotate<FLIP>(a, cosine, sine, roles, active, imaginary)));
                break;
            }
            case PHASE: {
                const float2 factor = make_float2(cosine, sine);
#pragma unroll
                for (int j = 0; j < K; ++j) {
                    if ((active >> j & 1u) != 0) a[j] = times(factor, a[j]);
                }
                break;
            }
            case MATRIX1:
                GW_WITH_FLIP(flip, (matrix1<FLIP>(a, words, at, roles, active)));
                at += 8u;
                break;
            case MATRIX2:
            case MATRIX3: {
                u32 all[3];
#pragma unroll
                for (u32 i = 0; i < 3; ++i) all[i] = i < role_count ? parity_bits(words, roles_at + 2u * i, place.thread) : 0u;
                if (opcode == MATRIX2) {
                    matrix<2>(a, words, at, all, active);
                    at += 32u;
                } else {
                    matrix<3>(a, words, at, all, active);
                    at += 128u;
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
                    if ((active >> j & 1u) != 0) a[j] = times(entry(words, at + 2u * index), a[j]);
                }
                at += 2u << role_count;
                break;
            }
        }
    }
}

// Reduces a segment's strings, at most 16 (of 256 threads each: that fills the plane), over the block's part of each state. The first thread of each state keeps the running sum of
// an observable and stores it after its last string.
GW_DEVICE void measure(const float2 (&a)[K], gw::Shared<u32> words, gw::Shared<float> plane, float* out, const Params& p,
                       const Place& place, u32 threads, bool bad, float& running) {
    const u32 strings = words[3], at = words[5];
    const bool pairs = (words[1] & PAIRS) != 0, imaginary = (words[1] & IMAGINARY) != 0;
    float part[K];
#pragma unroll
    for (int j = 0; j < K; ++j) {
        // conj(ψ(x ⊕ d))·ψ(x); the direction d is register bit 0.
        const float2 x = a[j], y = pairs ? a[j ^ 1] : a[j];
        part[j] = imaginary ? gw::fma(y.x, x.y, -(y.y * x.x)) : gw::fma(y.x, x.x, y.y * x.y);
    }
    gw::sync_threads();  // the plane may still be read as coefficients
    for (u32 s = 0; s < strings; ++s) {
        const u32 signs = parity_bits(words, at + 4u * s, place.thread);
        float level[K];
#pragma unroll
        for (int j = 0; j < K; ++j) level[j] = (signs >> j & 1u) != 0 ? -part[j] : part[j];
        // Pairwise, each level spelt out: a loop over levels is not unrolled, and the array leaves the registers.
#pragma unroll
        for (int j = 0; j < 8; ++j) level[j] += level[j + 8];
#pragma unroll
        for (int j = 0; j < 4; ++j) level[j] += level[j + 4];
        level[0] = (level[0] + level[2]) + (level[1] + level[3]);
        plane[s * BLOCK + threadIdx.x] = level[0];
    }
    gw::sync_threads();
    for (u32 half = threads / 2; half > 0; half /= 2) {
        if (place.thread % threads < half) {
            for (u32 s = 0; s < strings; ++s) plane[s * BLOCK + threadIdx.x] += plane[s * BLOCK + threadIdx.x + half];
        }
        gw::sync_threads();
    }
    if (place.thread % threads != 0 || !place.inside) return;
    for (u32 s = 0; s < strings; ++s) {
        const float value = bad ? NAN : plane[s * BLOCK + threadIdx.x];
        const u32 target = words[at + 4u * s + 3u];
        if (p.sink == PARTIALS) {
            // [sample][string][block]
            const u32 blocks = 1u << (p.bits - 12u);
            const u32 string = words[6] + s;
            gw::store_global(out + (static_cast<i64>(place.sample) * p.strings + string) * blocks + place.thread / BLOCK, value);
            continue;
        }
        running = gw::fma(gw::float_from_bits(words[at + 4u * s + 2u]), value, running);
        if ((target >> 31) != 0) {
            gw::store_global(out + place.sample * p.out_step + (target & 0x7fffffffu), running);
            running = 0.0f;
        }
    }
}

}  // namespace

GW_KERNEL(256, 2)
statevec_circuit_f32(const u32* program, const float* theta, const float* inputs, const float2* initial, float2* state,
                     float* out, u32* status, Params p) {
    GW_SHARED(u32, shared);
    const gw::Shared<float> plane = shared.slice(0, PLANE).cast<float>();
    const gw::Shared<u32> words = shared.slice(PLANE, SEGMENT_WORDS);
    const u32 thread_bits = p.bits - 4u;
    const u32 threads = thread_bits < 8u ? 1u << thread_bits : BLOCK;  // of one state, in this block
    const u32 states = BLOCK / threads;
    Place place;
    u32 first_sample;
    if (thread_bits <= 8u) {
        place.local = threadIdx.x >> thread_bits;
        place.thread = threadIdx.x & (threads - 1u);
        first_sample = blockIdx.x * states;
    } else {
        const u32 block_bits = thread_bits - 8u;
        place.local = 0;
        place.thread = (blockIdx.x & ((1u << block_bits) - 1u)) * BLOCK + threadIdx.x;
        first_sample = blockIdx.x >> block_bits;
    }
    place.sample = first_sample + place.local;
    place.inside = place.sample < p.samples;

    float2 a[K];
    Mapping mapping = {};
    bool bad = false;
    float running = 0.0f;
    u32 at = p.first, length = p.length;
    for (u32 segment = 0; segment < p.segments; ++segment) {
        gw::sync_threads();  // the last segment's words and coefficients may still be read
        for (u32 i = threadIdx.x; i < length; i += BLOCK) words[i] = gw::load_global_cached(program + at + i);
        gw::sync_threads();
        at += length;
        length = words[7];  // of the next segment
        const Mapping next = mapping_of(words, place.thread, p.bits);
        if (segment == 0) {
#pragma unroll
            for (int j = 0; j < K; ++j) {
                const u32 x = next.at(j);
                a[j] = make_float2(p.source == ZERO_STATE && x == 0 ? 1.0f : 0.0f, 0.0f);
                if (p.source == STATE) {
                    a[j] = gw::load_global(state + ((static_cast<i64>(place.sample) << p.bits) + x));
                } else if (p.source == INITIAL && place.inside && x >> p.qubits == 0) {
                    a[j] = gw::load_global_cached(initial + place.sample * p.initial_step + x);
                }
            }
        } else if ((words[1] & EXCHANGE) != 0) {
            const u32 from = place.local << p.bits;
#pragma unroll
            for (int j = 0; j < K; ++j) plane[from + mapping.at(j)] = a[j].x;
            gw::sync_threads();
#pragma unroll
            for (int j = 0; j < K; ++j) a[j].x = plane[from + next.at(j)];
            gw::sync_threads();
            // The other component is still where the old mapping put it.
#pragma unroll
            for (int j = 0; j < K; ++j) plane[from + mapping.at(j)] = a[j].y;
            gw::sync_threads();
#pragma unroll
            for (int j = 0; j < K; ++j) a[j].y = plane[from + next.at(j)];
            gw::sync_threads();
        }
        mapping = next;
        if ((words[1] & MEASURE) != 0) {
            measure(a, words, plane, out, p, place, threads, bad, running);
            continue;
        }
        if (words[2] != 0) {
            coefficients(words, plane, theta, inputs, status, p, first_sample, states);
            gw::sync_threads();
        }
        run_ops(a, words, plane, place, states, bad);
    }
    if (!place.inside || p.sink == EXPECTATIONS || p.sink == PARTIALS) return;
#pragma unroll
    for (int j = 0; j < K; ++j) {
        const float2 value = bad ? make_float2(NAN, NAN) : a[j];
        const u32 x = mapping.at(j);
        if (p.sink == BACK_TO_STATE) {
            gw::store_global(state + ((static_cast<i64>(place.sample) << p.bits) + x), value);
            continue;
        }
        // The last mapping is in logical order: (thread, register) is the number of the basis state.
        const u32 index = place.thread | static_cast<u32>(j) << thread_bits;
        if (index >> p.qubits != 0) continue;
        if (p.sink == STATES) {
            float2* row = reinterpret_cast<float2*>(out) + place.sample * p.out_step;
            gw::store_global(row + index, value);
        } else {
            const float probability = gw::fma(value.x, value.x, value.y * value.y);
            gw::store_global(out + place.sample * p.out_step + index, probability);
        }
    }
}
GW_EXPORT(statevec_circuit_f32)

// statevec_adjoint_f32: gradients of weighted sums of observables, or from a gradient of the states. Runs a program on ψ, forms
// λ = Oψ or loads it, and undoes the program on both, 16 amplitudes of each in a thread's registers.
// Shapes    program words (forward, observables, backward); theta [tasks|1, thetas], inputs [samples, inputs], initial
//           [samples|tasks|1, width] c64 or f32, weights [samples|1, observables] f32, or [samples, 2^n] c64 gradients of the
//           states, strided; state [samples, 2^bits] contiguous, used only when a state spans blocks, and lambda the same, or
//           [samples, 2^n] contiguous where the gradient of the start is stored; slots [gradients, samples, blocks of a state]
//           contiguous: ∂/∂angle of each differentiated operation
// Mapping   2^(bits-4) threads a state, block 256: a block holds 2^(12-bits) states, or 2^(bits-12) blocks hold one
// Shared    one f32 plane of 4096 words, for exchanges, or coefficients and 8 rows of partial gradients, and one segment of
//           the program: 24 KiB
// Traffic   bits ≤ 12: parameters twice, starts, weights and program once a block, slots once; the states never leave the chip.
//           Otherwise one launch a segment: ψ and λ are read and written once in each
// FLOPs     2 · 8 an amplitude to undo a rotation, 4 for its gradient
// Numerics  as circuit.cu; a thread's partial gradients are added pairwise over the block, in an order that depends on the number
//           of qubits alone
// Host      bits ≤ 30; samples · blocks < 2^31; every index in the program is in range; at most 8 gradients a segment
// Twin      src/statevec/cpu/adjoint.rs        Source  Jones & Gacon, arXiv:2009.02823 (the adjoint method)
#include "statevec/registers.cuh"

namespace {

using namespace statevec;

struct Params {
    i64 theta_step, task_step, sample_step, input_step;  // elements
    i64 initial_step, weight_step;            // from sample to sample, in elements
    u32 samples;
    u32 bits;      // of the stored index
    u32 qubits;
    u32 first;     // word of the first segment to run
    u32 length;    // its words
    u32 segments;  // segments to run
    u32 source;    // Source
    u32 sink;      // Sink
    u32 rows;      // word of the program from which on each sample's row of theta is, or all ones
    u32 start;     // StartKind
    u32 width;     // amplitudes of a row of `initial`
    u32 starts;    // word of the program from which on the start's words are
    u32 start_step;
};

enum Source : u32 { ZERO_STATE = 0, INITIAL = 1, STATE = 2, BOTH_STATES = 3, NO_STATE = 4 };
enum Sink : u32 { NOTHING = 0, LAMBDA = 1, BOTH = 2, START_GRADIENT = 3 };

constexpr u32 PLANE = 4096, PARTS = 2048;
constexpr int K = 16;
typedef Amplitude<float> Value;

// Partial gradients of a segment: a row of 256 for each, or, where a thread holds a whole state, straight to memory.
struct Gradients {
    Shared<float> rows;
    float* slots;
    const Params& p;
    const Place& place;
    u32 first, count;
    bool bad;

    // [gradient][sample][block]; worked out anew where it is needed: registers are full of amplitudes.
    GW_DEVICE void store(u32 number, float value) const {
        const u32 blocks = p.bits > 12u ? 1u << (p.bits - 12u) : 1u;
        const i64 row = static_cast<i64>(first + number) * p.samples + place.sample;
        gw::store_global(slots + row * blocks + place.thread / BLOCK, bad ? NAN : value);
    }

    GW_DEVICE void add(float part) {
        if (place.threads != 1) {
            rows[count * BLOCK + threadIdx.x] = part;
        } else if (place.inside) {
            store(count, part);
        }
        ++count;
    }

    // Adds up the rows over each state's threads.
    GW_DEVICE void finish() {
        if (place.threads == 1 || count == 0) return;
        gw::sync_threads();
        const u32 thread = place.thread % place.threads;
        for (u32 half = place.threads / 2; half > 0; half /= 2) {
            if (thread < half) {
                for (u32 r = 0; r < count; ++r) rows[r * BLOCK + threadIdx.x] += rows[r * BLOCK + threadIdx.x + half];
            }
            gw::sync_threads();
        }
        for (u32 r = thread; r < count && place.inside; r += place.threads) {
            store(r, rows[r * BLOCK + threadIdx.x - thread]);
        }
    }
};

// u += Σ c·w·σ(x)·ψ(x ⊕ d), times i if the segment says so, over the strings of one direction d.
GW_DEVICE void apply(const Value (&a)[K], Value (&u)[K], Shared<u32> words, Shared<float> plane, const float* weights,
                     const Value* states, const Mapping& mapping, const Params& p, const Place& place) {
    const u32 strings = words[COUNT], at = words[BODY], flags = words[FLAGS];
    for (u32 i = threadIdx.x; i < strings * place.states; i += BLOCK) {
        const u32 string = at + 4u * (i / place.states), sample = place.first_sample + i % place.states;
        float weight = 0.0f;
        if (sample < p.samples) weight = gw::load_global_cached(weights + sample * p.weight_step + words[string + 3u]);
        plane[i] = weight * gw::float_from_bits(words[string + 2u]);
    }
    gw::sync_threads();
    float factor[K];
#pragma unroll
    for (int j = 0; j < K; ++j) factor[j] = 0.0f;
    for (u32 s = 0; s < strings; ++s) {
        const float weight = plane[s * place.states + place.local];
        const u32 signs = parity_bits(words, at + 4u * s, place.thread);
#pragma unroll
        for (int j = 0; j < K; ++j) factor[j] += (signs >> j & 1u) != 0 ? -weight : weight;
    }
    const bool imaginary = (flags & IMAGINARY) != 0;
    if ((flags & PAIRS) == 0) {
        // Direction 0 has no odd number of Y factors: the factor is real.
#pragma unroll
        for (int j = 0; j < K; ++j) u[j] = {gw::fma(factor[j], a[j].x, u[j].x), gw::fma(factor[j], a[j].y, u[j].y)};
    } else if (p.source == STATE) {
        const u32 direction = words[DIRECTION];
        const Value* own = states + (static_cast<i64>(place.sample) << p.bits);
#pragma unroll
        for (int j = 0; j < K; ++j) {
            const Value other = gw::load_global(own + (mapping.at(j) ^ direction));
            const Value turned = imaginary ? Value{-other.y, other.x} : other;
            u[j] = {gw::fma(factor[j], turned.x, u[j].x), gw::fma(factor[j], turned.y, u[j].y)};
        }
    } else {
        const u32 direction = words[DIRECTION];
#pragma unroll 1
        for (u32 component = 0; component < 2; ++component) {
            gw::sync_threads();  // slow threads still read weights, or the other component
            // Read anew each time: sixteen addresses do not fit beside ψ, λ and the factors.
            const Mapping own = mapping_of(words, WRITE, threadIdx.x, 8u);
#pragma unroll
            for (int j = 0; j < K; ++j) plane[own.at(j)] = component == 0 ? a[j].x : a[j].y;
            gw::sync_threads();
            // i·(x + iy) = −y + ix.
            const bool to_real = imaginary == (component != 0);
            const float sign = imaginary && component != 0 ? -1.0f : 1.0f;
#pragma unroll
            for (int j = 0; j < K; ++j) {
                const float part = sign * factor[j] * plane[own.at(j) ^ direction];
                u[j].x += to_real ? part : 0.0f;
                u[j].y += to_real ? 0.0f : part;
            }
        }
    }
}

// λ = half the gradient of the states: 2·Re⟨λ|∂ψ⟩ is what it changes. The mapping is in logical order.
GW_DEVICE void load_cotangent(Value (&u)[K], const float* gradients, u32 thread_bits, const Params& p, const Place& place) {
    const float2* row = reinterpret_cast<const float2*>(gradients) + static_cast<i64>(place.sample) * p.weight_step;
#pragma unroll
    for (int j = 0; j < K; ++j) {
        const u32 index = place.thread | static_cast<u32>(j) << thread_bits;
        if (!place.inside || index >> p.qubits != 0) continue;
        const float2 value = gw::load_global_cached(row + index);
        u[j] = {0.5f * value.x, 0.5f * value.y};
    }
}

}  // namespace

GW_KERNEL(256, 2)
statevec_adjoint_f32(const u32* program, const float* theta, const float* inputs, const float2* initial,
                     const float* weights, float2* state, float2* lambda, float* slots, u32* status, Params p) {
    GW_SHARED(u32, shared);
    const Shared<float> plane = shared.slice(0, PLANE).cast<float>();
    const Shared<u32> words = shared.slice(PLANE, SEGMENT_WORDS);
    const u32 thread_bits = p.bits - 4u;
    const Place place = place_of(thread_bits, p.samples);
    const Parameters parameters = {theta,       inputs,        p.rows != NONE ? program + p.rows : nullptr,
                                   p.theta_step, p.task_step, p.sample_step,
                                   p.input_step, status,      p.samples};
    const u32 kind = p.source == INITIAL ? p.start : ZERO_START;
    const Start start = {initial, program + p.starts, p.initial_step, p.start_step, kind, p.width};
    Gradients gradients = {plane.slice(PARTS, PLANE - PARTS), slots, p, place, 0u, 0u, false};

    Value a[K], u[K];
    Mapping mapping = {};
    bool bad = without_task(parameters, place);
    u32 at = p.first, length = p.length;
    for (u32 segment = 0; segment < p.segments; ++segment) {
        stage(words, program, at, length);
        at += length;
        length = words[NEXT];
        const u32 flags = words[FLAGS];
        mapping = mapping_of(words, MAPPING, place.thread, thread_bits);
        if (segment == 0) {
            const i64 offset = static_cast<i64>(place.sample) << p.bits;
            const Value* states = reinterpret_cast<const Value*>(state) + offset;
            const Value* lambdas = reinterpret_cast<const Value*>(lambda) + offset;
            if (p.source < STATE) begin(a, mapping, start, parameters, place, plane, p.bits <= 12u, bad);
#pragma unroll
            for (int j = 0; j < K; ++j) {
                u[j] = {0.0f, 0.0f};
                if (p.source < STATE) continue;
                a[j] = {0.0f, 0.0f};
                if (p.source == NO_STATE) continue;
                const u32 x = mapping.at(j);
                a[j] = gw::load_global(states + x);
                // What an earlier launch made NaN stays NaN, whatever a compiler assumes of arithmetic.
                bad = bad || gw::is_nan(a[j].x);
                if (p.source == BOTH_STATES) u[j] = gw::load_global(lambdas + x);
            }
        } else if ((flags & EXCHANGE) != 0) {
            exchange(a, words, plane);
            if ((flags & UNDO) != 0) exchange(u, words, plane);
        }
        if ((flags & APPLY) != 0) {
            apply(a, u, words, plane, weights, reinterpret_cast<const Value*>(state), mapping, p, place);
            continue;
        }
        if ((flags & LOAD) != 0) {
            load_cotangent(u, weights, thread_bits, p, place);
            continue;
        }
        if (words[SLOTS] != 0) {
            coefficients(words, plane, parameters, place);
            gw::sync_threads();
        }
        gradients.first = words[FIRST];
        gradients.count = 0;
        gradients.bad = bad;
        run_ops<true>(a, u, (flags & UNDO) != 0, words, plane, place, bad, gradients);
        gradients.bad = bad;
        gradients.finish();
    }
    if (!place.inside || p.sink == NOTHING) return;
    const i64 offset = static_cast<i64>(place.sample) << p.bits;
    Value* states = reinterpret_cast<Value*>(state) + offset;
    Value* lambdas = reinterpret_cast<Value*>(lambda) + offset;
    if (p.sink == START_GRADIENT) {
        // The state has been taken back to its start, whose stored index is the logical one.
        Value* row = reinterpret_cast<Value*>(lambda) + (static_cast<i64>(place.sample) << p.qubits);
#pragma unroll
        for (int j = 0; j < K; ++j) {
            const u32 x = mapping.at(j);
            if (x >> p.qubits == 0) gw::store_global(row + x, bad ? Value{NAN, NAN} : Value{u[j].x + u[j].x, u[j].y + u[j].y});
        }
        return;
    }
#pragma unroll
    for (int j = 0; j < K; ++j) {
        const u32 x = mapping.at(j);
        if (p.sink == BOTH) gw::store_global(states + x, bad ? Value{NAN, NAN} : a[j]);
        gw::store_global(lambdas + x, bad ? Value{NAN, NAN} : u[j]);
    }
}
GW_EXPORT(statevec_adjoint_f32)

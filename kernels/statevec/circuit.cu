// statevec_circuit_f32: runs a compiled program (src/statevec/records/mod.rs) on states held in registers, 16 amplitudes a thread.
// Shapes    program words; theta [tasks|1, thetas], inputs [samples, inputs], initial [samples|tasks|1, width] c64 or f32,
//           strided; state [samples, 2^bits] contiguous, used only when a state spans blocks; out [samples, 2^n or
//           observables], rows strided
// Mapping   2^(bits-4) threads a state, block 256: a block holds 2^(12-bits) states, or 2^(bits-12) blocks hold one
// Shared    one f32 plane of 4096 words for exchanges, coefficients and reductions, and one segment of the program: 24 KiB
// Traffic   bits ≤ 12: parameters and starts once, program once a block, the result once; the states never leave the chip.
//           Otherwise one launch a segment, and each amplitude is read and written once in each
// FLOPs     8 an amplitude for a rotation, 6 for a phase
// Numerics  angles in f64 until they are below π/4, sines from device.cuh; a parameter that is NaN or infinite makes its sample's
//           result NaN and sets the status word; so does a start without a norm
// Host      bits ≤ 30; samples · blocks < 2^31; every index in the program is in range
// Twin      src/statevec/cpu/sweep.rs        Source  Häner & Steiger, arXiv:1704.01127 (fusion in registers); relabelling our own
#include "statevec/registers.cuh"

namespace {

using namespace statevec;

struct Params {
    i64 theta_step, task_step, sample_step, input_step;  // elements
    i64 initial_step, out_step;               // from sample to sample, in elements
    u32 samples;
    u32 bits;      // of the stored index
    u32 qubits;    // 2^qubits amplitudes are returned
    u32 first;     // word of the first segment to run
    u32 length;    // its words
    u32 segments;  // segments to run
    u32 source;    // Source
    u32 sink;      // Sink
    u32 strings;   // strings of all segments, where the sink is PARTIALS
    u32 rows;      // word of the program from which on each sample's row of theta is, or all ones
    u32 start;     // StartKind
    u32 width;     // amplitudes of a row of `initial`
    u32 starts;    // word of the program from which on the start's words are
    u32 start_step;
};

enum Source : u32 { ZERO_STATE = 0, INITIAL = 1, STATE = 2 };
enum Sink : u32 { STATES = 0, PROBABILITIES = 1, EXPECTATIONS = 2, BACK_TO_STATE = 3, PARTIALS = 4 };

constexpr u32 PLANE = 4096;
constexpr int K = 16;
typedef Amplitude<float> Value;

// Reduces a segment's strings, at most 16 (of 256 threads each: that fills the plane), over the block's part of each state.
// The first thread of each state keeps the running sum of an observable and stores it after its last string.
GW_DEVICE void measure(const Value (&a)[K], Shared<u32> words, Shared<float> plane, float* out, const Params& p,
                       const Place& place, bool bad, float& running) {
    const u32 threads = place.threads;
    const u32 strings = words[COUNT], at = words[BODY];
    const bool pairs = (words[FLAGS] & PAIRS) != 0, imaginary = (words[FLAGS] & IMAGINARY) != 0;
    float part[K];
#pragma unroll
    for (int j = 0; j < K; ++j) {
        // conj(ψ(x ⊕ d))·ψ(x); the direction d is register bit 0.
        const Value x = a[j], y = pairs ? a[j ^ 1] : a[j];
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
            const u32 string = words[FIRST] + s;
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
    const Shared<float> plane = shared.slice(0, PLANE).cast<float>();
    const Shared<u32> words = shared.slice(PLANE, SEGMENT_WORDS);
    const u32 thread_bits = p.bits - 4u;
    const Place place = place_of(thread_bits, p.samples);
    const Parameters parameters = {theta,       inputs,        p.rows != NONE ? program + p.rows : nullptr,
                                   p.theta_step, p.task_step, p.sample_step,
                                   p.input_step, status,      p.samples};
    const u32 kind = p.source == INITIAL ? p.start : ZERO_START;
    const Start start = {initial, program + p.starts, p.initial_step, p.start_step, kind, p.width};
    Value* states = reinterpret_cast<Value*>(state) + (static_cast<i64>(place.sample) << p.bits);

    Value a[K];
    Mapping mapping = {};
    NoGradient none;
    bool bad = without_task(parameters, place);
    float running = 0.0f;
    u32 at = p.first, length = p.length;
    for (u32 segment = 0; segment < p.segments; ++segment) {
        stage(words, program, at, length);
        at += length;
        length = words[NEXT];
        mapping = mapping_of(words, MAPPING, place.thread, thread_bits);
        if (segment == 0 && p.source == STATE) {
#pragma unroll
            for (int j = 0; j < K; ++j) a[j] = gw::load_global(states + mapping.at(j));
        } else if (segment == 0) {
            begin(a, mapping, start, parameters, place, plane, p.bits <= 12u, bad);
        } else if ((words[FLAGS] & EXCHANGE) != 0) {
            exchange(a, words, plane);
        }
        if ((words[FLAGS] & MEASURE) != 0) {
            measure(a, words, plane, out, p, place, bad, running);
            continue;
        }
        if (words[SLOTS] != 0) {
            coefficients(words, plane, parameters, place);
            gw::sync_threads();
        }
        run_ops<false>(a, a, false, words, plane, place, bad, none);
    }
    if (!place.inside || p.sink == EXPECTATIONS || p.sink == PARTIALS) return;
#pragma unroll
    for (int j = 0; j < K; ++j) {
        const Value value = bad ? Value{NAN, NAN} : a[j];
        if (p.sink == BACK_TO_STATE) {
            gw::store_global(states + mapping.at(j), value);
            continue;
        }
        // The last mapping is in logical order: (thread, register) is the number of the basis state.
        const u32 index = place.thread | static_cast<u32>(j) << thread_bits;
        if (index >> p.qubits != 0) continue;
        if (p.sink == STATES) {
            Value* row = reinterpret_cast<Value*>(out) + place.sample * p.out_step;
            gw::store_global(row + index, value);
        } else {
            const float probability = gw::fma(value.x, value.x, value.y * value.y);
            gw::store_global(out + place.sample * p.out_step + index, probability);
        }
    }
}
GW_EXPORT(statevec_circuit_f32)

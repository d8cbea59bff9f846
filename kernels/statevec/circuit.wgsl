// statevec_circuit_f32: runs a compiled program (src/statevec/records/mod.rs) on states held by their threads, 16 amplitudes each.
// Shapes    program words; theta [tasks|1, thetas], inputs [samples, inputs], initial [samples|tasks|1, width] c64 or f32,
//           strided; state [samples, 2^bits] contiguous, used only when a state spans workgroups; result [samples, 2^n or
//           observables], rows strided
// Mapping   2^(bits-4) invocations a state, workgroup 256: a workgroup holds 2^(12-bits) states, or 2^(bits-12) hold one
// Shared    one f32 plane of 4096 words for exchanges, coefficients and reductions: all 16 KiB there are, so n = 12 fits
// Traffic   bits ≤ 12: parameters and starts once, the result once; the states never leave the workgroup
// Numerics  as circuit.cu; sines by reduction and polynomials of our own, for WGSL's promise only 2^-11. Angles beyond some
//           thousand radians lose accuracy in proportion to their size
// Host      bits ≤ 30; every index in the program is in range; offsets in elements below 2^32
// Twin      kernels/statevec/circuit.cu        Source  Häner & Steiger, arXiv:1704.01127 (fusion in registers); relabelling our own
struct Params {
    theta_first: u32,
    theta_step: u32,
    inputs_first: u32,
    sample_step: u32,
    input_step: u32,
    initial_first: u32,  // numbers, as the step
    initial_step: u32,
    result_first: u32,
    result_step: u32,
    samples: u32,
    bits: u32,      // of the stored index
    qubits: u32,    // 2^qubits amplitudes are returned
    first: u32,     // word of the first segment to run
    segments: u32,  // segments to run
    source: u32,
    sink: u32,
    strings: u32,      // strings of all segments, where the sink is PARTIALS
    row_workgroups: u32,  // workgroups along x
    workgroups: u32,   // in all
    task_step: u32,
    rows: u32,  // word of the program from which on each sample's row of theta is, or all ones
    start: u32,       // a kind of start
    width: u32,       // amplitudes of a row of `initial`
    starts: u32,      // word of the program from which on the start's words are
    start_step: u32,
}

@group(0) @binding(0) var<storage, read> program: array<u32>;
@group(0) @binding(1) var<storage, read> theta: array<f32>;
@group(0) @binding(2) var<storage, read> inputs: array<f32>;
@group(0) @binding(3) var<storage, read> initial: array<f32>;
@group(0) @binding(4) var<storage, read_write> state: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> result: array<f32>;
@group(0) @binding(6) var<storage, read_write> status: array<atomic<u32>>;
@group(0) @binding(7) var<uniform> params: Params;

// Sources.
const INITIAL: u32 = 1u;
const STATE: u32 = 2u;
// Sinks.
const STATES: u32 = 0u;
const PROBABILITIES: u32 = 1u;
const EXPECTATIONS: u32 = 2u;
const BACK_TO_STATE: u32 = 3u;
const PARTIALS: u32 = 4u;
const ADJOINT = false;
fn gradient(segment: u32, marked: u32, part: f32) {}

// Of the observable being measured.
var<private> running: f32;

// Reduces a segment's strings over the workgroup's part of each state. The first invocation of each state keeps the running
// sum of an observable and stores it after its last string.
fn measure(segment: u32, index: u32, threads: u32) {
    let flags = program[segment + 1u];
    let strings = program[segment + 3u];
    let at = segment + program[segment + 5u];
    var part: array<f32, 16>;
    for (var j = 0u; j < K; j += 1u) {
        // conj(ψ(x ⊕ d))·ψ(x); the direction d is register bit 0.
        let x = a[j];
        let y = select(x, a[j ^ 1u], (flags & PAIRS) != 0u);
        part[j] = select(y.x * x.x + y.y * x.y, y.x * x.y - y.y * x.x, (flags & IMAGINARY) != 0u);
    }
    workgroupBarrier();  // the plane may still be read as coefficients
    for (var s = 0u; s < strings; s += 1u) {
        let signs = parity_bits(at + 4u * s);
        var level: array<f32, 16>;
        for (var j = 0u; j < K; j += 1u) {
            level[j] = select(part[j], -part[j], ((signs >> j) & 1u) != 0u);
        }
        for (var half = K / 2u; half > 0u; half /= 2u) {
            for (var j = 0u; j < half; j += 1u) {
                level[j] += level[j + half];
            }
        }
        plane[s * BLOCK + index] = level[0];
    }
    workgroupBarrier();
    for (var half = threads / 2u; half > 0u; half /= 2u) {
        if (index % threads < half) {
            for (var s = 0u; s < strings; s += 1u) {
                plane[s * BLOCK + index] += plane[s * BLOCK + index + half];
            }
        }
        workgroupBarrier();
    }
    if (index % threads == 0u && inside) {
        for (var s = 0u; s < strings; s += 1u) {
            var value = plane[s * BLOCK + index];
            if (params.sink == PARTIALS) {
                // [sample][string][workgroup]
                let groups = 1u << (params.bits - 12u);
                let string = program[segment + 6u] + s;
                result[(sample * params.strings + string) * groups + thread / BLOCK] = poisoned(value);
                continue;
            }
            running = fma(bitcast<f32>(program[at + 4u * s + 2u]), value, running);
            let observable = program[at + 4u * s + 3u];
            if ((observable >> 31u) != 0u) {
                result[params.result_first + sample * params.result_step + (observable & 0x7fffffffu)] = poisoned(running);
                running = 0.0;
            }
        }
    }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let number = workgroup.x + workgroup.y * params.row_workgroups;
    if (number >= params.workgroups) {
        return;
    }
    let thread_bits = params.bits - 4u;
    let threads = select(BLOCK, 1u << thread_bits, thread_bits < 8u);
    let states = BLOCK / threads;
    let first_sample = take_place(number, index, thread_bits);

    var mapping: Mapping;
    var segment = params.first;
    for (var i = 0u; i < params.segments; i += 1u) {
        mapping = mapping_of(segment + MAPPING, thread, thread_bits);
        let flags = program[segment + 1u];
        workgroupBarrier();  // the last segment's coefficients may still be read
        if (i == 0u) {
            if (params.source == STATE) {
                for (var j = 0u; j < K; j += 1u) {
                    a[j] = state[(sample << params.bits) + stored(mapping, j)];
                }
            } else {
                begin(select(0u, params.start, params.source == INITIAL), mapping, index, threads);
            }
        } else if ((flags & EXCHANGE) != 0u) {
            exchange(segment, index, false);
        }
        if ((flags & MEASURE) != 0u) {
            measure(segment, index, threads);
        } else {
            coefficients(segment, index, first_sample, states);
            workgroupBarrier();
            run_ops(segment, states, false);
        }
        segment += program[segment];
    }
    if (!inside || params.sink == EXPECTATIONS || params.sink == PARTIALS) {
        return;
    }
    for (var j = 0u; j < K; j += 1u) {
        let value = vec2<f32>(poisoned(a[j].x), poisoned(a[j].y));
        if (params.sink == BACK_TO_STATE) {
            state[(sample << params.bits) + stored(mapping, j)] = value;
            continue;
        }
        // The last mapping is in logical order: (thread, register) is the number of the basis state.
        let basis = thread | (j << thread_bits);
        if ((basis >> params.qubits) != 0u) {
            continue;
        }
        let row = params.result_first + sample * params.result_step;
        if (params.sink == STATES) {
            result[2u * (row + basis)] = value.x;
            result[2u * (row + basis) + 1u] = value.y;
        } else {
            result[row + basis] = poisoned(a[j].x * a[j].x + a[j].y * a[j].y);
        }
    }
}

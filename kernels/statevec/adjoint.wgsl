// statevec_adjoint_f32: gradients of weighted sums of observables, or from a gradient of the states. Runs a program on ψ, forms
// λ = Oψ or loads it, and undoes the program on both, 16 amplitudes of each held by an invocation.
// Shapes    program words (forward, observables, backward); theta [tasks|1, thetas], inputs [samples, inputs], initial
//           [samples|tasks|1, width] c64 or f32, weights [samples|1, observables] f32, or [samples, 2^n] c64 gradients of the
//           states, strided; state [2, samples, 2^bits] contiguous, ψ and then λ, used only when a state spans workgroups, or
//           [samples, 2^n] contiguous where the gradient of the start is stored; slots [gradients, samples, groups of a state]
//           contiguous: ∂/∂angle of each differentiated operation
// Mapping   2^(bits-4) invocations a state, workgroup 256: a workgroup holds 2^(12-bits) states, or 2^(bits-12) hold one
// Shared    one f32 plane of 4096 words, for exchanges, or coefficients and 8 rows of partial gradients: 16 KiB
// Traffic   bits ≤ 12: parameters twice, starts once, weights once a workgroup, slots once; the states never leave the
//           workgroup. Otherwise one dispatch a segment: ψ and λ are read and written once in each
// Numerics  as circuit.wgsl; partial gradients are added pairwise, in an order that depends on the number of qubits alone
// Host      bits ≤ 30; every index in the program is in range; at most 8 gradients a segment; offsets in elements below 2^32
// Twin      kernels/statevec/adjoint.cu        Source  Jones & Gacon, arXiv:2009.02823 (the adjoint method)
struct Params {
    theta_first: u32,
    theta_step: u32,
    inputs_first: u32,
    sample_step: u32,
    input_step: u32,
    initial_first: u32,  // numbers, as the step
    initial_step: u32,
    weights_first: u32,  // numbers, as the step
    weight_step: u32,
    samples: u32,
    bits: u32,      // of the stored index
    qubits: u32,
    first: u32,     // word of the first segment to run
    segments: u32,  // segments to run
    source: u32,
    sink: u32,
    row_workgroups: u32,  // workgroups along x
    workgroups: u32,      // in all
    task_step: u32,
    rows: u32,  // word of the program from which on each sample's row of theta is, or all ones
    start: u32,        // a kind of start
    width: u32,        // amplitudes of a row of `initial`
    starts: u32,       // word of the program from which on the start's words are
    start_step: u32,
    lambda_first: u32,  // of `state`, in amplitudes
}

@group(0) @binding(0) var<storage, read> program: array<u32>;
@group(0) @binding(1) var<storage, read> theta: array<f32>;
@group(0) @binding(2) var<storage, read> inputs: array<f32>;
@group(0) @binding(3) var<storage, read> initial: array<f32>;
@group(0) @binding(4) var<storage, read> weights: array<f32>;
@group(0) @binding(5) var<storage, read_write> state: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read_write> slots: array<f32>;
@group(0) @binding(7) var<storage, read_write> status: array<atomic<u32>>;
@group(0) @binding(8) var<uniform> params: Params;

// Sources.
const INITIAL: u32 = 1u;
const STATE: u32 = 2u;
const BOTH_STATES: u32 = 3u;
const NO_STATE: u32 = 4u;
// Sinks.
const NOTHING: u32 = 0u;
const LAMBDA: u32 = 1u;
const BOTH: u32 = 2u;
const START_GRADIENT: u32 = 3u;

const ADJOINT = true;
// Where the rows of partial gradients start in the plane.
const PARTS: u32 = 2048u;

var<private> invocation: u32;

// Groups of a state, and the slot of this invocation's part of one gradient.
fn groups_of_state() -> u32 { return 1u << (max(params.bits, 12u) - 12u); }
fn slot_of(number: u32) -> u32 {
    return (number * params.samples + sample) * groups_of_state() + thread / BLOCK;
}

// A row for each marked operation, or, where an invocation holds a whole state, straight to memory.
fn gradient(segment: u32, marked: u32, part: f32) {
    if (params.bits > 4u) {
        plane[PARTS + marked * BLOCK + invocation] = part;
    } else if (inside) {
        slots[slot_of(program[segment + 6u] + marked)] = poisoned(part);
    }
}

// Adds up the rows over each state's invocations.
fn finish(segment: u32, index: u32, threads: u32) {
    let rows = program[segment + 4u];
    if (threads == 1u || rows == 0u) {
        return;
    }
    workgroupBarrier();
    let own = index % threads;
    for (var half = threads / 2u; half > 0u; half /= 2u) {
        if (own < half) {
            for (var r = 0u; r < rows; r += 1u) {
                plane[PARTS + r * BLOCK + index] += plane[PARTS + r * BLOCK + index + half];
            }
        }
        workgroupBarrier();
    }
    if (inside) {
        for (var r = own; r < rows; r += threads) {
            slots[slot_of(program[segment + 6u] + r)] = poisoned(plane[PARTS + r * BLOCK + index - own]);
        }
    }
}

// λ += Σ c·w·σ(x)·ψ(x ⊕ d), times i if the segment says so, over the strings of one direction d.
fn apply(segment: u32, index: u32, first_sample: u32, states: u32, mapping: Mapping) {
    let flags = program[segment + 1u];
    let strings = program[segment + 3u];
    let direction = program[segment + 4u];
    let at = segment + program[segment + 5u];
    for (var i = index; i < strings * states; i += BLOCK) {
        let string = at + 4u * (i / states);
        let of_sample = first_sample + i % states;
        var weight = 0.0;
        if (of_sample < params.samples) {
            weight = weights[params.weights_first + of_sample * params.weight_step + program[string + 3u]];
        }
        plane[i] = weight * bitcast<f32>(program[string + 2u]);
    }
    workgroupBarrier();
    var factor: array<f32, 16>;
    for (var j = 0u; j < K; j += 1u) {
        factor[j] = 0.0;
    }
    for (var s = 0u; s < strings; s += 1u) {
        let weight = plane[s * states + local_state];
        let signs = parity_bits(at + 4u * s);
        for (var j = 0u; j < K; j += 1u) {
            factor[j] += select(weight, -weight, ((signs >> j) & 1u) != 0u);
        }
    }
    let imaginary = (flags & IMAGINARY) != 0u;
    workgroupBarrier();  // slow invocations still read weights
    if ((flags & PAIRS) == 0u) {
        // Direction 0 has no odd number of Y factors: the factor is real.
        for (var j = 0u; j < K; j += 1u) {
            u[j] += factor[j] * a[j];
        }
    } else if (params.source == STATE) {
        let base = sample << params.bits;
        for (var j = 0u; j < K; j += 1u) {
            let other = state[base + (stored(mapping, j) ^ direction)];
            u[j] += factor[j] * select(other, vec2<f32>(-other.y, other.x), imaginary);
        }
    } else {
        let own = mapping_of(segment + WRITE, index, 8u);
        for (var component = 0u; component < 2u; component += 1u) {
            for (var j = 0u; j < K; j += 1u) {
                plane[stored(own, j)] = a[j][component];
            }
            workgroupBarrier();
            // i·(x + iy) = −y + ix.
            let sign = select(1.0, -1.0, imaginary && component == 1u);
            let receiver = component ^ select(0u, 1u, imaginary);
            for (var j = 0u; j < K; j += 1u) {
                u[j][receiver] += sign * factor[j] * plane[stored(own, j) ^ direction];
            }
            workgroupBarrier();
        }
    }
}

// λ = half the gradient of the states: 2·Re⟨λ|∂ψ⟩ is what it changes. The mapping is in logical order.
fn load_cotangent(thread_bits: u32) {
    let row = params.weights_first + sample * params.weight_step;
    for (var j = 0u; j < K; j += 1u) {
        let basis = thread | (j << thread_bits);
        if (inside && (basis >> params.qubits) == 0u) {
            u[j] = 0.5 * vec2<f32>(weights[row + 2u * basis], weights[row + 2u * basis + 1u]);
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
    invocation = index;
    let psi = sample << params.bits;
    let lambda = params.lambda_first + (sample << params.bits);

    var mapping: Mapping;
    var segment = params.first;
    for (var i = 0u; i < params.segments; i += 1u) {
        mapping = mapping_of(segment + MAPPING, thread, thread_bits);
        let flags = program[segment + 1u];
        workgroupBarrier();  // the last segment's coefficients may still be read
        if (i == 0u) {
            if (params.source < STATE) {
                begin(select(0u, params.start, params.source == INITIAL), mapping, index, threads);
            }
            for (var j = 0u; j < K; j += 1u) {
                let x = stored(mapping, j);
                u[j] = vec2<f32>(0.0);
                if (params.source == STATE || params.source == BOTH_STATES) {
                    a[j] = state[psi + x];
                    // What an earlier dispatch made NaN stays NaN, whatever a compiler assumes of arithmetic.
                    bad = bad || !is_finite(a[j].x);
                }
                if (params.source == BOTH_STATES) {
                    u[j] = state[lambda + x];
                }
            }
        } else if ((flags & EXCHANGE) != 0u) {
            exchange(segment, index, false);
            if ((flags & UNDO) != 0u) {
                exchange(segment, index, true);
            }
        }
        if ((flags & APPLY) != 0u) {
            apply(segment, index, first_sample, states, mapping);
        } else if ((flags & LOAD) != 0u) {
            load_cotangent(thread_bits);
        } else {
            coefficients(segment, index, first_sample, states);
            workgroupBarrier();
            run_ops(segment, states, (flags & UNDO) != 0u);
            if ((flags & UNDO) != 0u) {
                finish(segment, index, threads);
            }
        }
        segment += program[segment];
    }
    if (!inside || params.sink == NOTHING) {
        return;
    }
    if (params.sink == START_GRADIENT) {
        // The state has been taken back to its start, whose stored index is the logical one.
        for (var j = 0u; j < K; j += 1u) {
            let x = stored(mapping, j);
            if ((x >> params.qubits) == 0u) {
                let at = params.lambda_first + (sample << params.qubits) + x;
                state[at] = vec2<f32>(poisoned(2.0 * u[j].x), poisoned(2.0 * u[j].y));
            }
        }
        return;
    }
    for (var j = 0u; j < K; j += 1u) {
        let x = stored(mapping, j);
        if (params.sink == BOTH) {
            state[psi + x] = vec2<f32>(poisoned(a[j].x), poisoned(a[j].y));
        }
        state[lambda + x] = vec2<f32>(poisoned(u[j].x), poisoned(u[j].y));
    }
}

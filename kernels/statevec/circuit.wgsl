// statevec_circuit_f32: runs a compiled program (src/statevec/records.rs) on states held by their threads, 16 amplitudes each.
// Shapes    program words; theta [thetas], inputs [samples, inputs], initial [samples|1, 2^n] strided; state [samples, 2^bits]
//           contiguous, used only when a state spans workgroups; result [samples, 2^n or observables], rows strided
// Mapping   2^(bits-4) invocations a state, workgroup 256: a workgroup holds 2^(12-bits) states, or 2^(bits-12) hold one
// Shared    one f32 plane of 4096 words for exchanges, coefficients and reductions: all 16 KiB there are, so n = 12 fits
// Traffic   bits ≤ 12: parameters once, the result once; the states never leave the workgroup
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
    initial_first: u32,
    initial_step: u32,
    result_first: u32,
    result_step: u32,
    samples: u32,
    bits: u32,      // of the stored index
    qubits: u32,    // 2^qubits amplitudes are given and returned
    first: u32,     // word of the first segment to run
    segments: u32,  // segments to run
    source: u32,
    sink: u32,
    strings: u32,      // strings of all segments, where the sink is PARTIALS
    row_workgroups: u32,  // workgroups along x
    workgroups: u32,   // in all
    unused: u32,
}

@group(0) @binding(0) var<storage, read> program: array<u32>;
@group(0) @binding(1) var<storage, read> theta: array<f32>;
@group(0) @binding(2) var<storage, read> inputs: array<f32>;
@group(0) @binding(3) var<storage, read> initial: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> state: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> result: array<f32>;
@group(0) @binding(6) var<storage, read_write> status: array<atomic<u32>>;
@group(0) @binding(7) var<uniform> params: Params;

const BLOCK: u32 = 256u;
const K: u32 = 16u;
const HEADER: u32 = 40u;
const NONE: u32 = 0xffffffffu;

// Sources.
const ZERO_STATE: u32 = 0u;
const INITIAL: u32 = 1u;
const STATE: u32 = 2u;
// Sinks.
const STATES: u32 = 0u;
const PROBABILITIES: u32 = 1u;
const EXPECTATIONS: u32 = 2u;
const BACK_TO_STATE: u32 = 3u;
const PARTIALS: u32 = 4u;
// Flags.
const EXCHANGE: u32 = 1u;
const MEASURE: u32 = 2u;
const IMAGINARY: u32 = 4u;
const PAIRS: u32 = 8u;
// Opcodes.
const REAL: u32 = 0u;
const IMAG: u32 = 1u;
const PHASE: u32 = 2u;
const MATRIX1: u32 = 3u;
const MATRIX2: u32 = 4u;
const MATRIX3: u32 = 5u;

var<workgroup> plane: array<f32, 4096>;

// The invocation's amplitudes, and its place.
var<private> a: array<vec2<f32>, 16>;
var<private> thread: u32;     // number within its state
var<private> local_state: u32;  // state within the workgroup
var<private> sample: u32;
var<private> inside: bool;
var<private> bad: bool;
var<private> running: f32;

fn odd(word: u32) -> u32 { return countOneBits(word) & 1u; }

// Bit j: parity of mask & j, for register number j.
fn register_parities(mask: u32) -> u32 {
    return select(0u, 0xaaaau, (mask & 1u) != 0u) ^ select(0u, 0xccccu, (mask & 2u) != 0u)
        ^ select(0u, 0xf0f0u, (mask & 4u) != 0u) ^ select(0u, 0xff00u, (mask & 8u) != 0u);
}

// A parity of the program for each register.
fn parity_bits(at: u32) -> u32 {
    let registers = program[at + 1u];
    let flip = odd(program[at] & thread) ^ (registers >> 31u);
    return register_parities(registers) ^ select(0u, 0xffffu, flip != 0u);
}

// The stored index of register 0, then what each register bit adds.
struct Mapping {
    base: u32,
    registers: vec4<u32>,
}

fn mapping_of(segment: u32) -> Mapping {
    var base = program[segment + 4u];
    for (var i = 0u; i + 4u < params.bits; i += 1u) {
        base ^= select(0u, program[segment + 12u + i], ((thread >> i) & 1u) != 0u);
    }
    let r = vec4<u32>(program[segment + 8u], program[segment + 9u], program[segment + 10u], program[segment + 11u]);
    return Mapping(base, r);
}

fn stored(m: Mapping, j: u32) -> u32 {
    let bits = vec4<bool>((j & 1u) != 0u, (j & 2u) != 0u, (j & 4u) != 0u, (j & 8u) != 0u);
    let r = select(vec4<u32>(0u), m.registers, bits);
    return m.base ^ r.x ^ r.y ^ r.z ^ r.w;
}

fn times(x: vec2<f32>, y: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(x.x * y.x - x.y * y.y, x.x * y.y + x.y * y.x);
}

fn entry(at: u32) -> vec2<f32> { return bitcast<vec2<f32>>(vec2<u32>(program[at], program[at + 1u])); }

// An angle as whole quarter turns and a remainder.
struct Angle {
    rest: f32,
    quadrant: u32,
}

// factor · value, factor = high + low. The product of twelve leading bits with twelve leading bits is exact, and quarter turns
// leave it in parts of π/2 whose multiples are exact too: nothing rounds at the size of the angle.
fn product(high: f32, low: f32, value: f32) -> Angle {
    let leading = bitcast<f32>(bitcast<u32>(value) & 0xfffff000u);
    let large = high * leading;
    let small = high * (value - leading) + low * value;
    let q = round(large * 0.63661977);
    let rest = ((large - q * 1.5703125) - q * 0.000483751296997) - q * 7.54978995489e-08;
    // Only the low bits count; a quotient too large for an i32 has lost them anyway.
    return Angle(rest + small, bitcast<u32>(i32(clamp(q, -2.0e9, 2.0e9))));
}

// (cos, sin) of a finite angle.
fn cos_sin(angle: Angle) -> vec2<f32> {
    let q = round(angle.rest * 0.63661977);
    let r = ((angle.rest - q * 1.5703125) - q * 0.000483751296997) - q * 7.54978995489e-08;
    let t = r * r;
    var s = fma(t, -0.000195019533081, 0.00833208618373);
    s = fma(t, s, -0.166666544577);
    s = fma(r * t, s, r);
    var c = fma(t, 2.44617940875e-05, -0.00138876392938);
    c = fma(t, c, 0.041666654428);
    c = fma(t * t, c, fma(t, -0.5, 1.0));
    let quadrant = angle.quadrant + bitcast<u32>(i32(clamp(q, -2.0e9, 2.0e9)));
    let swapped = (quadrant & 1u) != 0u;
    let sine = select(s, c, swapped);
    let cosine = select(c, s, swapped);
    return vec2<f32>(
        select(cosine, -cosine, ((quadrant + 1u) & 2u) != 0u),
        select(sine, -sine, (quadrant & 2u) != 0u),
    );
}

fn rotate(flip: u32, turn: vec2<f32>, roles: u32, active_registers: u32, imaginary: bool) {
    let lowest = flip & (0u - flip);
    for (var j = 0u; j < K; j += 1u) {
        if ((j & lowest) != 0u || ((active_registers >> j) & 1u) == 0u) {
            continue;
        }
        let s = select(turn.y, -turn.y, ((roles >> j) & 1u) != 0u);
        let x = a[j];
        let y = a[j ^ flip];
        if (imaginary) {
            a[j] = vec2<f32>(fma(s, y.y, turn.x * x.x), fma(-s, y.x, turn.x * x.y));
            a[j ^ flip] = vec2<f32>(fma(s, x.y, turn.x * y.x), fma(-s, x.x, turn.x * y.y));
        } else {
            a[j] = fma(vec2<f32>(-s), y, turn.x * x);
            a[j ^ flip] = fma(vec2<f32>(s), x, turn.x * y);
        }
    }
}

fn matrix1(flip: u32, at: u32, roles: u32, active_registers: u32) {
    let lowest = flip & (0u - flip);
    for (var j = 0u; j < K; j += 1u) {
        if ((j & lowest) != 0u || ((active_registers >> j) & 1u) == 0u) {
            continue;
        }
        let role = (roles >> j) & 1u;
        let x = a[j];
        let y = a[j ^ flip];
        a[j] = times(entry(at + 6u * role), x) + times(entry(at + 2u + 2u * role), y);
        // Row 1 ^ role: entries (1^role, role) and (1^role, 1^role).
        a[j ^ flip] = times(entry(at + 4u - 2u * role), x) + times(entry(at + 6u - 6u * role), y);
    }
}

// The matrix's directions are register bits 0..width; other register bits and the thread exchange its indices.
fn matrix(width: u32, at: u32, roles_at: u32, active_registers: u32) {
    let side = 1u << width;
    var old: array<vec2<f32>, 8>;
    for (var group = 0u; group < K; group += side) {
        if (((active_registers >> group) & 1u) == 0u) {
            continue;
        }
        var exchanged = 0u;
        for (var i = 0u; i < width; i += 1u) {
            exchanged |= ((parity_bits(roles_at + 2u * i) >> group) & 1u) << i;
        }
        for (var i = 0u; i < side; i += 1u) {
            old[i] = a[group + i];
        }
        for (var row = 0u; row < side; row += 1u) {
            let start = at + 2u * side * (row ^ exchanged);
            var sum = vec2<f32>(0.0);
            for (var column = 0u; column < side; column += 1u) {
                sum += times(entry(start + 2u * (column ^ exchanged)), old[column]);
            }
            a[group + row] = sum;
        }
    }
}

// Sines and cosines of a segment's variable angles, each computed once for each state of the workgroup.
fn coefficients(segment: u32, index: u32, first_sample: u32, states: u32) {
    let slots = program[segment + 2u];
    for (var i = index; i < slots * states; i += BLOCK) {
        let record = segment + HEADER + 4u * (i / states);
        let of_sample = first_sample + i % states;
        var angle = Angle(bitcast<f32>(program[record + 2u]), program[record + 3u]);
        var spoiled = false;
        if (of_sample < params.samples) {
            for (var term = 0u; term < program[record + 1u]; term += 1u) {
                let at = segment + program[record] + 3u * term;
                let source = program[at];
                var value = 0.0;
                if ((source >> 31u) != 0u) {
                    let column = (source & 0x7fffffffu) * params.input_step;
                    value = inputs[params.inputs_first + of_sample * params.sample_step + column];
                } else {
                    value = theta[params.theta_first + source * params.theta_step];
                }
                spoiled = spoiled || !is_finite(value);
                let part = product(bitcast<f32>(program[at + 1u]), bitcast<f32>(program[at + 2u]), value);
                angle = Angle(angle.rest + part.rest, angle.quadrant + part.quadrant);
            }
        }
        if (spoiled) {
            atomicOr(&status[STATUS_PARAMETER], 1u);
        }
        let turn = cos_sin(angle);
        // Not a constant expression, which may not be NaN.
        let mask = select(0u, NAN_BITS, spoiled);
        plane[2u * i] = bitcast<f32>(bitcast<u32>(turn.x) | mask);
        plane[2u * i + 1u] = turn.y;
    }
}

fn run_ops(segment: u32, states: u32) {
    var at = segment + program[segment + 5u];
    let count = program[segment + 3u];
    for (var op = 0u; op < count; op += 1u) {
        let head = program[at];
        let slot = program[at + 1u];
        let opcode = head & 255u;
        let flip = (head >> 8u) & 255u;
        let role_count = (head >> 16u) & 255u;
        let controls = head >> 24u;
        var turn = entry(at + 2u);
        if (slot != NONE) {
            let first = 2u * (slot * states + local_state);
            turn = vec2<f32>(plane[first], plane[first + 1u]);
            bad = bad || !is_finite(turn.x);
        }
        at += 4u;
        let roles_at = at;
        var roles = 0u;
        if (role_count != 0u) {
            roles = parity_bits(at);
        }
        at += 2u * role_count;
        var active_registers = 0xffffu;
        for (var i = 0u; i < controls; i += 1u) {
            active_registers &= parity_bits(at);
            at += 2u;
        }
        if (opcode == REAL || opcode == IMAG) {
            rotate(flip, turn, roles, active_registers, opcode == IMAG);
        } else if (opcode == PHASE) {
            for (var j = 0u; j < K; j += 1u) {
                if (((active_registers >> j) & 1u) != 0u) {
                    a[j] = times(turn, a[j]);
                }
            }
        } else if (opcode == MATRIX1) {
            matrix1(flip, at, roles, active_registers);
            at += 8u;
        } else if (opcode == MATRIX2 || opcode == MATRIX3) {
            let width = opcode - 2u;
            matrix(width, at, roles_at, active_registers);
            at += 2u << (2u * width);
        } else {
            for (var j = 0u; j < K; j += 1u) {
                var number = 0u;
                for (var i = 0u; i < role_count; i += 1u) {
                    number |= ((parity_bits(roles_at + 2u * i) >> j) & 1u) << i;
                }
                if (((active_registers >> j) & 1u) != 0u) {
                    a[j] = times(entry(at + 2u * number), a[j]);
                }
            }
            at += 2u << role_count;
        }
    }
}

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

// NaN as bits: arithmetic on NaN may be assumed away.
fn poisoned(value: f32) -> f32 { return bitcast<f32>(select(bitcast<u32>(value), NAN_BITS, bad)); }

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let number = workgroup.x + workgroup.y * params.row_workgroups;
    if (number >= params.workgroups) {
        return;
    }
    let thread_bits = params.bits - 4u;
    let threads = select(BLOCK, 1u << thread_bits, thread_bits < 8u);
    let states = BLOCK / threads;
    var first_sample: u32;
    if (thread_bits <= 8u) {
        local_state = index >> thread_bits;
        thread = index & (threads - 1u);
        first_sample = number * states;
    } else {
        let group_bits = thread_bits - 8u;
        local_state = 0u;
        thread = (number & ((1u << group_bits) - 1u)) * BLOCK + index;
        first_sample = number >> group_bits;
    }
    sample = first_sample + local_state;
    inside = sample < params.samples;

    var mapping: Mapping;
    var segment = params.first;
    for (var i = 0u; i < params.segments; i += 1u) {
        let next = mapping_of(segment);
        let flags = program[segment + 1u];
        workgroupBarrier();  // the last segment's coefficients may still be read
        if (i == 0u) {
            for (var j = 0u; j < K; j += 1u) {
                let x = stored(next, j);
                a[j] = vec2<f32>(select(0.0, 1.0, params.source == ZERO_STATE && x == 0u), 0.0);
                if (params.source == STATE) {
                    a[j] = state[(sample << params.bits) + x];
                } else if (params.source == INITIAL && inside && (x >> params.qubits) == 0u) {
                    a[j] = initial[params.initial_first + sample * params.initial_step + x];
                }
            }
        } else if ((flags & EXCHANGE) != 0u) {
            let base = local_state << params.bits;
            for (var j = 0u; j < K; j += 1u) {
                plane[base + stored(mapping, j)] = a[j].x;
            }
            workgroupBarrier();
            for (var j = 0u; j < K; j += 1u) {
                a[j].x = plane[base + stored(next, j)];
            }
            workgroupBarrier();
            // The other component is still where the old mapping put it.
            for (var j = 0u; j < K; j += 1u) {
                plane[base + stored(mapping, j)] = a[j].y;
            }
            workgroupBarrier();
            for (var j = 0u; j < K; j += 1u) {
                a[j].y = plane[base + stored(next, j)];
            }
            workgroupBarrier();
        }
        mapping = next;
        if ((flags & MEASURE) != 0u) {
            measure(segment, index, threads);
        } else {
            coefficients(segment, index, first_sample, states);
            workgroupBarrier();
            run_ops(segment, states);
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

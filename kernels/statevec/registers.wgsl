// registers.wgsl: what the state-vector shaders share: a compiled program's records, and its operations on amplitudes held by
// their invocations, 16 each. The twin of registers.cuh.
//
// A shader that uses it declares `program`, `theta`, `inputs`, `initial`, `status` and `params`, says whether it is `ADJOINT`, and if so
// what to do with a `gradient`.

const BLOCK: u32 = 256u;
const K: u32 = 16u;
// Tables of a segment's header, and its length.
const MAPPING: u32 = 8u;
const WRITE: u32 = 22u;
const READ: u32 = 36u;
const HEADER: u32 = 50u;
const NONE: u32 = 0xffffffffu;

// Flags.
const EXCHANGE: u32 = 1u;
const MEASURE: u32 = 2u;
const IMAGINARY: u32 = 4u;
const PAIRS: u32 = 8u;
const APPLY: u32 = 16u;
const UNDO: u32 = 32u;
const LOAD: u32 = 64u;
// What states start from: a caller's rows as they are, picked by task, or to be normalised; or the numbers of basis states.
const ROWS: u32 = 1u;
const TASK_ROWS: u32 = 2u;
const COMPLEX_ROWS: u32 = 3u;
const REAL_ROWS: u32 = 4u;
const NUMBERS: u32 = 5u;
// Opcodes.
const REAL: u32 = 0u;
const IMAG: u32 = 1u;
const PHASE: u32 = 2u;
const MATRIX1: u32 = 3u;
const MATRIX2: u32 = 4u;
const MATRIX3: u32 = 5u;

var<workgroup> plane: array<f32, 4096>;

// The invocation's amplitudes, those of λ where there is one, and its place.
var<private> a: array<vec2<f32>, 16>;
var<private> u: array<vec2<f32>, 16>;
var<private> thread: u32;     // number within its state
var<private> local_state: u32;  // state within the workgroup
var<private> sample: u32;
var<private> inside: bool;
var<private> bad: bool;

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

// The index of register 0, then what each register bit adds.
struct Mapping {
    base: u32,
    registers: vec4<u32>,
}

fn mapping_of(table: u32, number: u32, thread_bits: u32) -> Mapping {
    var base = program[table];
    for (var i = 0u; i < thread_bits; i += 1u) {
        base ^= select(0u, program[table + 6u + i], ((number >> i) & 1u) != 0u);
    }
    let r = vec4<u32>(program[table + 1u], program[table + 2u], program[table + 3u], program[table + 4u]);
    return Mapping(base, r);
}

fn stored(m: Mapping, j: u32) -> u32 {
    let bits = vec4<bool>((j & 1u) != 0u, (j & 2u) != 0u, (j & 4u) != 0u, (j & 8u) != 0u);
    let r = select(vec4<u32>(0u), m.registers, bits);
    return m.base ^ r.x ^ r.y ^ r.z ^ r.w;
}

// Moves amplitudes from the last segment's mapping to this one's, one component at a time, through shared addresses in which 32
// neighbouring invocations meet 32 banks.
fn exchange(segment: u32, index: u32, of_lambda: bool) {
    let from_place = mapping_of(segment + WRITE, index, 8u);
    let to_place = mapping_of(segment + READ, index, 8u);
    for (var component = 0u; component < 2u; component += 1u) {
        for (var j = 0u; j < K; j += 1u) {
            plane[stored(from_place, j)] = select(a[j][component], u[j][component], of_lambda);
        }
        workgroupBarrier();
        for (var j = 0u; j < K; j += 1u) {
            let value = plane[stored(to_place, j)];
            if (of_lambda) {
                u[j][component] = value;
            } else {
                a[j][component] = value;
            }
        }
        workgroupBarrier();
    }
}

// The largest, or the sum, of a number of each invocation of a state, in an order that depends on their count alone.
fn over_state(value: f32, adds: bool, index: u32, threads: u32) -> f32 {
    if (threads == 1u) {
        return value;
    }
    let own = index % threads;
    plane[index] = value;
    workgroupBarrier();
    for (var half = threads / 2u; half > 0u; half /= 2u) {
        if (own < half) {
            let other = plane[index + half];
            plane[index] = select(max(plane[index], other), plane[index] + other, adds);
        }
        workgroupBarrier();
    }
    let result = plane[index - own];
    workgroupBarrier();
    return result;
}

// Fills `a` with the start of the invocation's state. {power, factor} that normalise a state that spans workgroups are words of
// the program; they have been reported.
fn begin(kind: u32, mapping: Mapping, index: u32, threads: u32) {
    let words = params.starts + sample * params.start_step;
    var number = 0u;
    if (kind == NUMBERS) {
        number = NONE;
        if (inside) {
            number = program[words];
            bad = bad || number == NONE;
        }
    }
    var row = sample;
    if (kind == TASK_ROWS && inside) {
        row = program[params.rows + sample];
    }
    let first = params.initial_first + row * params.initial_step;
    let reads = kind >= ROWS && kind <= REAL_ROWS;
    for (var j = 0u; j < K; j += 1u) {
        let x = stored(mapping, j);
        a[j] = vec2<f32>(select(0.0, 1.0, !reads && x == number), 0.0);
        if (reads && inside && !bad && x < params.width) {
            if (kind == REAL_ROWS) {
                a[j].x = initial[first + x];
            } else {
                a[j] = vec2<f32>(initial[first + 2u * x], initial[first + 2u * x + 1u]);
            }
        }
    }
    if (kind != COMPLEX_ROWS && kind != REAL_ROWS) {
        return;
    }
    var power = 1.0;
    var factor = 1.0;
    if (params.bits <= 12u) {
        var largest = 0u;
        for (var j = 0u; j < K; j += 1u) {
            largest = max(largest, max(biased_exponent(a[j].x), biased_exponent(a[j].y)));
        }
        largest = u32(over_state(f32(largest), false, index, threads));
        power = power_against(largest);
        var level: array<f32, 16>;
        for (var j = 0u; j < K; j += 1u) {
            let scaled = a[j] * power;
            level[j] = dot(scaled, scaled);
        }
        for (var half = K / 2u; half > 0u; half /= 2u) {
            for (var j = 0u; j < half; j += 1u) {
                level[j] += level[j + half];
            }
        }
        factor = factor_of(largest, over_state(level[0], true, index, threads));
        if (factor == 0.0 && inside && thread == 0u) {
            atomicOr(&status[STATUS_NORM], 1u);
        }
    } else {
        power = bitcast<f32>(program[words]);
        factor = bitcast<f32>(program[words + 1u]);
    }
    bad = bad || factor == 0.0;
    for (var j = 0u; j < K; j += 1u) {
        a[j] = a[j] * power * factor;
    }
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

// (x, y) → (c·x − s·y, c·y + s·x), or (c·x − is·y, c·y − is·x).
fn turned(x: vec2<f32>, y: vec2<f32>, c: f32, s: f32, imaginary: bool) -> vec2<f32> {
    return fma(vec2<f32>(-s), select(y, vec2<f32>(-y.y, y.x), imaginary), c * x);
}

// Returns this invocation's part of 2·Re⟨λ|∂ψ⟩ by the angle: ∂(x, y) = ½(−y, x), or ½(−iy, −ix), signed by the role.
fn rotate(flip: u32, turn: vec2<f32>, roles: u32, active_registers: u32, imaginary: bool, both: bool) -> f32 {
    let lowest = flip & (0u - flip);
    var sum = 0.0;
    for (var j = 0u; j < K; j += 1u) {
        if ((j & lowest) != 0u || ((active_registers >> j) & 1u) == 0u) {
            continue;
        }
        let s = select(turn.y, -turn.y, ((roles >> j) & 1u) != 0u);
        let back = select(-s, s, imaginary);
        let x = a[j];
        let y = a[j ^ flip];
        a[j] = turned(x, y, turn.x, s, imaginary);
        a[j ^ flip] = turned(y, x, turn.x, back, imaginary);
        if (ADJOINT && both) {
            let v = u[j];
            let w = u[j ^ flip];
            let real = dot(w, x) - dot(v, y);
            let imag = (v.x * y.y - v.y * y.x) + (w.x * x.y - w.y * x.x);
            let part = select(real, imag, imaginary);
            sum += select(part, -part, ((roles >> j) & 1u) != 0u);
            u[j] = turned(v, w, turn.x, s, imaginary);
            u[j ^ flip] = turned(w, v, turn.x, back, imaginary);
        }
    }
    return sum;
}

// The matrix {entries at `at`} on (x, y), whose roles are exchanged if `role` is 1.
struct Two {
    x: vec2<f32>,
    y: vec2<f32>,
}
fn product_of(at: u32, role: u32, x: vec2<f32>, y: vec2<f32>) -> Two {
    // Row 1 ^ role: entries (1^role, role) and (1^role, 1^role).
    return Two(
        times(entry(at + 6u * role), x) + times(entry(at + 2u + 2u * role), y),
        times(entry(at + 4u - 2u * role), x) + times(entry(at + 6u - 6u * role), y),
    );
}

fn matrix1(flip: u32, at: u32, roles: u32, active_registers: u32, both: bool) {
    let lowest = flip & (0u - flip);
    for (var j = 0u; j < K; j += 1u) {
        if ((j & lowest) != 0u || ((active_registers >> j) & 1u) == 0u) {
            continue;
        }
        let role = (roles >> j) & 1u;
        let of_a = product_of(at, role, a[j], a[j ^ flip]);
        a[j] = of_a.x;
        a[j ^ flip] = of_a.y;
        if (ADJOINT && both) {
            let of_u = product_of(at, role, u[j], u[j ^ flip]);
            u[j] = of_u.x;
            u[j ^ flip] = of_u.y;
        }
    }
}

// The matrix's directions are register bits 0..width; other register bits and the thread exchange its indices.
fn matrix(width: u32, at: u32, roles_at: u32, active_registers: u32, both: bool) {
    let side = 1u << width;
    var old: array<vec2<f32>, 8>;
    var old_u: array<vec2<f32>, 8>;
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
            if (ADJOINT) {
                old_u[i] = u[group + i];
            }
        }
        for (var row = 0u; row < side; row += 1u) {
            let start = at + 2u * side * (row ^ exchanged);
            var sum = vec2<f32>(0.0);
            var sum_u = vec2<f32>(0.0);
            for (var column = 0u; column < side; column += 1u) {
                let factor = entry(start + 2u * (column ^ exchanged));
                sum += times(factor, old[column]);
                if (ADJOINT && both) {
                    sum_u += times(factor, old_u[column]);
                }
            }
            a[group + row] = sum;
            if (ADJOINT && both) {
                u[group + row] = sum_u;
            }
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
        var row = 0u;
        if (params.rows != NONE && of_sample < params.samples) {
            row = program[params.rows + of_sample];
        }
        if (of_sample < params.samples && row != NONE) {
            for (var term = 0u; term < program[record + 1u]; term += 1u) {
                let at = segment + program[record] + 3u * term;
                let source = program[at];
                var value = 0.0;
                if ((source >> 31u) != 0u) {
                    let column = (source & 0x7fffffffu) * params.input_step;
                    value = inputs[params.inputs_first + of_sample * params.sample_step + column];
                } else {
                    value = theta[params.theta_first + row * params.task_step + source * params.theta_step];
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
        // A bad task id has been reported.
        spoiled = spoiled || row == NONE;
        // Not a constant expression, which may not be NaN.
        let mask = select(0u, NAN_BITS, spoiled);
        plane[2u * i] = bitcast<f32>(bitcast<u32>(turn.x) | mask);
        plane[2u * i + 1u] = turn.y;
    }
}

// Runs a segment's operations on ψ; if `both`, on λ too, and `gradient` is given this invocation's part of 2·Re⟨λ|∂ψ⟩ for each
// operation that is marked, in order.
fn run_ops(segment: u32, states: u32, both: bool) {
    var marked = 0u;
    var at = segment + program[segment + 5u];
    let count = program[segment + 3u];
    for (var op = 0u; op < count; op += 1u) {
        let head = program[at];
        let slot = program[at + 1u];
        let opcode = head & 127u;
        let differentiated = (head & 128u) != 0u;
        var part = 0.0;
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
            part = rotate(flip, turn, roles, active_registers, opcode == IMAG, both);
        } else if (opcode == PHASE) {
            for (var j = 0u; j < K; j += 1u) {
                if (((active_registers >> j) & 1u) == 0u) {
                    continue;
                }
                if (ADJOINT && both) {
                    // −2·Im(conj(λ)·ψ): 2·Re⟨λ|iψ⟩.
                    part += 2.0 * (u[j].y * a[j].x - u[j].x * a[j].y);
                    u[j] = times(turn, u[j]);
                }
                a[j] = times(turn, a[j]);
            }
        } else if (opcode == MATRIX1) {
            matrix1(flip, at, roles, active_registers, both);
            at += 8u;
        } else if (opcode == MATRIX2 || opcode == MATRIX3) {
            let width = opcode - 2u;
            matrix(width, at, roles_at, active_registers, both);
            at += 2u << (2u * width);
        } else {
            for (var j = 0u; j < K; j += 1u) {
                var number = 0u;
                for (var i = 0u; i < role_count; i += 1u) {
                    number |= ((parity_bits(roles_at + 2u * i) >> j) & 1u) << i;
                }
                if (((active_registers >> j) & 1u) == 0u) {
                    continue;
                }
                let factor = entry(at + 2u * number);
                a[j] = times(factor, a[j]);
                if (ADJOINT && both) {
                    u[j] = times(factor, u[j]);
                }
            }
            at += 2u << role_count;
        }
        if (ADJOINT && differentiated) {
            gradient(segment, marked, part);
            marked += 1u;
        }
    }
}

// NaN as bits: arithmetic on NaN may be assumed away.
fn poisoned(value: f32) -> f32 { return bitcast<f32>(select(bitcast<u32>(value), NAN_BITS, bad)); }

// Says which share of which state is this invocation's; returns the first sample of the workgroup.
fn take_place(number: u32, index: u32, thread_bits: u32) -> u32 {
    var first_sample = number;
    if (thread_bits <= 8u) {
        local_state = index >> thread_bits;
        thread = index & ((1u << thread_bits) - 1u);
        first_sample = number << (8u - thread_bits);
    } else {
        let group_bits = thread_bits - 8u;
        local_state = 0u;
        thread = (number & ((1u << group_bits) - 1u)) * BLOCK + index;
        first_sample = number >> group_bits;
    }
    sample = first_sample + local_state;
    inside = sample < params.samples;
    if (params.rows != NONE && inside) {
        bad = program[params.rows + sample] == NONE;
    }
    return first_sample;
}

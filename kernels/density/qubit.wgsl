// qubit.wgsl: one step of ρ → S(ρ, x) on the Bloch vector (x, y, z) and trace w, as qubit.cuh; put in front of the shaders that
// bind `program`, `theta` and `inputs`, with their first elements and the step of an input in `params`.
const WORDS: u32 = 20u;
const ROTATE_X: u32 = 0u;
const ROTATE_Y: u32 = 1u;
const ROTATE_Z: u32 = 2u;
const DEPOLARIZE: u32 = 3u;
const KEEP_X: u32 = 4u;
const KEEP_Y: u32 = 5u;
const KEEP_Z: u32 = 6u;
const AMPLITUDE: u32 = 7u;
const PHASE: u32 = 8u;
const AFFINE: u32 = 9u;

fn word(op: u32, at: u32) -> u32 { return program[params.program_first + op * WORDS + at]; }
fn number(op: u32, at: u32) -> f32 { return bitcast<f32>(word(op, at)); }

struct Value {
    p: f32,
    valid: bool,
}

// The parameter of an operation for the inputs that start at `at`.
fn parameter(op: u32, at: u32) -> Value {
    let code = word(op, 0u);
    if (code == AFFINE) { return Value(0.0, true); }
    let source = word(op, 1u);
    var value = 0.0;
    if (source == 1u) { value = theta[params.theta_first + word(op, 2u)]; }
    if (source == 2u) { value = inputs[at + word(op, 2u) * params.input_step]; }
    // On the bits: a compiler may assume that values are numbers.
    var valid = is_finite(value);
    let p = select(fma(number(op, 3u), value, number(op, 4u)), number(op, 4u), source == 0u);
    valid = valid && is_finite(p) && (code <= ROTATE_Z || (p >= 0.0 && p <= 1.0));
    return Value(p, valid);
}

// (cos, sin): quarter turns are taken off in parts of π/2 whose multiples are exact, then minimax polynomials; WGSL's own promise
// 2^-11 only.
fn cos_sin(angle: f32) -> vec2<f32> {
    let q = round(angle * 0.63661977);
    let leading = bitcast<f32>(bitcast<u32>(angle) & 0xfffff000u);
    let r = (((leading - q * 1.5703125) - q * 0.000483751296997) - q * 7.54978995489e-08) + (angle - leading);
    let t = r * r;
    var s = fma(t, -0.000195019533081, 0.00833208618373);
    s = fma(t, s, -0.166666544577);
    s = fma(r * t, s, r);
    var c = fma(t, 2.44617940875e-05, -0.00138876392938);
    c = fma(t, c, 0.041666654428);
    c = fma(t * t, c, fma(t, -0.5, 1.0));
    let quadrant = bitcast<u32>(i32(clamp(q, -2.0e9, 2.0e9)));
    let swapped = (quadrant & 1u) != 0u;
    let sine = select(s, c, swapped);
    let cosine = select(c, s, swapped);
    return vec2<f32>(
        select(cosine, -cosine, ((quadrant + 1u) & 2u) != 0u),
        select(sine, -sine, (quadrant & 2u) != 0u),
    );
}

fn affine_row(op: u32, row: u32) -> vec4<f32> {
    let at = 8u + 4u * row;
    return vec4<f32>(number(op, at), number(op, at + 1u), number(op, at + 2u), number(op, at + 3u));
}

// What a flip or depolarisation multiplies each component by.
fn factors(code: u32, p: f32) -> vec3<f32> {
    if (code == DEPOLARIZE) { return vec3<f32>(1.0 - p); }
    let f = 1.0 - 2.0 * p;
    return select(vec3<f32>(f), vec3<f32>(1.0), vec3<bool>(code == KEEP_X, code == KEEP_Y, code == KEEP_Z));
}

fn apply(op: u32, p: f32, r: vec4<f32>) -> vec4<f32> {
    let code = word(op, 0u);
    if (code <= ROTATE_Z) {
        let turn = cos_sin(p);
        let c = turn.x;
        let s = turn.y;
        if (code == ROTATE_X) { return vec4<f32>(r.x, c * r.y - s * r.z, s * r.y + c * r.z, r.w); }
        if (code == ROTATE_Y) { return vec4<f32>(c * r.x + s * r.z, r.y, c * r.z - s * r.x, r.w); }
        return vec4<f32>(c * r.x - s * r.y, s * r.x + c * r.y, r.z, r.w);
    }
    if (code == AFFINE) {
        return vec4<f32>(dot(affine_row(op, 0u), r), dot(affine_row(op, 1u), r), dot(affine_row(op, 2u), r), r.w);
    }
    if (code == AMPLITUDE || code == PHASE) {
        let root = sqrt(1.0 - p);
        return vec4<f32>(root * r.x, root * r.y, select(r.z, p * (r.w - r.z) + r.z, code == AMPLITUDE), r.w);
    }
    return vec4<f32>(factors(code, p) * r.xyz, r.w);
}

struct Pulled {
    g: vec4<f32>,
    slope: f32,
}

// The gradient before an operation from the one after it, and that of its parameter.
fn pull_back(op: u32, p: f32, before: vec4<f32>, g: vec4<f32>) -> Pulled {
    let code = word(op, 0u);
    if (code <= ROTATE_Z) {
        let turn = cos_sin(p);
        let c = turn.x;
        let s = turn.y;
        let r = apply(op, p, before);
        if (code == ROTATE_X) {
            return Pulled(vec4<f32>(g.x, c * g.y + s * g.z, c * g.z - s * g.y, g.w), g.z * r.y - g.y * r.z);
        }
        if (code == ROTATE_Y) {
            return Pulled(vec4<f32>(c * g.x - s * g.z, g.y, s * g.x + c * g.z, g.w), g.x * r.z - g.z * r.x);
        }
        return Pulled(vec4<f32>(c * g.x + s * g.y, c * g.y - s * g.x, g.z, g.w), g.y * r.x - g.x * r.y);
    }
    if (code == AFFINE) {
        let sum = affine_row(op, 0u) * g.x + affine_row(op, 1u) * g.y + affine_row(op, 2u) * g.z;
        return Pulled(sum + vec4<f32>(0.0, 0.0, 0.0, g.w), 0.0);
    }
    if (code == AMPLITUDE || code == PHASE) {
        let root = sqrt(1.0 - p);
        // Vertical at 1: there the root's part counts as 0.
        var steep = 0.0;
        if (root > 0.0) { steep = -0.5 / root; }
        let slope = steep * (g.x * before.x + g.y * before.y);
        if (code == PHASE) { return Pulled(vec4<f32>(root * g.x, root * g.y, g.z, g.w), slope); }
        let pulled = vec4<f32>(root * g.x, root * g.y, (1.0 - p) * g.z, p * g.z + g.w);
        return Pulled(pulled, slope + g.z * (before.w - before.z));
    }
    let moved = select(vec3<f32>(1.0), vec3<f32>(0.0), vec3<bool>(code == KEEP_X, code == KEEP_Y, code == KEEP_Z));
    let slope = select(-2.0, -1.0, code == DEPOLARIZE) * dot(moved * g.xyz, before.xyz);
    return Pulled(vec4<f32>(factors(code, p) * g.xyz, g.w), slope);
}

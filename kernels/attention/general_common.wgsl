// What the general attention shaders share: parameters, the plan, who sees what, element types and accurate functions.
// They take every score, mask and layout; the shaders without `general_` take the plain product in f32, and are faster.

const LINES: u32 = 32u;  // queries, or keys, a tile has
const DEPTH: u32 = 16u;  // components of a score staged at a time
// A line of 32 values is 8 vec4; the ninth keeps eight threads that write one column each on different banks.
const PITCH: u32 = 9u;
const HALF: u32 = DEPTH * PITCH;
const INVALID: u32 = 0xffffffffu;
const SENTINEL: f32 = -3.0e38;  // below every score; −∞ would make NaN of m_old − m_new

// params.score
const DOT: u32 = 0u;
const COSINE: u32 = 1u;
const FIDELITY: u32 = 2u;
const GAUSSIAN: u32 = 3u;
const ADDITIVE: u32 = 4u;

// params.flags
const HAS_LEFT: u32 = 1u;
const HAS_RIGHT: u32 = 2u;
const HAS_SOFTCAP: u32 = 4u;
const HAS_MASK: u32 = 8u;
const HAS_BIAS: u32 = 16u;
const HAS_ALIBI: u32 = 32u;
const HAS_SINKS: u32 = 64u;
const HAS_DROPOUT: u32 = 128u;
const HAS_PAGES: u32 = 256u;
const HAS_ROW_SCALE: u32 = 512u;
const HAS_GRAD_LSE: u32 = 1024u;

// Element types, params.kind and params.bias_kind.
const F32: u32 = 0u;
const F16: u32 = 1u;

// A view is (offset, batch stride, head stride, row stride) in elements; `at_` is a place in the plan.
struct Params {
    batch: u32,
    q_heads: u32,
    kv_heads: u32,
    q_len: u32,
    kv_slots: u32,
    head_dim: u32,
    value_dim: u32,
    tiles: u32,   // tiles of queries, or of keys, one pair has
    scale: f32,   // gamma of the Gaussian
    flags: u32,
    score: u32,
    want: u32,    // what a kernel with several outputs computes
    blocks: u32,  // blocks of output columns
    width: u32,   // columns of a block, 32 or 128
    kind: u32,
    bias_kind: u32,
    softcap: f32,
    keep: f32,       // 1/(1 − p) of dropout
    threshold: u32,  // words below it drop
    page_size: u32,
    left: i32,
    right: i32,
    pages: u32,  // entries of the page table a sample has
    at_table: u32,
    at_order: u32,
    at_kv_order: u32,
    at_active: u32,
    at_rows: u32,
    row_stride: u32,  // rows of one head
    four: u32,  // 4. Loops that count to it are not unrolled, and the shaders compile in seconds, not minutes
    at_alibi: u32,
    at_sinks: u32,
    at_w: u32,
    w_stride: u32,
    at_seed: u32,      // INVALID: params.seed
    at_partials: u32,  // of dw, in the buffer of sums
    at_mask: u32,
    at_any: u32,
    bias_column: u32,  // stride from key to key
    out_column: u32,
    chunk: u32,     // keys of a part of a long cache; 0: not split
    splits: u32,    // parts of the longest
    out_kind: u32,  // element type of what the forward kernel writes
    unused: u32,
    mask: vec4u,  // strides over sample, head, query and word
    any: vec4u,   // strides over sample, head, tile of queries and tile of keys
    bias: vec4u,
    q: vec4u,
    k: vec4u,
    v: vec4u,
    o: vec4u,
    lse: vec4u,
    grad_o: vec4u,
    grad_lse: vec4u,
    row_scale: vec4u,
    out: vec4u,
    seed: vec4u,  // of dropout, where it is not in the plan
}

// Parts of a sample's keys under split decoding: they depend on its length alone. One unless it has more than two chunks.
fn parts_of(length: i32) -> u32 {
    let keys = u32(max(length, 0));
    return select(1u, (keys + params.chunk - 1u) / max(params.chunk, 1u), params.chunk != 0u && keys > 2u * params.chunk);
}

fn has(flag: u32) -> bool { return (params.flags & flag) != 0u; }
fn base(view: vec4u, b: u32, h: u32) -> u32 { return view.x + b * view.y + h * view.z; }

// The plan (general_plan.wgsl) starts with the counts of active pairs and key pairs, then six words a sample.
struct Sample {
    length: i32,   // −1: refused
    first: i32,    // position of query 0
    rows: u32,     // queries
    q_start: u32,  // row of query 0, row of key 0
    k_start: u32,
    line: u32,     // number of the first query of head 0 in lists over all rows
}

// Bits a..b of a word, both cut to 0..32.
fn span(lowest: vec4i, to: vec4i) -> vec4u {
    let a = vec4u(clamp(lowest, vec4i(0), vec4i(32)));
    let b = vec4u(clamp(to, vec4i(0), vec4i(32)));
    let below_a = select((vec4u(1u) << a) - vec4u(1u), vec4u(0xffffffffu), a > vec4u(31u));
    let below_b = select((vec4u(1u) << b) - vec4u(1u), vec4u(0xffffffffu), b > vec4u(31u));
    return below_b & ~below_a;
}
fn bits_at(words: vec4u, bit: u32) -> vec4<bool> { return ((words >> vec4u(bit)) & vec4u(1u)) != vec4u(0u); }
fn as_bits(flags: vec4<bool>, bit: u32) -> vec4u { return select(vec4u(0u), vec4u(1u << bit), flags); }

// First key and one past the last that the query at `position` may see. No overflow: positions are in −2³⁰..2³¹, the sides of
// a window below 2³⁰, and a position beyond 2³⁰ is beyond every key.
fn first_seen(position: vec4i) -> vec4i { return select(vec4i(0), position - vec4i(params.left), vec4<bool>(has(HAS_LEFT))); }
fn seen_until(position: vec4i, end: i32) -> vec4i {
    let limit = min(position, vec4i(0x3fffffff)) + vec4i(params.right + 1);
    return select(vec4i(end), min(limit, vec4i(end)), vec4<bool>(has(HAS_RIGHT)));
}

// e^x to about one unit in the last place (Cephes expf); WGSL promises 3 + 2|x|. NaN stays NaN: r is made from x itself.
fn exp4(x: vec4f) -> vec4f {
    let n = round(clamp(x * 1.44269504, vec4f(-126.0), vec4f(127.0)));
    let r = (x - n * 0.693359375) + n * 2.12194440e-4;
    var y = r * 1.9875691500e-4 + 1.3981999507e-3;
    y = y * r + 8.3334519073e-3;
    y = y * r + 4.1665795894e-2;
    y = y * r + 1.6666665459e-1;
    y = y * r + 5.0000001201e-1;
    y = y * r * r + r + 1.0;
    let power = bitcast<vec4f>((vec4i(n) + vec4i(127)) << vec4u(23u));
    return select(y * power, vec4f(0.0), x < vec4f(-87.0));
}

// tanh to two units in the last place (Cephes tanhf); WGSL's is off by 1.5e-3 near 0 on some drivers.
fn tanh4(x: vec4f) -> vec4f {
    let square = x * x;
    var y = square * -5.70498872745e-3 + 2.06390887954e-2;
    y = y * square - 5.37397155531e-2;
    y = y * square + 1.33314422036e-1;
    y = y * square - 3.33332819422e-1;
    let small = y * square * x + x;
    let large = 1.0 - 2.0 / (exp4(min(abs(x), vec4f(20.0)) * 2.0) + 1.0);
    // The last select keeps NaN, which min() may lose.
    let value = select(select(large, -large, x < vec4f(0.0)), small, abs(x) < vec4f(0.625));
    return select(x, value, vec4<bool>(ordered(x.x), ordered(x.y), ordered(x.z), ordered(x.w)));
}
fn ordered(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) <= 0x7f800000u; }

// Matrices whose columns a loop takes one after the other: the first in front, results behind. (An index would keep them in
// memory, an unrolled loop would repeat its body.)
fn push(m: mat4x4f, column: vec4f) -> mat4x4f { return mat4x4f(m[1], m[2], m[3], column); }
fn turn(m: mat4x4f) -> mat4x4f { return mat4x4f(m[1], m[2], m[3], m[0]); }
fn scale_rows(m: mat4x4f, by: vec4f) -> mat4x4f { return mat4x4f(by.x * m[0], by.y * m[1], by.z * m[2], by.w * m[3]); }

// What a hidden pair contributes is selected away: its values may be NaN.
fn chosen(m: mat4x4f, bits: vec4u, first: u32) -> mat4x4f {
    let zero = vec4f(0.0);
    return mat4x4f(select(zero, m[0], bits_at(bits, first)), select(zero, m[1], bits_at(bits, first + 1u)),
        select(zero, m[2], bits_at(bits, first + 2u)), select(zero, m[3], bits_at(bits, first + 3u)));
}

// The word an element is in, and its bits as f32 from that word.
fn word_of(kind: u32, index: u32) -> u32 { return select(index >> 1u, index, kind == F32); }
fn widen(kind: u32, word: u32, index: u32) -> u32 {
    if (kind == F32) { return word; }
    let half = (word >> (16u * (index & 1u))) & 0xffffu;
    if (kind != F16) { return half << 16u; }
    let sign = (half & 0x8000u) << 16u;
    let magnitude = half & 0x7fffu;
    // Subnormals by a product, because a device may flush f32 subnormals.
    let tiny = bitcast<u32>(f32(magnitude) * 5.9604644775390625e-8);
    let normal = (magnitude << 13u) + 0x38000000u;
    let special = (magnitude << 13u) | 0x7f800000u;
    return sign | select(select(normal, tiny, magnitude < 0x400u), special, magnitude >= 0x7c00u);
}

// The nearest f16 or bf16, ties to even, of an f32 given by its bits.
fn narrow(kind: u32, bits: u32) -> u32 {
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if (kind != F16) {
        let rounded = (magnitude + 0x7fffu + ((magnitude >> 16u) & 1u)) >> 16u;
        return sign | select(rounded, 0x7fc0u, magnitude > 0x7f800000u);
    }
    if (magnitude > 0x7f800000u) { return sign | 0x7e00u; }
    if (magnitude >= 0x477ff000u) { return sign | 0x7c00u; }
    if (magnitude >= 0x38800000u) {
        return sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13u) & 1u)) >> 13u);
    }
    // Subnormal: whole multiples of 2⁻²⁴, of which adding 2²³ leaves the nearest.
    if (magnitude < 0x33000000u) { return sign; }
    let exponent = magnitude >> 23u;
    let mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    let shift = 126u - exponent;
    let whole = mantissa >> shift;
    let rest = mantissa & ((1u << shift) - 1u);
    let middle = 1u << (shift - 1u);
    return sign | (whole + select(0u, 1u, rest > middle || (rest == middle && (whole & 1u) != 0u)));
}

// Accumulators are named matrices, four rows by four columns each, because an array indexed in a loop stays in registers only
// if the driver unrolls the loop, which the bound that naga adds to every loop may keep it from.
fn add_outer(acc: ptr<function, mat4x4f>, p: vec4f, value: vec4f) {
    *acc += mat4x4f(p.x * value, p.y * value, p.z * value, p.w * value);
}
// Only the rows that see the value: 0·NaN is NaN, so a zero weight is not enough.
fn add_outer_where(acc: ptr<function, mat4x4f>, p: vec4f, value: vec4f, sees: vec4<bool>) {
    let zero = vec4f(0.0);
    *acc += mat4x4f(p.x * select(zero, value, sees.x), p.y * select(zero, value, sees.y),
        p.z * select(zero, value, sees.z), p.w * select(zero, value, sees.w));
}

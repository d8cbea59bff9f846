// What the attention shaders share: parameters, the plan, tile shapes and an accurate exponential.

const LINES: u32 = 32u;  // queries, or keys, a tile has
const DEPTH: u32 = 16u;  // components of q·k staged at a time
// A line of 32 values is 8 vec4; the ninth keeps eight threads that write one column each on different banks.
const PITCH: u32 = 9u;
const INVALID: u32 = 0xffffffffu;

// A view is (offset, batch stride, head stride, row stride) in elements.
struct Params {
    batch: u32,
    q_heads: u32,
    kv_heads: u32,
    q_len: u32,
    kv_slots: u32,
    head_dim: u32,
    value_dim: u32,
    tiles: u32,  // work items of one pair
    scale: f32,
    want: u32,   // what a kernel with several outputs computes
    unused0: u32,
    unused1: u32,
    q: vec4u,
    k: vec4u,
    v: vec4u,
    o: vec4u,
    lse: vec4u,
    row_scale: vec4u,
    grad_o: vec4u,
    grad_lse: vec4u,
    dq: vec4u,
    dk: vec4u,
    dv: vec4u,
    drow_scale: vec4u,
}

fn base(view: vec4u, b: u32, h: u32) -> u32 { return view.x + b * view.y + h * view.z; }

// The plan (plan.wgsl): active pairs, active key pairs, per sample (length, position of query 0), the two orders, the flags.
fn plan_sample(b: u32) -> u32 { return 2u + 2u * b; }
fn plan_order() -> u32 { return 2u + 2u * params.batch; }
fn plan_kv_order() -> u32 { return plan_order() + params.batch * params.q_heads; }
fn plan_active() -> u32 { return plan_kv_order() + params.batch * params.kv_heads; }

// Keys that query `row` sees. No overflow: `first` is in −2³⁰..2³⁰, rows are below 2³⁰.
fn visible(row: u32, first: i32, length: i32) -> i32 { return clamp(first + i32(row) + 1, 0, length); }
fn visible4(row: u32, first: i32, length: i32) -> vec4i {
    return clamp(vec4i(first + i32(row) + 1) + vec4i(0, 1, 2, 3), vec4i(0), vec4i(length));
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

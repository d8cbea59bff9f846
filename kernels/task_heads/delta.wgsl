// task_heads_delta_f32: δ of every masked (sample, head): Σ a·b over its rows and columns, or Σ a over its rows.
// Shapes    a, b [batch, heads, rows, columns] strided, last = 1, or a [batch, heads, rows] contiguous; mask [batch, heads] u32;
//           gates, delta [batch, heads] f32
// Mapping   persistent, workgroup 256, one pair at a time; products: a team of 32 takes every 8th row, its members the columns
// Shared    256 partial sums = 1 KiB
// Traffic   a and b of the masked pairs once; those of the others are not read
// Numerics  f32; invocations, then a halving tree: an order that depends on rows and columns alone
// Host      batch · heads < 2^31; every element index < 2^32
// Twin      src/task_heads/cpu.rs        Source  our own
struct Params {
    a_offset: u32, a_stride_b: u32, a_stride_h: u32, a_stride_r: u32,
    b_offset: u32, b_stride_b: u32, b_stride_h: u32, b_stride_r: u32,
    mask_offset: u32, gates_offset: u32, delta_offset: u32,
    pairs: u32, heads: u32, rows: u32, columns: u32,
    // 0: the sum of a alone.
    products: u32,
    // Pairs with mask 0 are left; otherwise 0, or NaN where the gate is NaN.
    keep_others: u32,
}
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read> mask: array<u32>;
@group(0) @binding(3) var<storage, read> gates: array<u32>;
@group(0) @binding(4) var<storage, read_write> delta: array<u32>;
@group(0) @binding(5) var<uniform> params: Params;

const WORKGROUP: u32 = 256u;
const TEAM: u32 = 32u;
var<workgroup> sums: array<f32, WORKGROUP>;

fn invocation_sum(pair: u32, local: u32) -> f32 {
    var sum = 0.0;
    if (params.products == 0u) {
        let rows = params.a_offset + pair * params.rows;
        for (var row = local; row < params.rows; row += WORKGROUP) { sum += a[rows + row]; }
        return sum;
    }
    let sample = pair / params.heads;
    let head = pair % params.heads;
    let a_rows = params.a_offset + sample * params.a_stride_b + head * params.a_stride_h;
    let b_rows = params.b_offset + sample * params.b_stride_b + head * params.b_stride_h;
    for (var row = local / TEAM; row < params.rows; row += WORKGROUP / TEAM) {
        let a_row = a_rows + row * params.a_stride_r;
        let b_row = b_rows + row * params.b_stride_r;
        for (var column = local % TEAM; column < params.columns; column += TEAM) {
            sum += a[a_row + column] * b[b_row + column];
        }
    }
    return sum;
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    for (var pair = workgroup.x; pair < params.pairs; pair += workgroups.x) {
        // The barriers are reached whatever the mask holds; only the reads and the result depend on it.
        let masked = mask[params.mask_offset + pair] != 0u;
        var sum = 0.0;
        if (masked) { sum = invocation_sum(pair, local); }
        sums[local] = sum;
        workgroupBarrier();
        for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
            if (local < half) { sums[local] += sums[local + half]; }
            workgroupBarrier();
        }
        if (local == 0u) {
            if (masked) {
                delta[params.delta_offset + pair] = bitcast<u32>(sums[0]);
            } else if (params.keep_others == 0u) {
                let bits = gates[params.gates_offset + pair];
                delta[params.delta_offset + pair] = select(0u, NAN_BITS, (bits & 0x7fffffffu) > 0x7f800000u);
            }
        }
        // The next pair's sums overwrite what invocation 0 reads.
        workgroupBarrier();
    }
}

// task_heads_scores_f32: z of every (sample, head) where it is computed: a linear function of the sample, and noise on top.
// Shapes    values [tasks, heads] or [batch, heads] strided, or weights [tasks, heads, features] strided, last = 1; x [batch, features]
//           strided, last = 1, of batch / repeat samples if so many share one; bias [tasks, heads] strided; ids [batch] i32, u32 or i64 strided; stream [4] u32; z [batch, heads]
// Mapping   persistent, workgroup 128; a team of 32 owns a (sample, head), its members the features
// Shared    128 partial sums = 512 bytes
// Traffic   x once a head, weights once a sample, mostly from cache; FLOPs 2·batch·heads·features
// Numerics  as scores.cu; members, then a halving tree
// Bad id    NaN, never used as an index; the gate's launch reports it. Without a task: 0, and x is not read
// Host      batch · heads < 2^31, features < 2^31, tasks < 2^31; every element index < 2^32
// Twin      src/task_heads/cpu_scores.rs        Source  Shazeer et al., arXiv:1701.06538, §2.1 (noisy top-k)
struct Params {
    values_offset: u32, x_offset: u32, bias_offset: u32, ids_offset: u32, stream_offset: u32, z_offset: u32,
    // Of values or weights.
    task_stride: u32, head_stride: u32,
    x_stride: u32, bias_stride_t: u32, bias_stride_h: u32, id_stride: u32,
    batch: u32, heads: u32, tasks: u32, features: u32,
    // 0 values by sample, 1 values by task, 2 weights.
    source: u32,
    has_ids: u32, id_kind: u32, has_bias: u32,
    noise: f32,
    // Samples in a row that share x and noise.
    repeat: u32,
}
@group(0) @binding(0) var<storage, read> values: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> ids: array<u32>;
@group(0) @binding(4) var<storage, read> stream: array<u32>;
@group(0) @binding(5) var<storage, read_write> z: array<u32>;
@group(0) @binding(6) var<uniform> params: Params;

const WORKGROUP: u32 = 128u;
const TEAM: u32 = 32u;
const NO_TASK: i32 = -1;
const BAD_TASK: i32 = -2;
var<workgroup> sums: array<f32, WORKGROUP>;

fn row_of(sample: u32) -> i32 {
    if (params.has_ids == 0u) { return select(i32(sample), 0, params.source == 2u); }
    let index = params.ids_offset + sample * params.id_stride;
    let low = ids[id_low(params.id_kind, index)];
    let sign = select(0u, 0xffffffffu, params.id_kind == 0u && (low >> 31u) != 0u);
    let high = select(sign, ids[id_high(params.id_kind, index)], params.id_kind == 2u);
    if (low == 0xffffffffu && (params.id_kind == 1u || high == 0xffffffffu)) { return NO_TASK; }
    return select(BAD_TASK, i32(low), high == 0u && low < params.tasks);
}

// Deviation 1: four uniform words have 4/12.
fn noise_of(pair: u32) -> f32 {
    let at = params.stream_offset;
    let named = vec4<u32>(stream[at], stream[at + 1u], stream[at + 2u], stream[at + 3u]);
    let words = random_block(named, vec2<u32>(pair, 0u)) >> vec4<u32>(8u);
    let sum = words.x + words.y + words.z + words.w;
    return (f32(sum) * 5.9604644775390625e-08 - 2.0) * 1.7320508;
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let team = local / TEAM;
    let member = local % TEAM;
    let teams = WORKGROUP / TEAM;
    let pairs = params.batch * params.heads;
    for (var first = workgroup.x * teams; first < pairs; first += workgroups.x * teams) {
        let pair = first + team;
        let is_pair = pair < pairs;
        let sample = pair / params.heads;
        let head = pair % params.heads;
        var row = NO_TASK;
        if (is_pair) { row = row_of(sample); }
        var of_head = 0u;
        if (row >= 0) { of_head = params.values_offset + u32(row) * params.task_stride + head * params.head_stride; }
        var sum = 0.0;
        if (row >= 0 && params.source == 2u) {
            for (var f = member; f < params.features; f += TEAM) {
                sum += bitcast<f32>(values[of_head + f]) * x[params.x_offset + sample / params.repeat * params.x_stride + f];
            }
        }
        sums[local] = sum;
        workgroupBarrier();
        for (var half = TEAM / 2u; half > 0u; half /= 2u) {
            if (member < half) { sums[local] += sums[local + half]; }
            workgroupBarrier();
        }
        if (is_pair && member == 0u) {
            var bits = select(0u, NAN_BITS, row == BAD_TASK);
            if (row >= 0) {
                var score = sums[local];
                bits = bitcast<u32>(score);
                if (params.source != 2u) {
                    bits = values[of_head];
                    score = bitcast<f32>(bits);
                } else if (params.has_bias != 0u) {
                    score += bias[params.bias_offset + u32(row) * params.bias_stride_t + head * params.bias_stride_h];
                    bits = bitcast<u32>(score);
                }
                // A NaN or an infinity stays what it is.
                if (params.noise != 0.0 && (bits & 0x7f800000u) != 0x7f800000u) {
                    bits = bitcast<u32>(score + params.noise * noise_of(sample / params.repeat * params.heads + head));
                }
            }
            z[params.z_offset + pair] = bits;
        }
        // The next pair's sums overwrite what member 0 reads.
        workgroupBarrier();
    }
}

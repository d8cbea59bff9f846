// attention_general_sum: ordered sums of what the backward kernels left of each row or tile.
// Shapes    source words [..] f32 → out [n0, n1, n2] f32, any strides; out[i] = factor · Σ_{a < outer} Σ_{c < inner} source[first
//           + i·steps + a·outer_step + c·inner_step]
// Mapping   a workgroup of 64 per output; an invocation sums every 64th term, then a tree in a fixed order
// Shared    256 bytes
// Traffic   every term once
// Numerics  f32, fixed order whatever the device
// Host      views beyond 2³² elements
// Twin      src/attention/cpu        Source  our own

struct Params {
    shape: vec4u,   // n0, n1, n2, unused
    steps: vec4u,   // first, steps along n0, n1, n2
    out: vec4u,     // offset and strides
    outer: u32,
    outer_step: u32,
    inner: u32,
    inner_step: u32,
    factor: f32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}
@group(0) @binding(0) var<storage, read> source: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let shape = params.shape;
    for (var i = group.x; i < shape.x * shape.y * shape.z; i += groups.x) {
        let at = vec3u(i / (shape.y * shape.z), i / shape.z % shape.y, i % shape.z);
        let first = params.steps.x + dot(at, params.steps.yzw);
        var sum = 0.0;
        for (var n = thread; n < params.outer * params.inner; n += 64u) {
            sum += source[first + n / params.inner * params.outer_step + n % params.inner * params.inner_step];
        }
        partial[thread] = sum;
        for (var half = 32u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if (thread < half) { partial[thread] += partial[thread + half]; }
        }
        if (thread == 0u) { out[params.out.x + dot(at, params.out.yzw)] = params.factor * partial[0]; }
        workgroupBarrier();
    }
}

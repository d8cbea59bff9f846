// multitask_gradient_gram_f32: partial inner products of every two tasks' gradients, over chunks of 4096 parameters.
// Shapes    gradients [tasks, parameters] f32 strided, last = 1; partial [chunks, tasks, tasks] f32, the upper triangle written
// Mapping   persistent, workgroup 128; a workgroup takes a chunk of a tile of 2 × 2 tasks, an invocation every 128th parameter
// Shared    128 × vec4 = 2 KiB
// Traffic   4·(tasks/2 + 1)/2 bytes a gradient element
// FLOPs     2 a product and pair
// Numerics  f32; invocations, then a halving tree; chunks are added in order by multitask_gradient_cosines_f32
// Host      tasks < 2^15; every element index < 2^32
// Twin      src/multitask/cpu.rs        Source  our own
struct Params {
    gradients_offset: u32, partial_offset: u32,
    stride: u32, parameters: u32,
    tasks: u32, chunks: u32,
}
@group(0) @binding(0) var<storage, read> gradients: array<f32>;
@group(0) @binding(1) var<storage, read_write> partials: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

const WORKGROUP: u32 = 128u;
const CHUNK: u32 = 4096u;
var<workgroup> sums: array<vec4<f32>, WORKGROUP>;

fn gradient(task: u32, at: u32) -> f32 {
    if (task >= params.tasks) { return 0.0; }
    return gradients[params.gradients_offset + task * params.stride + at];
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let tiles = (params.tasks + 1u) / 2u;
    for (var item = workgroup.x; item < params.chunks * tiles * tiles; item += workgroups.x) {
        let chunk = item / (tiles * tiles);
        let i = 2u * (item % (tiles * tiles) / tiles);
        let j = 2u * (item % tiles);
        let is_upper = i <= j;
        let end = min((chunk + 1u) * CHUNK, params.parameters);
        var products = vec4<f32>();
        if (is_upper) {
            for (var at = chunk * CHUNK + local; at < end; at += WORKGROUP) {
                let a = vec2<f32>(gradient(i, at), gradient(i + 1u, at));
                let b = vec2<f32>(gradient(j, at), gradient(j + 1u, at));
                products += a.xxyy * b.xyxy;
            }
        }
        sums[local] = products;
        workgroupBarrier();
        for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
            if (local < half) { sums[local] += sums[local + half]; }
            workgroupBarrier();
        }
        if (local < 4u && is_upper) {
            let row = i + local / 2u;
            let column = j + local % 2u;
            if (row <= column && column < params.tasks) {
                partials[params.partial_offset + (chunk * params.tasks + row) * params.tasks + column] = sums[0][local];
            }
        }
        // The next tile's sums overwrite what is read here.
        workgroupBarrier();
    }
}

// statevec_join_c64: adds up the splits of complex sums.
// Shapes    parts [sums, splits] c64; result [sums] complex, real parts or squared norms
// Mapping   persistent, workgroup 128; an invocation adds up one sum
// Traffic   8 bytes a part
// Numerics  sums of 32 parts are added to each other, in order
// Host      sums · splits < 2^31
// Twin      src/statevec/readout/cpu.rs        Source  our own
struct Params {
    parts_first: u32, result_first: u32,
    sums: u32, splits: u32,
    // 0 complex, 1 real part, 2 squared norm.
    mode: u32,
}
@group(0) @binding(0) var<storage, read> parts: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read_write> result: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(128)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    for (var i = id.x; i < params.sums; i += workgroups.x * 128u) {
        let start = params.parts_first + i * params.splits;
        var total = vec2<f32>(0.0);
        for (var first = 0u; first < params.splits; first += 32u) {
            var sum = vec2<f32>(0.0);
            for (var part = first; part < params.splits && part < first + 32u; part += 1u) { sum += parts[start + part]; }
            total += sum;
        }
        if (params.mode == 0u) {
            result[params.result_first + 2u * i] = total.x;
            result[params.result_first + 2u * i + 1u] = total.y;
        } else {
            result[params.result_first + i] = select(total.x * total.x + total.y * total.y, total.x, params.mode == 1u);
        }
    }
}

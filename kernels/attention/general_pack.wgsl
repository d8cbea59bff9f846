// attention_general_pack: copies one small tensor into the plan, as words, or as integers saturated to i32.
// Shapes    source [n0, n1, n2], any strides, i32, u32, i64 or words such as f32 → plan[to ..], contiguous
// Mapping   one invocation per element, striding
// Traffic   both once
// Why       WebGPU promises 8 storage buffers a shader: row scales, slopes, sinks, weights, page tables share the plan's
// Host      n0·n1·n2 < 2³¹; the plan holds it
// Twin      none        Source  our own

struct Params {
    shape: vec4u,   // n0, n1, n2, element type: 0 i32, 1 u32, 2 i64; 3 zeros, no source; 4 words
    source: vec4u,  // offset and strides in elements
    to: u32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}
@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> plan: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let shape = params.shape;
    for (var i = id.x; i < shape.x * shape.y * shape.z; i += 64u * groups.x) {
        let at = params.source.x + i / (shape.y * shape.z) * params.source.y + i / shape.z % shape.y * params.source.z
            + i % shape.z * params.source.w;
        var word = 0u;
        if (shape.w < 3u) {
            word = bitcast<u32>(id_value(shape.w, source[id_low(shape.w, at)], source[id_high(shape.w, at)]));
        } else if (shape.w == 4u) {
            word = source[at];
        }
        plan[params.to + i] = word;
    }
}

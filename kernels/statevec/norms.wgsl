// statevec_norms_f32: what the amplitudes of rows are multiplied by to be normalised, where a state spans several workgroups.
// Shapes    rows [count, length] f32, strided (complex amplitudes as two numbers); result [count, 2] u32: bits of a power of two
//           and of a factor near 1; the factor is 0 for a row without a norm
// Mapping   persistent, workgroup 256; a workgroup makes one row
// Shared    512 words
// Traffic   each number once, 8 bytes a row out
// Numerics  running_norm.wgsl; sums of 64 of sums of 64, then pairwise
// Bad norm  zero, infinite or NaN: factor 0, status word set
// Host      every element index < 2^32
// Twin      kernels/statevec/norms.cu        Source  our own
struct Params {
    // Of the rows: an element may be a complex number, two of theirs.
    rows_first: u32,
    result_first: u32,
    // Numbers from row to row; the high word is 0.
    step: u32,
    step_high: u32,
    count: u32,
    length: u32,
    components: u32,
}
@group(0) @binding(0) var<storage, read> rows: array<f32>;
@group(0) @binding(1) var<storage, read_write> result: array<u32>;
@group(0) @binding(2) var<storage, read_write> status: array<atomic<u32>>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    for (var row = workgroup.x; row < params.count; row += workgroups.x) {
        let first = params.components * params.rows_first + row * params.step;
        forget();
        for (var i = index; i < params.length; i += 256u) {
            see(rows[first + i], 0.0);
        }
        let norm = over_workgroup(index);
        if (index == 0u) {
            if (norm.factor == 0.0) {
                atomicOr(&status[STATUS_NORM], 1u);
            }
            result[params.result_first + 2u * row] = bitcast<u32>(norm.power);
            result[params.result_first + 2u * row + 1u] = bitcast<u32>(norm.factor);
        }
    }
}

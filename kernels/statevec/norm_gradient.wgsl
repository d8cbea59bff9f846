// statevec_norm_gradient_f32: from the gradient g of normalised amplitudes x/‖x‖ to that of x: (g − Re⟨x̂|g⟩·x̂)/‖x‖.
// Shapes    rows [count, length] f32, strided (complex amplitudes as two numbers); gradients [count, 2^n] c64 contiguous; result
//           [count, length] f32 contiguous
// Mapping   persistent, workgroup 256; a workgroup makes one row
// Shared    512 words
// Traffic   rows and their part of the gradients twice, the result once
// Numerics  running_norm.wgsl; sums of 64 of sums of 64, then pairwise. A row without a norm gives NaN
// Host      every element index < 2^32
// Twin      kernels/statevec/norm_gradient.cu        Source  our own
struct Params {
    // Elements may be complex numbers: of the rows where `components` is 2, of the gradients.
    rows_first: u32,
    gradients_first: u32,
    result_first: u32,
    // Numbers from row to row; the high words are 0.
    step: u32,
    step_high: u32,
    gradient_step: u32,
    gradient_high: u32,
    count: u32,
    length: u32,
    components: u32,
}
@group(0) @binding(0) var<storage, read> rows: array<f32>;
@group(0) @binding(1) var<storage, read> gradients: array<f32>;
@group(0) @binding(2) var<storage, read_write> result: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    // The imaginary parts of real rows' gradients are left out.
    let apart = select(1u, 2u, params.components == 1u);
    for (var row = workgroup.x; row < params.count; row += workgroups.x) {
        let x = params.components * params.rows_first + row * params.step;
        let g = params.gradients_first + row * params.gradient_step;
        forget();
        for (var i = index; i < params.length; i += 256u) {
            see(rows[x + i], gradients[g + i * apart]);
        }
        let norm = over_workgroup(index);
        let along = norm.dot * norm.factor;
        let mask = select(0u, NAN_BITS, norm.factor == 0.0);
        for (var i = index; i < params.length; i += 256u) {
            let unit = rows[x + i] * norm.power * norm.factor;
            let value = fma(-along, unit, gradients[g + i * apart]) * norm.factor * norm.power;
            // NaN as bits: arithmetic on NaN may be assumed away.
            let bits = select(bitcast<u32>(value), mask, mask != 0u);
            result[params.components * params.result_first + row * params.length + i] = bitcast<f32>(bits);
        }
    }
}

// statevec_gradient_sum_f32: adds up what the adjoint kernel wrote for each differentiated operation: over the operations that
// use a parameter, the workgroups of a state, and the samples of a row.
// Shapes    table [parameters] {first, count} and then terms {operation, factor}; slots at operation·slot_step +
//           sample·sample_step + group; result [rows, parameters], rows strided
// Mapping   an invocation makes one element of the result, in order; row r covers samples r·chunk to (r+1)·chunk
// Traffic   each used slot once, the table once a row, 4 bytes an element out
// Numerics  sums of 32 are added to each other: the error grows with 32 + count / 32, not with count
// Host      every index in the table is in range; offsets in elements below 2^32
// Twin      kernels/statevec/gradient_sum.cu        Source  our own
struct Params {
    slot_step: u32,
    sample_step: u32,
    result_first: u32,
    result_step: u32,
    samples: u32,
    parameters: u32,
    rows: u32,
    chunk: u32,
    groups: u32,
    row_workgroups: u32,  // workgroups along x
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(1) var<storage, read> slots: array<f32>;
@group(0) @binding(2) var<storage, read_write> result: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = (workgroup.x + workgroup.y * params.row_workgroups) * 64u + lane;
    let row = index / params.parameters;
    if (row >= params.rows) {
        return;
    }
    let parameter = index % params.parameters;
    let first = table[2u * parameter];
    let end_term = first + table[2u * parameter + 1u];
    let begin = row * params.chunk;
    let end = min(begin + params.chunk, params.samples);
    var spoiled = false;
    var total = 0.0;
    var part = 0.0;
    var count = 0u;
    for (var term = first; term < end_term; term += 1u) {
        let operation = table[2u * term];
        let factor = bitcast<f32>(table[2u * term + 1u]);
        for (var sample = begin; sample < end; sample += 1u) {
            let at = operation * params.slot_step + sample * params.sample_step;
            var state = 0.0;
            for (var group = 0u; group < params.groups; group += 32u) {
                var sum = 0.0;
                for (var i = group; i < params.groups && i < group + 32u; i += 1u) {
                    // On the bits: the sum itself may be assumed to be a number.
                    spoiled = spoiled || !is_finite(slots[at + i]);
                    sum += slots[at + i];
                }
                state += sum;
            }
            part += factor * state;
            count += 1u;
            if ((count & 31u) == 0u) {
                total += part;
                part = 0.0;
            }
        }
    }
    let value = select(bitcast<u32>(total + part), NAN_BITS, spoiled);
    result[params.result_first + row * params.result_step + parameter] = bitcast<f32>(value);
}

// density_qubit_theta: gradients of the shared parameters, summed over operations and sequences in order.
// Shapes    program words (qubit.cuh); work [4·operations, batch] f32 from qubit_backward.wgsl; result [thetas] f32
// Mapping   persistent, workgroup 64; an invocation owns a parameter
// Traffic   4 bytes an operation and sequence
// Numerics  sums of 64 sequences are added to each other
// Host      every index in the program is in range; every element index < 2^32
// Twin      src/statevec/density/qubit_run.rs        Source  our own
struct Params {
    program_first: u32, work_first: u32, result_first: u32,
    batch: u32, operations: u32, thetas: u32,
}
@group(0) @binding(0) var<storage, read> program: array<u32>;
@group(0) @binding(1) var<storage, read> work: array<f32>;
@group(0) @binding(2) var<storage, read_write> result: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

const WORDS: u32 = 20u;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    for (var index = id.x; index < params.thetas; index += workgroups.x * 64u) {
        var total = 0.0;
        for (var op = 0u; op < params.operations; op += 1u) {
            let at = params.program_first + op * WORDS;
            if (program[at + 1u] == 1u && program[at + 2u] == index) {
                let row = params.work_first + (3u * params.operations + op) * params.batch;
                for (var first = 0u; first < params.batch; first += 64u) {
                    var sum = 0.0;
                    for (var i = first; i < params.batch && i < first + 64u; i += 1u) { sum += work[row + i]; }
                    total += sum;
                }
            }
        }
        result[params.result_first + index] = total;
    }
}

// statevec_tasks: which row of a table each sample uses: its task id, or the number of its basis state, checked once.
// Shapes    ids [samples] i32, u32 or i64 (low word first), strided; rows [samples] u32
// Mapping   persistent, workgroup 256; an invocation checks a sample
// Traffic   ids once, 4 bytes a sample out
// Bad id    all ones, which makes that sample's results NaN, and the status word is set
// Host      limit < 2^31; every element index < 2^32
// Twin      kernels/statevec/tasks.cu        Source  our own
struct Params {
    ids_first: u32,
    rows_first: u32,
    // Ids; the high word is 0.
    step: u32,
    step_high: u32,
    samples: u32,
    limit: u32,
    id_kind: u32,
    status: u32,  // word to set
}

@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read_write> rows: array<u32>;
@group(0) @binding(2) var<storage, read_write> status: array<atomic<u32>>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    for (var sample = id.x; sample < params.samples; sample += workgroups.x * 256u) {
        let index = params.ids_first + sample * params.step;
        // Limits are below 2^31, so a negative id is too large as a u32.
        var row = ids[id_low(params.id_kind, index)];
        if (params.id_kind == 2u && ids[id_high(params.id_kind, index)] != 0u) {
            row = 0xffffffffu;
        }
        if (row >= params.limit) {
            row = 0xffffffffu;
            atomicOr(&status[params.status], 1u);
        }
        rows[params.rows_first + sample] = row;
    }
}

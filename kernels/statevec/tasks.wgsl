// statevec_tasks: which row of theta each sample uses: its task id, checked once.
// Shapes    ids [samples] i32, u32 or i64 (low word first), strided; rows: words from `rows_first` on, a u32 a sample
// Mapping   an invocation checks one sample
// Traffic   ids once, 4 bytes a sample out
// Bad id    all ones, which makes that sample's results NaN, and the status word is set
// Host      tasks < 2^31; offsets in elements below 2^32
// Twin      kernels/statevec/tasks.cu        Source  our own
struct Params {
    ids_first: u32,
    id_step: u32,
    id_kind: u32,
    rows_first: u32,
    samples: u32,
    tasks: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read_write> rows: array<u32>;
@group(0) @binding(2) var<storage, read_write> status: array<atomic<u32>>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let sample = id.x;
    if (sample >= params.samples) {
        return;
    }
    let index = params.ids_first + sample * params.id_step;
    // Tasks are below 2^31, so a negative id is too large as a u32.
    var row = ids[id_low(params.id_kind, index)];
    if (params.id_kind == 2u && ids[id_high(params.id_kind, index)] != 0u) {
        row = 0xffffffffu;
    }
    if (row >= params.tasks) {
        row = 0xffffffffu;
        atomicOr(&status[STATUS_TASK_ID], 1u);
    }
    rows[params.rows_first + sample] = row;
}

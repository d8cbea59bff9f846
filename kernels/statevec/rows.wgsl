// statevec_rows: copies rows of words: each trajectory its sample's, or some rows picked or put back.
// Shapes    source [rows, width] u32 strided; index [count] u32; result [rows, width] u32, rows strided
// Mapping   persistent, workgroup 256; an invocation owns a word
// Traffic   8 bytes a word
// Host      every word index < 2^32; indices come from the host; repeat ≥ 1
// Twin      src/statevec/dynamic/rows.rs        Source  our own
struct Params {
    source_first: u32, index_first: u32, result_first: u32,
    // Words from row to row; the high words are 0.
    source_step: u32, source_high: u32, result_step: u32, result_high: u32,
    // Of the source, in words of `words`.
    column_step: u32,
    // Of an element: 1, or 2 for complex numbers.
    words: u32,
    count: u32, count_high: u32, width: u32,
    // 0 row (first + i) / repeat, 1 from row index[i], 2 to row index[i].
    mode: u32,
    first: u32, first_high: u32, repeat: u32,
}
@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read_write> result: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    for (var at = id.x; at < params.count; at += workgroups.x * 256u) {
        let row = at / params.width;
        let column = at % params.width;
        var origin = row;
        var goal = row;
        // `first` counts from the first repeated row of the source: its view starts there.
        if (params.mode == 0u) { origin = (params.first + row) / params.repeat; }
        if (params.mode == 1u) { origin = index[params.index_first + row]; }
        if (params.mode == 2u) { goal = index[params.index_first + row]; }
        let read = params.source_first * params.words + origin * params.source_step + column * params.column_step * params.words;
        let write = params.result_first * params.words + goal * params.result_step + column * params.words;
        for (var word = 0u; word < params.words; word += 1u) { result[write + word] = source[read + word]; }
    }
}

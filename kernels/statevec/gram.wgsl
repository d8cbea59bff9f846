// statevec_gram_c64: G[s,i,j] = Σ_r conj(a[s,i,r])·b[s,j,r], the Gram matrix of two batches, or of a state's rows.
// Shapes    a [samples, rows, 2^length] c64, b [samples, columns, 2^length] c64, strided; qubits [kept] u32 ascending and
//           then [kept] as listed: if kept > 0 row i is the amplitudes whose listed qubits read i, within one state;
//           result [samples, rows, columns, splits] complex
// Mapping   persistent, workgroup 256: a tile of 2^tile × 2^tile outputs, 2^(8 − 2·tile) invocations an output share its sum
// Shared    two tiles of 512 amplitudes in padded rows, 8,448 bytes
// Traffic   a once a column tile, b once a row tile;  FLOPs 8·samples·rows·columns·2^length
// Numerics  as gram.cu
// Host      samples · rows · columns · 2^splits < 2^31; tile ≤ 4; every element index < 2^32
// Twin      src/statevec/readout/cpu.rs        Source  our own
struct Params {
    a_first: u32, b_first: u32, qubits_first: u32, result_first: u32,
    // Elements; the high words are 0.
    a_sample: u32, a_sample_high: u32, a_row: u32, a_row_high: u32,
    b_sample: u32, b_sample_high: u32, b_row: u32, b_row_high: u32,
    samples: u32, rows: u32, columns: u32, length: u32, kept: u32, tile: u32, splits: u32,
    transposed: u32,
}
@group(0) @binding(0) var<storage, read> a: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> b: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> qubits: array<u32>;
@group(0) @binding(3) var<storage, read_write> result: array<vec2<f32>>;
@group(0) @binding(4) var<uniform> params: Params;

const BLOCK: u32 = 256u;
const AMPLITUDES: u32 = 512u;
const PLANE: u32 = 528u;
var<workgroup> shared_tiles: array<vec2<f32>, 1056>;

fn element_of(index: u32) -> u32 {
    var r = index;
    for (var i = 0u; i < params.kept; i += 1u) {
        let q = qubits[params.qubits_first + i];
        r = ((r >> q) << (q + 1u)) | (r & ((1u << q) - 1u));
    }
    return r;
}

fn row_of(i: u32, row_step: u32) -> u32 {
    if (params.kept == 0u) { return i * row_step; }
    var x = 0u;
    for (var bit = 0u; bit < params.kept; bit += 1u) {
        if (((i >> bit) & 1u) != 0u) { x |= 1u << qubits[params.qubits_first + params.kept + bit]; }
    }
    return x;
}

fn times_conjugate(sum: vec2<f32>, u: vec2<f32>, v: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(fma(u.y, v.y, fma(u.x, v.x, sum.x)), fma(-u.y, v.x, fma(u.x, v.y, sum.y)));
}

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let side = 1u << params.tile;
    let sharers = BLOCK >> (2u * params.tile);
    let width = AMPLITUDES >> params.tile;
    let share = thread & (sharers - 1u);
    let column = (thread / sharers) & (side - 1u);
    let row = (thread / sharers) >> params.tile;
    let row_tiles = (params.rows + side - 1u) >> params.tile;
    let column_tiles = (params.columns + side - 1u) >> params.tile;
    let chunk = 1u << (params.length - params.splits);
    let work = (params.samples * row_tiles * column_tiles) << params.splits;
    for (var item = workgroup.x; item < work; item += workgroups.x) {
        let split = item & ((1u << params.splits) - 1u);
        let tiles = item >> params.splits;
        let first_column = (tiles % column_tiles) << params.tile;
        let first_row = ((tiles / column_tiles) % row_tiles) << params.tile;
        let sample = tiles / column_tiles / row_tiles;
        let from_a = params.a_first + sample * params.a_sample;
        let from_b = params.b_first + sample * params.b_sample;
        var total = vec2<f32>(0.0);
        for (var at = 0u; at < chunk; at += width) {
            // Sync: slow invocations still read the last tiles.
            workgroupBarrier();
            for (var i = thread; i < AMPLITUDES; i += BLOCK) {
                let r = split * chunk + at + i % width;
                let place = (i / width) * (width + 1u) + i % width;
                let inside = (r >> params.length) == 0u;
                var u = vec2<f32>(0.0);
                var v = vec2<f32>(0.0);
                if (inside && first_row + i / width < params.rows) {
                    u = a[from_a + row_of(first_row + i / width, params.a_row) + element_of(r)];
                }
                if (inside && first_column + i / width < params.columns) {
                    v = b[from_b + row_of(first_column + i / width, params.b_row) + element_of(r)];
                }
                shared_tiles[place] = u;
                shared_tiles[PLANE + place] = v;
            }
            // Sync: the tiles are complete.
            workgroupBarrier();
            var sum = vec2<f32>(0.0);
            for (var r = share; r < min(chunk, width); r += sharers) {
                let u = shared_tiles[row * (width + 1u) + r];
                sum = times_conjugate(sum, u, shared_tiles[PLANE + column * (width + 1u) + r]);
            }
            total += sum;
        }
        // Sync: the tiles become the place where sharers add up.
        workgroupBarrier();
        shared_tiles[thread] = total;
        for (var half = sharers >> 1u; half > 0u; half >>= 1u) {
            // Sync: a sharer adds what another wrote in the round before.
            workgroupBarrier();
            if (share < half) { shared_tiles[thread] += shared_tiles[thread + half]; }
        }
        let i = first_row + row;
        let j = first_column + column;
        if (share == 0u && i < params.rows && j < params.columns) {
            let plain = (sample * params.rows + i) * params.columns + j;
            let at = select(plain, (sample * params.columns + j) * params.rows + i, params.transposed != 0u);
            result[params.result_first + (at << params.splits) + split] = shared_tiles[thread];
        }
    }
}

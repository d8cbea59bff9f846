// What the projection's shaders share: bindings, and the tiled product of two strided matrices.
struct Params {
    left_offset: u32, right_offset: u32, gates_offset: u32, ids_offset: u32, result_offset: u32,
    y_stride_b: u32, y_stride_h: u32, y_stride_s: u32, w_stride_t: u32, w_stride_k: u32, out_stride_b: u32, out_stride_s: u32,
    id_stride: u32,
    // Dv, E.
    batch: u32, heads: u32, rows: u32, depth: u32, width: u32,
    tasks: u32, has_ids: u32, id_kind: u32,
}
@group(0) @binding(0) var<storage, read> left: array<f32>;
@group(0) @binding(1) var<storage, read> right: array<f32>;
@group(0) @binding(2) var<storage, read> gates: array<u32>;
@group(0) @binding(3) var<storage, read> ids: array<u32>;
@group(0) @binding(4) var<storage, read_write> result: array<u32>;
@group(0) @binding(5) var<uniform> params: Params;

const WORKGROUP: u32 = 256u;
const TILE: u32 = 32u;
const STEP: u32 = 16u;
const PITCH: u32 = 33u;
const NO_TASK: i32 = -1;
const BAD_TASK: i32 = -2;
var<workgroup> left_tile: array<f32, STEP * PITCH>;
var<workgroup> right_tile: array<f32, STEP * PITCH>;

fn task_of(sample: u32) -> i32 {
    if (params.has_ids == 0u) { return 0; }
    let index = params.ids_offset + sample * params.id_stride;
    let low = ids[id_low(params.id_kind, index)];
    let sign = select(0u, 0xffffffffu, params.id_kind == 0u && (low >> 31u) != 0u);
    let high = select(sign, ids[id_high(params.id_kind, index)], params.id_kind == 2u);
    if (low == 0xffffffffu && (params.id_kind == 1u || high == 0xffffffffu)) { return NO_TASK; }
    return select(BAD_TASK, i32(low), high == 0u && low < params.tasks);
}

fn is_active(pair: u32) -> bool { return (gates[params.gates_offset + pair] & 0x7fffffffu) != 0u; }

fn tiles(size: u32) -> u32 { return (size + TILE - 1u) / TILE; }

// A matrix in memory, seen as rows × columns by its two strides.
struct Matrix {
    first: u32, row_stride: u32, column_stride: u32, rows: u32, columns: u32,
}

// The products of an invocation: rows local/16 and 16 further, columns local%16 and 16 further.
var<private> sums: array<f32, 4>;

// += a[first_row.., :] · b[:, first_column..], a in `left`, b in `right`, where `is_taken`. All invocations call it.
fn add(a: Matrix, b: Matrix, first_row: u32, first_column: u32, is_taken: bool, local: u32) {
    let row = local / STEP;
    let column = local % STEP;
    for (var depth = 0u; depth < a.columns; depth += STEP) {
        for (var i = local; i < STEP * TILE; i += WORKGROUP) {
            let k = i % STEP;
            let m = i / STEP;
            var x = 0.0;
            var y = 0.0;
            if (is_taken && depth + k < a.columns) {
                if (first_row + m < a.rows) {
                    x = left[a.first + (first_row + m) * a.row_stride + (depth + k) * a.column_stride];
                }
                if (first_column + m < b.columns) {
                    y = right[b.first + (depth + k) * b.row_stride + (first_column + m) * b.column_stride];
                }
            }
            left_tile[k * PITCH + m] = x;
            right_tile[k * PITCH + m] = y;
        }
        workgroupBarrier();
        for (var k = 0u; k < STEP; k += 1u) {
            let x = vec2<f32>(left_tile[k * PITCH + row], left_tile[k * PITCH + row + STEP]);
            let y = vec2<f32>(right_tile[k * PITCH + column], right_tile[k * PITCH + column + STEP]);
            sums[0] += x.x * y.x;
            sums[1] += x.x * y.y;
            sums[2] += x.y * y.x;
            sums[3] += x.y * y.y;
        }
        // The next step overwrites what slow invocations still read.
        workgroupBarrier();
    }
}

fn store(first: u32, row_stride: u32, first_row: u32, first_column: u32, rows: u32, columns: u32, is_nan: bool, local: u32) {
    for (var i = 0u; i < 4u; i += 1u) {
        let row = first_row + local / STEP + STEP * (i / 2u);
        let column = first_column + local % STEP + STEP * (i % 2u);
        if (row < rows && column < columns) {
            result[first + row * row_stride + column] = select(bitcast<u32>(sums[i]), NAN_BITS, is_nan);
        }
    }
}


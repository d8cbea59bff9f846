// attention_general_bias: dbias = Σ dz over the dimensions along which the bias is repeated.
// Shapes    q, k, v, grad_o, rows as attention_general_backward_q; out [b|1,hq|1,sq|1,sk|1], any strides, as the bias
// Mapping   persistent workgroups of 8 × 8 over tiles of 32 × 32 of the output (of one line or column where it has one); each
//           walks the samples, heads and tiles that share its tile, in order
// Shared    tile 4.5 KiB + factors 9 KiB + reductions 2 KiB = 15.5 KiB
// Traffic   q, grad_o, k, v once per pair of tiles;  FLOPs 2·b·hq·sq·sk·(D + Dv)
// Numerics  f32, fixed order, no float atomics; hidden pairs add nothing; NaN of a refused sample reaches the tiles it shares
// Host      as attention_general_forward
// Twin      src/attention/cpu        Source  our own

@group(0) @binding(0) var<storage, read> q: array<u32>;
@group(0) @binding(1) var<storage, read> k: array<u32>;
@group(0) @binding(2) var<storage, read> v: array<u32>;
@group(0) @binding(3) var<storage, read> bias: array<u32>;
@group(0) @binding(4) var<storage, read> plan: array<u32>;
@group(0) @binding(5) var<storage, read> grad_o: array<u32>;
@group(0) @binding(6) var<storage, read_write> out: array<atomic<u32>>;
@group(0) @binding(7) var<uniform> params: Params;

// params.want: which dimensions of the bias are whole.
const WHOLE_BATCH: u32 = 1u;
const WHOLE_HEADS: u32 = 2u;
const WHOLE_QUERIES: u32 = 4u;
const WHOLE_KEYS: u32 = 8u;

fn whole(dimension: u32) -> bool { return (params.want & dimension) != 0u; }
fn write_bias(index: u32, bits: u32) {
    if (params.bias_kind == F32) {
        atomicStore(&out[index], bits);
        return;
    }
    let shift = 16u * (index & 1u);
    atomicAnd(&out[index >> 1u], ~(0xffffu << shift));
    atomicOr(&out[index >> 1u], narrow(params.bias_kind, bits) << shift);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let ty = thread / 8u;
    let tx = thread % 8u;
    let query_tiles = (params.q_len + LINES - 1u) / LINES;
    let key_tiles = (params.kv_slots + LINES - 1u) / LINES;
    let across = select(1u, key_tiles, whole(WHOLE_KEYS));
    let down = select(1u, query_tiles, whole(WHOLE_QUERIES));
    let heads = select(1u, params.q_heads, whole(WHOLE_HEADS));
    let samples = select(1u, params.batch, whole(WHOLE_BATCH));
    for (var w = group.x; w < samples * heads * down * across; w += groups.x) {
        let out_b = w / (heads * down * across);
        let out_h = w / (down * across) % heads;
        let out_row0 = w / across % down * LINES;
        let out_key0 = w % across * LINES;
        var acc = mat4x4f();
        var poisoned = false;
        let pairs = select(params.batch, 1u, whole(WHOLE_BATCH)) * select(params.q_heads, 1u, whole(WHOLE_HEADS));
        for (var n = 0u; n < pairs; n += 1u) {
            let b = select(n / select(params.q_heads, 1u, whole(WHOLE_HEADS)), out_b, whole(WHOLE_BATCH));
            let h = select(n % params.q_heads, out_h, whole(WHOLE_HEADS));
            if (plan[params.at_active + b * params.q_heads + h] == 0u) { continue; }
            let sequence = sample(b);
            let it = item(sequence, b, h, true);
            poisoned = poisoned || sequence.length < 0;
            let start = grad_start(it, sequence);
            let row_end = select(it.rows, min(out_row0 + LINES, it.rows), whole(WHOLE_QUERIES));
            for (var row0 = out_row0; row0 < row_end; row0 += LINES) {
                let range = key_range(it, row0);
                let lowest = select(range.x, max(range.x, out_key0), whole(WHOLE_KEYS));
                let to = select(range.y, min(range.y, out_key0 + LINES), whole(WHOLE_KEYS));
                let row = row0 + 4u * ty;
                let lines = lines_of(it, row);
                for (var key0 = lowest; key0 < to; key0 += LINES) {
                    if (!tile_has_keys(it, row0, key0)) { continue; }
                    var s = mat4x4f();
                    var t = mat4x4f();
                    score_tile(it, row0, key0, thread, &s, &t);
                    let g = gradient_tile(it, start, row0, key0, thread);
                    acc += slopes(it, s, t, g, row, key0, tx, lines).dz;
                }
            }
        }
        if (!whole(WHOLE_QUERIES)) {
            // Every thread column to its first line, which is line 0 of the output.
            workgroupBarrier();
            partial[8u * tx + ty] = column_sums(acc);
            workgroupBarrier();
            let total = line_sum(tx);
            acc = mat4x4f(vec4f(total.x), vec4f(total.y), vec4f(total.z), vec4f(total.w));
        }
        if (!whole(WHOLE_KEYS)) {
            workgroupBarrier();
            partial[thread] = (acc[0] + acc[1]) + (acc[2] + acc[3]);
            workgroupBarrier();
            acc[0] = line_sum(ty);
        }
        let first = base(params.out, out_b, out_h);
        let rows = select(1u, params.q_len, whole(WHOLE_QUERIES));
        let keys = select(1u, params.kv_slots, whole(WHOLE_KEYS));
        for (var i = 0u; i < params.four; i += 1u) {
            let key = out_key0 + 4u * tx + i;
            var column = acc[0];
            acc = turn(acc);
            for (var r = 0u; r < params.four; r += 1u) {
                let row = out_row0 + 4u * ty + r;
                if (row < rows && key < keys) {
                    write_bias(first + row * params.out.w + key * params.out_column, select(bitcast<u32>(column.x), NAN_BITS, poisoned));
                }
                column = column.yzww;
            }
        }
    }
}

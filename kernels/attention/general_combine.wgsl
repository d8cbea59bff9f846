// attention_general_combine: o and its log-sum-exp from the parts of a long cache, in order.
// Shapes    parts [b·hq][splits][sq][Dv] f32, stats [b·hq][splits][sq][3] (peak, sum, seen) of attention_general_forward
//           → o [b,hq,sq,Dv] f32, f16 or bf16, lse [b,hq,sq] f32
// Mapping   persistent workgroups of 64 over rows of active pairs; a thread has every 64th group of four columns
// Traffic   the parts a sample has once, o once
// Numerics  f32; parts ascending, as many as the sample's length gives, whatever the batch; a single part gives the bits of the
//           pass that does not split
// Host      as attention_general_forward
// Twin      src/attention/cpu        Source  arXiv:2307.08691; arXiv:2311.01282 (split decoding)

@group(0) @binding(0) var<storage, read> parts: array<f32>;
@group(0) @binding(1) var<storage, read> stats: array<u32>;
@group(0) @binding(2) var<storage, read> plan: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<atomic<u32>>;
@group(0) @binding(4) var<storage, read_write> lse: array<u32>;
@group(0) @binding(5) var<uniform> params: Params;

fn part_at(at: u32, d: u32) -> f32 {
    if (d < params.value_dim) { return parts[at + d]; }
    return 0.0;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let work = plan[0] * params.q_len;
    for (var i = group.x; i < work; i += groups.x) {
        let pair = plan[params.at_order + i / params.q_len];
        if (pair == INVALID) { continue; }
        let b = pair / params.q_heads;
        let h = pair % params.q_heads;
        let row = i % params.q_len;
        let at = 2u + 8u * b;
        if (row >= plan[at + 2u]) { continue; }
        let length = bitcast<i32>(plan[at]);
        let count = parts_of(length);
        let first = pair * params.splits * params.q_len + row;
        var peak = SENTINEL;
        var seen = 0u;
        for (var n = 0u; n < count; n += 1u) {
            peak = max(peak, bitcast<f32>(stats[3u * (first + n * params.q_len)]));
            seen |= stats[3u * (first + n * params.q_len) + 2u];
        }
        var total = 0.0;
        for (var n = 0u; n < count; n += 1u) {
            let from_peak = bitcast<f32>(stats[3u * (first + n * params.q_len)]) - peak;
            total += exp4(vec4f(from_peak)).x * bitcast<f32>(stats[3u * (first + n * params.q_len) + 1u]);
        }
        let empty = seen == 0u;
        let poisoned = length < 0;
        let line = plan[at + 3u] + row;
        if (thread == 0u) {
            let rough = log(total);
            let log_total = rough + (total * exp4(vec4f(-rough)).x - 1.0);
            let bits = select(bitcast<u32>(peak + log_total), NEGATIVE_INFINITY_BITS, empty && !has(HAS_SINKS));
            lse[base(params.lse, b, h) + line * params.lse.w] = select(bits, NAN_BITS, poisoned);
        }
        let factor = params.keep / total;
        var gate = 1.0;
        if (has(HAS_ROW_SCALE)) { gate = bitcast<f32>(plan[params.at_rows + plan[at + 5u] + h * params.row_stride + row]); }
        for (var d = 4u * thread; d < params.value_dim; d += 256u) {
            var sum = vec4f(0.0);
            for (var n = 0u; n < count; n += 1u) {
                let part = first + n * params.q_len;
                let weight = exp4(vec4f(bitcast<f32>(stats[3u * part]) - peak)).x;
                let from_part = part * params.value_dim;
                let values = weight * vec4f(part_at(from_part, d), part_at(from_part, d + 1u), part_at(from_part, d + 2u),
                    part_at(from_part, d + 3u));
                // Not added to 0, which would lose the sign of −0.
                sum = select(sum + values, values, n == 0u);
            }
            let bits = select(select(bitcast<vec4u>(factor * sum * gate), vec4u(0u), empty), vec4u(NAN_BITS), poisoned);
            write4(base(params.o, b, h) + line * params.o.w, d, params.value_dim, bits);
        }
    }
}

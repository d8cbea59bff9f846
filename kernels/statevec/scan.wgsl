// statevec_scan: per sample, the exponent of the sum of its runs, or the sums of the runs before each run, and of all.
// Shapes    masses [samples, runs] u64 as (low, high), or f32 in the low word, overwritten by exclusive sums; totals [samples]
//           u64, 0 for a sample that cannot be sampled; exponents [samples] i32
// Mapping   persistent, workgroup 256; a workgroup owns a sample, an invocation consecutive runs
// Shared    256 u64, 2 KiB
// Traffic   8 bytes a run read, and read again and written for integers
// Bad norm  zero, infinite or NaN: total 0, status word set
// Host      samples · runs < 2^31; every element index < 2^32
// Twin      src/statevec/readout/sample.rs        Source  our own
struct Params {
    masses_first: u32, totals_first: u32, exponents_first: u32,
    samples: u32, runs: u32,
    // 0: f32 sums to exponents.
    integers: u32,
}
@group(0) @binding(0) var<storage, read_write> masses: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> totals: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> exponents: array<u32>;
@group(0) @binding(3) var<storage, read_write> status: array<atomic<u32>>;
@group(0) @binding(4) var<uniform> params: Params;

const BLOCK: u32 = 256u;
var<workgroup> sums: array<vec2<u32>, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let share = (params.runs + BLOCK - 1u) / BLOCK;
    let begin = min(thread * share, params.runs);
    let end = min(begin + share, params.runs);
    for (var sample = workgroup.x; sample < params.samples; sample += workgroups.x) {
        let row = params.masses_first + sample * params.runs;
        var integer = vec2<u32>(0u);
        var sum = 0.0;
        for (var i = begin; i < end; i += 1u) {
            let value = masses[row + i];
            integer = add_wide(integer, value);
            sum += bitcast<f32>(value.x);
        }
        // Sync: the sums of the last sample are still being read.
        workgroupBarrier();
        sums[thread] = select(vec2<u32>(bitcast<u32>(sum), 0u), integer, params.integers != 0u);
        if (params.integers == 0u) {
            for (var half = BLOCK / 2u; half > 0u; half >>= 1u) {
                // Sync: an invocation adds what another wrote in the round before.
                workgroupBarrier();
                if (thread < half) {
                    sums[thread].x = bitcast<u32>(bitcast<f32>(sums[thread].x) + bitcast<f32>(sums[thread + half].x));
                }
            }
            if (thread == 0u) { exponents[params.exponents_first + sample] = exponent_of(bitcast<f32>(sums[0].x)); }
        } else {
            for (var reach = 1u; reach < BLOCK; reach <<= 1u) {
                // Sync: everybody has written, and then everybody has read, before anybody writes again.
                workgroupBarrier();
                var before = vec2<u32>(0u);
                if (thread >= reach) { before = sums[thread - reach]; }
                workgroupBarrier();
                sums[thread] = add_wide(sums[thread], before);
            }
            // What is before this invocation: its inclusive sum less its own.
            let inclusive = sums[thread];
            var running = vec2<u32>(inclusive.x - integer.x, inclusive.y - integer.y - select(0u, 1u, inclusive.x < integer.x));
            for (var i = begin; i < end; i += 1u) {
                let value = masses[row + i];
                masses[row + i] = running;
                running = add_wide(running, value);
            }
            if (thread == BLOCK - 1u) {
                totals[params.totals_first + sample] = inclusive;
                if (inclusive.x == 0u && inclusive.y == 0u) { atomicOr(&status[STATUS_NORM], 1u); }
            }
        }
    }
}

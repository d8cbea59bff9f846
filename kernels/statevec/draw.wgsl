// statevec_draw: basis states with the frequencies of their probabilities.
// Shapes    stream [4] u32; probabilities [samples, 2^n] f32 contiguous; before [samples, runs] u64, totals [samples] u64,
//           exponents [samples] i32 from statevec_scan; shots [samples, shots] u32
// Mapping   persistent, workgroup 128; an invocation owns a shot: a binary search among the runs, then a walk through one
// Traffic   4 bytes a shot; the rest from cache
// Numerics  as draw.cu: the same integers, so the same outcomes
// Bad norm  0xffffffff
// Host      samples · shots < 2^31; every element index < 2^32
// Twin      src/statevec/readout/sample.rs        Source  our own
struct Params {
    stream_first: u32, probabilities_first: u32, before_first: u32, totals_first: u32, exponents_first: u32, shots_first: u32,
    samples: u32, shots: u32, qubits: u32,
}
@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read> probabilities: array<u32>;
@group(0) @binding(2) var<storage, read> before: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> totals: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read> exponents: array<u32>;
@group(0) @binding(5) var<storage, read_write> shots: array<u32>;
@group(0) @binding(6) var<uniform> params: Params;

fn less(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return vec2<u32>(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x));
}

@compute @workgroup_size(128)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let at = params.stream_first;
    let stream = vec4<u32>(source[at], source[at + 1u], source[at + 2u], source[at + 3u]);
    let run_bits = min(params.qubits, RUN_BITS);
    let runs = 1u << (params.qubits - run_bits);
    let last = (1u << run_bits) - 1u;
    for (var i = id.x; i < params.samples * params.shots; i += workgroups.x * 128u) {
        let sample = i / params.shots;
        let total = totals[params.totals_first + sample];
        var outcome = 0xffffffffu;
        if (total.x != 0u || total.y != 0u) {
            let words = random_block(stream, vec2<u32>(i, 0u));
            var remaining = upper_product(words.xy, total);
            // The last run whose sum before it is at most what remains.
            let row = params.before_first + sample * runs;
            var low = 0u;
            var high = runs;
            while (high - low > 1u) {
                let middle = low + (high - low) / 2u;
                if (is_below(remaining, before[row + middle])) { high = middle; } else { low = middle; }
            }
            remaining = less(remaining, before[row + low]);
            let exponent = exponents[params.exponents_first + sample];
            let start = params.probabilities_first + (sample << params.qubits);
            outcome = low << run_bits;
            // The run's integers exceed what remains, so the walk ends inside it.
            loop {
                let integer = fixed_point(probabilities[start + outcome], exponent);
                if (is_below(remaining, integer) || (outcome & last) == last) { break; }
                remaining = less(remaining, integer);
                outcome += 1u;
            }
        }
        shots[params.shots_first + i] = outcome;
    }
}

// statevec_combine_f32: adds up the partial sums of expectations when a state spans several workgroups.
// Shapes    table [strings] {coefficient, observable | last << 31}; partials [samples, strings, groups]; result [samples,
//           observables], rows strided
// Mapping   an invocation adds up one sample, in order
// Traffic   partials once, the table once an invocation, 4 bytes an observable out
// Numerics  sums of 32 workgroups are added to each other: the error grows with 32 + groups / 32, not with groups
// Host      every observable in the table is in range; offsets in elements below 2^32
// Twin      kernels/statevec/combine.cu        Source  our own
struct Params {
    result_first: u32,
    result_step: u32,
    samples: u32,
    strings: u32,
    groups: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(1) var<storage, read> partials: array<f32>;
@group(0) @binding(2) var<storage, read_write> result: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let sample = id.x;
    if (sample >= params.samples) {
        return;
    }
    var running = 0.0;
    var spoiled = false;
    for (var string = 0u; string < params.strings; string += 1u) {
        let first = (sample * params.strings + string) * params.groups;
        var total = 0.0;
        for (var group = 0u; group < params.groups; group += 32u) {
            var sum = 0.0;
            for (var i = group; i < params.groups && i < group + 32u; i += 1u) {
                // On the bits: the sum itself may be assumed to be a number.
                spoiled = spoiled || !is_finite(partials[first + i]);
                sum += partials[first + i];
            }
            total += sum;
        }
        running = fma(bitcast<f32>(table[2u * string]), total, running);
        let observable = table[2u * string + 1u];
        if ((observable >> 31u) != 0u) {
            let value = select(bitcast<u32>(running), NAN_BITS, spoiled);
            result[params.result_first + sample * params.result_step + (observable & 0x7fffffffu)] = bitcast<f32>(value);
            running = 0.0;
        }
    }
}

// statevec_gradient_sum_f32: adds up what the adjoint kernel wrote for each differentiated operation: over the operations that
// use a parameter, the workgroups of a state, and the samples of a row.
// Shapes    table [parameters] {first, count} and then terms {operation, factor}, or none: parameter i is operation i alone;
//           slots at operation·slot_step + sample·sample_step + group; result [rows, parameters], rows strided
//           tasks [samples] u32, each sample's row of the result
// Mapping   persistent, workgroup 64; an invocation makes an element of the result, in order; row r covers samples r·chunk to
//           (r+1)·chunk, or, by task, those of task r, chunk by chunk
// Traffic   each used slot once, the table once a row, 4 bytes an element out
// Numerics  sums of 32 are added to each other: the error grows with 32 + count / 32, not with count
// Host      every index in the table is in range; offsets in elements below 2^32
// Twin      kernels/statevec/gradient_sum.cu        Source  our own
struct Params {
    table_first: u32,
    slots_first: u32,
    tasks_first: u32,
    result_first: u32,
    // Elements; the high words are 0.
    slot_step: u32,
    slot_high: u32,
    sample_step: u32,
    sample_high: u32,
    result_step: u32,
    samples: u32,
    parameters: u32,
    rows: u32,
    chunk: u32,
    groups: u32,
    by_task: u32,   // 1: row r is of the samples of task r
    by_table: u32,  // 0: there is no table
}

@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(1) var<storage, read> slots: array<f32>;
@group(0) @binding(2) var<storage, read> tasks: array<u32>;
@group(0) @binding(3) var<storage, read_write> result: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

// A running sum of sums of 32.
struct Sum {
    total: f32,
    part: f32,
    count: u32,
}

var<private> spoiled: bool;

fn added(sum: Sum, value: f32) -> Sum {
    // On the bits: the sum itself may be assumed to be a number.
    spoiled = spoiled || !is_finite(value);
    if (((sum.count + 1u) & 31u) == 0u) {
        return Sum(sum.total + (sum.part + value), 0.0, sum.count + 1u);
    }
    return Sum(sum.total, sum.part + value, sum.count + 1u);
}

// One operation's gradient of a sample, from all workgroups of its state.
fn of_operation(operation: u32, sample: u32) -> f32 {
    let at = params.slots_first + operation * params.slot_step + sample * params.sample_step;
    var state = Sum(0.0, 0.0, 0u);
    for (var group = 0u; group < params.groups; group += 1u) {
        state = added(state, slots[at + group]);
    }
    return state.total + state.part;
}

// The sum with one sample's terms, or without a table with operation `first`.
fn with_sample(before: Sum, first: u32, end: u32, sample: u32) -> Sum {
    if (params.by_table == 0u) {
        return added(before, of_operation(first, sample));
    }
    var sum = before;
    for (var term = first; term < end; term += 1u) {
        let at = params.table_first + 2u * term;
        sum = added(sum, bitcast<f32>(table[at + 1u]) * of_operation(table[at], sample));
    }
    return sum;
}

fn make(row: u32, parameter: u32) {
    spoiled = false;
    var first = parameter;
    var end_term = parameter + 1u;
    if (params.by_table != 0u) {
        first = table[params.table_first + 2u * parameter];
        end_term = first + table[params.table_first + 2u * parameter + 1u];
    }
    var sum = Sum(0.0, 0.0, 0u);
    if (params.by_task == 0u) {
        let begin = row * params.chunk;
        let end = min(begin + params.chunk, params.samples);
        for (var sample = begin; sample < end; sample += 1u) {
            sum = with_sample(sum, first, end_term, sample);
        }
    } else {
        // The same sums as if the task's samples were alone.
        var own = Sum(0.0, 0.0, 0u);
        var count = 0u;
        for (var sample = 0u; sample < params.samples; sample += 1u) {
            if (tasks[params.tasks_first + sample] != row) {
                continue;
            }
            own = with_sample(own, first, end_term, sample);
            count += 1u;
            if (count % params.chunk == 0u) {
                sum = added(sum, own.total + own.part);
                own = Sum(0.0, 0.0, 0u);
            }
        }
        if (count % params.chunk != 0u) {
            sum = added(sum, own.total + own.part);
        }
    }
    let value = select(bitcast<u32>(sum.total + sum.part), NAN_BITS, spoiled);
    result[params.result_first + row * params.result_step + parameter] = bitcast<f32>(value);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let elements = params.rows * params.parameters;
    for (var at = id.x; at < elements; at += workgroups.x * 64u) {
        make(at / params.parameters, at % params.parameters);
    }
}

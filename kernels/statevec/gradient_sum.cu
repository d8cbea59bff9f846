// statevec_gradient_sum_f32: adds up what the adjoint kernel wrote for each differentiated operation: over the operations that
// use a parameter, the blocks of a state, and the samples of a row.
// Shapes    table [parameters] {first, count} and then terms {operation, factor}, or none: parameter i is operation i alone;
//           slots at operation·slot_step + sample·sample_step + block; out [rows, parameters], rows strided
//           tasks [samples] u32, each sample's row of out
// Mapping   persistent, block 64; a thread makes an element of out, in order; row r covers samples r·chunk to (r+1)·chunk, or,
//           by task, those of task r, chunk by chunk
// Traffic   each used slot once, the table once a row, 4 bytes an element out
// Numerics  sums of 32 are added to each other: the error grows with 32 + count / 32, not with count
// Host      every index in the table is in range
// Twin      Program::collect in src/statevec/program.rs        Source  our own
#include "device.cuh"

namespace {

using gw::u32;
using gw::u64;

struct GradientSumParams {
    u32 table_first, slots_first, tasks_first, out_first;  // for shaders
    u32 slot_low, slot_high, sample_low, sample_high;      // elements
    u32 out_step, samples, parameters, rows, chunk, blocks;
    u32 by_task, by_table;
};

GW_DEVICE u64 wide(u32 low, u32 high) { return static_cast<u64>(high) << 32 | low; }

// A running sum of sums of 32.
struct Sum {
    float total, part;
    u32 count;
    GW_DEVICE void add(float value) {
        part += value;
        if ((++count & 31u) == 0u) {
            total += part;
            part = 0.0f;
        }
    }
    GW_DEVICE float value() const { return total + part; }
};

// One operation's gradient of a sample, from all blocks of its state.
GW_DEVICE float of_operation(const float* slots, u32 operation, u64 sample, const GradientSumParams& p) {
    const float* from = slots + operation * wide(p.slot_low, p.slot_high) + sample * wide(p.sample_low, p.sample_high);
    Sum state = {};
    for (u32 block = 0; block < p.blocks; ++block) state.add(gw::load_global_cached(from + block));
    return state.value();
}

// Adds one sample's terms: `count` from `first` on, or without a table operation `first`.
GW_DEVICE void add_sample(Sum& sum, const u32* table, const float* slots, u32 first, u32 count, u64 sample,
                          const GradientSumParams& p) {
    if (p.by_table == 0) {
        sum.add(of_operation(slots, first, sample, p));
        return;
    }
    for (u64 term = first; term < static_cast<u64>(first) + count; ++term) {
        const float factor = gw::float_from_bits(gw::load_global_cached(table + 2 * term + 1));
        sum.add(factor * of_operation(slots, gw::load_global_cached(table + 2 * term), sample, p));
    }
}

GW_DEVICE float element(const u32* table, const float* slots, const u32* tasks, u64 row, u32 parameter,
                        const GradientSumParams& p) {
    u32 first = parameter, count = 1;
    if (p.by_table != 0) {
        first = gw::load_global_cached(table + 2 * static_cast<u64>(parameter));
        count = gw::load_global_cached(table + 2 * static_cast<u64>(parameter) + 1);
    }
    Sum sum = {};
    if (p.by_task == 0) {
        const u64 begin = row * p.chunk;
        const u64 end = begin + p.chunk < p.samples ? begin + p.chunk : p.samples;
        for (u64 sample = begin; sample < end; ++sample) add_sample(sum, table, slots, first, count, sample, p);
        return sum.value();
    }
    // The same sums as if the task's samples were alone.
    Sum own = {};
    u32 samples = 0;
    for (u64 sample = 0; sample < p.samples; ++sample) {
        if (gw::load_global_cached(tasks + sample) != row) continue;
        add_sample(own, table, slots, first, count, sample, p);
        if (++samples % p.chunk == 0) {
            sum.add(own.value());
            own = {};
        }
    }
    if (samples % p.chunk != 0) sum.add(own.value());
    return sum.value();
}

}  // namespace

GW_KERNEL(64, 8)
statevec_gradient_sum_f32(const u32* table, const float* slots, const u32* tasks, float* out, GradientSumParams p) {
    const u64 elements = static_cast<u64>(p.rows) * p.parameters;
    for (u64 at = blockIdx.x * 64u + threadIdx.x; at < elements; at += gridDim.x * 64u) {
        const u64 row = at / p.parameters;
        const u32 parameter = static_cast<u32>(at % p.parameters);
        gw::store_global(out + row * p.out_step + parameter, element(table, slots, tasks, row, parameter, p));
    }
}
GW_EXPORT(statevec_gradient_sum_f32)

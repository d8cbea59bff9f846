// statevec_gradient_sum_f32: adds up what the adjoint kernel wrote for each differentiated operation: over the operations that
// use a parameter, the blocks of a state, and the samples of a row.
// Shapes    table [parameters] {first, count} and then terms {operation, factor}; slots at operation·slot_step +
//           sample·sample_step + block; out [rows, parameters], rows strided
//           tasks [samples] u32, each sample's row of out, or null
// Mapping   block 64; a thread makes one element of out, in order; row r covers samples r·chunk to (r+1)·chunk, or, where there
//           are tasks, those of task r, chunk by chunk
// Traffic   each used slot once, the table once a row, 4 bytes an element out
// Numerics  sums of 32 are added to each other: the error grows with 32 + count / 32, not with count
// Host      every index in the table is in range; rows · parameters < 2^37
// Twin      Program::collect in src/statevec/program.rs        Source  our own
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;

struct GradientSumParams {
    i64 slot_step, sample_step, out_step;
    u32 samples, parameters, rows, chunk, blocks;
    u32 task_first;
};

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

// Adds one sample's terms.
GW_DEVICE void add_sample(Sum& sum, const u32* table, const float* slots, u32 first, u32 count, i64 sample,
                          const GradientSumParams& p) {
    for (u32 term = first; term < first + count; ++term) {
        const float* from = slots + gw::load_global_cached(table + 2 * static_cast<i64>(term)) * p.slot_step;
        const float factor = gw::float_from_bits(gw::load_global_cached(table + 2 * static_cast<i64>(term) + 1));
        Sum state = {};
        for (u32 block = 0; block < p.blocks; ++block) {
            state.add(gw::load_global_cached(from + sample * p.sample_step + block));
        }
        sum.add(factor * state.value());
    }
}

}  // namespace

GW_KERNEL(64, 8)
statevec_gradient_sum_f32(const u32* table, const float* slots, const u32* tasks, float* out, GradientSumParams p) {
    const i64 index = static_cast<i64>(blockIdx.x) * 64 + threadIdx.x;
    const i64 row = index / p.parameters;
    if (row >= p.rows) return;
    const u32 parameter = static_cast<u32>(index % p.parameters);
    const u32 first = gw::load_global_cached(table + 2 * static_cast<i64>(parameter));
    const u32 count = gw::load_global_cached(table + 2 * static_cast<i64>(parameter) + 1);
    Sum sum = {};
    if (tasks == nullptr) {
        const i64 begin = row * p.chunk;
        const i64 end = begin + p.chunk < p.samples ? begin + p.chunk : p.samples;
        for (i64 sample = begin; sample < end; ++sample) add_sample(sum, table, slots, first, count, sample, p);
    } else {
        // The same sums as if the task's samples were alone.
        Sum own = {};
        u32 samples = 0;
        for (i64 sample = 0; sample < p.samples; ++sample) {
            if (gw::load_global_cached(tasks + p.task_first + sample) != row) continue;
            add_sample(own, table, slots, first, count, sample, p);
            if (++samples % p.chunk == 0) {
                sum.add(own.value());
                own = {};
            }
        }
        if (samples % p.chunk != 0) sum.add(own.value());
    }
    gw::store_global(out + row * p.out_step + parameter, sum.value());
}
GW_EXPORT(statevec_gradient_sum_f32)

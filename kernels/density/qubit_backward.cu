// density_qubit_backward: gradients of whole sequences of ρ(t+1) = S(ρ(t), x(t)).
// Shapes    program, theta, x as qubit_forward.cu; states, grads [batch, steps + 1, 2, 2] c64 contiguous; work [4·operations, batch]
//           f32: the Bloch vector before each operation, then each operation's gradient summed over the steps; dx [batch, steps,
//           inputs] f32 contiguous, zeroed; dinitial [batch, 2, 2] c64
// Mapping   persistent, block 64; a thread owns a sequence and walks it backwards, recomputing each step from its saved state
// Traffic   64 bytes a step, and 32 an operation and step in work
// Numerics  f32
// Host      every index in the program is in range; batch < 2^31
// Twin      src/statevec/density/qubit_run.rs        Source  our own
#include "device.cuh"
#include "density/qubit.cuh"

namespace {

using gw::i64;
using gw::u32;
using gw::u64;

struct BackwardParams {
    u32 program_first, theta_first, x_first, states_first, grads_first, work_first, dx_first, dinitial_first;  // for shaders
    u32 x_low, x_high, step_low, step_high, input_step;                                                         // elements
    u32 batch, steps, operations, inputs;
};

// The gradient by (x, y, z, trace) from that by the entries.
GW_DEVICE float4 load_gradient(const float2* grad) {
    const float2 a = gw::load_global_cached(grad), b = gw::load_global_cached(grad + 1);
    const float2 c = gw::load_global_cached(grad + 2), d = gw::load_global_cached(grad + 3);
    return make_float4(0.5f * (b.x + c.x), 0.5f * (c.y - b.y), 0.5f * (a.x - d.x), 0.5f * (a.x + d.x));
}

}  // namespace

GW_KERNEL(64, 8)
density_qubit_backward(const u32* program, const float* theta, const float* x, const float2* states, const float2* grads,
                       float* work, float* dx, float2* dinitial, BackwardParams p) {
    const i64 x_step = static_cast<i64>(static_cast<u64>(p.x_high) << 32 | p.x_low);
    const i64 time_step = static_cast<i64>(static_cast<u64>(p.step_high) << 32 | p.step_low);
    for (u32 sequence = blockIdx.x * 64u + threadIdx.x; sequence < p.batch; sequence += gridDim.x * 64u) {
        const i64 first = static_cast<i64>(sequence) * (p.steps + 1u) * 4;
        float4 g = load_gradient(grads + first + static_cast<i64>(p.steps) * 4);
        float* own = work + sequence;
        float* slopes = own + static_cast<i64>(3u * p.operations) * p.batch;
        for (u32 op = 0; op < p.operations; ++op) gw::store_global(slopes + static_cast<i64>(op) * p.batch, 0.0f);
        for (u32 step = p.steps; step-- > 0;) {
            const float* at = x + sequence * x_step + step * time_step;
            float4 r = qubit::load_matrix(states + first + static_cast<i64>(step) * 4);
            for (u32 op = 0; op < p.operations; ++op) {
                float* saved = own + static_cast<i64>(3u * op) * p.batch;
                gw::store_global(saved, r.x);
                gw::store_global(saved + p.batch, r.y);
                gw::store_global(saved + 2 * static_cast<i64>(p.batch), r.z);
                r = qubit::apply(program, op, qubit::parameter(program, op, theta, at, p.input_step), r);
            }
            float* step_dx = dx + (static_cast<i64>(sequence) * p.steps + step) * p.inputs;
            for (u32 op = p.operations; op-- > 0;) {
                const float* saved = own + static_cast<i64>(3u * op) * p.batch;
                const float4 before = make_float4(gw::load_global(saved), gw::load_global(saved + p.batch),
                                                  gw::load_global(saved + 2 * static_cast<i64>(p.batch)), r.w);
                float slope = 0.0f;
                g = qubit::pull_back(program, op, qubit::parameter(program, op, theta, at, p.input_step), before, g, &slope);
                const u32 source = gw::load_global_cached(program + op * qubit::WORDS + 1u);
                const float scaled = qubit::number(program, op, 3u) * slope;
                if (source == 1u) {
                    float* sum = slopes + static_cast<i64>(op) * p.batch;
                    gw::store_global(sum, gw::load_global(sum) + scaled);
                }
                if (source == 2u) {
                    float* sum = step_dx + gw::load_global_cached(program + op * qubit::WORDS + 2u);
                    gw::store_global(sum, gw::load_global(sum) + scaled);
                }
            }
            const float4 arriving = load_gradient(grads + first + static_cast<i64>(step) * 4);
            g = make_float4(g.x + arriving.x, g.y + arriving.y, g.z + arriving.z, g.w + arriving.w);
        }
        float2* to = dinitial + static_cast<i64>(sequence) * 4;
        gw::store_global(to, make_float2(g.w + g.z, 0.0f));
        gw::store_global(to + 1, make_float2(g.x, -g.y));
        gw::store_global(to + 2, make_float2(g.x, g.y));
        gw::store_global(to + 3, make_float2(g.w - g.z, 0.0f));
    }
}
GW_EXPORT(density_qubit_backward)

// density_qubit_forward: ρ(t+1) = S(ρ(t), x(t)) of one qubit for whole sequences.
// Shapes    program words (qubit.cuh); theta [thetas] f32; x [batch, steps, inputs] f32 strided; initial [batch|1, 2, 2] c64;
//           out [batch, steps + 1, 2, 2] c64 contiguous
// Mapping   persistent, block 64; a thread owns a sequence, its state in registers
// Traffic   x once, 32 bytes a step;  FLOPs 9 to 21 an operation
// Numerics  Bloch vector and trace in f32
// Bad value a parameter that is NaN, infinite or no probability: NaN from that step on, status word set
// Host      every index in the program is in range; batch < 2^31
// Twin      src/statevec/density/qubit_run.rs        Source  our own
#include "device.cuh"
#include "density/qubit.cuh"

namespace {

using gw::i64;
using gw::u32;
using gw::u64;

struct ForwardParams {
    u32 program_first, theta_first, x_first, initial_first, out_first;  // for shaders
    u32 x_low, x_high, step_low, step_high, input_step;                  // elements
    u32 initial_step;
    u32 batch, steps, operations, has_initial;
};

constexpr u32 STATUS_PARAMETER = 2;

}  // namespace

GW_KERNEL(64, 8)
density_qubit_forward(const u32* program, const float* theta, const float* x, const float2* initial, float2* out,
                      u32* status, ForwardParams p) {
    const i64 x_step = static_cast<i64>(static_cast<u64>(p.x_high) << 32 | p.x_low);
    const i64 time_step = static_cast<i64>(static_cast<u64>(p.step_high) << 32 | p.step_low);
    for (u32 sequence = blockIdx.x * 64u + threadIdx.x; sequence < p.batch; sequence += gridDim.x * 64u) {
        float4 r = make_float4(0.0f, 0.0f, 1.0f, 1.0f);
        if (p.has_initial != 0) r = qubit::load_matrix(initial + static_cast<i64>(sequence) * p.initial_step);
        float2* to = out + static_cast<i64>(sequence) * (p.steps + 1u) * 4;
        for (u32 step = 0;; ++step) {
            gw::store_global(to, make_float2(0.5f * (r.w + r.z), 0.0f * r.w));
            gw::store_global(to + 1, make_float2(0.5f * r.x, -0.5f * r.y));
            gw::store_global(to + 2, make_float2(0.5f * r.x, 0.5f * r.y));
            gw::store_global(to + 3, make_float2(0.5f * (r.w - r.z), 0.0f * r.w));
            to += 4;
            if (step == p.steps) break;
            const float* at = x + sequence * x_step + step * time_step;
            for (u32 op = 0; op < p.operations; ++op) {
                const float value = qubit::parameter(program, op, theta, at, p.input_step);
                if (gw::is_nan(value)) {
                    gw::atomic_or_global(status + STATUS_PARAMETER, 1);
                    r = make_float4(NAN, NAN, NAN, NAN);
                } else {
                    r = qubit::apply(program, op, value, r);
                }
            }
        }
    }
}
GW_EXPORT(density_qubit_forward)

// task_heads_gate_backward_f32: derivative by z of every (sample, head), from δ, the gates and the probabilities.
// Shapes    delta, gates, probabilities, dz [batch, heads] f32, contiguous
// Mapping   persistent, block 128; a thread owns one (sample, head) and sums its sample's heads in ascending order
// Traffic   3·heads reads a pair, from cache
// Numerics  sigmoid δ(1 − g); softmax δ − pΣδ; renormalised top-k δ − gΣδ; straight-through P(δ − pΣδ), P = Σp of the kept heads.
//           No division by g
// Host      batch · heads < 2^31
// Twin      src/task_heads/cpu.rs        Source  arXiv:1308.3432 (straight-through)
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;

struct GateBackwardParams {
    u32 pairs, heads;
    u32 derivative;
    u32 shared_heads;  // the first of each sample have the constant gate 1
};

enum Derivative : u32 { IDENTITY = 0, SIGMOID = 1, PROBABILITIES = 2, GATES = 3, STRAIGHT_THROUGH = 4 };

}  // namespace

GW_KERNEL(128, 1)
task_heads_gate_backward_f32(const float* delta, const float* gates, const float* probabilities, float* dz,
                             GateBackwardParams p) {
    for (i64 pair = static_cast<i64>(blockIdx.x) * 128 + threadIdx.x; pair < p.pairs;
         pair += static_cast<i64>(gridDim.x) * 128) {
        const float own = gw::load_global_cached(delta + pair);
        const float gate = gw::load_global_cached(gates + pair);
        const float probability = gw::load_global_cached(probabilities + pair);
        float result = own;
        if (pair % p.heads < p.shared_heads) {
            result = 0.0f;
        } else if (p.derivative == SIGMOID) {
            result = own * (1.0f - gate);
        } else if (p.derivative != IDENTITY) {
            const i64 first = pair - pair % p.heads + p.shared_heads, end = first + p.heads - p.shared_heads;
            float total = 0.0f, kept = 0.0f;
            for (i64 other = first; other < end; ++other) {
                total += gw::load_global_cached(delta + other);
                if (gw::load_global_cached(gates + other) != 0.0f) kept += gw::load_global_cached(probabilities + other);
            }
            result = own - (p.derivative == GATES ? gate : probability) * total;
            if (p.derivative == STRAIGHT_THROUGH) result *= kept;
        }
        gw::store_global(dz + pair, result);
    }
}
GW_EXPORT(task_heads_gate_backward_f32)

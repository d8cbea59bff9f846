// density_qubit_theta: gradients of the shared parameters, summed over operations and sequences in order.
// Shapes    program words (qubit.cuh); work [4·operations, batch] f32 from qubit_backward.cu; out [thetas] f32
// Mapping   persistent, block 64; a thread owns a parameter
// Traffic   4 bytes an operation and sequence
// Numerics  sums of 64 sequences are added to each other
// Host      every index in the program is in range
// Twin      src/statevec/density/qubit_run.rs        Source  our own
#include "device.cuh"
#include "density/qubit.cuh"

namespace {

using gw::i64;
using gw::u32;

struct ThetaParams {
    u32 program_first, work_first, out_first;  // for shaders
    u32 batch, operations, thetas;
};

}  // namespace

GW_KERNEL(64, 8) density_qubit_theta(const u32* program, const float* work, float* out, ThetaParams p) {
    for (u32 theta = blockIdx.x * 64u + threadIdx.x; theta < p.thetas; theta += gridDim.x * 64u) {
        float total = 0.0f;
        for (u32 op = 0; op < p.operations; ++op) {
            if (gw::load_global_cached(program + op * qubit::WORDS + 1u) != 1u) continue;
            if (gw::load_global_cached(program + op * qubit::WORDS + 2u) != theta) continue;
            const float* from = work + static_cast<i64>(3u * p.operations + op) * p.batch;
            for (u32 first = 0; first < p.batch; first += 64u) {
                float sum = 0.0f;
                for (u32 i = first; i < p.batch && i < first + 64u; ++i) sum += gw::load_global_cached(from + i);
                total += sum;
            }
        }
        gw::store_global(out + theta, total);
    }
}
GW_EXPORT(density_qubit_theta)

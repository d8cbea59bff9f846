// statevec_collapse: projects every trajectory on the outcome of a qubit, in place; a reset then moves it to |0⟩.
// Shapes    states [rows, 2^n] c64 contiguous; decisions [rows, 2] u32 from statevec_measure
// Mapping   persistent, block 256; a thread owns a pair of amplitudes
// Traffic   16 bytes read and 32 written a pair
// Host      nothing: sizes in 64 bits
// Twin      src/statevec/dynamic/rows.rs        Source  our own
#include "device.cuh"

namespace {

using gw::u32;
using gw::u64;

struct CollapseParams {
    u32 states_first, decisions_first;  // for shaders
    u32 rows, qubits, qubit, reset;
};

}  // namespace

GW_KERNEL(256, 8) statevec_collapse(float2* states, const u32* decisions, CollapseParams p) {
    const u64 pairs = static_cast<u64>(p.rows) << (p.qubits - 1u);
    for (u64 at = blockIdx.x * 256u + threadIdx.x; at < pairs; at += gridDim.x * 256u) {
        const u64 row = at >> (p.qubits - 1u);
        const u32 pair = static_cast<u32>(at) & ((1u << (p.qubits - 1u)) - 1u);
        const u32 i0 = pair >> p.qubit << (p.qubit + 1u) | (pair & ((1u << p.qubit) - 1u));
        const u32 outcome = gw::load_global_cached(decisions + 2 * row);
        const float factor = gw::float_from_bits(gw::load_global_cached(decisions + 2 * row + 1));
        float2* state = states + (row << p.qubits);
        const u32 kept = i0 | outcome << p.qubit;
        const u32 target = p.reset != 0 ? i0 : kept;
        const float2 a = gw::load_global(state + kept);
        gw::store_global(state + target, make_float2(a.x * factor, a.y * factor));
        gw::store_global(state + (target ^ 1u << p.qubit), make_float2(0.0f, 0.0f));
    }
}
GW_EXPORT(statevec_collapse)

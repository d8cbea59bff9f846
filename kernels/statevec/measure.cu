// statevec_measure: draws the outcome of one qubit for every trajectory.
// Shapes    stream [4] u32; weights [rows, 2] f32 (|·|² where the qubit is 0, and 1); ids [rows] u64; decisions [rows, 2] u32:
//           outcome, bits of the factor that restores the norm
// Mapping   persistent, block 128; a thread owns a trajectory
// Traffic   24 bytes a row
// Numerics  weights as integers; the outcome is 1 if ⌊w·total / 2^64⌋ is not below that of 0, for the 64-bit word w of block id
//           of the stream at offset + event
// Bad norm  outcome 0, factor NaN, status word set
// Host      rows < 2^31
// Twin      src/statevec/dynamic/rows.rs        Source  our own
#include "device.cuh"
#include "random/philox.cuh"
#include "statevec/mass.cuh"

namespace {

using gw::i64;
using gw::u32;
using gw::u64;

struct MeasureParams {
    u32 stream_first, weights_first, ids_first, decisions_first;  // for shaders
    u32 rows, event;
};

constexpr u32 STATUS_NORM = 4;

GW_DEVICE u64 upper_product(u64 a, u64 b) {
    const u64 a_low = a & 0xffffffffu, a_high = a >> 32, b_low = b & 0xffffffffu, b_high = b >> 32;
    const u64 cross_0 = a_low * b_high, cross_1 = a_high * b_low;
    const u64 middle = (a_low * b_low >> 32) + (cross_0 & 0xffffffffu) + (cross_1 & 0xffffffffu);
    return a_high * b_high + (cross_0 >> 32) + (cross_1 >> 32) + (middle >> 32);
}

}  // namespace

GW_KERNEL(128, 8)
statevec_measure(const u32* stream, const float* weights, const u32* ids, u32* decisions, u32* status, MeasureParams p) {
    philox::Stream named = philox::load_stream(stream);
    named.offset_low += p.event;
    if (named.offset_low < p.event) ++named.offset_high;
    for (u32 row = blockIdx.x * 128u + threadIdx.x; row < p.rows; row += gridDim.x * 128u) {
        const i64 at = 2 * static_cast<i64>(row);
        const float zero = gw::load_global_cached(weights + at), one = gw::load_global_cached(weights + at + 1);
        const u32 exponent = mass::exponent_of(zero + one);
        const u64 below = mass::fixed_point(gw::float_bits(zero), exponent);
        const u64 total = below + mass::fixed_point(gw::float_bits(one), exponent);
        u32 outcome = 0;
        float factor = NAN;
        if (total == 0) {
            gw::atomic_or_global(status + STATUS_NORM, 1);
        } else {
            const u64 id = static_cast<u64>(gw::load_global_cached(ids + at + 1)) << 32 | gw::load_global_cached(ids + at);
            const philox::Block words = philox::block(named, id);
            outcome = upper_product(static_cast<u64>(words.y) << 32 | words.x, total) >= below;
            factor = 1.0f / ::sqrtf(outcome != 0 ? one : zero);
        }
        gw::store_global(decisions + at, outcome);
        gw::store_global(decisions + at + 1, gw::float_bits(factor));
    }
}
GW_EXPORT(statevec_measure)

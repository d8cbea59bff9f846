// One kernel per primitive of device.cuh, on plain buffers: tests/primitives.rs says what each must compute, for the
// emulated twins here and for the instructions wherever a device runs the same kernels.
#include "device.cuh"

namespace {

GW_DEVICE int linear_thread() { return blockIdx.x * blockDim.x + threadIdx.x; }

}  // namespace

// ---------------------------------------------------------------------------------------------------------- indices

struct IndexArgument {
    gw::u64 base;
    gw::u32 step;
};

/// out[i] = base + step · i for the linear index i of the thread in a 3-D grid of 3-D blocks.
GW_KERNEL(128, 1) primitive_indices(gw::u64* out, IndexArgument argument) {
    const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const int i = block * (int)(blockDim.x * blockDim.y * blockDim.z) + thread;
    gw::store_global(out + i, argument.base + (gw::u64)argument.step * i);
}
GW_EXPORT(primitive_indices)

// ---------------------------------------------------------------------------------------------------- global memory

/// Copies one element of each type a thread, through the plain and the read-only path in turn.
GW_KERNEL(32, 1)
primitive_copy(const gw::u8* in1, gw::u8* out1, const gw::u16* in2, gw::u16* out2, const float* in4, float* out4,
               const gw::i32* in4i, gw::i32* out4i, const gw::u64* in8, gw::u64* out8, const double* in8f, double* out8f,
               const float2* in8v, float2* out8v, const float4* in16, float4* out16) {
    const int i = linear_thread();
    gw::store_global(out1 + i, gw::load_global(in1 + i));
    gw::store_global(out2 + i, gw::load_global_cached(in2 + i));
    gw::store_global(out4 + i, gw::load_global(in4 + i));
    gw::store_global(out4i + i, gw::load_global_cached(in4i + i));
    gw::store_global(out8 + i, gw::load_global(in8 + i));
    gw::store_global(out8f + i, gw::load_global_cached(in8f + i));
    gw::store_global(out8v + i, gw::load_global(in8v + i));
    gw::store_global(out16 + i, gw::load_global_cached(in16 + i));
}
GW_EXPORT(primitive_copy)

/// flags[0] |= bit of the thread's block; flags[1] counts threads; old[i] is what thread i found in the counter.
GW_KERNEL(64, 1) primitive_atomics(gw::u32* flags, gw::u32* old) {
    gw::atomic_or_global(flags, 1u << blockIdx.x);
    gw::store_global(old + linear_thread(), gw::atomic_add_global(flags + 1));
}
GW_EXPORT(primitive_atomics)

/// Each block stores its sum; the last to finish, known by the counter, adds the sums in order into *total.
GW_KERNEL(32, 1) primitive_last_block(const float* in, float* sums, gw::u32* counter, float* total) {
    if (threadIdx.x != 0) return;
    float sum = 0.0f;
    for (int i = 0; i < 32; ++i) sum += gw::load_global(in + blockIdx.x * 32 + i);
    gw::store_global(sums + blockIdx.x, sum);
    gw::thread_fence();
    if (gw::atomic_add_global(counter) != gridDim.x - 1) return;
    gw::thread_fence();
    float all = 0.0f;
    for (gw::u32 block = 0; block < gridDim.x; ++block) all += gw::load_global(sums + block);
    gw::store_global(total, all);
}
GW_EXPORT(primitive_last_block)

// ---------------------------------------------------------------------------------------------------- shared memory

/// out[i] = in[n-1-i] through shared memory, one block of 128; out[128] is the base address modulo 1024.
GW_KERNEL(128, 1) primitive_reverse(const float* in, float* out) {
    GW_SHARED(float, shared);
    const int i = threadIdx.x;
    shared[i] = gw::load_global(in + i);
    gw::sync_threads();
    gw::store_global(out + i, shared[127 - i]);
    if (i == 0) gw::store_global(out + 128, (float)(reinterpret_cast<size_t>(shared.data()) % 1024));
}
GW_EXPORT(primitive_reverse)

/// Windows: 32 float4 written by 16-byte stores into the second of two slices, read back as bits after a cast.
GW_KERNEL(32, 1) primitive_windows(const float4* in, gw::u32* out) {
    GW_SHARED(float, shared);
    const gw::Shared<float> second = shared.slice(64).slice(64, 128);
    const int i = threadIdx.x;
    second.store4(4 * i, gw::load_global(in + i));
    gw::sync_threads();
    const float4 neighbour = second.load4(4 * ((i + 1) % 32));
    const gw::Shared<gw::u32> bits = shared.cast<gw::u32>().slice(128, 128);
    gw::store_global(out + 2 * i, bits[4 * i + 2]);
    gw::store_global(out + 2 * i + 1, gw::float_bits(neighbour.x));
}
GW_EXPORT(primitive_windows)

// --------------------------------------------------------------------------------------------------- block and warp

/// Warps 0 and 1 exchange through barrier 1, warps 2 and 3 through barrier 2, out of step: out[i] = in[i ^ 32] + round.
GW_KERNEL(128, 1) primitive_barriers(const gw::u32* in, gw::u32* out, int rounds) {
    GW_SHARED(gw::u32, shared);
    const int i = threadIdx.x;
    const gw::u32 pair = i / 64;
    for (int round = 0; round < rounds * (int)(pair + 1); ++round) {
        shared[i] = gw::load_global(in + i) + round;
        gw::barrier_sync(1 + pair, 64);
        gw::store_global(out + i, shared[i ^ 32]);
        gw::barrier_sync(1 + pair, 64);
    }
}
GW_EXPORT(primitive_barriers)

/// out[i] = in[i ^ 5] through shared memory within a warp; then within half warps that meet on their own.
GW_KERNEL(64, 1) primitive_sync_warp(const gw::u32* in, gw::u32* out) {
    GW_SHARED(gw::u32, shared);
    const int i = threadIdx.x;
    shared[i] = gw::load_global(in + i);
    gw::sync_warp();
    const gw::u32 partner = shared[i ^ 5];
    gw::sync_warp();
    shared[i] = 2 * partner;
    gw::sync_warp(i % 32 < 16 ? 0x0000ffffu : 0xffff0000u);
    gw::store_global(out + i, shared[i ^ 5] / 2 + partner);
}
GW_EXPORT(primitive_sync_warp)

/// The four shuffles of a 4-byte value with one argument: out[kind · 64 + i].
GW_KERNEL(64, 1) primitive_shuffle(const gw::u32* in, gw::u32* out, int argument) {
    const int i = threadIdx.x;
    const gw::u32 value = gw::load_global(in + i);
    gw::store_global(out + i, gw::shuffle_xor(value, argument));
    gw::store_global(out + 64 + i, gw::shuffle(value, argument));
    gw::store_global(out + 128 + i, gw::shuffle_up(value, argument));
    gw::store_global(out + 192 + i, gw::shuffle_down(value, argument));
}
GW_EXPORT(primitive_shuffle)

/// The same lane exchange for every type: f32, f64, u64 and float2.
GW_KERNEL(32, 1)
primitive_shuffle_types(const float* in4, float* out4, const double* in8, double* out8, const gw::u64* in8u,
                        gw::u64* out8u, const float2* in8v, float2* out8v, int argument) {
    const int i = threadIdx.x;
    gw::store_global(out4 + i, gw::shuffle_xor(gw::load_global(in4 + i), argument));
    gw::store_global(out8 + i, gw::shuffle_xor(gw::load_global(in8 + i), argument));
    gw::store_global(out8u + i, gw::shuffle(gw::load_global(in8u + i), i + argument));
    gw::store_global(out8v + i, gw::shuffle_xor(gw::load_global(in8v + i), argument));
}
GW_EXPORT(primitive_shuffle_types)

/// Half warps shuffle and vote on their own: out[2i] from the mirrored lane of the half, out[2i+1] the half's ballot.
GW_KERNEL(64, 1) primitive_masks(const gw::u32* in, gw::u32* out) {
    const int i = threadIdx.x, lane = i % 32;
    const gw::u32 mask = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    const gw::u32 value = gw::load_global(in + i);
    gw::u32 mirrored, votes;
    if (lane < 16) {
        mirrored = gw::shuffle(value, 15 - lane, mask);
        votes = gw::ballot(value % 2 == 1, mask);
    } else {
        votes = gw::ballot(value % 3 == 1, mask);
        mirrored = gw::shuffle(value, 47 - lane, mask);
    }
    gw::store_global(out + 2 * i, mirrored);
    gw::store_global(out + 2 * i + 1, votes);
}
GW_EXPORT(primitive_masks)

/// out[i] = the ballot of bit `bit` of every lane's value.
GW_KERNEL(64, 1) primitive_ballot(const gw::u32* in, gw::u32* out, int bit) {
    const int i = threadIdx.x;
    gw::store_global(out + i, gw::ballot((gw::load_global(in + i) >> bit & 1u) != 0u));
}
GW_EXPORT(primitive_ballot)

// ---------------------------------------------------------------------------------------------- asynchronous copies

/// Copies `count` floats by 16-byte pieces and again by single floats, zeros from there to 4 · 64; the pieces of another
/// thread are read back. out[0..256] from the former, out[256..512] from the latter.
GW_KERNEL(64, 1) primitive_cp_async(const float* in, float* out, int count) {
    GW_SHARED(float, shared);
    const int i = threadIdx.x;
    const gw::Shared<float> wide = shared.slice(0, 256), narrow = shared.slice(256, 256);
    gw::cp_async16(wide.slice(4 * i, 4), in + 4 * i, 4 * i < count);
    for (int part = 0; part < 4; ++part)
        gw::cp_async4(narrow.slice(part * 64 + i, 1), in + part * 64 + i, part * 64 + i < count);
    gw::cp_async_commit();
    gw::cp_async_wait<0>();
    gw::sync_threads();
    const int other = 63 - i;
    for (int part = 0; part < 4; ++part) {
        gw::store_global(out + 4 * other + part, wide[4 * other + part]);
        gw::store_global(out + 256 + part * 64 + other, narrow[part * 64 + other]);
    }
}
GW_EXPORT(primitive_cp_async)

/// A ring of three groups in flight: step s is complete when at most two younger groups are pending.
GW_KERNEL(32, 1) primitive_cp_async_ring(const float* in, float* out, int steps) {
    GW_SHARED(float, shared);
    const int i = threadIdx.x;
    for (int s = 0; s < 2; ++s) {
        gw::cp_async4(shared.slice(s * 32 + i, 1), in + s * 32 + i, s < steps);
        gw::cp_async_commit();
    }
    for (int s = 0; s < steps; ++s) {
        const int next = s + 2;
        if (next < steps) gw::cp_async4(shared.slice(next % 3 * 32 + i, 1), in + next * 32 + i, true);
        gw::cp_async_commit();
        gw::cp_async_wait<2>();
        gw::sync_warp();
        gw::store_global(out + s * 32 + i, shared[s % 3 * 32 + (31 - i)]);
        gw::sync_warp();
    }
    gw::cp_async_wait<0>();
}
GW_EXPORT(primitive_cp_async_ring)

// ------------------------------------------------------------------------------------------------------- arithmetic

/// out = [exp2_approx(x), rcp(x), sin(x), cos(x)] for each x.
GW_KERNEL(256, 1) primitive_unary(const float* in, float4* out, int count) {
    const int i = linear_thread();
    if (i >= count) return;
    const float x = gw::load_global(in + i);
    const gw::SinCos angle = gw::sincos(x);
    gw::store_global(out + i, make_float4(gw::exp2_approx(x), gw::rcp(x), angle.sin, angle.cos));
}
GW_EXPORT(primitive_unary)

/// Of a, b and c: fma(a, b, c) in f32 and, widened, in f64; max_nan_free(a, b).
GW_KERNEL(256, 1)
primitive_ternary(const float* a, const float* b, const float* c, float* fused, double* wide, float* larger, int count) {
    const int i = linear_thread();
    if (i >= count) return;
    const float x = gw::load_global(a + i), y = gw::load_global(b + i), z = gw::load_global(c + i);
    gw::store_global(fused + i, gw::fma(x, y, z));
    gw::store_global(wide + i, gw::fma((double)x, (double)y + 1e-9, (double)z));
    gw::store_global(larger + i, gw::max_nan_free(x, y));
}
GW_EXPORT(primitive_ternary)

/// From bits: bit 0 is_finite, bit 1 is_nan, bit 2 whether the bits survive a round trip, bit 3 whether x is INFINITY.
GW_KERNEL(256, 1) primitive_classify(const gw::u32* in, gw::u32* out, int count) {
    const int i = linear_thread();
    if (i >= count) return;
    const gw::u32 bits = gw::load_global(in + i);
    const float x = gw::float_from_bits(bits);
    gw::store_global(out + i, (gw::u32)gw::is_finite(x) | (gw::u32)gw::is_nan(x) << 1 |
                                  (gw::u32)(gw::float_bits(x) == bits) << 2 | (gw::u32)(x == INFINITY) << 3);
}
GW_EXPORT(primitive_classify)

/// From bits: the values of the low half as binary16 and as bfloat16; then the word, as a float, rounded to either.
GW_KERNEL(256, 1) primitive_half(const gw::u32* in, gw::u32* out, int count) {
    const int i = gw::opaque(linear_thread());
    if (i >= count) return;
    const gw::u32 bits = gw::load_global(in + i);
    const gw::u16 low = static_cast<gw::u16>(bits);
    gw::store_global(out + 4 * i, gw::float_bits(gw::float_from_f16(low)));
    gw::store_global(out + 4 * i + 1, gw::float_bits(gw::float_from_bf16(low)));
    gw::store_global(out + 4 * i + 2, gw::f16_from_float(gw::float_from_bits(bits)));
    gw::store_global(out + 4 * i + 3, gw::bf16_from_float(gw::float_from_bits(bits)));
}
GW_EXPORT(primitive_half)

// ----------------------------------------------------------------------------------------------------- matrix units

/// Four 8 × 8 matrices of u16, row r of matrix m at in[8·rows[8m + r]]; out[lane] as they lie, out[32 + lane] transposed.
GW_KERNEL(32, 1) primitive_ldmatrix(const uint4* in, const gw::u32* rows, uint4* out) {
    GW_SHARED(float, shared);
    const int lane = threadIdx.x;
    const uint4 row = gw::load_global(in + lane);
    shared.store4(4 * lane, make_float4(gw::float_from_bits(row.x), gw::float_from_bits(row.y), gw::float_from_bits(row.z),
                                        gw::float_from_bits(row.w)));
    gw::sync_warp();
    const gw::Shared<gw::u16> own = shared.cast<gw::u16>().slice(8 * (int)gw::load_global(rows + lane));
    gw::u32 x[4], y[4];
    gw::ldmatrix_x4<false>(x, own);
    gw::ldmatrix_x4<true>(y, own);
    gw::store_global(out + lane, make_uint4(x[0], x[1], x[2], x[3]));
    gw::store_global(out + 32 + lane, make_uint4(y[0], y[1], y[2], y[3]));
}
GW_EXPORT(primitive_ldmatrix)

namespace {

/// c [16, 8] += a [16, 16] · b [16, 8], twice: fragments gathered by their definition, and loaded from shared memory.
template <bool BF16>
GW_DEVICE void multiply(gw::Shared<gw::u16> shared, const gw::u16* a, const gw::u16* b, float* c, float* again) {
    const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
    const auto pair = [](gw::u16 low, gw::u16 high) { return (gw::u32)low | (gw::u32)high << 16; };
    gw::u32 x[4], y[2];
    for (int i = 0; i < 4; ++i) {
        const int at = (g + 8 * (i % 2)) * 16 + 2 * t + 8 * (i / 2);
        x[i] = pair(gw::load_global(a + at), gw::load_global(a + at + 1));
    }
    for (int i = 0; i < 2; ++i) {
        const int k = 2 * t + 8 * i;
        y[i] = pair(gw::load_global(b + 8 * k + g), gw::load_global(b + 8 * k + 8 + g));
    }
    float sum[4];
    for (int i = 0; i < 4; ++i) sum[i] = gw::load_global(c + (g + 8 * (i / 2)) * 8 + 2 * t + i % 2);
    gw::mma_m16n8k16<BF16>(sum, x, y[0], y[1]);
    for (int i = 0; i < 4; ++i) gw::store_global(c + (g + 8 * (i / 2)) * 8 + 2 * t + i % 2, sum[i]);

    for (int i = lane; i < 256; i += 32) shared[i] = gw::load_global(a + i);
    for (int i = lane; i < 128; i += 32) shared[256 + i] = gw::load_global(b + i);
    gw::sync_warp();
    gw::u32 z[4];
    gw::ldmatrix_x4<false>(x, shared.slice(16 * (lane % 16) + 8 * (lane / 16)));
    gw::ldmatrix_x4<true>(z, shared.slice(256 + 8 * (lane % 16)));  // matrices 2 and 3 repeat 0 and 1
    for (float& element : sum) element = 0.0f;
    gw::mma_m16n8k16<BF16>(sum, x, z[0], z[1]);
    for (int i = 0; i < 4; ++i) gw::store_global(again + (g + 8 * (i / 2)) * 8 + 2 * t + i % 2, sum[i]);
}

}  // namespace

GW_KERNEL(32, 1) primitive_mma_f16(const gw::u16* a, const gw::u16* b, float* c, float* again) {
    GW_SHARED(gw::u16, shared);
    multiply<false>(shared, a, b, c, again);
}
GW_EXPORT(primitive_mma_f16)

GW_KERNEL(32, 1) primitive_mma_bf16(const gw::u16* a, const gw::u16* b, float* c, float* again) {
    GW_SHARED(gw::u16, shared);
    multiply<true>(shared, a, b, c, again);
}
GW_EXPORT(primitive_mma_bf16)

/// out[2i] = in[2i], in[2i + 1] as one word of binary16, out[2i + 1] of bfloat16.
GW_KERNEL(32, 1) primitive_pack16(const float* in, gw::u32* out, int pairs) {
    for (int i = linear_thread(); i < pairs; i += 32 * gridDim.x) {
        const float low = gw::load_global(in + 2 * i), high = gw::load_global(in + 2 * i + 1);
        gw::store_global(out + 2 * i, gw::pack16<false>(low, high));
        gw::store_global(out + 2 * i + 1, gw::pack16<true>(low, high));
    }
}
GW_EXPORT(primitive_pack16)

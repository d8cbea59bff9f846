// The asynchronous units of device.cuh on plain buffers, for sm_90a: tests/support/asynchronous.rs says what each must compute.
#include "device.cuh"

namespace {

/// One thread makes `count` barriers of `arrivals` each; all of the block see them after.
GW_DEVICE void make_barriers(gw::Shared<gw::u64> barriers, int count, gw::u32 arrivals) {
    if (threadIdx.x == 0) {
        for (int i = 0; i < count; ++i) gw::mbarrier_init(barriers.slice(i, 1), arrivals);
        gw::mbarrier_fence();
    }
    gw::sync_threads();
}

/// Element (row, column) of a tile of 64 columns whose 16-byte chunks are exchanged within each row.
GW_DEVICE int exchanged(int row, int column) { return row * 64 + (column / 8 ^ row % 8) * 8 + column % 8; }

}  // namespace

/// Warp 0 hands `rounds` lines of 32 words to warp 1 through a ring of two; out[32·round + lane] = in[32·round + (31 − lane)].
GW_KERNEL(64, 1) async_ring(const gw::u32* in, gw::u32* out, int rounds) {
    GW_SHARED(gw::u64, shared);
    const gw::Shared<gw::u64> full = shared.slice(0, 2), empty = shared.slice(2, 2);
    const gw::Shared<gw::u32> lines = shared.slice(4).cast<gw::u32>();
    const int lane = threadIdx.x % 32;
    make_barriers(shared, 4, 32);
    for (int round = 0; round < rounds; ++round) {
        const int stage = round % 2, lap = round / 2;
        if (threadIdx.x < 32) {
            if (lap > 0) gw::mbarrier_wait(empty.slice(stage, 1), (lap - 1) % 2);
            lines[32 * stage + lane] = gw::load_global(in + 32 * round + lane);
            gw::mbarrier_arrive(full.slice(stage, 1));
        } else {
            gw::mbarrier_wait(full.slice(stage, 1), lap % 2);
            gw::store_global(out + 32 * round + lane, lines[32 * stage + (31 - lane)]);
            gw::mbarrier_arrive(empty.slice(stage, 1));
        }
    }
}
GW_EXPORT(async_ring)

struct TensorLoadParams {
    gw::TensorMap map;
    gw::i32 from[4];  // column, row, head, batch
    gw::i32 rows;     // of the map's tile
};

/// out [rows, 64]: the tile from `from` on; then the same tile from one row further.
GW_KERNEL(64, 1) async_tensor_load(gw::u16* out, const __grid_constant__ TensorLoadParams params) {
    GW_SHARED(gw::u16, shared);
    const int elements = 64 * params.rows;
    const gw::Shared<gw::u64> barriers = shared.slice(2 * elements).cast<gw::u64>();
    make_barriers(barriers, 2, 1);
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; ++i) {
            const gw::Shared<gw::u64> barrier = barriers.slice(i, 1);
            gw::mbarrier_arrive(barrier, 2 * elements);
            gw::tensor_load(shared.slice(i * elements, elements), params.map, barrier, params.from[0], params.from[1] + i,
                            params.from[2], params.from[3]);
        }
    }
    for (int i = 0; i < 2; ++i) {
        gw::mbarrier_wait(barriers.slice(i, 1), 0);
        for (int at = threadIdx.x; at < elements; at += 64)
            gw::store_global(out + i * elements + at, shared[i * elements + exchanged(at / 64, at % 64)]);
    }
}
GW_EXPORT(async_tensor_load)

namespace {

/// Depth of the products below: two panels of 64.
constexpr int DEPTH = 128;

/// c = a · bᵀ, then c += a · bᵀ with a from registers, then d = a · t: a [64, 128], b [N, 128], t [128, N], sums [64, N].
template <int N, bool BF16>
GW_DEVICE void products(gw::Shared<gw::u16> shared, const gw::u16* a, const gw::u16* b, const gw::u16* t, float* c, float* d) {
    const gw::Shared<gw::u16> a_tile = shared.slice(0, 64 * DEPTH), b_tile = shared.slice(64 * DEPTH, N * DEPTH);
    const gw::Shared<gw::u16> t_tile = shared.slice((64 + N) * DEPTH, N * DEPTH);
    const int thread = threadIdx.x, g = thread % 32 / 4, quad = thread % 4, first = 16 * (thread / 32);
    for (int i = thread; i < 64 * DEPTH; i += 128)
        a_tile[i % DEPTH / 64 * 64 * 64 + exchanged(i / DEPTH, i % 64)] = gw::load_global(a + i);
    for (int i = thread; i < N * DEPTH; i += 128) {
        b_tile[i % DEPTH / 64 * N * 64 + exchanged(i / DEPTH, i % 64)] = gw::load_global(b + i);
        t_tile[i % N / 64 * DEPTH * 64 + exchanged(i / N, i % N % 64)] = gw::load_global(t + i);
    }
    gw::fence_async();
    gw::sync_threads();

    float sums[N / 2], others[N / 2];
    gw::wgmma_fence();
#pragma unroll
    for (int k = 0; k < DEPTH / 16; ++k) {
        const gw::u64 left = gw::matrix_operand(a_tile.slice(k / 4 * 64 * 64 + k % 4 * 16));
        const gw::u64 right = gw::matrix_operand(b_tile.slice(k / 4 * N * 64 + k % 4 * 16));
        gw::wgmma<N, BF16, false>(sums, left, right, k > 0);
    }
    gw::wgmma_commit();
#pragma unroll
    for (int k = 0; k < DEPTH / 16; ++k) {
        const gw::u64 left = gw::matrix_operand(a_tile.slice(k / 4 * 64 * 64 + k % 4 * 16));
        gw::wgmma<N, BF16, true>(others, left, gw::matrix_operand(t_tile.slice(k * 16 * 64), DEPTH * 128), k > 0);
    }
    gw::wgmma_commit();
    gw::wgmma_wait<1>();  // sums are there, others need not be

    gw::u32 fragments[DEPTH / 16][4];
#pragma unroll
    for (int k = 0; k < DEPTH / 16; ++k) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const gw::u16* from = a + (first + g + i % 2 * 8) * DEPTH + 16 * k + 2 * quad + i / 2 * 8;
            fragments[k][i] = gw::load_global(from) | static_cast<gw::u32>(gw::load_global(from + 1)) << 16;
        }
    }
    gw::wgmma_fence();
#pragma unroll
    for (int k = 0; k < DEPTH / 16; ++k)
        gw::wgmma<N, BF16, false>(sums, fragments[k], gw::matrix_operand(b_tile.slice(k / 4 * N * 64 + k % 4 * 16)), true);
    gw::wgmma_commit();
    gw::wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
        const int at = (first + g + i / 2 % 2 * 8) * N + i / 4 * 8 + 2 * quad + i % 2;
        gw::store_global(c + at, sums[i]);
        gw::store_global(d + at, others[i]);
    }
}

}  // namespace

#define ASYNC_PRODUCTS(N, TYPE, BF16)                                                                                     \
    GW_KERNEL(128, 1)                                                                                                     \
    async_products_n##N##_##TYPE(const gw::u16* a, const gw::u16* b, const gw::u16* t, float* c, float* d) {              \
        GW_SHARED(gw::u16, shared);                                                                                       \
        products<N, BF16>(shared, a, b, t, c, d);                                                                         \
    }                                                                                                                     \
    GW_EXPORT(async_products_n##N##_##TYPE)

ASYNC_PRODUCTS(64, f16, false)
ASYNC_PRODUCTS(64, bf16, true)
ASYNC_PRODUCTS(128, f16, false)
ASYNC_PRODUCTS(128, bf16, true)

/// out[i] = 2 · in[i] after the first warpgroup has given registers to the second.
GW_KERNEL(256, 1) async_registers(const float* in, float* out) {
    if (threadIdx.x < 128) {
        gw::registers_down<24>();
    } else {
        gw::registers_up<240>();
    }
    const int i = threadIdx.x;
    gw::store_global(out + i, 2.0f * gw::load_global(in + i));
}
GW_EXPORT(async_registers)

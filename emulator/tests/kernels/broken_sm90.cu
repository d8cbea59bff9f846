// Mistakes with the asynchronous units, one a kernel: tests/asynchronous_faults.rs proves that each is caught.
#include "device.cuh"

struct BrokenLoadParams {
    gw::TensorMap map;
    gw::i32 mistake;
    gw::i32 unused[15];
};

/// Loads a tile of 8 rows. Mistakes: 0 none, 1 no wait, 2 no barrier made, 3 fewer bytes expected, 4 more, 5 a destination off
/// its alignment, 6 the barrier's word overwritten, 7 a wait for the other parity, which is over before the load is.
GW_KERNEL(32, 1) broken_load(gw::u16* out, const __grid_constant__ BrokenLoadParams params) {
    GW_SHARED(gw::u16, shared);
    const gw::Shared<gw::u64> barrier = shared.slice(2 * 512).cast<gw::u64>();
    const int lane = threadIdx.x, mistake = params.mistake;
    if (lane == 0) {
        if (mistake != 2) gw::mbarrier_init(barrier, 1);
        gw::mbarrier_fence();
        if (mistake == 6) barrier[0] = 0;
        gw::mbarrier_arrive(barrier, mistake == 3 ? 512 : mistake == 4 ? 2048 : 1024);
        gw::tensor_load(shared.slice(mistake == 5 ? 64 : 0), params.map, barrier, 0, 0, 0, 0);
    }
    gw::sync_warp();
    if (mistake != 1) gw::mbarrier_wait(barrier, mistake == 7 ? 1 : 0);
    for (int i = lane; i < 512; i += 32) gw::store_global(out + i, shared[i]);
}
GW_EXPORT(broken_load)

/// Arrives once more than the phase has room for.
GW_KERNEL(32, 1) broken_arrivals() {
    GW_SHARED(gw::u64, shared);
    if (threadIdx.x != 0) return;
    gw::mbarrier_init(shared.slice(0, 1), 1);
    gw::mbarrier_arrive(shared.slice(0, 1), 16);
    gw::mbarrier_arrive(shared.slice(0, 1));
}
GW_EXPORT(broken_arrivals)

/// One product of ones, 64 × 16 and 16 × 64: every sum is 16. Mistakes: 0 none, 1 sums read without a wait, 2 no wait at all,
/// 3 shared memory overwritten before the wait, 4 the second warp multiplies other operands, 5 the last warp stays away.
GW_KERNEL(128, 1) broken_product(float* out, int mistake) {
    GW_SHARED(gw::u16, shared);
    const int thread = threadIdx.x;
    for (int i = thread; i < 2 * 64 * 64; i += 128) shared[i] = 0x3c00;
    gw::fence_async();
    gw::sync_threads();
    float sums[32];
    for (float& sum : sums) sum = 0.0f;
    if (mistake == 5 && thread >= 96) return;
    const gw::u64 left = gw::matrix_operand(shared.slice(mistake == 4 && thread / 32 == 1 ? 16 : 0));
    gw::wgmma_fence();
    gw::wgmma<64, false, false>(sums, left, gw::matrix_operand(shared.slice(64 * 64)), true);
    gw::wgmma_commit();
    if (mistake == 1) gw::store_global(out + thread, sums[0]);
    if (mistake == 3) {
        for (int i = thread; i < 64 * 64; i += 128) shared[i] = 0;
        gw::sync_threads();
    }
    if (mistake != 2) gw::wgmma_wait<0>();
    if (mistake != 1) gw::store_global(out + thread, sums[0]);
}
GW_EXPORT(broken_product)

// What the multitask kernels share: how a row is marked, and sums in a fixed order.
#pragma once
#include "device.cuh"

namespace multitask {

using gw::i32;
using gw::i64;
using gw::u32;

// The first `count` words of `rows` hold each row's task, or one of these; the next `count` its label; then one word: how many
// rows have a bad task.
constexpr u32 NO_TASK = 0xffffffffu;   // left out: no task, or its label is to be ignored
constexpr u32 BAD_TASK = 0xfffffffeu;  // NaN, and of no task
constexpr u32 BAD_LABEL = 0xffffffffu; // NaN, in its task

constexpr u32 WARP = 32;

GW_DEVICE float warp_sum(float x) {
    for (int distance = 16; distance > 0; distance /= 2) x += gw::shuffle_xor(x, distance);
    return x;
}

// Sum over a block of `WARPS` warps: within warps, then warps in order. Every thread gets it.
template <u32 WARPS>
GW_DEVICE float block_sum(gw::Shared<float> sums, float x) {
    x = warp_sum(x);
    if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = x;
    gw::sync_threads();
    float total = 0.0f;
    for (u32 warp = 0; warp < WARPS; ++warp) total += sums[warp];
    // The next sum overwrites what slow threads still read.
    gw::sync_threads();
    return total;
}

// Rows of a task: every `tasks`-th from `task` on where each sample is labelled for every task, otherwise any.
struct RowsOfTask {
    u32 first, step;
};

GW_DEVICE RowsOfTask rows_of_task(u32 task, u32 columns) {
    return columns > 1 ? RowsOfTask{task, columns} : RowsOfTask{0, 1};
}

// Monotone in x; −0 equals +0, and every NaN is above +∞.
GW_DEVICE u32 sort_key(float x) {
    const u32 bits = gw::float_bits(x), magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0xffffffffu;
    if (magnitude == 0) return 0x80000000u;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

}  // namespace multitask

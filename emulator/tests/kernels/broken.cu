// Kernels that are wrong on purpose, one mistake each: tests/faults.rs and tests/schedules.rs prove that each is caught.
#include "device.cuh"

// --------------------------------------------------------------------------------------------- caught by wrong values

/// Reads a neighbour's element without waiting for it. `shift` 1 reads the next thread's, −1 the previous one's.
GW_KERNEL(64, 1) broken_missing_barrier(const float* in, float* out, int shift) {
    GW_SHARED(float, shared);
    const int i = threadIdx.x;
    shared[i] = gw::load_global(in + i);
    gw::store_global(out + i, shared[(i + shift) & 63]);
}
GW_EXPORT(broken_missing_barrier)

/// Two rounds through one buffer without a barrier before the second overwrites it: out[i] = in[63-i] + in[127-i].
GW_KERNEL(64, 1) broken_early_reuse(const float* in, float* out) {
    GW_SHARED(float, shared);
    const int i = threadIdx.x;
    float sum = 0.0f;
    for (int round = 0; round < 2; ++round) {
        shared[i] = gw::load_global(in + round * 64 + i);
        gw::sync_threads();
        sum += shared[63 - i];
    }
    gw::store_global(out + i, sum);
}
GW_EXPORT(broken_early_reuse)

/// Starts the next tile's copies into the buffer that other threads still read.
GW_KERNEL(64, 1) broken_early_copy(const float* in, float* out) {
    GW_SHARED(float, shared);
    const int i = threadIdx.x;
    float sum = 0.0f;
    for (int round = 0; round < 2; ++round) {
        gw::cp_async4(shared.slice(i, 1), in + round * 64 + i, true);
        gw::cp_async_commit();
        gw::cp_async_wait<0>();
        gw::sync_threads();
        sum += shared[63 - i];
    }
    gw::store_global(out + i, sum);
}
GW_EXPORT(broken_early_copy)

/// Reads its own copy after the commit but before the wait.
GW_KERNEL(32, 1) broken_read_before_wait(const float* in, float* out) {
    GW_SHARED(float, shared);
    const int i = threadIdx.x;
    shared[i] = 0.0f;
    gw::cp_async4(shared.slice(i, 1), in + i, true);
    gw::cp_async_commit();
    gw::store_global(out + i, shared[i]);
    gw::cp_async_wait<0>();
}
GW_EXPORT(broken_read_before_wait)

/// Starts two groups, waits for all but the youngest and reads both: out[i] from the first, out[32 + i] from the second.
GW_KERNEL(32, 1) broken_wait_for_too_few(const float* in, float* out) {
    GW_SHARED(float, shared);
    const int i = threadIdx.x;
    for (int group = 0; group < 2; ++group) {
        gw::cp_async4(shared.slice(group * 32 + i, 1), in + group * 32 + i, true);
        gw::cp_async_commit();
    }
    gw::cp_async_wait<1>();
    gw::store_global(out + i, shared[i]);
    gw::store_global(out + 32 + i, shared[32 + i]);
    gw::cp_async_wait<0>();
}
GW_EXPORT(broken_wait_for_too_few)

/// Waits for its own copies and reads its neighbour's without a barrier.
GW_KERNEL(64, 1) broken_wait_without_barrier(const float* in, float* out) {
    GW_SHARED(float, shared);
    const int i = threadIdx.x;
    gw::cp_async4(shared.slice(i, 1), in + i, true);
    gw::cp_async_commit();
    gw::cp_async_wait<0>();
    gw::store_global(out + i, shared[63 - i]);
}
GW_EXPORT(broken_wait_without_barrier)

/// Reads shared memory that nothing has written. Block 0 writes it, to show that blocks do not inherit it.
GW_KERNEL(32, 1) broken_stale_shared(float* out) {
    GW_SHARED(float, shared);
    if (blockIdx.x == 0) shared[threadIdx.x] = 1.0f;
    gw::store_global(out + blockIdx.x * 32 + threadIdx.x, shared[threadIdx.x]);
}
GW_EXPORT(broken_stale_shared)

/// Adds up four locals of which only `filled` have a value.
GW_KERNEL(32, 1) broken_uninitialised(float* out, int filled) {
    float parts[4];
    for (int i = 0; i < filled; ++i) parts[i] = 1.0f;
    gw::store_global(out + threadIdx.x, parts[0] + parts[1] + parts[2] + parts[3]);
}
GW_EXPORT(broken_uninitialised)

// ---------------------------------------------------------------------------------------- divergence, caught as faults

/// Half of the block leaves without the barrier that the other half waits at.
GW_KERNEL(64, 1) broken_divergent_barrier(int waiting) {
    if ((int)threadIdx.x < waiting) gw::sync_threads();
}
GW_EXPORT(broken_divergent_barrier)

/// Warp 1 passes one barrier more than warp 0.
GW_KERNEL(64, 1) broken_unequal_barriers() {
    gw::sync_threads();
    if (threadIdx.x >= 32) gw::sync_threads();
}
GW_EXPORT(broken_unequal_barriers)

/// Even lanes wait at the barrier, odd ones in a shuffle.
GW_KERNEL(64, 1) broken_barrier_in_lane_branch(gw::u32* out) {
    if (threadIdx.x % 2 == 0) {
        gw::sync_threads();
    } else {
        gw::store_global(out, gw::shuffle_xor(1u, 1));
    }
}
GW_EXPORT(broken_barrier_in_lane_branch)

/// The warps disagree on how many threads barrier 3 is for.
GW_KERNEL(96, 1) broken_barrier_count() { gw::barrier_sync(3, threadIdx.x < 32 ? 64 : 96); }
GW_EXPORT(broken_barrier_count)

/// Barrier `id` for `threads` threads: numbers that no device accepts.
GW_KERNEL(64, 1) broken_barrier_arguments(int id, int threads) { gw::barrier_sync(id, threads); }
GW_EXPORT(broken_barrier_arguments)

/// Half of each warp arrives at a barrier for 32: enough threads, but not a whole warp.
GW_KERNEL(64, 1) broken_half_warps() {
    if (threadIdx.x % 32 < 16) gw::barrier_sync(1, 32);
}
GW_EXPORT(broken_half_warps)

/// Odd lanes shuffle with the full mask, even ones do not.
GW_KERNEL(32, 1) broken_divergent_shuffle(gw::u32* out) {
    if (threadIdx.x % 2 == 1) gw::store_global(out + threadIdx.x, gw::shuffle_xor(1u, 1));
}
GW_EXPORT(broken_divergent_shuffle)

/// Half of the lanes vote while the others shuffle.
GW_KERNEL(32, 1) broken_mixed_collectives(gw::u32* out) {
    const gw::u32 value = threadIdx.x < 16 ? gw::ballot(true) : gw::shuffle(1u, 0);
    gw::store_global(out + threadIdx.x, value);
}
GW_EXPORT(broken_mixed_collectives)

/// Lanes 0 to 15 shuffle among themselves but ask lane 16.
GW_KERNEL(32, 1) broken_shuffle_source(gw::u32* out) {
    if (threadIdx.x < 16) gw::store_global(out + threadIdx.x, gw::shuffle(1u, 16, 0x0000ffffu));
}
GW_EXPORT(broken_shuffle_source)

/// The mask leaves out the lanes that use it.
GW_KERNEL(32, 1) broken_shuffle_mask(gw::u32* out) {
    gw::store_global(out + threadIdx.x, gw::shuffle(1u, 0, 0x0000ffffu));
}
GW_EXPORT(broken_shuffle_mask)

// ------------------------------------------------------------------------------------------ addresses, caught as faults

/// out[i] = in[i + offset].
GW_KERNEL(32, 1) broken_global_load(const float* in, float* out, gw::i64 offset) {
    const int i = blockIdx.x * 32 + threadIdx.x;
    gw::store_global(out + i, gw::load_global(in + i + offset));
}
GW_EXPORT(broken_global_load)

/// out[i + offset] = 1.
GW_KERNEL(32, 1) broken_global_store(float* out, gw::i64 offset) {
    gw::store_global(out + blockIdx.x * 32 + threadIdx.x + offset, 1.0f);
}
GW_EXPORT(broken_global_store)

/// Counts in out[offset].
GW_KERNEL(32, 1) broken_atomic(gw::u32* out, gw::i64 offset) { gw::atomic_add_global(out + offset); }
GW_EXPORT(broken_atomic)

/// A 16-byte load at in + offset floats.
GW_KERNEL(32, 1) broken_vector_load(const float* in, float* out, int offset) {
    const float4 v = gw::load_global(reinterpret_cast<const float4*>(in + offset));
    gw::store_global(out + threadIdx.x, v.x);
}
GW_EXPORT(broken_vector_load)

/// Copies to shared + to from in + from, floats, 16 bytes at a time, and waits.
GW_KERNEL(32, 1) broken_copy(const float* in, int to, gw::i64 from) {
    GW_SHARED(float, shared);
    if (threadIdx.x == 7) gw::cp_async16(shared.slice(to), in + from, true);
    gw::cp_async_commit();
    gw::cp_async_wait<0>();
}
GW_EXPORT(broken_copy)

/// Element `index` of a window of 32 at offset 32 in shared memory of 96.
GW_KERNEL(32, 1) broken_shared_index(float* out, int index) {
    GW_SHARED(float, shared);
    for (int i = 0; i < 3; ++i) shared[i * 32 + threadIdx.x] = 0.0f;
    gw::sync_threads();
    const gw::Shared<float> window = shared.slice(32, 32);
    if (threadIdx.x == 3) gw::store_global(out, window[index]);
}
GW_EXPORT(broken_shared_index)

/// A window of `count` at `offset` in shared memory of 96 floats, of which one 16-byte piece at `index` is read.
GW_KERNEL(32, 1) broken_shared_window(float* out, int offset, int count, int index) {
    GW_SHARED(float, shared);
    const gw::Shared<float> window = shared.slice(offset, count);
    if (threadIdx.x == 3) gw::store_global(out, window.load4(index).x);
}
GW_EXPORT(broken_shared_window)

/// Leaves with a copy on the way: committed or not.
GW_KERNEL(32, 1) broken_unwaited_copy(const float* in, int commit) {
    GW_SHARED(float, shared);
    gw::cp_async4(shared.slice(threadIdx.x, 1), in + threadIdx.x, true);
    if (commit) gw::cp_async_commit();
}
GW_EXPORT(broken_unwaited_copy)

/// Writes through a raw pointer, unchecked, at byte `offset`: only the guard around the allocation can tell.
GW_KERNEL(32, 1) broken_raw_pointer(gw::u8* out, gw::i64 offset) {
    if (threadIdx.x == 0) out[offset] = 1;
}
GW_EXPORT(broken_raw_pointer)

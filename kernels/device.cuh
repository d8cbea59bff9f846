// device.cuh: the language our CUDA kernels are written in: every hardware primitive beside its emulated twin.
//
// The only file with inline PTX, and the only one that knows the emulator exists. Under NVRTC it needs no CUDA header and
// compiles for sm_80, sm_90a and sm_100; under g++ with GATEWARP_EMULATOR defined the same kernels run on the CPU.
// A twin states what we believe its instruction does; emulator/tests/kernels/primitives.cu tests either side alike.
//
// Kernels reach global memory only through load_global and its kin, and shared memory only through GW_SHARED: on the
// device these are the plain access, in the emulator they are checked and counted.
#pragma once

#ifdef GATEWARP_EMULATOR
#include "emulator.hpp"
#define GW_DEVICE inline __attribute__((always_inline))
#else
#define GW_DEVICE __device__ __forceinline__
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#ifndef NAN
#define NAN __int_as_float(0x7fffffff)
#endif
#endif

// ------------------------------------------------------------------------------------------------- kernel entries

/// Heads a kernel: `GW_KERNEL(128, 2) name(const float* x, int n) { … }`. At most `block_threads` threads a block; the
/// compiler limits registers so that `min_blocks` blocks fit on a multiprocessor.
#ifdef GATEWARP_EMULATOR
#define GW_KERNEL(block_threads, min_blocks) extern "C" void
#else
#define GW_KERNEL(block_threads, min_blocks) extern "C" __global__ void __launch_bounds__(block_threads, min_blocks)
#endif

/// After a kernel: makes it known to the emulator with the sizes of its arguments. Nothing on the device.
#ifdef GATEWARP_EMULATOR
#define GW_EXPORT(name) static ::emulator::Export gw_export_##name(#name, GATEWARP_EMULATOR_SOURCE, name);
#else
#define GW_EXPORT(name)
#endif

namespace gw {

typedef int8_t i8;
typedef int16_t i16;
typedef int32_t i32;
typedef long long i64;
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;

constexpr u32 FULL_WARP = 0xffffffffu;
constexpr float LOG2_E = 1.44269504088896340736f;
constexpr float LN_2 = 0.69314718055994530942f;

// -------------------------------------------------------------------------------------------------- shared memory

/// A typed window of the block's shared memory, passed by value.
///
/// `s[i]` is element i; `s.slice(offset, count)` a window of `count` elements, `s.slice(offset)` the rest; `s.cast<U>()`
/// the same bytes as another type. For 4-byte T, `s.load4(i)` and `s.store4(i, v)` move elements i to i+3 as one float4,
/// at a 16-byte boundary. On the device this is a pointer; in the emulator an index outside the window is a fault.
#ifdef GATEWARP_EMULATOR
using ::emulator::Shared;
#else
template <typename T>
class Shared {
  public:
    GW_DEVICE Shared() : base_(nullptr) {}
    GW_DEVICE explicit Shared(T* base) : base_(base) {}
    GW_DEVICE T& operator[](int index) const { return base_[index]; }
    GW_DEVICE Shared slice(int offset) const { return Shared(base_ + offset); }
    GW_DEVICE Shared slice(int offset, int) const { return Shared(base_ + offset); }
    template <typename U>
    GW_DEVICE Shared<U> cast() const { return Shared<U>(reinterpret_cast<U*>(base_)); }
    GW_DEVICE float4 load4(int index) const { return *reinterpret_cast<const float4*>(base_ + index); }
    GW_DEVICE void store4(int index, float4 value) const { *reinterpret_cast<float4*>(base_ + index) = value; }
    GW_DEVICE T* data() const { return base_; }

  private:
    T* base_;
};
#endif

}  // namespace gw

/// Inside a kernel: `GW_SHARED(float, name);` names the block's dynamic shared memory, 1024-byte aligned, as Shared<T>.
#ifdef GATEWARP_EMULATOR
#define GW_SHARED(T, name) const ::gw::Shared<T> name = ::emulator::dynamic_shared<T>()
#else
#define GW_SHARED(T, name)                                                \
    extern __shared__ __align__(1024) unsigned char gw_dynamic_shared[]; \
    const ::gw::Shared<T> name(reinterpret_cast<T*>(gw_dynamic_shared))
#endif

namespace gw {

// -------------------------------------------------------------------------------------------------- global memory

/// Loads one element: a number of 1, 2, 4 or 8 bytes, or a vector (float2, float4, …) at its natural alignment.
template <typename T>
GW_DEVICE T load_global(const T* pointer) {
#ifdef GATEWARP_EMULATOR
    return ::emulator::load_global(pointer);
#else
    return *pointer;
#endif
}

/// The same through the read-only cache (ld.global.nc): for memory that no thread of this launch writes.
template <typename T>
GW_DEVICE T load_global_cached(const T* pointer) {
#ifdef GATEWARP_EMULATOR
    return ::emulator::load_global(pointer);
#else
    return __ldg(pointer);
#endif
}

template <typename T>
struct Identity {
    typedef T type;
};

/// Stores one element. The value converts to the pointer's type, as in an assignment.
template <typename T>
GW_DEVICE void store_global(T* pointer, typename Identity<T>::type value) {
#ifdef GATEWARP_EMULATOR
    ::emulator::store_global(pointer, value);
#else
    *pointer = value;
#endif
}

/// Sets bits in a word of global memory and returns what it held before. For status flags: the order does not matter.
GW_DEVICE u32 atomic_or_global(u32* pointer, u32 bits) {
#ifdef GATEWARP_EMULATOR
    return __atomic_fetch_or(::emulator::atomic_target(pointer), bits, __ATOMIC_RELAXED);
#else
    return atomicOr(pointer, bits);
#endif
}

/// Adds to a counter in global memory and returns what it held before.
GW_DEVICE u32 atomic_add_global(u32* pointer, u32 amount = 1) {
#ifdef GATEWARP_EMULATOR
    return __atomic_fetch_add(::emulator::atomic_target(pointer), amount, __ATOMIC_RELAXED);
#else
    return atomicAdd(pointer, amount);
#endif
}

/// Makes this thread's earlier writes visible to the whole device before its later ones.
GW_DEVICE void thread_fence() {
#ifdef GATEWARP_EMULATOR
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#else
    __threadfence();
#endif
}

// ------------------------------------------------------------------------------------------------- block and warp

/// Waits for every thread of the block; shared memory written before is visible after.
GW_DEVICE void sync_threads() {
#ifdef GATEWARP_EMULATOR
    ::emulator::barrier(0, ::emulator::block_threads());
#else
    __syncthreads();
#endif
}

/// Waits until `threads` threads (whole warps) have arrived at barrier `id`, 1 to 15; 0 is sync_threads.
GW_DEVICE void barrier_sync(u32 id, u32 threads) {
#ifdef GATEWARP_EMULATOR
    ::emulator::barrier(id, threads);
#else
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

/// Waits for the lanes in `mask`; memory written before is visible to them after.
GW_DEVICE void sync_warp(u32 mask = FULL_WARP) {
#ifdef GATEWARP_EMULATOR
    ::emulator::sync_warp(mask);
#else
    __syncwarp(mask);
#endif
}

// Shuffles. Every lane in `mask` must call; the lane read from must be among them. T is a number of 4 or 8 bytes, or
// float2. A shift that leaves the warp returns the lane's own value.

#ifdef GATEWARP_EMULATOR
#define GW_SHUFFLE(name, kind, intrinsic, argument_type)                                      \
    template <typename T>                                                                     \
    GW_DEVICE T name(T value, argument_type argument, u32 mask = FULL_WARP) {                 \
        return ::emulator::shuffle(::emulator::Collective::kind, value, static_cast<u32>(argument), mask); \
    }
#else
#define GW_SHUFFLE(name, kind, intrinsic, argument_type)                                      \
    template <typename T>                                                                     \
    GW_DEVICE T name(T value, argument_type argument, u32 mask = FULL_WARP) {                 \
        return intrinsic(mask, value, argument);                                              \
    }                                                                                         \
    GW_DEVICE float2 name(float2 value, argument_type argument, u32 mask = FULL_WARP) {       \
        return make_float2(intrinsic(mask, value.x, argument), intrinsic(mask, value.y, argument)); \
    }
#endif
/// The value of lane `lane ^ argument`.
GW_SHUFFLE(shuffle_xor, ShuffleXor, __shfl_xor_sync, int)
/// The value of lane `argument` mod 32.
GW_SHUFFLE(shuffle, Shuffle, __shfl_sync, int)
/// The value of lane `lane - argument`.
GW_SHUFFLE(shuffle_up, ShuffleUp, __shfl_up_sync, u32)
/// The value of lane `lane + argument`.
GW_SHUFFLE(shuffle_down, ShuffleDown, __shfl_down_sync, u32)
#undef GW_SHUFFLE

/// One bit a lane: whether its predicate holds. Lanes outside `mask` give 0.
GW_DEVICE u32 ballot(bool predicate, u32 mask = FULL_WARP) {
#ifdef GATEWARP_EMULATOR
    return ::emulator::ballot(predicate, mask);
#else
    return __ballot_sync(mask, predicate);
#endif
}

// -------------------------------------------------------------------------------------------- asynchronous copies

/// Starts copying 16 bytes from global memory to the start of `destination`, both 16-byte aligned, bypassing L1. If
/// `valid` is false, zeros are written and `source` is not read.
template <typename T>
GW_DEVICE void cp_async16(Shared<T> destination, const T* source, bool valid) {
#ifdef GATEWARP_EMULATOR
    ::emulator::cp_async(destination.template vector_at<float4>(0), valid ? source : nullptr, 16);
#else
    const u32 address = static_cast<u32>(__cvta_generic_to_shared(destination.data()));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(source), "r"(valid ? 16 : 0)
                 : "memory");
#endif
}

/// The same for 4 bytes, 4-byte aligned: for rows whose stride is not a multiple of 16 bytes.
template <typename T>
GW_DEVICE void cp_async4(Shared<T> destination, const T* source, bool valid) {
#ifdef GATEWARP_EMULATOR
    ::emulator::cp_async(destination.template vector_at<u32>(0), valid ? source : nullptr, 4);
#else
    const u32 address = static_cast<u32>(__cvta_generic_to_shared(destination.data()));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(source), "r"(valid ? 4 : 0)
                 : "memory");
#endif
}

/// Closes the group of the copies that this thread has started since the last commit. A group may be empty.
GW_DEVICE void cp_async_commit() {
#ifdef GATEWARP_EMULATOR
    ::emulator::cp_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits until at most `PENDING` of this thread's youngest groups are still under way. Other threads see the data only
/// after a barrier.
template <int PENDING>
GW_DEVICE void cp_async_wait() {
#ifdef GATEWARP_EMULATOR
    ::emulator::cp_async_wait(PENDING);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// ------------------------------------------------------------------------------------------------------ arithmetic

GW_DEVICE u32 float_bits(float x) {
#ifdef GATEWARP_EMULATOR
    u32 bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
#else
    return __float_as_uint(x);
#endif
}

GW_DEVICE float float_from_bits(u32 bits) {
#ifdef GATEWARP_EMULATOR
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
#else
    return __uint_as_float(bits);
#endif
}

GW_DEVICE u64 double_bits(double x) {
#ifdef GATEWARP_EMULATOR
    u64 bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
#else
    return static_cast<u64>(__double_as_longlong(x));
#endif
}

// 16-bit floats as their bits. Rounding to nearest, ties to even; a value beyond the largest becomes infinite, NaN becomes
// 0x7fff.

/// The value of a binary16.
GW_DEVICE float float_from_f16(u16 bits) {
#ifdef GATEWARP_EMULATOR
    const u32 sign = static_cast<u32>(bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u) return float_from_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    // As the significand of a float whose exponent is off by 112: the product is exact, subnormals included.
    const float scaled = float_from_bits(magnitude << 13) * 5.192296858534828e33f;  // 2^112
    return float_from_bits(sign | float_bits(scaled));
#else
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
#endif
}

GW_DEVICE u16 f16_from_float(float x) {
#ifdef GATEWARP_EMULATOR
    const u32 bits = float_bits(x), magnitude = bits & 0x7fffffffu;
    const u16 sign = static_cast<u16>(bits >> 16 & 0x8000u);
    if (magnitude > 0x7f800000u) return 0x7fff;
    if (magnitude >= 0x477ff000u) return sign | 0x7c00;  // 65520 and up
    if (magnitude < 0x38800000u) {                      // below 2^-14: in units of 2^-24, the last bit of a subnormal
        const float shifted = float_from_bits(magnitude) + 0.5f;  // 0.5 has its last bit at 2^-24
        return sign | static_cast<u16>(float_bits(shifted) - 0x3f000000u);
    }
    const u32 rounded = magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u);
    return sign | static_cast<u16>(rounded >> 13);
#else
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
#endif
}

/// The value of a bfloat16: the upper half of a float.
GW_DEVICE float float_from_bf16(u16 bits) { return float_from_bits(static_cast<u32>(bits) << 16); }

GW_DEVICE u16 bf16_from_float(float x) {
    const u32 bits = float_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return static_cast<u16>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/// Two floats as 16-bit ones (bfloat16, or binary16) in one word, `low` in the lower half; rounded as above.
template <bool BF16>
GW_DEVICE u32 pack16(float low, float high) {
#ifdef GATEWARP_EMULATOR
    if (BF16) return static_cast<u32>(bf16_from_float(high)) << 16 | bf16_from_float(low);
    return static_cast<u32>(f16_from_float(high)) << 16 | f16_from_float(low);
#else
    u32 pair;
    if constexpr (BF16) {
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    } else {
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    }
    return pair;
#endif
}

/// The same number, of which the compiler knows nothing: what is computed from it is not computed ahead of a loop and kept,
/// where registers are scarcer than multiplications.
GW_DEVICE int opaque(int x) {
#ifndef GATEWARP_EMULATOR
    asm volatile("" : "+r"(x));
#endif
    return x;
}

/// Neither infinite nor NaN; by bits, so that no compiler assumption about NaN can remove it.
GW_DEVICE bool is_finite(float x) { return (float_bits(x) & 0x7f800000u) != 0x7f800000u; }
GW_DEVICE bool is_nan(float x) { return (float_bits(x) & 0x7fffffffu) > 0x7f800000u; }

/// a · b + c with one rounding.
GW_DEVICE float fma(float a, float b, float c) { return ::fmaf(a, b, c); }
GW_DEVICE double fma(double a, double b, double c) { return ::fma(a, b, c); }

/// 1 / x, correctly rounded, subnormals kept: the same bits on every backend.
GW_DEVICE float rcp(float x) {
#ifdef GATEWARP_EMULATOR
    return 1.0f / x;
#else
    return __frcp_rn(x);
#endif
}

/// 2^x to 2 ulp; subnormal inputs and results become 0. exp2_approx(-INFINITY) is 0.
GW_DEVICE float exp2_approx(float x) {
#ifdef GATEWARP_EMULATOR
    const float y = ::exp2f(x);
    return y < 1.17549435e-38f ? 0.0f : y;  // a NaN passes: the comparison is false
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

/// The larger operand; a NaN operand gives the other one, so NaN comes out only if both are. +0 counts above -0.
GW_DEVICE float max_nan_free(float a, float b) {
#ifdef GATEWARP_EMULATOR
    if (is_nan(a)) return b;
    if (is_nan(b)) return a;
    if (a == b) return float_bits(a) >> 31 ? b : a;
    return a > b ? a : b;
#else
    float y;
    asm("max.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
#endif
}

// ---------------------------------------------------------------------------------------------------- matrix units
// Warp collectives of all 32 lanes, g = lane / 4, t = lane % 4; a word holds two adjacent 16-bit elements, the first low.

/// Loads four 8 × 8 matrices of 16-bit elements. Lane 8m + r gives row r of matrix m: 8 elements at a 16-byte boundary. It gets
/// of each matrix elements (g, 2t) and (g, 2t + 1); with TRANSPOSED (2t, g) and (2t + 1, g).
template <bool TRANSPOSED>
GW_DEVICE void ldmatrix_x4(u32 (&out)[4], Shared<u16> row) {
#ifdef GATEWARP_EMULATOR
    ::emulator::ldmatrix_x4(out, row.template vector_at<float4>(0), TRANSPOSED);
#else
    const u32 address = static_cast<u32>(__cvta_generic_to_shared(row.data()));
    if constexpr (TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(address) : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(address) : "memory");
    }
#endif
}

/// c += a · b, of 16 × 16 and 16 × 8 elements of bfloat16 or binary16, summed in f32. A lane holds
///   a  (g, 2t..), (g + 8, 2t..), (g, 2t + 8..), (g + 8, 2t + 8..)     b  (2t.., g), (2t + 8.., g), two rows of column g a word
///   c  (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
template <bool BF16>
GW_DEVICE void mma_m16n8k16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#ifdef GATEWARP_EMULATOR
    const u32 words[6] = {a[0], a[1], a[2], a[3], b0, b1};
    float terms[12];
    for (int i = 0; i < 12; ++i) {
        const u16 bits = static_cast<u16>(words[i / 2] >> 16 * (i % 2));
        terms[i] = BF16 ? float_from_bf16(bits) : float_from_f16(bits);
    }
    ::emulator::mma_m16n8k16(c, terms);
#else
#define GW_MMA(type)                                                                                                        \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, " \
                 "{%0, %1, %2, %3};"                                                                                        \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                           \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
    if constexpr (BF16) {
        GW_MMA("bf16");
    } else {
        GW_MMA("f16");
    }
#undef GW_MMA
#endif
}

// ------------------------------------------------------------------------ asynchronous units (sm_90a)
// Barriers that count bytes, loads of whole tiles, products by a warpgroup: four warps from a multiple of 128 threads on.

#ifdef GATEWARP_EMULATOR
#define GW_PTX(twin, ...) twin
using ::emulator::TensorMap;
#else
#define GW_PTX(twin, ...) asm volatile(__VA_ARGS__)
/// A tensor of 16-bit elements and the tile that a load brings of it, as the host encodes it. A kernel takes it in a
/// __grid_constant__ structure.
struct alignas(64) TensorMap {
    u64 opaque[16];
};
template <typename T>
GW_DEVICE u32 shared_address(Shared<T> window) { return static_cast<u32>(__cvta_generic_to_shared(window.data())); }
#endif

/// Makes a barrier of the word at `b`: a phase ends when `count` arrivals and all bytes that they expect are in. The first has
/// parity 0. One thread; then mbarrier_fence by it, then a barrier of all that use it.
GW_DEVICE void mbarrier_init(Shared<u64> b, u32 count) {
    GW_PTX(::emulator::mbarrier_init(&b[0], count), "mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count) : "memory");
}
GW_DEVICE void mbarrier_fence() { GW_PTX((void)0, "fence.mbarrier_init.release.cluster;" ::: "memory"); }

/// Arrives, and with `bytes` lets the phase wait for as many bytes of tensor_load.
GW_DEVICE void mbarrier_arrive(Shared<u64> b) {
    GW_PTX(::emulator::mbarrier_arrive(&b[0], 0), "mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
GW_DEVICE void mbarrier_arrive(Shared<u64> b, u32 bytes) {
    GW_PTX(::emulator::mbarrier_arrive(&b[0], bytes), "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}

/// Waits until the phase of this parity has ended.
GW_DEVICE void mbarrier_wait(Shared<u64> b, u32 parity) {
    GW_PTX(::emulator::mbarrier_wait(&b[0], parity),
           "{\n.reg .pred done;\nwait_%=:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra wait_%=;\n}"
           ::"r"(shared_address(b)), "r"(parity) : "memory");
}

/// Starts the load of a tile of `map` from (column, row, head, batch) on; its bytes arrive at `b`. One thread. Rows of 128 bytes
/// lie one after the other from `to` (1024-byte aligned) on, 16-byte chunk c of row r at c ^ r % 8; outside the tensor are zeros.
GW_DEVICE void tensor_load(Shared<u16> to, const TensorMap& map, Shared<u64> b, int column, int row, int head, int batch) {
    GW_PTX(::emulator::tensor_load(to.data(), to.count(), map, &b[0], column, row, head, batch),
           "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
           ::"r"(shared_address(to)), "l"(&map), "r"(shared_address(b)), "r"(column), "r"(row), "r"(head), "r"(batch) : "memory");
}

/// Makes this thread's writes to shared memory visible to products and loads that start after a barrier.
GW_DEVICE void fence_async() { GW_PTX((void)0, "fence.proxy.async.shared::cta;" ::: "memory"); }

/// Takes, or gives back, registers: every thread of the warpgroup has `COUNT` then, 24 to 240 in eights.
template <int COUNT>
GW_DEVICE void registers_up() { GW_PTX((void)0, "setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT)); }
template <int COUNT>
GW_DEVICE void registers_down() { GW_PTX((void)0, "setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT)); }

/// The operand of wgmma that begins at `from`, in rows of 128 bytes as tensor_load leaves them. Rows along k (16 elements of a
/// row, 32 bytes on for the next): eight rows are 1024 bytes from the next eight. Transposed (k runs over rows, 2048 bytes on
/// for the next): 64 columns are `panel` bytes from the next 64.
GW_DEVICE u64 matrix_operand(Shared<u16> from, u32 panel = 0) {
#ifdef GATEWARP_EMULATOR
    const u32 address = ::emulator::shared_offset(from.data());
#else
    const u32 address = shared_address(from);
#endif
    return static_cast<u64>(address >> 4 & 0x3fffu) | static_cast<u64>(panel >> 4) << 16 | 64ull << 32 | 1ull << 62;
}

/// Before the first product after registers of sums, or of a, were written; after a group's last; until PENDING groups are left.
GW_DEVICE void wgmma_fence() { GW_PTX((void)0, "wgmma.fence.sync.aligned;" ::: "memory"); }
GW_DEVICE void wgmma_commit() { GW_PTX(::emulator::wgmma_commit(), "wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING>
GW_DEVICE void wgmma_wait() { GW_PTX(::emulator::wgmma_wait(PENDING), "wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory"); }

#define GW_EIGHT(i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), "+f"(c[i + 7])
#define GW_32() GW_EIGHT(0), GW_EIGHT(8), GW_EIGHT(16), GW_EIGHT(24)
#define GW_64() GW_32(), GW_EIGHT(32), GW_EIGHT(40), GW_EIGHT(48), GW_EIGHT(56)
#define GW_TO_31 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define GW_TO_63 GW_TO_31 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define GW_WGMMA(columns, type, sums, names, a, adds, rest, ...)                                                                        \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " adds ", 0;\nwgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type " {" \
                 names "}, " a ", p, 1, 1, " rest ";\n}" : sums() : __VA_ARGS__, "r"(static_cast<u32>(adds_up)), "n"(TRANSPOSED))
#define GW_BY_TYPE(columns, ...) \
    if constexpr (BF16) { GW_WGMMA(columns, "bf16", __VA_ARGS__); } else { GW_WGMMA(columns, "f16", __VA_ARGS__); }

/// Starts c = a · b, or c += a · b if `adds_up`, of 64 × 16 and 16 × N 16-bit elements: operands of matrix_operand, b with N rows
/// along k, or with 16 rows of N elements if TRANSPOSED. c may not be touched until a wait. Element i of thread 32·w + 4·g + t
/// is in row 16w + g + 8·(i / 2 % 2), column 8·(i / 4) + 2t + i % 2.
template <int N, bool BF16, bool TRANSPOSED>
GW_DEVICE void wgmma(float (&c)[N / 2], u64 a, u64 b, bool adds_up) {
    static_assert(N == 64 || N == 128, "other widths have no instruction here");
#ifdef GATEWARP_EMULATOR
    ::emulator::wgmma(c, N, BF16, TRANSPOSED, &a, nullptr, b, adds_up);
#else
    if constexpr (N == 64) {
        GW_BY_TYPE("64", GW_32, GW_TO_31, "%32, %33", "%34", "0, %35", "l"(a), "l"(b))
    } else {
        GW_BY_TYPE("128", GW_64, GW_TO_63, "%64, %65", "%66", "0, %67", "l"(a), "l"(b))
    }
#endif
}

/// The same with a in registers, as mma_m16n8k16 has it: warp w holds rows 16w to 16w + 15. They may not be touched either.
template <int N, bool BF16, bool TRANSPOSED>
GW_DEVICE void wgmma(float (&c)[N / 2], const u32 (&a)[4], u64 b, bool adds_up) {
    static_assert(N == 64 || N == 128, "other widths have no instruction here");
#ifdef GATEWARP_EMULATOR
    ::emulator::wgmma(c, N, BF16, TRANSPOSED, nullptr, a, b, adds_up);
#else
    if constexpr (N == 64) {
        GW_BY_TYPE("64", GW_32, GW_TO_31, "{%32, %33, %34, %35}, %36", "%37", "%38", "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
    } else {
        GW_BY_TYPE("128", GW_64, GW_TO_63, "{%64, %65, %66, %67}, %68", "%69", "%70", "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
    }
#endif
}
}  // namespace gw

#include "trigonometry.cuh"

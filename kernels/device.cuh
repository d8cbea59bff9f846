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

// --------------------------------------------------------------------------------------------------- trigonometry
// One source for both sides, built from fma alone, so that device and emulator agree to the bit.

struct SinCos {
    float sin, cos;
};

namespace trigonometry {

/// x = quadrant · π/2 + remainder, |remainder| ≤ π/4 up to rounding.
struct Reduced {
    float remainder;
    u32 quadrant;
};

/// Cody–Waite, for |x| ≤ 2^17: π/2 in three floats. The first step is exact, because x and q·PI_2_HIGH are multiples of
/// 2^-24 closer than 1; each later one rounds its result once.
GW_DEVICE Reduced reduce_moderate(float x) {
    constexpr float TWO_OVER_PI = 0.63661977f;
    constexpr float PI_2_HIGH = 1.5707963705062866f;
    constexpr float PI_2_MIDDLE = -4.371138828673793e-08f;
    constexpr float PI_2_LOW = -1.7151245100058819e-15f;
    const float q = ::rintf(x * TWO_OVER_PI);
    float r = gw::fma(q, -PI_2_HIGH, x);
    r = gw::fma(q, -PI_2_MIDDLE, r);
    r = gw::fma(q, -PI_2_LOW, r);
    return {r, static_cast<u32>(static_cast<i32>(q))};
}

/// Payne–Hanek, for finite |x| > 2^17: multiplies the integer mantissa by the 96 bits of 2/π that matter at x's exponent;
/// all higher ones contribute multiples of 4 quadrants.
GW_DEVICE Reduced reduce_huge(float x) {
    const u32 bits = float_bits(x);
    const u32 mantissa = ((bits & 0x007fffffu) | 0x00800000u) << 8;  // |x| = mantissa · 2^(exponent - 158)
    // Where to read in the digits below: 18 at 2^17, 128 at the largest exponent.
    const u32 position = ((bits >> 23) & 0xffu) - 158u + 32u;
    const u32 shift = position % 32u;
    // The binary digits of 2/π after 32 zeros, 32 a word. A switch, not a table: a table would live in slow local memory.
    u32 w0, w1, w2, w3;
    switch (position / 32u) {
        case 0u: w0 = 0x00000000u; w1 = 0xa2f9836eu; w2 = 0x4e441529u; w3 = 0xfc2757d1u; break;
        case 1u: w0 = 0xa2f9836eu; w1 = 0x4e441529u; w2 = 0xfc2757d1u; w3 = 0xf534ddc0u; break;
        case 2u: w0 = 0x4e441529u; w1 = 0xfc2757d1u; w2 = 0xf534ddc0u; w3 = 0xdb629599u; break;
        case 3u: w0 = 0xfc2757d1u; w1 = 0xf534ddc0u; w2 = 0xdb629599u; w3 = 0x3c439041u; break;
        default: w0 = 0xf534ddc0u; w1 = 0xdb629599u; w2 = 0x3c439041u; w3 = 0xfe5163abu; break;
    }
    if (shift != 0u) {
        w0 = (w0 << shift) | (w1 >> (32u - shift));
        w1 = (w1 << shift) | (w2 >> (32u - shift));
        w2 = (w2 << shift) | (w3 >> (32u - shift));
    }
    const u64 low = static_cast<u64>(mantissa) * w2;
    const u64 middle = static_cast<u64>(mantissa) * w1 + (low >> 32);
    const u64 high = static_cast<u64>(mantissa) * w0 + (middle >> 32);
    u32 quadrant = static_cast<u32>(high >> 32);
    const u64 fraction = (high << 32) | (middle & 0xffffffffu);
    // As a signed number the fraction lies in [-1/2, 1/2): the nearest quadrant, as in reduce_moderate.
    quadrant += static_cast<u32>(fraction >> 63);
    constexpr double PI_2_SCALED = 1.5707963267948966 * 5.421010862427522e-20;  // π/2 · 2^-64
    const float r = static_cast<float>(static_cast<double>(static_cast<i64>(fraction)) * PI_2_SCALED);
    return bits >> 31 ? Reduced{-r, 0u - quadrant} : Reduced{r, quadrant};
}

}  // namespace trigonometry

/// Sine and cosine of x radians, within 2 ulp for every finite x; NaN for an infinite or NaN x. sin(-0) is +0.
///
/// Minimax polynomials on |r| ≤ π/4 (Remez, relative error 2^-27 and 2^-31); the device's own fast sine is off by 2^-21
/// absolute, which a circuit of many rotations would accumulate.
GW_DEVICE SinCos sincos(float x) {
    const u32 magnitude = float_bits(x) & 0x7fffffffu;
    if (magnitude >= 0x7f800000u) return {float_from_bits(0x7fc00000u), float_from_bits(0x7fc00000u)};
    const trigonometry::Reduced reduced =
        magnitude <= 0x48000000u ? trigonometry::reduce_moderate(x) : trigonometry::reduce_huge(x);
    const float r = reduced.remainder;
    const float t = r * r;
    float s = gw::fma(t, -0.000195019533081f, 0.00833208618373f);
    s = gw::fma(t, s, -0.166666544577f);
    s = gw::fma(r * t, s, r);
    float c = gw::fma(t, 2.44617940875e-05f, -0.00138876392938f);
    c = gw::fma(t, c, 0.041666654428f);
    c = gw::fma(t * t, c, gw::fma(t, -0.5f, 1.0f));
    const bool swapped = (reduced.quadrant & 1u) != 0u;
    const float sine = swapped ? c : s;
    const float cosine = swapped ? s : c;
    return {(reduced.quadrant & 2u) != 0u ? -sine : sine, ((reduced.quadrant + 1u) & 2u) != 0u ? -cosine : cosine};
}

}  // namespace gw

// cuda_dialect.hpp: the words of CUDA C++ that kernels use and g++ lacks: qualifiers, vector types, thread indices.
#pragma once

#include <cmath>

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

#define threadIdx (::emulator::self()->thread_index)
#define blockIdx (::emulator::self()->block->block_index)
#define blockDim (::emulator::self()->block->block_size)
#define gridDim (::emulator::self()->block->grid_size)
constexpr int warpSize = 32;

// Alignments are the device's: they decide which accesses are one instruction there and a fault when misplaced.
#define EMULATOR_VECTOR_TYPES(scalar, name, align1)                                                           \
    struct alignas(2 * align1) name##2 {                                                                      \
        scalar x, y;                                                                                          \
    };                                                                                                        \
    struct name##3 {                                                                                          \
        scalar x, y, z;                                                                                       \
    };                                                                                                        \
    struct alignas(4 * align1 > 16 ? 16 : 4 * align1) name##4 {                                               \
        scalar x, y, z, w;                                                                                    \
    };                                                                                                        \
    inline name##2 make_##name##2(scalar x, scalar y) { return {x, y}; }                                      \
    inline name##3 make_##name##3(scalar x, scalar y, scalar z) { return {x, y, z}; }                         \
    inline name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }

EMULATOR_VECTOR_TYPES(float, float, 4)
EMULATOR_VECTOR_TYPES(int, int, 4)
EMULATOR_VECTOR_TYPES(unsigned, uint, 4)
EMULATOR_VECTOR_TYPES(double, double, 8)
#undef EMULATOR_VECTOR_TYPES

// CUDA's min and max for integers and floats; a NaN operand gives the other one.
inline int min(int a, int b) { return b < a ? b : a; }
inline int max(int a, int b) { return a < b ? b : a; }
inline unsigned min(unsigned a, unsigned b) { return b < a ? b : a; }
inline unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
inline long long min(long long a, long long b) { return b < a ? b : a; }
inline long long max(long long a, long long b) { return a < b ? b : a; }
inline unsigned long long min(unsigned long long a, unsigned long long b) { return b < a ? b : a; }
inline unsigned long long max(unsigned long long a, unsigned long long b) { return a < b ? b : a; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

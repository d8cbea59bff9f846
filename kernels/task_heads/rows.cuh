// rows.cuh: where the rows of a sample lie, dense or packed end to end, and elements of 32 and 16 bits.
#pragma once
#include "device.cuh"

namespace task_heads {

using gw::i32;
using gw::i64;
using gw::u16;
using gw::u32;

/// Types of elements.
enum Kind : u32 { F32 = 0, F16 = 1, BF16 = 2 };

/// First rows of packed sequences, `[batch + 1]` integers of kind 0 i32, 1 u32, 2 i64.
struct Starts {
    u32 is_packed, kind;
    u32 rows;  // of the tensor
};

/// Rows of one sample.
struct Rows {
    i64 first;
    u32 count;
};

/// An entry, or −1 if it is no row index.
GW_DEVICE i64 start_at(const u32* starts, i64 index, u32 kind) {
    const u32 low = gw::load_global_cached(starts + (kind == 2 ? 2 * index : index));
    if (kind == 2 && gw::load_global_cached(starts + 2 * index + 1) != 0) return -1;
    return low >> 31 != 0 ? -1 : static_cast<i64>(low);
}

/// Rows of sample `sample`, at most `most`; none where the starts are no partition of the tensor's rows: attention has reported it.
GW_DEVICE Rows rows_of(const u32* starts, i64 stride, const Starts& s, i64 sample, u32 most) {
    if (!s.is_packed) return {0, most};
    const i64 begin = start_at(starts, sample * stride, s.kind), end = start_at(starts, (sample + 1) * stride, s.kind);
    if (begin < 0 || end < begin || end > s.rows) return {0, 0};
    return {begin, static_cast<u32>(min(end - begin, static_cast<i64>(most)))};
}

GW_DEVICE float load_element(const void* base, i64 index, u32 kind) {
    if (kind == F32) return gw::load_global_cached(static_cast<const float*>(base) + index);
    const u16 bits = gw::load_global_cached(static_cast<const u16*>(base) + index);
    return kind == F16 ? gw::float_from_f16(bits) : gw::float_from_bf16(bits);
}

GW_DEVICE void store_element(void* base, i64 index, u32 kind, float x) {
    if (kind == F32) {
        gw::store_global(static_cast<float*>(base) + index, x);
    } else {
        gw::store_global(static_cast<u16*>(base) + index, kind == F16 ? gw::f16_from_float(x) : gw::bf16_from_float(x));
    }
}

}  // namespace task_heads

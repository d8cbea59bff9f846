// call.cuh: what the general attention kernels are told: the call, each sample's place and length, and elements of any type.
//
// One family of kernels takes every score, mask, layout and dimension. What costs nothing at run time is a uniform branch on
// a member of Call; the kernels are compiled for two accumulators only, float (f32, f16 and bf16 tensors) and double.
#pragma once
#include "device.cuh"
#include "attention/tile.cuh"
#include "random/philox.cuh"

namespace attention {

using gw::u16;
using gw::u64;
using gw::u8;

/// Steps in elements of a tensor that broadcasts: 0 along a dimension of size 1.
struct Strides4 {
    i64 batch, head, row, column;
};

/// Types of elements.
enum Type : i32 { F32 = 0, F16 = 1, BF16 = 2, F64 = 3 };

/// How a query and a key are compared: coefficient · …
enum Score : i32 {
    DOT = 0,        // ⟨q, k⟩; of interleaved complex vectors this is Re⟨q|k⟩
    COSINE = 1,     // ⟨q, k⟩ / (‖q‖·‖k‖), 0 where a norm is 0
    FIDELITY = 2,   // |⟨q|k⟩|²
    GAUSSIAN = 3,   // −‖q − k‖²
    ADDITIVE = 4,   // Σ w·tanh(q + k)
};

/// The validated call, as src/attention/cuda/general.rs fills it in. Pointers that are null: not used.
struct Call {
    Strides q, k, v, o, lse, row_scale_at;
    Strides4 mask_at, bias_at;
    i64 alibi_step, sinks_step, w_head, table_batch, table_step;
    const u8* mask;          // 0 hides
    const void* bias;        // of type bias_type
    const void* alibi;       // these four of the accumulator's type
    const void* sinks;
    const void* w;
    const void* row_scale;
    const u32* order;        // as in forward.cu, backward.cu
    const u32* kv_order;
    const u32* counts;
    const u32* active;
    const u32* table;        // pages of each sample; k and v are [page, head, row]
    const u32* seed;         // four words: a stream of random words; null: `stream`
    philox::Stream stream;
    double coefficient, softcap;  // softcap 0: none
    double keep_scale;            // 1/(1 − p)
    i32 batch, q_heads, kv_heads;
    i32 pack;                // query heads of one key head that share a row tile: row = query · pack + head. 1 or the group
    i32 q_len, kv_len;       // longest of any sample
    i32 head_dim, value_dim;
    i32 score, type, bias_type;
    i32 left, right;         // keys before and after the position that a query sees
    i32 table_kind, page_rows;
    u32 drop_below;          // an element is kept if its random word is at least this
    i32 dropout;
    u32 vectors;             // tensors whose rows start at multiples of a chunk: bits of Vectors
};

/// One sample: where it lies and what it holds, as attention_plan wrote it. 32 bytes.
struct Span {
    i32 q_first, q_len;  // rows in the tensor
    i32 k_first, kv;
    i32 offset;          // position of query 0
    i32 slots;           // rows of keys that the tensor has for the sample: kv and those beyond
    bool valid;          // false: a length, page or boundary is out of range; the sample's outputs are NaN
};

GW_DEVICE Span load_span(const uint4* spans, int b) {
    const uint4 a = gw::load_global_cached(spans + 2 * static_cast<i64>(b));
    const uint4 c = gw::load_global_cached(spans + 2 * static_cast<i64>(b) + 1);
    return {static_cast<i32>(a.x), static_cast<i32>(a.y), static_cast<i32>(a.z), static_cast<i32>(a.w),
            static_cast<i32>(c.x), static_cast<i32>(c.y), c.z != 0};
}

// --------------------------------------------------------------------------------------------------------- arithmetic

/// 16 bytes of an accumulator: the unit of shared memory.
template <typename A>
struct Chunk;
template <>
struct Chunk<float> {
    typedef float4 Vector;
    static constexpr int WIDTH = 4;
    static GW_DEVICE Vector pack(const float (&x)[4]) { return make_float4(x[0], x[1], x[2], x[3]); }
    static GW_DEVICE void unpack(Vector v, float (&x)[4]) { x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w; }
};
template <>
struct Chunk<double> {
    typedef double2 Vector;
    static constexpr int WIDTH = 2;
    static GW_DEVICE Vector pack(const double (&x)[2]) { return make_double2(x[0], x[1]); }
    static GW_DEVICE void unpack(Vector v, double (&x)[2]) { x[0] = v.x, x[1] = v.y; }
};

GW_DEVICE float exp2_of(float x) { return gw::exp2_approx(x); }
GW_DEVICE double exp2_of(double x) { return ::exp2(x); }
GW_DEVICE float log_of(float x) { return ::logf(x); }
GW_DEVICE double log_of(double x) { return ::log(x); }
GW_DEVICE float tanh_of(float x) { return ::tanhf(x); }
GW_DEVICE double tanh_of(double x) { return ::tanh(x); }
GW_DEVICE float reciprocal(float x) { return gw::rcp(x); }
GW_DEVICE double reciprocal(double x) { return 1.0 / x; }
GW_DEVICE float root(float x) { return ::sqrtf(x); }
GW_DEVICE double root(double x) { return ::sqrt(x); }
GW_DEVICE float larger(float a, float b) { return gw::max_nan_free(a, b); }
GW_DEVICE double larger(double a, double b) { return ::fmax(a, b); }
template <typename A>
GW_DEVICE A log2_e() { return static_cast<A>(1.4426950408889634074); }
template <typename A>
GW_DEVICE A ln_2() { return static_cast<A>(0.69314718055994530942); }

/// A weight that takes no part is −0: 0 · NaN would be NaN, so such a term is left out of every sum. Weights that take part
/// are made +0 where they are 0, by adding +0.
GW_DEVICE bool left_out(float weight) { return gw::float_bits(weight) == 0x80000000u; }
GW_DEVICE bool left_out(double weight) { return gw::double_bits(weight) == 0x8000000000000000ull; }

/// The sum, and the largest, over the 16 lanes that share rows.
template <typename A>
GW_DEVICE A row_sum(A x) {
    for (int distance = LANES_X / 2; distance > 0; distance /= 2) x += gw::shuffle_xor(x, distance);
    return x;
}
template <typename A>
GW_DEVICE A row_max(A x) {
    for (int distance = LANES_X / 2; distance > 0; distance /= 2) x = larger(x, gw::shuffle_xor(x, distance));
    return x;
}
GW_DEVICE u32 row_or(u32 x) {
    for (int distance = LANES_X / 2; distance > 0; distance /= 2) x |= gw::shuffle_xor(x, distance);
    return x;
}

/// The sum over a warp.
template <typename A>
GW_DEVICE A warp_sum(A x) {
    for (int distance = 16; distance > 0; distance /= 2) x += gw::shuffle_xor(x, distance);
    return x;
}

// ----------------------------------------------------------------------------------------------------------- elements

/// Element `index` of a tensor of any type.
GW_DEVICE float load_number(const void* base, i64 index, i32 type, float) {
    if (type == F32) return gw::load_global_cached(static_cast<const float*>(base) + index);
    const u16 bits = gw::load_global_cached(static_cast<const u16*>(base) + index);
    return type == F16 ? gw::float_from_f16(bits) : gw::float_from_bf16(bits);
}
GW_DEVICE double load_number(const void* base, i64 index, i32 type, double) {
    if (type == F64) return gw::load_global_cached(static_cast<const double*>(base) + index);
    return load_number(base, index, type, 0.0f);
}

GW_DEVICE void store_number(void* base, i64 index, i32 type, float x) {
    if (type == F32) {
        gw::store_global(static_cast<float*>(base) + index, x);
    } else {
        gw::store_global(static_cast<u16*>(base) + index, type == F16 ? gw::f16_from_float(x) : gw::bf16_from_float(x));
    }
}
GW_DEVICE void store_number(void* base, i64 index, i32 type, double x) {
    if (type == F64) {
        gw::store_global(static_cast<double*>(base) + index, x);
    } else {
        store_number(base, index, type, static_cast<float>(x));
    }
}

/// Element `index` of a tensor of the accumulator's type.
template <typename A>
GW_DEVICE A load_term(const void* base, i64 index) {
    return gw::load_global_cached(static_cast<const A*>(base) + index);
}

/// `count` elements from `index`, at most a chunk; zeros after them. With `vectors` a whole chunk is loaded at once.
GW_DEVICE void load_chunk(float (&x)[4], const void* base, i64 index, int count, i32 type, bool vectors) {
    if (vectors && count >= 4) {
        if (type == F32) {
            Chunk<float>::unpack(gw::load_global_cached(reinterpret_cast<const float4*>(static_cast<const float*>(base) + index)), x);
            return;
        }
        const uint2 pair = gw::load_global_cached(reinterpret_cast<const uint2*>(static_cast<const u16*>(base) + index));
        const u16 bits[4] = {static_cast<u16>(pair.x), static_cast<u16>(pair.x >> 16), static_cast<u16>(pair.y),
                             static_cast<u16>(pair.y >> 16)};
#pragma unroll
        for (int e = 0; e < 4; ++e) x[e] = type == F16 ? gw::float_from_f16(bits[e]) : gw::float_from_bf16(bits[e]);
        return;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) x[e] = e < count ? load_number(base, index + e, type, 0.0f) : 0.0f;
}
GW_DEVICE void load_chunk(double (&x)[2], const void* base, i64 index, int count, i32, bool vectors) {
    const double* from = static_cast<const double*>(base) + index;
    if (vectors && count >= 2) {
        Chunk<double>::unpack(gw::load_global_cached(reinterpret_cast<const double2*>(from)), x);
        return;
    }
#pragma unroll
    for (int e = 0; e < 2; ++e) x[e] = e < count ? gw::load_global_cached(from + e) : 0.0;
}

// ------------------------------------------------------------------------------------------------------ rows and sight

/// Rows of a matrix: queries (of several heads where they are packed), keys, or keys in pages. What the call knows is not
/// repeated here: registers are scarce where four matrices are streamed.
struct Matrix {
    const void* base;
    const Strides& at;
    i64 first;          // element where row 0 begins; in pages, row 0 of page 0
    const u32* pages;   // the sample's; null: not in pages
    bool packed, vectors;
};

GW_DEVICE Matrix matrix(const void* base, const Strides& at, int b, int head, i64 row, bool vectors) {
    return {base, at, b * at.batch + head * at.head + row * at.row, nullptr, false, vectors};
}

/// Rows of Call::pack heads, from head `head` on: row r is query r / pack of head r mod pack.
GW_DEVICE Matrix query_matrix(const Call& c, const void* base, const Strides& at, int b, int head, i64 row, bool vectors) {
    return {base, at, b * at.batch + head * at.head + row * at.row, nullptr, c.pack > 1, vectors};
}

GW_DEVICE Matrix key_matrix(const Call& c, const void* base, const Strides& at, int b, int head, const Span& span, bool vectors) {
    if (!c.table) return matrix(base, at, b, head, span.k_first, vectors);
    // Integers of two words are counted in pairs.
    return {base, at, head * at.head, c.table + (c.table_kind == 2 ? 2 : 1) * b * c.table_batch, false, vectors};
}

/// Index of the first element of row `r`.
GW_DEVICE i64 row_at(const Call& c, const Matrix& m, int r) {
    if (m.pages) {
        const i32 page = read_id(m.pages, (r / c.page_rows) * c.table_step, c.table_kind);
        return m.first + page * m.at.batch + (r % c.page_rows) * m.at.row;
    }
    if (!m.packed) return m.first + r * m.at.row;
    return m.first + (r / c.pack) * m.at.row + (r % c.pack) * m.at.head;
}

/// Tiles or keys from `begin` to `end`.
struct Range {
    int begin, end;
    GW_DEVICE bool empty() const { return begin >= end; }
};

/// Keys that some query from `first` to `last` may see, by causal mask, window and length.
GW_DEVICE Range keys_in_sight(const Call& c, const Span& s, int first, int last) {
    const i64 from = static_cast<i64>(s.offset) + first - c.left, to = static_cast<i64>(s.offset) + last + c.right + 1;
    return {static_cast<int>(max(from, 0ll)), static_cast<int>(min(to, static_cast<i64>(s.kv)))};
}

/// Queries that may see some key from `first` to `last`.
GW_DEVICE Range queries_in_sight(const Call& c, const Span& s, int first, int last) {
    const i64 from = static_cast<i64>(first) - s.offset - c.right, to = static_cast<i64>(last) - s.offset + c.left + 1;
    return {static_cast<int>(max(from, 0ll)), static_cast<int>(max(min(to, static_cast<i64>(s.q_len)), 0ll))};
}

/// The tiles of `tile` that a range touches.
GW_DEVICE Range tiles_of(Range range, int tile) {
    if (range.empty()) return {0, 0};
    return {range.begin / tile, (range.end + tile - 1) / tile};
}

}  // namespace attention

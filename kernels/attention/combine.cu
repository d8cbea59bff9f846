// attention_combine_{f32,f64}: adds up what attention_decode made of the splits of each row's keys.
// Shapes    partial [b, hq, q, split, dv + 2]; o, lse: attention::Call in call.cuh
// Mapping   grid of rows (b, hq, q), the block walks them with the grid's step; block 128: a thread owns every 128th column
// Shared    none
// Traffic   partial, o and lse once. FLOPs 2·rows·splits·dv
// Numerics  splits in ascending order; one that saw no key is not read: its sums were never written. The sink enters once
// Host      spans of attention_plan
// Twin      src/attention/cpu/forward.rs        Source  arXiv:2307.08691, §3.2
#include "device.cuh"
#include "attention/call.cuh"

namespace attention {

struct CombineParams {
    Call call;
    i32 splits, unused;
};

template <typename A>
GW_DEVICE void combine(const A* partial, void* o, void* lse, const uint4* spans, const CombineParams& params) {
    const Call& c = params.call;
    const i32 lse_type = sizeof(A) == 8 ? F64 : F32;
    const i64 rows = static_cast<i64>(c.batch) * c.q_heads * c.q_len;
    const int width = c.value_dim + 2;
    for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const int query = static_cast<int>(row % c.q_len);
        const int b = static_cast<int>(row / c.q_len / c.q_heads), h = static_cast<int>(row / c.q_len % c.q_heads);
        const Span s = load_span(spans, b);
        if (query >= s.q_len) continue;
        const A* parts = partial + row * params.splits * width;
        A top = -INFINITY;
        for (int split = 0; split < params.splits; ++split)
            top = larger(top, load_term<A>(parts, static_cast<i64>(split) * width + c.value_dim));
        const A sink = c.sinks ? load_term<A>(c.sinks, h * c.sinks_step) * log2_e<A>() : static_cast<A>(-INFINITY);
        const A highest = larger(top, sink);
        const A shift = highest == -INFINITY ? 0 : highest;
        A total = c.sinks ? exp2_of(sink - shift) : 0;
        bool seen = false;
        for (int split = 0; split < params.splits; ++split) {
            const i64 at = static_cast<i64>(split) * width + c.value_dim;
            const A sum = load_term<A>(parts, at + 1);
            if (sum == 0) continue;
            seen = true;
            total = gw::fma(sum, exp2_of(load_term<A>(parts, at) - shift), total);
        }
        const i64 to = b * c.o.batch + h * c.o.head + (s.q_first + query) * c.o.row;
        for (int column = threadIdx.x; column < c.value_dim; column += THREADS) {
            A value = 0;
            for (int split = 0; split < params.splits; ++split) {
                const i64 at = static_cast<i64>(split) * width;
                if (load_term<A>(parts, at + c.value_dim + 1) == 0) continue;
                const A weight = exp2_of(load_term<A>(parts, at + c.value_dim) - shift);
                value = gw::fma(load_term<A>(parts, at + column), weight, value);
            }
            if (seen) value *= reciprocal(total);
            store_number(o, to + column, c.type, s.valid ? value : static_cast<A>(NAN));
        }
        if (threadIdx.x != 0) continue;
        const A log_sum = !seen && !c.sinks ? static_cast<A>(-INFINITY) : gw::fma(highest, ln_2<A>(), log_of(total));
        const i64 lse_at = b * c.lse.batch + h * c.lse.head + (s.q_first + query) * c.lse.row;
        store_number(lse, lse_at, lse_type, s.valid ? log_sum : static_cast<A>(NAN));
    }
}

}  // namespace attention

#define ATTENTION_COMBINE(NAME, A)                                                                                   \
    GW_KERNEL(attention::THREADS, 8)                                                                                 \
    NAME(const A* partial, void* o, void* lse, const uint4* spans,                                                   \
         const __grid_constant__ attention::CombineParams params) {                                                  \
        attention::combine<A>(partial, o, lse, spans, params);                                                       \
    }                                                                                                                \
    GW_EXPORT(NAME)

ATTENTION_COMBINE(attention_combine_f32, float)
ATTENTION_COMBINE(attention_combine_f64, double)

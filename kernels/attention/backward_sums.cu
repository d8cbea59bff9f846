// attention_backward_sums_{f32,f64}: adds up what attention_backward_dq_general left of each tile of queries, in a fixed order.
// Shapes    parts: element (u, x) of the result is Σ_n Σ_m parts[u·step_u + x·step_x + n·step_n + m·step_m]; out [u, x] with
//           any steps: the gradients of ALiBi slopes, sinks, additive weights and the score's coefficient
// Mapping   grid of elements of the result, the block walks them with the grid's step; block 128: a thread adds every 128th
//           term, then a tree
// Shared    128 accumulators
// Traffic   parts and out once
// Numerics  the order depends on the number of terms alone
// Host      nothing
// Twin      src/attention/cpu/backward.rs        Source  our own
#include "device.cuh"
#include "attention/call.cuh"

namespace attention {

struct SumsParams {
    i64 count_u, count_x, count_n, count_m;
    i64 step_u, step_x, step_n, step_m;
    i64 out_u, out_x;
};

template <typename A>
GW_DEVICE void backward_sums(Shared<A> shared, const A* parts, A* out, const SumsParams& p) {
    for (i64 element = blockIdx.x; element < p.count_u * p.count_x; element += gridDim.x) {
        const i64 u = element / p.count_x, x = element % p.count_x;
        const A* first = parts + u * p.step_u + x * p.step_x;
        A sum = 0;
        for (i64 term = threadIdx.x; term < p.count_n * p.count_m; term += THREADS)
            sum += gw::load_global_cached(first + term / p.count_m * p.step_n + term % p.count_m * p.step_m);
        gw::sync_threads();  // the element before is read
        shared[threadIdx.x] = sum;
        for (int half = THREADS / 2; half > 0; half /= 2) {
            gw::sync_threads();
            if (static_cast<int>(threadIdx.x) < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        }
        if (threadIdx.x == 0) gw::store_global(out + u * p.out_u + x * p.out_x, shared[0]);
    }
}

}  // namespace attention

#define ATTENTION_BACKWARD_SUMS(SUFFIX, A)                                                                           \
    GW_KERNEL(attention::THREADS, 8)                                                                                 \
    attention_backward_sums_##SUFFIX(const A* parts, A* out, const __grid_constant__ attention::SumsParams params) { \
        GW_SHARED(A, shared);                                                                                        \
        attention::backward_sums<A>(shared, parts, out, params);                                                     \
    }                                                                                                                \
    GW_EXPORT(attention_backward_sums_##SUFFIX)

ATTENTION_BACKWARD_SUMS(f32, float)
ATTENTION_BACKWARD_SUMS(f64, double)

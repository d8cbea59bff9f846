// attention_forward_mma_{f16,bf16}_{d64,d128,d256}: attention of 16-bit tensors on tensor cores, by dot products
//   o = row_scale · softmax(scale·⟨q, k⟩)·v: SPEC §2; online softmax over key tiles. scale > 0, masks by length and position
// Shapes    as forward_general.cu, dimensions to 64, 128, 256; any layout of attention::Call, pack = 1
// Mapping   grid of work items (tile of 128 rows, d256: 64; pair), the block walks them with the grid's step. Block 128; a warp owns
//           32 rows (16), scores, weights and sums in registers; 64 keys a tile (d128, d256: 32)
// Shared    rows of q, later of o, and two stages of k and v: 48, 64, 96 KiB; no bank conflicts (fragments.cuh)
// Traffic   q and o once; k and v once per tile of rows. FLOPs 2·rows·keys·(dk + dv), dimensions in panels of 64
// Numerics  f32 sums; base-2 exponent, scale folded in; weights are rounded to 16 bits for their product with v, not in the sum of
//           weights; a tile that no mask touches takes no selects. A hidden weight is 0, and 0 · NaN is NaN: a row whose o is not
//           finite though its weights are is computed again, key by key, from what it sees (rare and slow)
//           Tried: d256 with q in registers, 128 rows and 8 warps in 64 KiB spills 100 bytes
// Host      spans of attention_plan; rejects lengths > 2^30 − 64; Vectors: rows that begin at multiples of 16 bytes
// Twin      src/attention/cpu/forward.rs        Source  arXiv:2307.08691, arXiv:1805.02867
#include "device.cuh"
#include "attention/forward_mma.cuh"

#define ATTENTION_FORWARD_MMA(TYPE, BF16, DIM, MIN_BLOCKS, ...)                                                                \
    GW_KERNEL(attention::MMA_THREADS, MIN_BLOCKS)                                                                              \
    attention_forward_mma_##TYPE##_d##DIM(const void* q, const void* k, const void* v, void* o, void* lse, const uint4* spans, \
                                        const __grid_constant__ attention::Call call) {                                        \
        GW_SHARED(gw::u16, shared);                                                                                            \
        attention::forward_mma<attention::Sizes<BF16, true, DIM, __VA_ARGS__>>(shared, q, k, v, o, lse, spans, call);          \
    }                                                                                                                          \
    GW_EXPORT(attention_forward_mma_##TYPE##_d##DIM)

ATTENTION_FORWARD_MMA(f16, false, 64, 2, 64, 2, true)
ATTENTION_FORWARD_MMA(bf16, true, 64, 2, 64, 2, true)
ATTENTION_FORWARD_MMA(f16, false, 128, 2, 32, 2, false)
ATTENTION_FORWARD_MMA(bf16, true, 128, 2, 32, 2, false)
ATTENTION_FORWARD_MMA(f16, false, 256, 2, 32, 1, false)
ATTENTION_FORWARD_MMA(bf16, true, 256, 2, 32, 1, false)

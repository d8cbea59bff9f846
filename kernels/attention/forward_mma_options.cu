// attention_forward_mma_options_{f16,bf16}_{d64,d128,d256}: as forward_mma.cu, with every mask and option
//   o = row_scale · softmax(z)·v, z = logit of coefficient · ⟨q, k⟩: SPEC §2; online softmax over key tiles
// Shapes    as forward_mma.cu; any mask, bias, slope, softcap and dropout of attention::Call
// Mapping   grid of work items (tile of 64 rows, pair), the block walks them with the grid's step. Block 128; a warp owns 16 rows;
//           64 keys a tile (d128, d256: 32). A kernel of its own, because logits with options take the registers of 16 rows
// Shared    rows of q, later of o, and two stages of k and v: 40, 48, 96 KiB; no bank conflicts (fragments.cuh)
// Traffic   q and o once; k and v once per tile of rows, bias and mask once. FLOPs 2·rows·keys·(dk + dv), dimensions in panels of 64
// Numerics  as forward_mma.cu; dropout's scale is applied to o, since 16 bits may not hold a weight times it
// Host      as forward_mma.cu
// Twin      src/attention/cpu/forward.rs        Source  arXiv:2307.08691, arXiv:1805.02867
#include "device.cuh"
#include "attention/forward_mma.cuh"

#define ATTENTION_FORWARD_MMA(TYPE, BF16, DIM, MIN_BLOCKS, ...)                                                                        \
    GW_KERNEL(attention::MMA_THREADS, MIN_BLOCKS)                                                                                      \
    attention_forward_mma_options_##TYPE##_d##DIM(const void* q, const void* k, const void* v, void* o, void* lse, const uint4* spans, \
                                        const __grid_constant__ attention::Call call) {                                                \
        GW_SHARED(gw::u16, shared);                                                                                                    \
        attention::forward_mma<attention::Sizes<BF16, false, DIM, __VA_ARGS__>>(shared, q, k, v, o, lse, spans, call);                 \
    }                                                                                                                                  \
    GW_EXPORT(attention_forward_mma_options_##TYPE##_d##DIM)

ATTENTION_FORWARD_MMA(f16, false, 64, 2, 64, 1, false)
ATTENTION_FORWARD_MMA(bf16, true, 64, 2, 64, 1, false)
ATTENTION_FORWARD_MMA(f16, false, 128, 2, 32, 1, false)
ATTENTION_FORWARD_MMA(bf16, true, 128, 2, 32, 1, false)
ATTENTION_FORWARD_MMA(f16, false, 256, 2, 32, 1, false)
ATTENTION_FORWARD_MMA(bf16, true, 256, 2, 32, 1, false)

// attention_backward_{dq,dkv}_mma_{f16,bf16}_256: gradients of dot products of 16-bit tensors on the matrix units, without options.
//   delta is attention_backward_delta_general_f32's, formulas as in backward_general.cu; p and dz are rounded to 16 bits before they
//   enter dv += pᵀ·grad_o, dk += dzᵀ·q, dq += dz·k
// Shapes    as backward_general.cu, head_dim and value_dim up to 256; grad_lse is in delta already
//           terms [pair, tile of queries, warp, 4]: sums of a warp's queries for attention_backward_sums
// Mapping   block 128, a warp a quarter of a tile. dq: work items (tile of 64 queries, pair); dkv: (tile of 64 keys, key pair), heads
//           of the group and their stages of queries in ascending order: no atomics, the same bits every run
// Shared    attention::GradientTiles: a tile's rows, two stages of 16 columns
// Traffic   dq: q, grad_o once, k, v once per tile of queries; dkv: k, v once, q, grad_o once per tile of keys.
//           FLOPs rows·keys·(4·dk + 2·dv) for dq, rows·keys·(4·dk + 2·dv) for dk, rows·keys·(2·dk + 2·dv) for dv
// Numerics  f32 sums, base-2 exponent, coefficient applied at the end; what is masked has weight 0 by selection. A row
//           of a result that is not finite, be it by 0 · ∞ behind a mask, is computed once more by its warp, in f32 and without what
//           is masked
// Host      spans of attention_plan; no packed rows, no pages; bits of Call::vectors: rows at multiples of 16 bytes (inputs), of 4
//           (outputs). dkv: dk or dv is null
// Twin      src/attention/cpu/backward.rs        Source  arXiv:2307.08691, algorithm 2, split in two passes
#include "device.cuh"
#include "attention/backward_mma.cuh"

ATTENTION_BACKWARD_MMA_256(f16, false)
ATTENTION_BACKWARD_MMA_256(bf16, true)

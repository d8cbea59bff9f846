// attention_backward_{dq,dkv}_mma_f16: gradients of dot products of f16 tensors on the matrix units, without options.
//   delta is attention_backward_delta_general_f32's, formulas as in backward_general.cu; p and dz are rounded to f16 before they
//   enter dv += pᵀ·grad_o, dk += dzᵀ·q, dq += dz·k
// Shapes    as backward_general.cu, head_dim and value_dim up to D, 64 or 128, the end of the name; grad_lse is in delta already
//           terms [pair, tile of queries, warp, 4]: sums of a warp's queries for attention_backward_sums
// Mapping   block 128, a warp a quarter of a tile. dq: work items (tile of 128 queries, pair); dkv: (tile of 128 keys, at D = 128 of
//           64, key pair), heads of the group and their stages of queries in ascending order: no atomics, the same bits every run
// Shared    attention::GradientTiles: a tile's rows, two stages of 64 (D = 128: 32) columns
// Traffic   dq: q, grad_o once, k, v once per tile of queries; dkv: k, v once, q, grad_o once per tile of keys.
//           FLOPs rows·keys·(4·dk + 2·dv) for dq, rows·keys·(4·dk + 4·dv) for dk and dv together
// Numerics  f32 sums, base-2 exponent, coefficient applied at the end; what is masked has weight 0 by selection. A row
//           of a result that is not finite, be it by 0 · ∞ behind a mask, is computed once more by its warp, in f32 and without what
//           is masked
// Host      spans of attention_plan; no packed rows, no pages; bits of Call::vectors: rows at multiples of 16 bytes (inputs), of 4
//           (outputs)
// Twin      src/attention/cpu/backward.rs        Source  arXiv:2307.08691, algorithm 2, split in two passes
#include "device.cuh"
#include "attention/backward_mma.cuh"

ATTENTION_BACKWARD_MMA(f16, false)

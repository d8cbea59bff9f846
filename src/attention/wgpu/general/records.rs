//! What the general kernels read in their uniform buffers.

use bytemuck::{Pod, Zeroable};

/// `Params` in general_common.wgsl.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Params {
    pub(super) batch: u32,
    pub(super) q_heads: u32,
    pub(super) kv_heads: u32,
    pub(super) q_len: u32,
    pub(super) kv_slots: u32,
    pub(super) head_dim: u32,
    pub(super) value_dim: u32,
    pub(super) tiles: u32,
    pub(super) scale: f32,
    pub(super) flags: u32,
    pub(super) score: u32,
    pub(super) want: u32,
    pub(super) blocks: u32,
    pub(super) width: u32,
    pub(super) kind: u32,
    pub(super) bias_kind: u32,
    pub(super) softcap: f32,
    pub(super) keep: f32,
    pub(super) threshold: u32,
    pub(super) page_size: u32,
    pub(super) left: i32,
    pub(super) right: i32,
    pub(super) pages: u32,
    pub(super) at_table: u32,
    pub(super) at_order: u32,
    pub(super) at_kv_order: u32,
    pub(super) at_active: u32,
    pub(super) at_rows: u32,
    pub(super) row_stride: u32,
    pub(super) four: u32,
    pub(super) at_alibi: u32,
    pub(super) at_sinks: u32,
    pub(super) at_w: u32,
    pub(super) w_stride: u32,
    pub(super) at_seed: u32,
    pub(super) at_partials: u32,
    pub(super) at_mask: u32,
    pub(super) at_any: u32,
    pub(super) bias_column: u32,
    pub(super) out_column: u32,
    pub(super) chunk: u32,
    pub(super) splits: u32,
    pub(super) out_kind: u32,
    pub(super) unused: u32,
    pub(super) mask: [u32; 4],
    pub(super) any: [u32; 4],
    pub(super) bias: [u32; 4],
    pub(super) q: [u32; 4],
    pub(super) k: [u32; 4],
    pub(super) v: [u32; 4],
    pub(super) o: [u32; 4],
    pub(super) lse: [u32; 4],
    pub(super) grad_o: [u32; 4],
    pub(super) grad_lse: [u32; 4],
    pub(super) row_scale: [u32; 4],
    pub(super) out: [u32; 4],
    pub(super) seed: [u32; 4],
}

/// Bits of `Params::flags`.
pub(super) mod flag {
    pub(in super::super) const LEFT: u32 = 1;
    pub(in super::super) const RIGHT: u32 = 2;
    pub(in super::super) const SOFTCAP: u32 = 4;
    pub(in super::super) const MASK: u32 = 8;
    pub(in super::super) const BIAS: u32 = 16;
    pub(in super::super) const ALIBI: u32 = 32;
    pub(in super::super) const SINKS: u32 = 64;
    pub(in super::super) const DROPOUT: u32 = 128;
    pub(in super::super) const PAGES: u32 = 256;
    pub(in super::super) const ROW_SCALE: u32 = 512;
    pub(in super::super) const GRAD_LSE: u32 = 1024;
}

/// Values of `Params::want`, per kernel.
pub(super) mod want {
    pub(in super::super) const DQ: u32 = 1;
    pub(in super::super) const SUMS: u32 = 2;
    pub(in super::super) const DW: u32 = 4;
    pub(in super::super) const DV: u32 = 0;
    pub(in super::super) const DK: u32 = 1;
}

/// `Params` in general_plan.wgsl.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct PlanParams {
    pub(super) batch: u32,
    pub(super) pairs: u32,
    pub(super) kv_pairs: u32,
    pub(super) q_heads: u32,
    pub(super) q_len: u32,
    pub(super) kv_slots: u32,
    pub(super) q_rows: u32,
    pub(super) kv_rows: u32,
    pub(super) has_heads: u32,
    pub(super) length_kind: u32,
    pub(super) length_first: u32,
    pub(super) length_step: u32,
    pub(super) offset_kind: u32,
    pub(super) offset_first: u32,
    pub(super) offset_step: u32,
    pub(super) offset: i32,
    pub(super) order: u32,
    pub(super) kv_order: u32,
    pub(super) counts: u32,
    pub(super) active_flags: u32,
    pub(super) at_order: u32,
    pub(super) at_kv_order: u32,
    pub(super) at_active: u32,
    pub(super) at_cu: u32,
    pub(super) at_table: u32,
    pub(super) pages_a_sample: u32,
    pub(super) pages: u32,
    pub(super) page_size: u32,
}

/// `Params` in general_pack.wgsl.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct PackParams {
    pub(super) shape: [u32; 3],
    pub(super) kind: u32,
    pub(super) source: [u32; 4],
    pub(super) to: u32,
    pub(super) unused: [u32; 3],
}

/// Values of `PackParams::kind` beside the kinds of integers.
pub(super) const ZEROS: u32 = 3;
pub(super) const WORDS: u32 = 4;

/// `Params` in general_pack_mask.wgsl.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct MaskParams {
    pub(super) shape: [u32; 4],
    pub(super) strides: [u32; 4],
    pub(super) offset: u32,
    pub(super) words: u32,
    pub(super) lines: u32,
    pub(super) at_mask: u32,
    pub(super) at_any: u32,
    pub(super) tiles: u32,
    pub(super) unused: [u32; 2],
}

/// `Params` in general_sum.wgsl.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct SumParams {
    pub(super) shape: [u32; 4],
    pub(super) steps: [u32; 4],
    pub(super) out: [u32; 4],
    pub(super) outer: u32,
    pub(super) outer_step: u32,
    pub(super) inner: u32,
    pub(super) inner_step: u32,
    pub(super) factor: f32,
    pub(super) unused: [u32; 3],
}

/// `Params` in append.wgsl.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct AppendParams {
    pub(super) batch: u32,
    pub(super) heads: u32,
    pub(super) new_rows: u32,
    pub(super) dim: u32,
    pub(super) slots: u32,
    pub(super) page_rows: u32,
    pub(super) pages: u32,
    pub(super) halves: u32,
    pub(super) cache: [u32; 4],
    pub(super) fresh: [u32; 4],
    pub(super) length: [u32; 4],
    pub(super) table: [u32; 4],
}

//! New keys and values at the end of a cache.

use super::Sequences;
use crate::device::Kind;
use crate::error::{Error, Result};
use crate::ids::Ids;
use crate::tensor::{TensorMut, TensorRef};
use crate::validate;

/// Writes new keys and values behind those a cache holds: row n of sample b becomes key `kv_len[b] + n`.
///
/// `k_cache`, `v_cache`: `[batch, kv_heads, slots, dim]`, or pages as [`Sequences::Paged`] says; `k`, `v`:
/// `[batch, kv_heads, new, dim]` of the caches' type; `kv_len`: `[batch]` integers, lengths before the call. The caller adds `new`
/// to the lengths afterwards. Pages that samples share must not be among those written: which sample's rows they then hold is not
/// defined. Moves `2·batch·kv_heads·new·(head_dim + value_dim)` elements.
///
/// # Errors
/// [`Error::Shape`], [`Error::DType`], [`Error::Device`] or [`Error::InvalidArgument`] naming the argument, also for a cache
/// without room, a page that does not exist, or packed sequences. Nothing is written then. What only the device sees is reported
/// by the next call that waits, and of that sample, or that page, nothing is written.
pub fn attention_append(
    k_cache: &mut TensorMut<'_>,
    v_cache: &mut TensorMut<'_>,
    k: &TensorRef<'_>,
    v: &TensorRef<'_>,
    kv_len: &TensorRef<'_>,
    sequences: &Sequences<'_>,
) -> Result<()> {
    let op = "attention_append";
    let [batch, kv_heads, new, head_dim] = validate::rank4(op, "k", k)?;
    let [_, _, _, value_dim] = validate::rank4(op, "v", v)?;
    validate::shape(op, "v", v, &[batch, kv_heads, new, value_dim])?;
    let [cache_batch, _, rows, _] = validate::rank4(op, "k_cache", k_cache.as_ref())?;
    validate::shape(op, "k_cache", k_cache.as_ref(), &[cache_batch, kv_heads, rows, head_dim])?;
    validate::shape(op, "v_cache", v_cache.as_ref(), &[cache_batch, kv_heads, rows, value_dim])?;
    let (dtype, device) = (k_cache.as_ref().dtype(), k_cache.as_ref().device().clone());
    for (arg, tensor) in [("v_cache", v_cache.as_ref()), ("k", k), ("v", v), ("k_cache", k_cache.as_ref())] {
        validate::tensor(op, arg, tensor, dtype, &device)?;
        validate::last_contiguous(op, arg, tensor)?;
    }
    let outputs = [("k_cache", k_cache.as_ref()), ("v_cache", v_cache.as_ref())];
    validate::disjoint(op, &outputs, &[("k", k), ("v", v)])?;
    let (slots, table) = match sequences {
        Sequences::Dense if cache_batch != batch => {
            return Err(Error::shape(op, "k_cache", format!("a batch of {batch}"), k_cache.as_ref().shape()));
        }
        Sequences::Dense => (rows, None),
        Sequences::Paged { table } => {
            let [_, per_sample] = *table.shape() else {
                return Err(Error::shape(op, "page_table", "[batch, pages a sample]", table.shape()));
            };
            let ids = Ids::new(op, "page_table", table, &[batch, per_sample], &device, |_| Ok(()))?;
            (rows.saturating_mul(per_sample), Some((ids, per_sample)))
        }
        Sequences::Packed { .. } => {
            return Err(Error::argument(
                op,
                "sequences",
                "are packed end to end, which leaves no room behind them",
            ));
        }
    };
    let fits = |len: i64| {
        if len >= 0 && (len as u64).saturating_add(new as u64) <= slots as u64 {
            return Ok(());
        }
        Err(Error::argument(op, "kv_len", format!("holds {len}: {new} more do not fit {slots} slots")))
    };
    let lengths = Ids::new(op, "kv_len", kv_len, &[batch], &device, fits)?;
    let table = match &table {
        None => None,
        Some((ids, per_sample)) => Some((ids, ids.visible()?, *per_sample)),
    };
    // Where each new key goes, as far as the host can see it, before any is written.
    let mut places = Vec::new();
    for (b, &len) in lengths.visible()?.iter().flatten().enumerate() {
        for key in (len as usize)..len as usize + new {
            places.push(match &table {
                None => (b, key),
                Some((_, None, _)) => break,
                Some((_, Some(pages), per_sample)) => {
                    let page = pages[b * per_sample + key / rows];
                    if !(0..cache_batch as i64).contains(&page) {
                        let reason = format!("holds {page}, outside 0..{cache_batch}");
                        return Err(Error::argument(op, "page_table", reason));
                    }
                    (page as usize, key % rows)
                }
            });
        }
    }
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    let call = Append {
        op,
        k_cache: k_cache.as_ref(),
        v_cache: v_cache.as_ref(),
        k,
        v,
        kv_len: &lengths,
        table: table.as_ref().map(|(table, ..)| *table),
        slots,
    };
    match &device.0 {
        Kind::Cpu => {
            super::cpu::append(k_cache, k, &places)?;
            super::cpu::append(v_cache, v, &places)
        }
        #[cfg(feature = "cuda")]
        Kind::Cuda(cuda) => super::cuda::inspect::append(cuda, &call),
        #[cfg(feature = "wgpu")]
        Kind::Wgpu(wgpu) => super::wgpu::append(wgpu, &call),
    }
}

/// What a GPU is given, validated but for what only the device sees.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub(super) struct Append<'a> {
    pub(super) op: &'static str,
    /// `[batch, heads, slots, ·]`, or pages `[pages, heads, page rows, ·]`.
    pub(super) k_cache: &'a TensorRef<'a>,
    pub(super) v_cache: &'a TensorRef<'a>,
    /// `[batch, heads, new, ·]`.
    pub(super) k: &'a TensorRef<'a>,
    pub(super) v: &'a TensorRef<'a>,
    pub(super) kv_len: &'a Ids<'a>,
    pub(super) table: Option<&'a Ids<'a>>,
    /// Key slots of a sample.
    pub(super) slots: usize,
}

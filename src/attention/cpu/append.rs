//! Rows copied into a cache.

use crate::error::{Error, Result};
use crate::tensor::{Memory, TensorMut, TensorRef};

/// Row n of sample b of `from` (`[batch, heads, new, dim]`) goes to row `places[b·new + n].1` of batch entry `.0` of `cache`.
///
/// Validation has checked shapes, types and that every place exists.
pub(in crate::attention) fn append(
    cache: &mut TensorMut<'_>,
    from: &TensorRef<'_>,
    places: &[(usize, usize)],
) -> Result<()> {
    let (into, to, source) = (cache.as_ref().memory(), *cache.as_ref().layout(), *from.layout());
    let (into, memory) = match (into, from.memory()) {
        (Memory::Cpu { base: into, .. }, Memory::Cpu { base, .. }) => (into, base.cast_const()),
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        _ => return Err(Error::argument("attention_append", "k_cache", "is not in host memory")),
    };
    let (heads, new, dim, size) =
        (source.shape()[1], source.shape()[2], source.shape()[3], from.dtype().size());
    for (index, &(entry, row)) in places.iter().enumerate() {
        if entry >= to.shape()[0] || row >= to.shape()[2] || dim != to.shape()[3] || heads != to.shape()[1] {
            return Err(Error::argument("attention_append", "k_cache", "has no such row"));
        }
        for h in 0..heads {
            let at = |layout: &crate::tensor::Layout, b: usize, i: usize| {
                (layout.offset() + b * layout.step(0) + h * layout.step(1) + i * layout.step(2)) * size
            };
            let (read, write) = (at(&source, index / new, index % new), at(&to, entry, row));
            // SAFETY: both rows are inside their layouts, which are inside their memory; the cache is borrowed exclusively and
            // validation has refused inputs that overlap it.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    memory.wrapping_add(read),
                    into.wrapping_add(write),
                    dim * size,
                );
            }
        }
    }
    Ok(())
}

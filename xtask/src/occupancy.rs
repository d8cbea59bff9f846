//! How many blocks of a kernel fit on one multiprocessor: what registers and shared memory are saved for.

use crate::ptxas::Usage;
use gatewarp::manifest::CudaKernel;

/// Shared memory of a multiprocessor in bytes (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
/// Other limits are the same on all architectures here.
const SHARED: [(&str, u32); 4] =
    [("sm_80", 164 << 10), ("sm_90a", 228 << 10), ("sm_100", 228 << 10), ("sm_100a", 228 << 10)];
/// Shared memory that the system keeps of each block.
const SHARED_RESERVED: u32 = 1 << 10;
const REGISTERS: u32 = 65_536;
const WARPS: u32 = 64;
const BLOCKS: u32 = 32;

/// Resident blocks of `row`, compiled to `usage`, on a multiprocessor of `architecture`; 0 means that it cannot be launched.
///
/// `None` for an architecture whose limits are not known here.
pub fn resident_blocks(architecture: &str, usage: &Usage, row: &CudaKernel) -> Option<u32> {
    let (_, shared) = SHARED.into_iter().find(|(name, _)| *name == architecture)?;
    let warps = row.block.div_ceil(32).max(1);
    // Registers are given out to a warp 256 at a time, shared memory to a block 128 bytes at a time.
    let warp_registers = (usage.registers.max(1) * 32).next_multiple_of(256);
    let block_shared = (usage.shared + row.shared_bytes).next_multiple_of(128) + SHARED_RESERVED;
    Some(BLOCKS.min(WARPS / warps).min(REGISTERS / (warp_registers * warps)).min(shared / block_shared))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(registers: u32, block: u32, shared_bytes: u32) -> Option<u32> {
        let row = CudaKernel {
            entry: "x",
            file: "x.cu",
            source: "",
            block,
            pointers: &[],
            params: 0,
            shared_bytes,
        };
        resident_blocks("sm_80", &Usage { registers, ..Usage::default() }, &row)
    }

    // Figures of NVIDIA's occupancy calculator for compute capability 8.0.
    #[test]
    fn each_limit_binds_in_turn() {
        assert_eq!(blocks(32, 256, 0), Some(8));
        assert_eq!(blocks(32, 32, 0), Some(32));
        assert_eq!(blocks(128, 256, 0), Some(2));
        assert_eq!(blocks(32, 128, 48 << 10), Some(3));
        assert_eq!(blocks(32, 128, 163 << 10), Some(1));
    }

    #[test]
    fn what_does_not_fit_once_has_no_blocks() {
        assert_eq!(blocks(255, 512, 0), Some(0));
        assert_eq!(blocks(32, 128, 164 << 10), Some(0));
    }
}

//! Shared-memory bank conflicts, from the kernels' index maps: none in any access pattern.
//!
//! A warp's 16-byte accesses go in quarters of eight lanes, 4-byte ones all at once; lanes that read the same word share it.

use std::collections::BTreeSet;

/// 4-byte banks, and 16-byte groups of them.
const BANKS: usize = 32;

/// A position in shared memory as the kernels compute it: 16-byte chunk `chunk` of row `row`.
fn chunk_at(row: usize, chunk: usize, chunks: usize) -> usize {
    row * chunks + (chunk ^ (row & 7))
}

/// The most distinct words that one bank serves in one go, over every warp of 128 threads and every go.
pub(super) fn conflicts(bytes: usize, at: impl Fn(usize) -> usize) -> usize {
    let together = 8 * 16 / bytes;
    let mut worst = 0;
    for first in (0..128).step_by(together.min(32)) {
        let words: BTreeSet<usize> = (first..first + together.min(32))
            .flat_map(|thread| (0..bytes / 4).map(move |word| (thread, word)))
            .map(|(thread, word)| at(thread) * (bytes / 4) + word)
            .collect();
        worst = worst
            .max((0..BANKS).map(|bank| words.iter().filter(|&w| w % BANKS == bank).count()).max().unwrap());
    }
    worst
}

#[test]
fn no_access_pattern_of_the_general_kernels_has_conflicts() {
    let (tx, ty) = (|t: usize| t % 16, |t: usize| t / 16);
    for step in 0..8 {
        // Staging: a thread brings one chunk of a row of 8 or 32.
        for chunks in [8, 32] {
            let slot = |t: usize| t / chunks + step * (128 / chunks);
            assert_eq!(conflicts(16, |t| chunk_at(slot(t), t % chunks, chunks)), 1, "staging {chunks}");
        }
        for c in 0..8 {
            // Scores: a row by the lanes of one ty; slot 16j + tx by the lanes of one row.
            assert_eq!(conflicts(16, |t| chunk_at(ty(t) + 8 * step, c, 8)), 1, "rows");
            assert_eq!(conflicts(16, |t| chunk_at(16 * (step % 4) + tx(t), c, 8)), 1, "columns");
        }
        // Weights: written a chunk a lane, read along rows.
        assert_eq!(conflicts(16, |t| chunk_at(ty(t) + 8 * step, tx(t), 16)), 1, "weights written");
        for chunk in 0..16 {
            assert_eq!(conflicts(16, |t| chunk_at(ty(t) + 8 * step, chunk, 16)), 1, "weights read");
        }
        // Values: lane tx reads chunk tx + 16·group of one row.
        for (j, group) in (0..64).flat_map(|j| [(j, 0), (j, 1)]) {
            assert_eq!(conflicts(16, |t| chunk_at(j, tx(t) + 16 * group, 32)), 1, "values");
        }
    }
}

#[test]
fn no_access_pattern_of_the_fast_kernels_has_conflicts() {
    let (tx, ty) = (|t: usize| t % 16, |t: usize| t / 16);
    for dim in [32, 64, 128] {
        let chunks = dim / 4;
        for c in 0..chunks {
            assert_eq!(conflicts(16, |t| chunk_at(ty(t), c, chunks)), 1, "rows, {dim}");
            assert_eq!(conflicts(16, |t| chunk_at(tx(t), c, chunks)), 1, "columns, {dim}");
        }
        for row in 0..8 {
            assert_eq!(conflicts(16, |t| chunk_at(row, tx(t) % chunks, chunks)), 1, "values, {dim}");
        }
    }
}

/// `Panels` of fragments.cuh: panels of 64 columns, eight chunks a row.
#[test]
fn no_access_pattern_of_the_tensor_core_kernels_has_conflicts() {
    for rows in [32, 64, 128] {
        let at = |row: usize, chunk: usize| chunk / 8 * (8 * rows) + row * 8 + ((chunk ^ row) & 7);
        for chunks in [8, 16, 32] {
            for panel in 0..chunks / 8 {
                for step in 0..2 {
                    // Staging, and the way out: eight lanes bring a panel's row.
                    assert_eq!(conflicts(16, |t| at(t / 8 + 16 * step, t % 8 + 8 * panel)), 1, "staging");
                }
            }
            for column in 0..chunks / 2 {
                for row in [0, 16] {
                    // ldmatrix: eight lanes give rows of one matrix. One below the other, and side by side.
                    let down = |t: usize| at(row + t % 16, 2 * column + t % 32 / 16);
                    let across = |t: usize| at(row + t % 8 + t % 32 / 16 * 8, 2 * column + t % 16 / 8);
                    assert_eq!((conflicts(16, down), conflicts(16, across)), (1, 1), "column block {column}");
                }
            }
            for chunk in 0..chunks {
                for half in [0, 8] {
                    let put = |t: usize| 4 * at(half + t % 32 / 4, chunk) + t % 4;
                    assert_eq!(conflicts(4, put), 1, "put {chunk}");
                }
            }
        }
    }
}

/// The check finds what it looks for.
#[test]
fn plain_rows_do_conflict() {
    assert_eq!(conflicts(16, |t| (t % 16) * 8), 8);
    assert_eq!(conflicts(4, |t| t * 32), 32);
    assert_eq!(conflicts(4, |t| t), 1);
}

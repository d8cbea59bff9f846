//! What a program for a GPU looks like, whatever it computes: bank conflicts of its exchanges, and how few sweeps it needs.

use super::records::{self, DeviceProgram, EXCHANGE, Ending, ON_CHIP_BITS, READ, TABLE_THREADS, WRITE};
use super::{Circuit, Parameter, Program};
use crate::error::Result;

const N: usize = 12;

/// Four layers of RY, RZ and a ring of CNOTs.
fn ring(n: usize) -> Result<Circuit> {
    let mut c = Circuit::new(n)?;
    for layer in 0..4 {
        for q in 0..n {
            c.ry(q, Parameter::Theta(2 * (layer * n + q)))?
                .rz(q, Parameter::Theta(2 * (layer * n + q) + 1))?;
        }
        (0..n).try_for_each(|q| c.cx(q, (q + 1) % n).map(drop))?;
    }
    Ok(c)
}

/// Four layers of RY, RZ and a chain of CZs.
fn cz_chain(n: usize) -> Result<Circuit> {
    let mut c = Circuit::new(n)?;
    for layer in 0..4 {
        for q in 0..n {
            c.ry(q, Parameter::Theta(2 * (layer * n + q)))?
                .rz(q, Parameter::Theta(2 * (layer * n + q) + 1))?;
        }
        (1..n).try_for_each(|q| c.cz(q - 1, q).map(drop))?;
    }
    Ok(c)
}

fn fourier(n: usize) -> Result<Circuit> {
    let mut c = Circuit::new(n)?;
    for q in (0..n).rev() {
        c.h(q)?;
        for control in 0..q {
            c.cphase(control, q, std::f64::consts::PI / f64::from(1u32 << (q - control)))?;
        }
    }
    (0..n / 2).try_for_each(|q| c.swap(q, n - 1 - q).map(drop))?;
    Ok(c)
}

fn sweeps(circuit: &Circuit) -> Result<usize> {
    let program = circuit.compile()?;
    Ok(program.gpu_passes().iter().map(|pass| pass.sweeps.len()).sum())
}

#[test]
fn circuits_need_no_more_sweeps_than_their_design_says() -> Result<()> {
    for (name, circuit, most) in
        [("ring", ring(N)?, 8), ("CZ chain", cz_chain(N)?, 7), ("Fourier transform", fourier(N)?, 3)]
    {
        let count = sweeps(&circuit)?;
        assert!(count <= most, "{name}: {count} sweeps of 16 amplitudes, at most {most} expected");
    }
    Ok(())
}

/// The 4096 addresses that the block's (thread, register) pairs use, by thread and then register.
fn addresses(words: &[u32], table: usize) -> Vec<[u32; 16]> {
    let of_thread = |thread: usize| {
        let set = (0..8).filter(|bit| thread >> bit & 1 == 1);
        let base = set.fold(words[table], |at, bit| at ^ words[table + TABLE_THREADS + bit]);
        std::array::from_fn(|register| {
            let set = (0..4).filter(|bit| register >> bit & 1 == 1);
            set.fold(base, |at, bit| at ^ words[table + 1 + bit])
        })
    };
    (0..256).map(of_thread).collect()
}

fn exchanges(program: &DeviceProgram) -> impl Iterator<Item = &[u32]> {
    let words = program.segments.iter().map(|segment| &program.words[segment.first as usize..]);
    words.filter(|words| words[1] & EXCHANGE != 0)
}

#[test]
fn exchanges_have_no_bank_conflicts() -> Result<()> {
    let mut seen = 0;
    for n in [5usize, 6, 8, 9, 11, 12] {
        for circuit in [ring(n)?, cz_chain(n)?, fourier(n)?] {
            let program: Program = circuit.compile()?;
            let encoded = records::encode(&program.lowered, program.gpu_passes(), n, Ending::States);
            assert!(n <= ON_CHIP_BITS);
            for words in exchanges(&encoded) {
                seen += 1;
                for table in [WRITE, READ] {
                    let all = addresses(words, table);
                    let mut used = vec![false; 4096];
                    all.iter().flatten().for_each(|&at| used[at as usize] = true);
                    assert!(used.iter().all(|&hit| hit), "two amplitudes share an address");
                    for (warp, register) in (0..8).flat_map(|warp| (0..16).map(move |r| (warp, r))) {
                        let lanes = &all[32 * warp..][..32];
                        let banks = lanes.iter().fold(0u32, |banks, at| banks | 1 << (at[register] % 32));
                        assert_eq!(banks, u32::MAX, "n = {n}: lanes of warp {warp} share a bank");
                    }
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} exchanges");
    Ok(())
}

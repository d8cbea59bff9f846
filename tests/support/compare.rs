//! NaN-safe comparison: lengths first, then the class of each element, then the difference.

use std::fmt::LowerExp;

/// What kind of number an element is. Elements of different classes are never close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    NotANumber,
    PlusInfinity,
    MinusInfinity,
    Finite,
}

fn class(x: f64) -> Class {
    if x.is_nan() {
        Class::NotANumber
    } else if x == f64::INFINITY {
        Class::PlusInfinity
    } else if x == f64::NEG_INFINITY {
        Class::MinusInfinity
    } else {
        Class::Finite
    }
}

/// Compares with a bound for each element, and gives the worst error as a share of its bound.
///
/// # Errors
/// A message with the worst element: its index, both values, the bound, and how many others fail.
pub fn close<T: Copy + Into<f64> + LowerExp>(
    what: &str,
    got: &[T],
    want: &[f64],
    tolerance: &[f64],
) -> Result<f64, String> {
    if got.len() != want.len() || want.len() != tolerance.len() {
        let lengths =
            format!("{} elements, expected {}, {} tolerances", got.len(), want.len(), tolerance.len());
        return Err(format!("{what}: {lengths}"));
    }
    let share = |i: usize| -> f64 {
        let (g, w) = (got[i].into(), want[i]);
        match (class(g), class(w)) {
            (Class::Finite, Class::Finite) => {
                let error = (g - w).abs();
                // No error passes any bound, 0 included; a NaN bound gives a NaN share, which passes nothing.
                if error == 0.0 { 0.0 } else { error / tolerance[i] }
            }
            (a, b) if a == b => 0.0,
            _ => f64::INFINITY,
        }
    };
    let shares: Vec<f64> = (0..got.len()).map(share).collect();
    let failing = shares.iter().filter(|&&s| !(s <= 1.0)).count();
    let key = |s: f64| if s.is_nan() { f64::INFINITY } else { s };
    let worst = (0..got.len()).max_by(|&a, &b| key(shares[a]).total_cmp(&key(shares[b])));
    let Some(worst) = worst else { return Ok(0.0) };
    if failing == 0 {
        return Ok(shares[worst]);
    }
    Err(format!(
        "{what}[{worst}] = {:e}, expected {:e} within {:e} ({failing} of {} elements fail)",
        got[worst],
        want[worst],
        tolerance[worst],
        got.len()
    ))
}

/// Compares two results that must be the same bits. NaNs are equal whatever their payload.
///
/// # Errors
/// A message with the first difference and how many there are.
pub fn same_bits(what: &str, got: &[f32], want: &[f32]) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{what}: {} elements, expected {}", got.len(), want.len()));
    }
    let differs =
        |i: &usize| got[*i].to_bits() != want[*i].to_bits() && !(got[*i].is_nan() && want[*i].is_nan());
    let Some(first) = (0..got.len()).find(differs) else { return Ok(()) };
    let count = (0..got.len()).filter(differs).count();
    Err(format!(
        "{what}[{first}] = {:e}, expected the bits of {:e} ({count} of {} elements differ)",
        got[first],
        want[first],
        got.len()
    ))
}

/// ‖got − want‖₂ of complex amplitudes given as (re, im) pairs.
///
/// # Errors
/// A message if the lengths differ, an amplitude is not finite where it should be, or the norm exceeds `tolerance`.
pub fn close_norm<T: Copy + Into<f64> + LowerExp>(
    what: &str,
    got: &[T],
    want: &[f64],
    tolerance: f64,
) -> Result<f64, String> {
    if got.len() != want.len() {
        return Err(format!("{what}: {} numbers, expected {}", got.len(), want.len()));
    }
    if let Some(at) = (0..got.len()).find(|&i| class(got[i].into()) != class(want[i])) {
        return Err(format!("{what}[{at}] = {:e}, expected {:e}", got[at], want[at]));
    }
    let squares =
        got.iter().zip(want).map(|(&g, &w)| if w.is_finite() { (g.into() - w).powi(2) } else { 0.0 });
    let norm = squares.sum::<f64>().sqrt();
    if norm <= tolerance {
        Ok(norm / tolerance)
    } else {
        Err(format!("{what}: off by {norm:e} in norm, allowed {tolerance:e}"))
    }
}

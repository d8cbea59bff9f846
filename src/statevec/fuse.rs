//! What the compiler sees in matrices: permutations, unitarity, and neighbours that are cheaper as one.

use super::lower::{Action, Step};
use num_complex::Complex64;

/// A matrix with one non-zero entry in each row and column: a permutation, then a diagonal.
pub(crate) struct Monomial {
    /// Basis state r goes to table\[r\].
    pub(crate) table: Vec<u32>,
    /// Factor of each basis state after that.
    pub(crate) factors: Vec<Complex64>,
}

impl Monomial {
    pub(crate) fn of(matrix: &[Complex64]) -> Option<Self> {
        let side = matrix.len().isqrt();
        let mut table = vec![u32::MAX; side];
        let mut factors = vec![Complex64::ZERO; side];
        for (row, entries) in matrix.chunks(side).enumerate() {
            let mut filled = entries.iter().enumerate().filter(|(_, entry)| **entry != Complex64::ZERO);
            let (column, &factor) = filled.next()?;
            if filled.next().is_some() || table[column] != u32::MAX {
                return None;
            }
            (table[column], factors[row]) = (row as u32, factor);
        }
        Some(Self { table, factors })
    }
}

/// Whether table\[x\] = A·x ⊕ b over GF(2).
pub(crate) fn is_linear(table: &[u32]) -> bool {
    let column = |bit: usize| table[1 << bit] ^ table[0];
    (0..table.len()).all(|x| {
        let bits = (0..usize::BITS as usize).filter(|bit| x >> bit & 1 == 1);
        bits.fold(table[0], |sum, bit| sum ^ column(bit)) == table[x]
    })
}

/// Whether rows are orthonormal to within `tolerance`.
pub(crate) fn is_unitary(matrix: &[Complex64], tolerance: f64) -> bool {
    let side = matrix.len().isqrt();
    let near = |i: usize, j: usize| {
        let product: Complex64 = (0..side).map(|k| matrix[i * side + k] * matrix[j * side + k].conj()).sum();
        (product - Complex64::from(f64::from(u8::from(i == j)))).norm() < tolerance
    };
    (0..side).all(|i| (0..side).all(|j| near(i, j)))
}

/// Appends a matrix step, multiplied with the earlier matrices that it can move next to and whose qubits it contains or is
/// contained in: a dense step costs what its size says however many matrices are in it. Returns how many were merged.
pub(crate) fn push_matrix(steps: &mut Vec<Step>, step: Step) -> usize {
    const LOOK_BACK: usize = 64;
    let (mut step, mut merged, mut at) = (step, 0, steps.len());
    let mut place = None;
    for _ in 0..LOOK_BACK {
        let Some(earlier) = at.checked_sub(1).map(|before| &steps[before]) else { break };
        if let Some(product) = product(earlier, &step) {
            at -= 1;
            steps.remove(at);
            (step, place, merged) = (product, Some(at), merged + 1);
        } else if earlier.commutes(&step) {
            at -= 1;
        } else {
            break;
        }
    }
    // Where the earliest merged one was: what lies between commutes with all that moved.
    steps.insert(place.unwrap_or(steps.len()), step);
    merged
}

/// `later`·`earlier` as one step, if the qubits of one are among those of the other.
fn product(earlier: &Step, later: &Step) -> Option<Step> {
    let (Action::Matrix(a), Action::Matrix(b)) = (&earlier.action, &later.action) else { return None };
    if !earlier.controls.is_empty() || !later.controls.is_empty() {
        return None;
    }
    let (wide, narrow) =
        if earlier.directions.len() >= later.directions.len() { (earlier, later) } else { (later, earlier) };
    // Bit of the wide index for each bit of the narrow one.
    let places: Vec<usize> = (0..narrow.directions.len())
        .map(|i| {
            (0..wide.directions.len())
                .find(|&j| wide.directions[j] == narrow.directions[i] && wide.roles[j] == narrow.roles[i])
        })
        .collect::<Option<_>>()?;
    let side = 1usize << wide.directions.len();
    let widened = |matrix: &[Complex64], is_wide: bool| -> Vec<Complex64> {
        if is_wide {
            return matrix.to_vec();
        }
        let mask: usize = places.iter().map(|&place| 1 << place).sum();
        let inner = |index: usize| -> usize {
            places.iter().enumerate().map(|(i, &place)| (index >> place & 1) << i).sum()
        };
        let narrow_side = 1usize << places.len();
        let entry = |at: usize| {
            let (row, column) = (at / side, at % side);
            if row & !mask == column & !mask {
                matrix[inner(row) * narrow_side + inner(column)]
            } else {
                Complex64::ZERO
            }
        };
        (0..side * side).map(entry).collect()
    };
    let earlier_is_wide = std::ptr::eq(wide, earlier);
    let (a, b) = (widened(a, earlier_is_wide), widened(b, !earlier_is_wide));
    let entry = |at: usize| (0..side).map(|k| b[at / side * side + k] * a[k * side + at % side]).sum();
    let product: Vec<Complex64> = (0..side * side).map(entry).collect();
    Some(Step { action: Action::Matrix(product.into()), ..wide.clone() })
}

//! From gates to steps on the stored array.
//!
//! The stored index of an amplitude is linear in its qubits over GF(2). Qubit q has a *direction* (the XOR of the stored
//! index that flips it) and a *functional* (the parity of the stored index that reads it). CNOT, SWAP and X only relabel:
//! they edit this [`Frame`] and move no amplitude. Everything else becomes a [`Step`] along directions, under parities.

use super::circuit::{Circuit, Control, Instruction};
use super::fuse::{self, Monomial};
use super::gate::{Gate, inverse_table};
use super::parameter::Angle;
use super::pauli::PauliString;
use num_complex::Complex64;
use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, PI};
use std::sync::Arc;

/// A bit of the stored index: `parity(mask & index) ^ odd`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Parity {
    pub(crate) mask: u32,
    pub(crate) odd: bool,
}

impl Parity {
    fn xor(self, other: Self) -> Self {
        Self { mask: self.mask ^ other.mask, odd: self.odd ^ other.odd }
    }

    fn not(self) -> Self {
        Self { odd: !self.odd, ..self }
    }
}

/// Whether a word has an odd number of ones.
pub(crate) fn odd_bits(word: u32) -> bool {
    word.count_ones() & 1 == 1
}

/// What a step does, seen along its directions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// (x, y) → (c·x − s·y, s·x + c·y), c + is = e^{iθ/2}, where x is the element whose role is 0. One direction.
    RotateReal(Angle),
    /// (x, y) → (c·x ∓ is·y, ∓is·x + c·y): minus where the role is 0 (both elements have the same role). One direction.
    RotateImag(Angle),
    /// Multiplication by e^{iφ} where the controls hold. No direction.
    Phase(Angle),
    /// A dense row-major matrix; its index bit i is role i, flipped by direction i.
    Matrix(Arc<[Complex64]>),
    /// A diagonal; its index bit i is role i. No direction.
    Diagonal(Arc<[Complex64]>),
    /// The element of role r moves to role table\[r\].
    Permutation(Arc<[u32]>),
    /// The sample's own matrix of this slot, or its conjugate transpose; otherwise as [`Action::Matrix`].
    SampleMatrix { slot: usize, adjoint: bool },
}

impl Action {
    /// The action as a dense matrix of 0s and 1s, if it is a permutation.
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    pub(crate) fn dense_permutation(&self) -> Option<Vec<Complex64>> {
        let Self::Permutation(table) = self else { return None };
        let side = table.len();
        let mut dense = vec![Complex64::ZERO; side * side];
        table.iter().enumerate().for_each(|(from, &to)| dense[to as usize * side + from] = Complex64::ONE);
        Some(dense)
    }
}

/// One action on the stored array.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) action: Action,
    pub(crate) directions: Vec<u32>,
    pub(crate) roles: Vec<Parity>,
    /// The step acts only where all of these are 1.
    pub(crate) controls: Vec<Parity>,
}

impl Step {
    fn parities(&self) -> impl Iterator<Item = &Parity> {
        self.roles.iter().chain(&self.controls)
    }

    /// Whether the two steps give the same result in either order: no parity of one changes along a direction of the other.
    pub(crate) fn commutes(&self, other: &Self) -> bool {
        let blind = |a: &Self, b: &Self| {
            a.parities().all(|p| b.directions.iter().all(|&direction| !odd_bits(p.mask & direction)))
        };
        blind(self, other) && blind(other, self)
    }

    /// The angle, if the step depends on parameters.
    pub(crate) fn angle(&self) -> Option<Angle> {
        match self.action {
            Action::RotateReal(angle) | Action::RotateImag(angle) | Action::Phase(angle) => Some(angle),
            _ => None,
        }
    }

    fn angle_mut(&mut self) -> Option<&mut Angle> {
        match &mut self.action {
            Action::RotateReal(angle) | Action::RotateImag(angle) | Action::Phase(angle) => Some(angle),
            _ => None,
        }
    }

    /// Adds `later`'s angle to this step's, if both turn the same amplitudes the same way.
    fn absorb(&mut self, later: &Self) -> bool {
        let same = std::mem::discriminant(&self.action) == std::mem::discriminant(&later.action)
            && self.directions == later.directions
            && self.roles == later.roles
            && self.controls == later.controls;
        let (Some(angle), Some(added)) = (self.angle_mut(), later.angle()) else { return false };
        match angle.plus(added) {
            Some(sum) if same => *angle = sum,
            _ => return false,
        }
        true
    }
}

/// How qubits lie in the stored index.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Frame {
    /// XOR of the stored index that flips each qubit.
    pub(crate) directions: Vec<u32>,
    /// Parity of the stored index that reads each qubit.
    pub(crate) functionals: Vec<Parity>,
    /// Stored index of |0…0⟩.
    pub(crate) origin: u32,
}

impl Frame {
    pub(super) fn new(qubits: usize) -> Self {
        Self {
            directions: (0..qubits).map(|q| 1 << q).collect(),
            functionals: (0..qubits).map(|q| Parity { mask: 1 << q, odd: false }).collect(),
            origin: 0,
        }
    }

    fn flip(&mut self, qubit: usize) {
        self.functionals[qubit].odd ^= true;
        self.origin ^= self.directions[qubit];
    }

    fn cnot(&mut self, control: Control, target: usize) {
        let c = control.qubit;
        let read = self.read(control);
        self.directions[c] ^= self.directions[target];
        self.functionals[target] = self.functionals[target].xor(read);
        // With the control on 0, the state with every qubit 0 is stored one flip of the target away.
        if !control.value {
            self.origin ^= self.directions[target];
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.directions.swap(a, b);
        self.functionals.swap(a, b);
    }

    /// |x⟩ → |table[x]⟩ of the targets, which is linear over GF(2) up to flips: table[x] = A·x ⊕ b.
    fn permute(&mut self, targets: &[usize], table: &[u32]) {
        let back = inverse_table(table);
        let old: Vec<(u32, Parity)> =
            targets.iter().map(|&q| (self.directions[q], self.functionals[q])).collect();
        // The stored XOR of a set of old target bits.
        let step = |bits: u32| {
            let set = old.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1);
            set.fold(0, |at, (_, (direction, _))| at ^ direction)
        };
        for (i, &q) in targets.iter().enumerate() {
            self.directions[q] = step(back[1 << i] ^ back[0]);
            let constant = Parity { mask: 0, odd: table[0] >> i & 1 == 1 };
            self.functionals[q] = old.iter().enumerate().fold(constant, |sum, (j, (_, functional))| {
                if (table[1 << j] ^ table[0]) >> i & 1 == 1 { sum.xor(*functional) } else { sum }
            });
        }
        self.origin ^= step(back[0]);
    }

    /// The parity that is 1 where the control lets the gate act.
    fn read(&self, control: Control) -> Parity {
        let functional = self.functionals[control.qubit];
        if control.value { functional } else { functional.not() }
    }

    /// Stored index of the amplitude of basis state `index`.
    pub(crate) fn stored(&self, index: u32) -> u32 {
        let set = (0..self.directions.len()).filter(|&q| index >> q & 1 == 1);
        set.fold(self.origin, |at, q| at ^ self.directions[q])
    }

    /// Direction of a string's X part, and the parity of its Z part.
    pub(crate) fn string(&self, string: PauliString) -> (u32, Parity) {
        let qubits = || 0..self.directions.len();
        let direction = qubits().filter(|&q| string.x >> q & 1 == 1).fold(0, |d, q| d ^ self.directions[q]);
        let bits = qubits().filter(|&q| string.z >> q & 1 == 1);
        (direction, bits.fold(Parity::default(), |p, q| p.xor(self.functionals[q])))
    }
}

/// A circuit as steps, the frame its result is stored in, and the phase that multiplies all of it.
#[derive(Clone, Debug)]
pub(crate) struct Lowered {
    pub(crate) steps: Vec<Step>,
    pub(crate) frame: Frame,
    /// The state is multiplied by e^{i·Σ}.
    pub(crate) global_phase: Vec<Angle>,
    /// Whether every matrix and diagonal of the circuit is unitary. Per-sample ones are not known.
    pub(crate) unitary: bool,
    /// Matrices and diagonals that are not.
    pub(crate) non_unitary: usize,
    /// Gates that only relabelled.
    pub(crate) relabelled: usize,
    /// Steps merged into an earlier one or cancelled by it.
    pub(crate) merged: usize,
}

impl Lowered {
    pub(crate) fn new(circuit: &Circuit) -> Self {
        let mut lowering = Self {
            steps: Vec::new(),
            frame: Frame::new(circuit.qubits()),
            global_phase: Vec::new(),
            unitary: true,
            non_unitary: 0,
            relabelled: 0,
            merged: 0,
        };
        for instruction in &circuit.instructions {
            let before = (lowering.steps.len(), lowering.merged);
            lowering.gate(instruction);
            if before == (lowering.steps.len(), lowering.merged) {
                lowering.relabelled += 1;
            }
        }
        lowering.steps.retain(|step| step.angle().is_none_or(|angle| !angle.is_zero()));
        lowering
    }

    fn gate(&mut self, instruction: &Instruction) {
        let Instruction { gate, targets, controls } = instruction;
        let held: Vec<Parity> = controls.iter().map(|&control| self.frame.read(control)).collect();
        let constant = Angle::constant;
        // Strings below are on the targets; every rotation is a Pauli rotation.
        let bit = |i: usize| 1u32 << targets[i];
        match gate {
            Gate::X => self.flip(controls, targets[0]),
            Gate::Y => {
                // Y = i·X·Z.
                self.phase_if_one(constant(PI), targets[0], &held);
                self.flip(controls, targets[0]);
                self.phase(constant(FRAC_PI_2), held);
            }
            Gate::Z => self.phase_if_one(constant(PI), targets[0], &held),
            Gate::S => self.phase_if_one(constant(FRAC_PI_2), targets[0], &held),
            Gate::Sdg => self.phase_if_one(constant(-FRAC_PI_2), targets[0], &held),
            Gate::T => self.phase_if_one(constant(FRAC_PI_4), targets[0], &held),
            Gate::Tdg => self.phase_if_one(constant(-FRAC_PI_4), targets[0], &held),
            Gate::Phase(angle) => self.phase_if_one((*angle).into(), targets[0], &held),
            Gate::H => {
                // H = RY(π/2)·Z: three shears and a sign, against sixteen multiplications of a dense matrix.
                self.phase_if_one(constant(PI), targets[0], &held);
                self.rotation(PauliString { x: bit(0), z: bit(0) }, constant(FRAC_PI_2), held);
            }
            Gate::Sx | Gate::Sxdg => {
                let sign = if *gate == Gate::Sx { 1.0 } else { -1.0 };
                self.phase(constant(sign * FRAC_PI_4), held.clone());
                self.rotation(PauliString { x: bit(0), z: 0 }, constant(sign * FRAC_PI_2), held);
            }
            Gate::Rx(angle) => self.rotation(PauliString { x: bit(0), z: 0 }, (*angle).into(), held),
            Gate::Ry(angle) => self.rotation(PauliString { x: bit(0), z: bit(0) }, (*angle).into(), held),
            Gate::Rz(angle) => self.rotation(PauliString { x: 0, z: bit(0) }, (*angle).into(), held),
            Gate::U3(theta, phi, lambda) => {
                self.phase_if_one((*lambda).into(), targets[0], &held);
                let string = PauliString { x: bit(0), z: bit(0) };
                self.rotation(string, (*theta).into(), held.clone());
                self.phase_if_one((*phi).into(), targets[0], &held);
            }
            Gate::Swap => self.swap(controls, targets[0], targets[1]),
            Gate::ISwap | Gate::ISwapDg => {
                // i where the two qubits differ; the swap does not change whether they do.
                let angle = if *gate == Gate::ISwap { FRAC_PI_2 } else { -FRAC_PI_2 };
                let [a, b] = [0, 1].map(|i| self.frame.functionals[targets[i]]);
                let differ = held.into_iter().chain([a.xor(b)]).collect();
                self.phase(constant(angle), differ);
                self.swap(controls, targets[0], targets[1]);
            }
            Gate::Rxx(a) => self.rotation(PauliString { x: bit(0) | bit(1), z: 0 }, (*a).into(), held),
            Gate::Ryy(a) => {
                let both = bit(0) | bit(1);
                self.rotation(PauliString { x: both, z: both }, (*a).into(), held);
            }
            Gate::Rzz(a) => self.rotation(PauliString { x: 0, z: bit(0) | bit(1) }, (*a).into(), held),
            Gate::PauliRotation(string, angle) => self.rotation(*string, (*angle).into(), held),
            Gate::Matrix(entries) => match Monomial::of(entries) {
                // A matrix of one entry a row moves amplitudes and multiplies each once, or less.
                Some(monomial) => {
                    self.permutation(&monomial.table, targets, controls);
                    self.diagonal(&monomial.factors, targets, controls);
                }
                None => {
                    // Matrices printed with seven digits keep as much.
                    if !fuse::is_unitary(entries, 1e-6) {
                        self.unitary = false;
                        self.non_unitary += 1;
                    }
                    let action = Action::Matrix(entries.as_slice().into());
                    let step = self.on_targets(action, targets, controls);
                    self.merged += fuse::push_matrix(&mut self.steps, step);
                }
            },
            Gate::SampleMatrix { slot, adjoint } => {
                let action = Action::SampleMatrix { slot: *slot, adjoint: *adjoint };
                let step = self.on_targets(action, targets, controls);
                self.steps.push(step);
            }
            Gate::Diagonal(entries) => self.diagonal(entries, targets, controls),
            Gate::Permutation(table) => self.permutation(table, targets, controls),
        }
    }

    fn on_targets(&self, action: Action, targets: &[usize], controls: &[Control]) -> Step {
        Step {
            action,
            directions: targets.iter().map(|&q| self.frame.directions[q]).collect(),
            roles: targets.iter().map(|&q| self.frame.functionals[q]).collect(),
            controls: controls.iter().map(|&control| self.frame.read(control)).collect(),
        }
    }

    fn diagonal(&mut self, entries: &[Complex64], targets: &[usize], controls: &[Control]) {
        if !entries.iter().all(|entry| (entry.norm_sqr() - 1.0).abs() < 1e-6) {
            self.unitary = false;
            self.non_unitary += 1;
        }
        if entries.iter().all(|&entry| entry == Complex64::ONE) {
            return;
        }
        let action = Action::Diagonal(entries.into());
        let step = Step { directions: Vec::new(), ..self.on_targets(action, targets, controls) };
        self.steps.push(step);
    }

    fn permutation(&mut self, table: &[u32], targets: &[usize], controls: &[Control]) {
        let flips = table[0];
        if (0..).zip(table).all(|(from, &to)| to == from ^ flips) {
            let flipped: Vec<usize> =
                targets.iter().enumerate().filter(|(i, _)| flips >> i & 1 == 1).map(|(_, &q)| q).collect();
            let Some(&first) = flipped.first() else { return };
            if controls.len() < 2 {
                return flipped.iter().for_each(|&q| self.flip(controls, q));
            }
            // Several flips under the same controls are one along the sum of their directions.
            let mut step = self.on_targets(Action::Permutation([1, 0].into()), &[first], controls);
            step.directions = vec![flipped.iter().fold(0, |sum, &q| sum ^ self.frame.directions[q])];
            return self.steps.push(step);
        }
        if controls.is_empty() && fuse::is_linear(table) {
            return self.frame.permute(targets, table);
        }
        let step = self.on_targets(Action::Permutation(table.into()), targets, controls);
        self.steps.push(step);
    }

    fn flip(&mut self, controls: &[Control], target: usize) {
        match controls {
            [] => self.frame.flip(target),
            &[control] => self.frame.cnot(control, target),
            _ => {
                // Toffoli is not linear: it moves amplitudes.
                let step = self.on_targets(Action::Permutation([1, 0].into()), &[target], controls);
                self.steps.push(step);
            }
        }
    }

    fn swap(&mut self, controls: &[Control], a: usize, b: usize) {
        if controls.is_empty() {
            return self.frame.swap(a, b);
        }
        // Fredkin: a Toffoli between two relabelling CNOTs.
        let from = |qubit| Control { qubit, value: true };
        self.frame.cnot(from(b), a);
        let with_a: Vec<Control> = controls.iter().copied().chain([from(a)]).collect();
        self.flip(&with_a, b);
        self.frame.cnot(from(b), a);
    }

    /// e^{iφ} where `qubit` is 1 and the controls hold.
    fn phase_if_one(&mut self, angle: Angle, qubit: usize, controls: &[Parity]) {
        self.phase(angle, controls.iter().copied().chain([self.frame.functionals[qubit]]).collect());
    }

    fn phase(&mut self, angle: Angle, mut controls: Vec<Parity>) {
        // A parity that reads no bit is a constant: it always or never holds.
        if controls.iter().any(|parity| parity.mask == 0 && !parity.odd) {
            return;
        }
        controls.retain(|parity| parity.mask != 0);
        controls.sort_unstable();
        if controls.is_empty() {
            match self.global_phase.iter_mut().find_map(|sum| sum.plus(angle).map(|both| (sum, both))) {
                Some((sum, both)) => *sum = both,
                None => self.global_phase.push(angle),
            }
            return;
        }
        self.push(Step { action: Action::Phase(angle), directions: vec![], roles: vec![], controls });
    }

    /// exp(−iθP/2) under controls.
    fn rotation(&mut self, string: PauliString, angle: Angle, mut controls: Vec<Parity>) {
        let (direction, sign) = self.frame.string(string);
        if string.x == 0 {
            // e^{−iθ/2} everywhere, e^{iθ} more where the parity is 1.
            self.phase(angle.scaled(-0.5), controls.clone());
            controls.push(sign);
            return self.phase(angle, controls);
        }
        // P|x⟩ = i^y (−1)^parity |x ⊕ direction⟩: i^y is ±1 or ±i, and its sign joins the parity.
        let y = string.y_count();
        let role = if y & 2 == 0 { sign } else { sign.not() };
        let action = if y & 1 == 1 { Action::RotateReal(angle) } else { Action::RotateImag(angle) };
        self.push(Step { action, directions: vec![direction], roles: vec![role], controls });
    }

    /// Appends a rotation or phase, or adds its angle to an earlier equal one that it can move next to.
    fn push(&mut self, step: Step) {
        const LOOK_BACK: usize = 64;
        for earlier in self.steps.iter_mut().rev().take(LOOK_BACK) {
            if earlier.absorb(&step) {
                self.merged += 1;
                return;
            }
            if !earlier.commutes(&step) {
                break;
            }
        }
        self.steps.push(step);
    }
}

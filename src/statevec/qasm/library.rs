//! The gates OpenQASM programs know without defining them.

use super::value::Linear;
use crate::statevec::circuit::{Control, Instruction};
use crate::statevec::gate::Gate;
use crate::statevec::parameter::Parameter;
use crate::statevec::pauli::PauliString;
use std::f64::consts::FRAC_PI_2;

/// Where a gate is defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Library {
    /// Part of OpenQASM 2 itself.
    Two,
    /// Part of OpenQASM 3 itself.
    Three,
    /// Part of both.
    Both,
    /// `qelib1.inc` and `stdgates.inc`.
    Included,
    /// `qelib1.inc` only.
    Qelib1,
    /// `stdgates.inc` only.
    Stdgates,
}

/// What a gate does to the qubits after its controls.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    Nothing,
    Fixed(Gate0),
    /// One angle; the gates of two angles are the gate of their sum.
    Rotation(fn(Parameter) -> Gate),
    GlobalPhase,
    U3,
    /// `U3(π/2, φ, λ)`.
    U2,
    /// `U3(θ, φ, λ)`, and a phase γ on the control.
    Cu,
}

/// Gates without parameters, which a table can hold.
#[derive(Clone, Copy, Debug)]
pub(super) enum Gate0 {
    X,
    Y,
    Z,
    H,
    S,
    Sdg,
    T,
    Tdg,
    Sx,
    Sxdg,
    Swap,
}

impl Gate0 {
    fn gate(self) -> Gate {
        match self {
            Self::X => Gate::X,
            Self::Y => Gate::Y,
            Self::Z => Gate::Z,
            Self::H => Gate::H,
            Self::S => Gate::S,
            Self::Sdg => Gate::Sdg,
            Self::T => Gate::T,
            Self::Tdg => Gate::Tdg,
            Self::Sx => Gate::Sx,
            Self::Sxdg => Gate::Sxdg,
            Self::Swap => Gate::Swap,
        }
    }
}

#[derive(Debug)]
pub(super) struct Native {
    pub(super) name: &'static str,
    pub(super) library: Library,
    pub(super) parameters: usize,
    pub(super) controls: usize,
    pub(super) targets: usize,
    pub(super) action: Action,
}

const fn native(
    name: &'static str,
    library: Library,
    [parameters, controls, targets]: [usize; 3],
    action: Action,
) -> Native {
    Native { name, library, parameters, controls, targets, action }
}

/// Phases are OpenQASM 3's: U's upper left entry is cos(θ/2). `u2` and `u3` are `U`, so that controlling them means the same.
static GATES: &[Native] = {
    use Action::{Cu, Fixed, GlobalPhase, Nothing, Rotation, U2, U3};
    use Library::{Both, Included, Qelib1, Stdgates, Three, Two};
    &[
        native("U", Both, [3, 0, 1], U3),
        native("CX", Two, [0, 1, 1], Fixed(Gate0::X)),
        native("CX", Stdgates, [0, 1, 1], Fixed(Gate0::X)),
        native("gphase", Three, [1, 0, 0], GlobalPhase),
        native("x", Included, [0, 0, 1], Fixed(Gate0::X)),
        native("y", Included, [0, 0, 1], Fixed(Gate0::Y)),
        native("z", Included, [0, 0, 1], Fixed(Gate0::Z)),
        native("h", Included, [0, 0, 1], Fixed(Gate0::H)),
        native("s", Included, [0, 0, 1], Fixed(Gate0::S)),
        native("sdg", Included, [0, 0, 1], Fixed(Gate0::Sdg)),
        native("t", Included, [0, 0, 1], Fixed(Gate0::T)),
        native("tdg", Included, [0, 0, 1], Fixed(Gate0::Tdg)),
        native("sx", Included, [0, 0, 1], Fixed(Gate0::Sx)),
        native("sxdg", Qelib1, [0, 0, 1], Fixed(Gate0::Sxdg)),
        native("id", Included, [0, 0, 1], Nothing),
        native("u0", Qelib1, [1, 0, 1], Nothing),
        native("p", Included, [1, 0, 1], Rotation(Gate::Phase)),
        native("phase", Stdgates, [1, 0, 1], Rotation(Gate::Phase)),
        native("u1", Included, [1, 0, 1], Rotation(Gate::Phase)),
        native("u2", Included, [2, 0, 1], U2),
        native("u3", Included, [3, 0, 1], U3),
        native("u", Qelib1, [3, 0, 1], U3),
        native("rx", Included, [1, 0, 1], Rotation(Gate::Rx)),
        native("ry", Included, [1, 0, 1], Rotation(Gate::Ry)),
        native("rz", Included, [1, 0, 1], Rotation(Gate::Rz)),
        native("swap", Included, [0, 0, 2], Fixed(Gate0::Swap)),
        native("cx", Included, [0, 1, 1], Fixed(Gate0::X)),
        native("cy", Included, [0, 1, 1], Fixed(Gate0::Y)),
        native("cz", Included, [0, 1, 1], Fixed(Gate0::Z)),
        native("ch", Included, [0, 1, 1], Fixed(Gate0::H)),
        native("csx", Qelib1, [0, 1, 1], Fixed(Gate0::Sx)),
        native("crx", Included, [1, 1, 1], Rotation(Gate::Rx)),
        native("cry", Included, [1, 1, 1], Rotation(Gate::Ry)),
        native("crz", Included, [1, 1, 1], Rotation(Gate::Rz)),
        native("cp", Included, [1, 1, 1], Rotation(Gate::Phase)),
        native("cphase", Stdgates, [1, 1, 1], Rotation(Gate::Phase)),
        native("cu1", Qelib1, [1, 1, 1], Rotation(Gate::Phase)),
        native("cu3", Qelib1, [3, 1, 1], U3),
        native("cu", Included, [4, 1, 1], Cu),
        native("ccx", Included, [0, 2, 1], Fixed(Gate0::X)),
        native("c3x", Qelib1, [0, 3, 1], Fixed(Gate0::X)),
        native("c3sqrtx", Qelib1, [0, 3, 1], Fixed(Gate0::Sx)),
        native("c4x", Qelib1, [0, 4, 1], Fixed(Gate0::X)),
        native("cswap", Included, [0, 1, 2], Fixed(Gate0::Swap)),
        native("rxx", Qelib1, [1, 0, 2], Rotation(Gate::Rxx)),
        native("rzz", Qelib1, [1, 0, 2], Rotation(Gate::Rzz)),
    ]
};

/// The two gates of `qelib1.inc` that are a Toffoli up to phases, and so are their circuits.
pub(super) const RELATIVE_TOFFOLIS: &str = "OPENQASM 2.0; gate rccx a,b,c { u2(0,pi) c; u1(pi/4) c; cx b,c; u1(-pi/4) c; \
    cx a,c; u1(pi/4) c; cx b,c; u1(-pi/4) c; u2(0,pi) c; } \
    gate rc3x a,b,c,d { u2(0,pi) d; u1(pi/4) d; cx c,d; u1(-pi/4) d; u2(0,pi) d; cx a,d; u1(pi/4) d; cx b,d; \
    u1(-pi/4) d; cx a,d; u1(pi/4) d; cx b,d; u1(-pi/4) d; u2(0,pi) d; u1(pi/4) d; cx c,d; u1(-pi/4) d; u2(0,pi) d; }";

/// Which libraries a program has included, and its version.
#[derive(Clone, Copy, Debug)]
pub(super) struct Included {
    pub(super) version: u8,
    pub(super) qelib1: bool,
    pub(super) stdgates: bool,
}

impl Library {
    fn visible(self, included: Included) -> bool {
        let Included { version, qelib1, stdgates } = included;
        match self {
            Self::Two => version == 2,
            Self::Three => version == 3,
            Self::Both => true,
            Self::Included => qelib1 || stdgates,
            Self::Qelib1 => qelib1,
            Self::Stdgates => stdgates,
        }
    }
}

/// The gate of that name, if the program can see it.
pub(super) fn find(name: &str, included: Included) -> Option<&'static Native> {
    GATES.iter().find(|gate| gate.name == name && gate.library.visible(included))
}

/// Which include would make the gate known.
pub(super) fn missing_include(name: &str, version: u8) -> Option<&'static str> {
    let both = Included { version, qelib1: true, stdgates: version == 3 };
    let relative = matches!(name, "rccx" | "rc3x");
    let library = if relative { Library::Qelib1 } else { find(name, both)?.library };
    Some(if version == 2 || library == Library::Qelib1 { "qelib1.inc" } else { "stdgates.inc" })
}

impl Native {
    /// Appends what the gate does. `arguments` and `qubits` are as many as the gate takes.
    pub(super) fn emit(&self, arguments: &[Linear], qubits: &[usize], out: &mut Vec<Instruction>) {
        let (controls, targets) = qubits.split_at(self.controls);
        let controls: Vec<Control> = controls.iter().map(|&qubit| Control { qubit, value: true }).collect();
        let mut push = |gate: Gate, targets: &[usize], controls: &[Control]| {
            out.push(Instruction { gate, targets: targets.to_vec(), controls: controls.to_vec() });
        };
        match self.action {
            Action::Nothing => {}
            Action::Fixed(gate) => push(gate.gate(), targets, &controls),
            Action::Rotation(make) => {
                for part in arguments[0].parts() {
                    push(make(part), targets, &controls);
                }
            }
            Action::GlobalPhase => {
                for part in arguments[0].scaled(-2.0).parts() {
                    push(Gate::PauliRotation(PauliString::default(), part), &[], &controls);
                }
            }
            Action::U3 | Action::U2 | Action::Cu => {
                let right_angle = Linear::constant(FRAC_PI_2);
                let (theta, rest) = match self.action {
                    Action::U2 => (&right_angle, arguments),
                    _ => (&arguments[0], &arguments[1..]),
                };
                let (phi, lambda) = (&rest[0], &rest[1]);
                match (theta.single(), phi.single(), lambda.single()) {
                    (Some(theta), Some(phi), Some(lambda)) => {
                        push(Gate::U3(theta, phi, lambda), targets, &controls);
                    }
                    // Angles of several inputs each: U3 is a phase, a rotation and a phase, and those can be split.
                    _ => {
                        lambda
                            .parts()
                            .into_iter()
                            .for_each(|part| push(Gate::Phase(part), targets, &controls));
                        theta.parts().into_iter().for_each(|part| push(Gate::Ry(part), targets, &controls));
                        phi.parts().into_iter().for_each(|part| push(Gate::Phase(part), targets, &controls));
                    }
                }
                if let Action::Cu = self.action {
                    for part in arguments[3].parts() {
                        push(Gate::Phase(part), &qubits[..1], &[]);
                    }
                }
            }
        }
    }
}

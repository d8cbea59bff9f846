//! Circuit diagrams for the terminal.
//!
//! Every qubit and every classical register is a wire with a row of its own and a row below it for vertical lines. Elements
//! go into the leftmost column where all wires they cross are free; columns that do not fit the width continue below.

use gatewarp::statevec::qasm::{Condition, Operation, Qasm, Register};
use gatewarp::statevec::{Control, Gate, Parameter, Variable};
use std::fmt::Write as _;

/// One thing in one column.
#[derive(Debug, Default)]
struct Element {
    /// (wire, what is drawn on it).
    marks: Vec<(usize, String)>,
    /// First and last wire joined by a single line.
    single: Option<(usize, usize)>,
    /// First and last wire joined by a double line.
    double: Option<(usize, usize)>,
    /// (wire, text in the row below it).
    below: Option<(usize, String)>,
}

impl Element {
    /// Wires that nothing else may use in this column.
    fn span(&self) -> Option<(usize, usize)> {
        let wires = self.marks.iter().map(|(wire, _)| *wire);
        let (first, last) = (wires.clone().min()?, wires.max()?);
        let lines = [self.single, self.double].into_iter().flatten();
        Some(lines.fold((first, last), |(low, high), (a, b)| (low.min(a), high.max(b))))
    }

    fn width(&self) -> usize {
        let texts = self.marks.iter().map(|(_, text)| text).chain(self.below.iter().map(|(_, text)| text));
        texts.map(|text| text.chars().count()).max().unwrap_or(1)
    }
}

struct Diagram<'a> {
    program: &'a Qasm,
    qubits: usize,
    elements: Vec<Element>,
    phases: Vec<String>,
}

/// The program as a diagram no wider than `width` characters, as long as its widest element fits.
pub(crate) fn draw(program: &Qasm, width: usize) -> String {
    let qubits = program.qubits().iter().map(|register| register.len).sum();
    let mut diagram = Diagram { program, qubits, elements: Vec::new(), phases: Vec::new() };
    diagram.operations(program.operations(), &[]);
    diagram.render(width)
}

fn boxed(label: &str) -> String {
    format!("┤{label}├")
}

impl Diagram<'_> {
    fn operations(&mut self, operations: &[Operation], conditions: &[Condition]) {
        for operation in operations {
            match operation {
                Operation::Gate { gate, targets, controls } => self.gate(gate, targets, controls, conditions),
                Operation::Measure { qubit, bit } => self.measure(*qubit, *bit, conditions),
                Operation::Reset { qubit } => {
                    let marks = vec![(*qubit, boxed("|0⟩"))];
                    self.push(Element { marks, ..Element::default() }, conditions);
                }
                Operation::Barrier { qubits } => {
                    let marks = qubits.iter().map(|&qubit| (qubit, "░".into())).collect();
                    self.push(Element { marks, ..Element::default() }, &[]);
                }
                Operation::If { condition, then, otherwise } => {
                    let both = |last: Condition| [conditions, &[last]].concat();
                    self.operations(then, &both(condition.clone()));
                    self.operations(otherwise, &both(Condition::Not(Box::new(condition.clone()))));
                }
                _ => {}
            }
        }
    }

    /// Wire of the register a bit belongs to.
    fn wire(&self, bit: usize) -> usize {
        let inside = |register: &Register| (register.start..register.start + register.len).contains(&bit);
        self.qubits + self.program.bits().iter().position(inside).unwrap_or(0)
    }

    fn push(&mut self, mut element: Element, conditions: &[Condition]) {
        let mut last = None;
        for condition in conditions {
            condition.for_each_bit(&mut |bit| last = last.max(Some(self.wire(bit))));
        }
        if let (Some(last), Some((first, end))) = (last, element.span()) {
            let texts: Vec<String> = conditions.iter().map(|condition| self.condition(condition)).collect();
            let text = texts.join(" & ");
            if element.double.is_none() {
                element.marks.push((last, "■".into()));
                element.double = Some((end.min(last), last));
                element.below = Some((last, text));
            } else {
                // A conditional measurement: the line to its register is there already.
                let below = element.below.take().map_or_else(String::new, |(_, below)| below + " ");
                element.below = Some((end, format!("{below}if {text}")));
            }
            debug_assert!(first <= last);
        }
        self.elements.push(element);
    }

    fn measure(&mut self, qubit: usize, bit: Option<usize>, conditions: &[Condition]) {
        let mut element = Element { marks: vec![(qubit, boxed("M"))], ..Element::default() };
        if let Some(bit) = bit {
            let wire = self.wire(bit);
            element.marks.push((wire, "╩".into()));
            element.double = Some((qubit, wire));
            let register = &self.program.bits()[wire - self.qubits];
            if register.len > 1 {
                element.below = Some((wire, (bit - register.start).to_string()));
            }
        }
        self.push(element, conditions);
    }

    fn gate(&mut self, gate: &Gate, targets: &[usize], controls: &[Control], conditions: &[Condition]) {
        let mut marks: Vec<(usize, String)> = match gate {
            Gate::X if !controls.is_empty() => vec![(targets[0], "⊕".into())],
            Gate::Z if controls.iter().all(|control| control.value) && !controls.is_empty() => {
                vec![(targets[0], "●".into())]
            }
            Gate::Swap => targets.iter().map(|&target| (target, "×".into())).collect(),
            Gate::PauliRotation(string, angle) => {
                let text = string.to_string();
                let factors: Vec<&str> = text.split('*').filter(|factor| *factor != "1").collect();
                if factors.is_empty() {
                    return self.global_phase(*angle, controls, conditions);
                }
                let angle = self.angle(*angle);
                let mark = |factor: &&str| {
                    Some((factor[1..].parse().ok()?, boxed(&format!("{}({angle})", &factor[..1]))))
                };
                factors.iter().filter_map(mark).collect()
            }
            _ => {
                let label = self.label(gate);
                let numbered = targets.len() > 1 && matches!(gate, Gate::Matrix(_) | Gate::Diagonal(_));
                let mark = |(place, &target): (usize, &usize)| match numbered {
                    true => (target, boxed(&format!("{label}:{place}"))),
                    false => (target, boxed(&label)),
                };
                targets.iter().enumerate().map(mark).collect()
            }
        };
        marks.extend(controls.iter().map(|c| (c.qubit, if c.value { "●" } else { "○" }.to_string())));
        self.joined(marks, conditions);
    }

    fn joined(&mut self, marks: Vec<(usize, String)>, conditions: &[Condition]) {
        let mut element = Element { marks, ..Element::default() };
        element.single = element.span();
        self.push(element, conditions);
    }

    /// e^{−i·angle/2}: nothing on any wire, or a phase on the control that comes last.
    fn global_phase(&mut self, angle: Parameter, controls: &[Control], conditions: &[Condition]) {
        let text = self.angle(angle.scaled(-0.5));
        let Some((last, rest)) = controls.split_last() else {
            let when: Vec<String> = conditions.iter().map(|condition| self.condition(condition)).collect();
            let when = if when.is_empty() { String::new() } else { format!(" if {}", when.join(" & ")) };
            self.phases.push(text + &when);
            return;
        };
        let mut marks =
            vec![(last.qubit, boxed(&format!("{}({text})", if last.value { "P" } else { "P₀" })))];
        marks.extend(rest.iter().map(|c| (c.qubit, if c.value { "●" } else { "○" }.to_string())));
        self.joined(marks, conditions);
    }

    fn angle(&self, parameter: Parameter) -> String {
        let input = |variable: Variable| match variable {
            Variable::Input(i) => self.program.input_name(i),
            Variable::Theta(i) => format!("θ[{i}]"),
            _ => "?".into(),
        };
        match parameter {
            Parameter::Constant(value) => number(value),
            Parameter::Input(i) => input(Variable::Input(i)),
            Parameter::Theta(i) => input(Variable::Theta(i)),
            Parameter::Affine { scale, of, offset } => {
                let factor = match scale {
                    1.0 => String::new(),
                    -1.0 => "-".into(),
                    _ => format!("{}*", number(scale)),
                };
                let sign = if offset > 0.0 { "+" } else { "" };
                let rest = if offset == 0.0 { String::new() } else { format!("{sign}{}", number(offset)) };
                format!("{factor}{}{rest}", input(of))
            }
            _ => "?".into(),
        }
    }

    fn label(&self, gate: &Gate) -> String {
        let one = |name: &str, angle: &Parameter| format!("{name}({})", self.angle(*angle));
        match gate {
            Gate::X => "X".into(),
            Gate::Y => "Y".into(),
            Gate::Z => "Z".into(),
            Gate::H => "H".into(),
            Gate::S => "S".into(),
            Gate::Sdg => "S†".into(),
            Gate::T => "T".into(),
            Gate::Tdg => "T†".into(),
            Gate::Sx => "√X".into(),
            Gate::Sxdg => "√X†".into(),
            Gate::Rx(angle) => one("Rx", angle),
            Gate::Ry(angle) => one("Ry", angle),
            Gate::Rz(angle) => one("Rz", angle),
            Gate::Phase(angle) => one("P", angle),
            Gate::U3(a, b, c) => format!("U({},{},{})", self.angle(*a), self.angle(*b), self.angle(*c)),
            Gate::ISwap => "iSwap".into(),
            Gate::ISwapDg => "iSwap†".into(),
            Gate::Rxx(angle) => one("Rxx", angle),
            Gate::Ryy(angle) => one("Ryy", angle),
            Gate::Rzz(angle) => one("Rzz", angle),
            Gate::Diagonal(_) => "Diag".into(),
            _ => "Unitary".into(),
        }
    }

    fn condition(&self, condition: &Condition) -> String {
        match condition {
            Condition::Equals { bits, value } => {
                let whole = |register: &&Register| {
                    bits.iter().copied().eq(register.start..register.start + register.len)
                };
                match self.program.bits().iter().find(whole) {
                    Some(register) => format!("{}={value}", register.name),
                    None => {
                        let names: Vec<String> =
                            bits.iter().rev().map(|&bit| self.program.bit_name(bit)).collect();
                        format!("{}={value}", names.join(""))
                    }
                }
            }
            Condition::Not(inner) => match &**inner {
                one @ Condition::Equals { .. } => self.condition(one).replace('=', "≠"),
                other => format!("!({})", self.condition(other)),
            },
            Condition::All(list) | Condition::Any(list) => {
                let sign = if matches!(condition, Condition::All(_)) { " & " } else { " | " };
                let parts: Vec<String> = list.iter().map(|one| self.condition(one)).collect();
                format!("({})", parts.join(sign))
            }
            _ => "?".into(),
        }
    }

    fn names(&self) -> Vec<String> {
        let qubits = (0..self.qubits).map(|qubit| self.program.qubit_name(qubit));
        let registers = self.program.bits().iter().map(|register| match register.len {
            1 => register.name.clone(),
            len => format!("{}/{len}", register.name),
        });
        qubits.chain(registers).collect()
    }

    /// Elements by column.
    fn columns(&self, wires: usize) -> Vec<Vec<&Element>> {
        let mut free = vec![0; wires];
        let mut columns: Vec<Vec<&Element>> = Vec::new();
        for element in &self.elements {
            let Some((first, last)) = element.span() else { continue };
            let column = free[first..=last].iter().copied().max().unwrap_or(0);
            free[first..=last].fill(column + 1);
            if column == columns.len() {
                columns.push(Vec::new());
            }
            columns[column].push(element);
        }
        columns
    }

    fn render(&self, width: usize) -> String {
        let names = self.names();
        let margin = names.iter().map(|name| name.chars().count()).max().unwrap_or(0) + 2;
        let columns = self.columns(names.len());
        let widths: Vec<usize> =
            columns.iter().map(|column| column.iter().map(|e| e.width()).max().unwrap_or(1) + 2).collect();
        let mut text = String::new();
        let mut start = 0;
        loop {
            // At least one column a line, however wide.
            let mut end = start;
            let mut used = margin + 1;
            while end < columns.len() && (end == start || used + widths[end] <= width) {
                used += widths[end];
                end += 1;
            }
            let more = end < columns.len();
            self.page(
                &names,
                margin,
                &columns[start..end],
                &widths[start..end],
                (start > 0, more),
                &mut text,
            );
            start = end;
            if !more {
                break;
            }
            text.push('\n');
        }
        if !self.phases.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "global phase: {}", self.phases.join(" + "));
        }
        text
    }

    fn page(
        &self,
        names: &[String],
        margin: usize,
        columns: &[Vec<&Element>],
        widths: &[usize],
        (continues, more): (bool, bool),
        text: &mut String,
    ) {
        for (wire, name) in names.iter().enumerate() {
            let line = if wire < self.qubits { '─' } else { '═' };
            let blank = margin - name.chars().count() - 1;
            text.push_str(name);
            text.extend(std::iter::repeat_n(' ', blank));
            text.push(if continues { '«' } else { line });
            let mut below = " ".repeat(margin);
            for (column, &width) in columns.iter().zip(widths) {
                text.push_str(&centred(&on_wire(column, wire, self.qubits), width, line));
                below.push_str(&centred(&under_wire(column, wire), width, ' '));
            }
            text.push(if more { '»' } else { line });
            text.push('\n');
            let below = below.trim_end();
            if wire + 1 < names.len() || !below.is_empty() {
                text.push_str(below);
                text.push('\n');
            }
        }
    }
}

/// Four digits say enough in a diagram, and π is easier to read than 3.142.
fn number(value: f64) -> String {
    for parts in [1, 2, 3, 4, 6, 8, 16] {
        let times = value / std::f64::consts::PI * f64::from(parts);
        if times != 0.0 && times.abs() <= 64.0 && (times - times.round()).abs() < 1e-12 {
            let factor = match times.round() {
                1.0 => String::new(),
                -1.0 => "-".into(),
                whole => format!("{whole}"),
            };
            return if parts == 1 { format!("{factor}π") } else { format!("{factor}π/{parts}") };
        }
    }
    let short = format!("{value:.4}");
    let short = short.trim_end_matches('0').trim_end_matches('.');
    if value != 0.0 && (value.abs() < 1e-3 || value.abs() >= 1e6) {
        format!("{value:.2e}")
    } else {
        short.into()
    }
}

fn centred(text: &str, width: usize, fill: char) -> String {
    let length = text.chars().count();
    let left = width.saturating_sub(length) / 2;
    let right = width.saturating_sub(length + left);
    let run = |count| std::iter::repeat_n(fill, count);
    run(left).chain(text.chars()).chain(run(right)).collect()
}

fn between(line: Option<(usize, usize)>, wire: usize) -> bool {
    line.is_some_and(|(first, last)| first <= wire && wire < last)
}

fn on_wire(column: &[&Element], wire: usize, qubits: usize) -> String {
    for element in column {
        if let Some((_, mark)) = element.marks.iter().find(|(at, _)| *at == wire) {
            return mark.clone();
        }
        let crosses =
            |line: Option<(usize, usize)>| line.is_some_and(|(first, last)| first < wire && wire < last);
        match (crosses(element.single), crosses(element.double), wire < qubits) {
            (_, true, true) => return "╫".into(),
            (_, true, false) => return "╬".into(),
            (true, false, _) => return "┼".into(),
            _ => {}
        }
    }
    String::new()
}

fn under_wire(column: &[&Element], wire: usize) -> String {
    for element in column {
        if let Some((_, text)) = element.below.as_ref().filter(|(at, _)| *at == wire) {
            return text.clone();
        }
        if between(element.double, wire) {
            return "║".into();
        }
        if between(element.single, wire) {
            return "│".into();
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(body: &str, width: usize) -> String {
        let text = format!("OPENQASM 3.0; include \"stdgates.inc\"; {body}");
        let program = gatewarp::statevec::qasm::parse(&text, "t").unwrap_or_else(|error| panic!("{error}"));
        draw(&program, width)
    }

    #[test]
    fn a_bell_pair_is_measured() {
        let got = drawn("qubit[2] q; bit[2] c; h q[0]; cx q[0], q[1]; c = measure q;", 80);
        let want = "\
q[0] ───┤H├──●──┤M├─────────
             │   ║
q[1] ────────⊕───╫───┤M├────
                 ║    ║
c/2  ════════════╩════╩═════
                 0    1
";
        let squeeze = |text: &str| {
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        let shape = |text: &str| -> Vec<String> {
            squeeze(text).iter().map(|line| line.replace(['─', '═'], "")).collect()
        };
        assert_eq!(shape(&got), shape(want), "{got}");
        // Vertical lines hang together.
        let rows: Vec<Vec<char>> = got.lines().map(|line| line.chars().collect()).collect();
        let at = |mark: char, row: usize| rows[row].iter().position(|&c| c == mark);
        assert_eq!(at('●', 0), at('│', 1));
        assert_eq!(at('●', 0), at('⊕', 2));
        assert_eq!(at('M', 0), at('╫', 2));
        assert_eq!(at('M', 0), at('╩', 4));
    }

    #[test]
    fn lines_are_never_wider_than_asked() {
        let body = "qubit[4] q; bit[4] c; input float x; for int i in [0:30] { rx(i*x + 0.123) q[i % 4]; ctrl @ negctrl @ h q[0], q[3], q[2]; } c = measure q;";
        for width in [40, 60, 80, 120] {
            let got = drawn(body, width);
            let widest = got.lines().map(|line| line.chars().count()).max().unwrap_or(0);
            assert!(widest <= width, "{widest} > {width}\n{got}");
            assert!(got.contains('»') && got.contains('«'));
            let same = got.split("\n\n").all(|page| {
                let wires: Vec<usize> =
                    page.lines().step_by(2).take(5).map(|line| line.chars().count()).collect();
                wires.windows(2).all(|pair| pair[0] == pair[1])
            });
            assert!(same, "wires of a page are equally long\n{got}");
        }
    }

    #[test]
    fn every_kind_of_element_is_drawn() {
        let got = drawn(
            "qubit[3] q; bit[2] c; bit k; input array[float, 2] w; swap q[0], q[2]; barrier; reset q[1]; gphase(pi/3); \
             negctrl @ gphase(0.5) q[1]; U(pi/2, 0, -pi) q[0]; inv @ sx q[1]; pow(0.5) @ swap q[0], q[1]; rz(-w[1] - 1) q[2]; \
             k = measure q[0]; if (c == 2 && !k) { x q[1]; } else y q[2]; measure q[1]; cz q[0], q[1];",
            200,
        );
        for part in [
            "×",
            "░",
            "┤|0⟩├",
            "P₀(0.5)",
            "U(π/2,0,-π)",
            "√X†",
            "Unitary:0",
            "Unitary:1",
            "Rz(-w[1]-1)",
            "■",
            "(c=2 & k≠1)",
            "!((c=2 & k≠1))",
            "global phase: π/3",
        ] {
            assert!(got.contains(part), "no {part}\n{got}");
        }
        assert!(drawn("bit c;", 80).contains('c'));
        assert_eq!(drawn("", 80), "");
    }

    #[test]
    fn numbers_are_short() {
        let pi = std::f64::consts::PI;
        for (value, want) in [
            (0.0, "0"),
            (pi, "π"),
            (-pi / 2.0, "-π/2"),
            (3.0 * pi / 8.0, "3π/8"),
            (0.5, "0.5"),
            (1.23456, "1.2346"),
            (1e-9, "1.00e-9"),
            (2e9, "2.00e9"),
        ] {
            assert_eq!(number(value), want);
        }
    }
}

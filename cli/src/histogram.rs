//! Counts of measured bits: their names as Qiskit writes them, and bars.

use gatewarp::statevec::qasm::Register;
use std::fmt::Write as _;

/// A bit string as Qiskit writes it: the highest bit left, the last register first, a space between registers.
pub(crate) fn bitstring(registers: &[Register], bit: impl Fn(usize) -> bool) -> String {
    let digits = |register: &Register| -> String {
        let indices = (register.start..register.start + register.len).rev();
        indices.map(|index| if bit(index) { '1' } else { '0' }).collect()
    };
    registers.iter().rev().map(digits).collect::<Vec<_>>().join(" ")
}

/// Rows shown; of thousands of outcomes nobody reads more.
const ROWS: usize = 32;

/// Bars for the counts, the most frequent 32 in the order of their names.
pub(crate) fn histogram(counts: &[(String, u64)], width: usize) -> String {
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    let mut shown: Vec<&(String, u64)> = counts.iter().collect();
    shown.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let hidden = shown.split_off(shown.len().min(ROWS));
    shown.sort();
    let most = shown.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    let name = shown.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let digits = most.to_string().len();
    let room = width.saturating_sub(name + digits + 12).clamp(8, 60);
    let mut text = String::new();
    for (bits, count) in shown {
        // Eighths of a block.
        let eighths = (*count as u128 * room as u128 * 8 / u128::from(most)) as usize;
        let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
        let bar = "█".repeat(eighths / 8) + part;
        let share = 100.0 * *count as f64 / total.max(1) as f64;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{bits:>name$}  {count:>digits$}  {share:>5.1}%  {bar}");
    }
    if !hidden.is_empty() {
        let rest: u64 = hidden.iter().map(|(_, count)| count).sum();
        let _ = writeln!(text, "and {} more outcomes with {rest} counts", hidden.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(name: &str, start: usize, len: usize) -> Register {
        let text = format!(
            "OPENQASM 3.0; {} bit[{len}] {name};",
            if start > 0 { format!("bit[{start}] z;") } else { String::new() }
        );
        let program = gatewarp::statevec::qasm::parse(&text, "t").unwrap_or_else(|error| panic!("{error}"));
        program.bits().last().cloned().unwrap_or_else(|| panic!("a register"))
    }

    #[test]
    fn strings_are_qiskits() {
        let registers = [register("a", 0, 2), register("b", 2, 3)];
        // a = 01, b = 110: bits 0, 3, 4 are set.
        assert_eq!(bitstring(&registers, |bit| [0, 3, 4].contains(&bit)), "110 01");
        assert_eq!(bitstring(&registers[..1], |bit| bit == 1), "10");
        assert_eq!(bitstring(&[], |_| true), "");
    }

    #[test]
    fn bars_are_proportional_and_few() {
        let counts = [("00".to_string(), 100), ("11".to_string(), 50)];
        let text = histogram(&counts, 40);
        let bars: Vec<usize> = text.lines().map(|line| line.matches('█').count()).collect();
        // 40 columns less 17 of names and numbers.
        assert_eq!(bars, [23, 11], "{text}");
        assert!(text.starts_with("00  100   66.7%  █"), "{text}");
        let many: Vec<(String, u64)> = (0..100).map(|i| (format!("{i:07b}"), i + 1)).collect();
        let text = histogram(&many, 80);
        assert_eq!(text.lines().count(), 33);
        assert!(text.ends_with("and 68 more outcomes with 2346 counts\n"), "{text}");
        assert_eq!(histogram(&[], 80), "");
    }
}

//! The README's table of operations and backends says what works.

mod support;

use gatewarp::conformance::{self, Options, Outcome};
use gatewarp::{Backend, Device};
use std::collections::BTreeSet;
use support::devices::{Slot, all};

const README: &str = include_str!("../README.md");
/// Cell of an operation that a backend refuses.
const REFUSED: &str = "–";

/// One line of the table: the operation's words, and a cell for each backend.
struct Row {
    /// Words in the first cell, backticks and commas removed: `statevec`, `adjoint`, `gradient`.
    words: Vec<String>,
    cells: Vec<String>,
}

fn table() -> Vec<Row> {
    let cells = |line: &str| -> Vec<String> {
        line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut lines = README.lines().skip_while(|line| !line.starts_with("| operation |"));
    let header = lines.next().map(cells).expect("the README has a table that starts with `| operation |`");
    assert_eq!(header, ["operation", "cpu", "wgpu", "cuda"]);
    let body = lines.skip(1).take_while(|line| line.starts_with('|'));
    let row = |line: &str| {
        let mut cells = cells(line);
        let first = cells.remove(0).replace(['`', ','], "");
        Row { words: first.split_whitespace().map(str::to_owned).collect(), cells }
    };
    body.map(row).collect()
}

/// Whether `operation` of the conformance suite is one the row speaks of: `statevec_gradient` is in the row "`statevec` adjoint
/// gradient", `attention_forward` in the row of that name.
fn speaks_of(row: &Row, operation: &str) -> bool {
    let (first, rest) = row.words.split_first().expect("a row has a name");
    match operation.strip_prefix(first.as_str()) {
        Some("") => true,
        Some(part) => part.strip_prefix('_').is_some_and(|part| {
            rest.iter().any(|word| {
                word == part || word.strip_suffix('s') == Some(part) || part.strip_suffix('s') == Some(word)
            })
        }),
        None => false,
    }
}

fn column(backend: Backend) -> usize {
    match backend {
        Backend::Cpu => 0,
        Backend::Wgpu => 1,
        _ => 2,
    }
}

/// Whether the device takes the operation; what it computes is another test's business.
fn takes(device: &Device, operation: &str) -> bool {
    let options = Options { cases: 1, seed: 0, filter: Some(operation.to_owned()) };
    let report = conformance::run(device, &options);
    let refused = |outcome: &Outcome| matches!(outcome, Outcome::Unsupported { .. });
    !report.cases.iter().filter(|case| case.operation == operation).any(|case| refused(&case.outcome))
}

#[test]
fn every_operation_has_one_row_and_every_row_an_operation() {
    let rows = table();
    for operation in conformance::operations() {
        let count = rows.iter().filter(|row| speaks_of(row, operation)).count();
        assert_eq!(count, 1, "`{operation}` is in {count} rows of the README's table");
    }
    for row in &rows {
        assert!(conformance::operations().any(|name| speaks_of(row, name)), "nothing checks {:?}", row.words);
    }
}

#[test]
fn the_table_says_what_each_device_takes() {
    let rows = table();
    let mut checked = BTreeSet::new();
    for slot in all() {
        let Slot::Found(device) = slot else { continue };
        for operation in conformance::operations() {
            let Some(row) = rows.iter().find(|row| speaks_of(row, operation)) else { continue };
            let promised = row.cells[column(device.backend())] != REFUSED;
            let taken = takes(&device.handles[0], operation);
            assert_eq!(taken, promised, "{operation} on {}: the README says {:?}", device.name, row.cells);
            checked.insert(device.backend().to_string());
        }
    }
    println!("checked on {checked:?}");
    assert!(checked.contains("cpu"));
}

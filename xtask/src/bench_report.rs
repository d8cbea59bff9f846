//! `cargo xtask bench-report`: the dated records of `benches/record/` as a Markdown table.

use crate::{Outcome, workspace};
use std::collections::BTreeMap;

/// First line of every record.
const COLUMNS: [&str; 9] = ["date", "device", "driver", "bench", "case", "metric", "value", "unit", "note"];

/// One measurement.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    fields: [String; COLUMNS.len()],
}

impl Record {
    fn field(&self, column: &str) -> &str {
        let index = COLUMNS.iter().position(|name| *name == column);
        index.map_or("", |index| &self.fields[index])
    }

    /// What was measured and on what; records that agree on it differ by their date.
    fn subject(&self) -> [&str; 4] {
        ["bench", "case", "metric", "device"].map(|column| self.field(column))
    }
}

/// Prints the newest record of each subject, sorted by bench.
pub fn run() -> Outcome {
    let folder = workspace::root().join("benches/record");
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", folder.display());
    let mut records = Vec::new();
    for item in std::fs::read_dir(&folder).map_err(cannot)? {
        let path = item.map_err(cannot)?.path();
        if path.extension().is_some_and(|extension| extension == "csv") {
            let text = std::fs::read_to_string(&path).map_err(cannot)?;
            records.extend(parse(&text).map_err(|why| format!("{}: {why}", path.display()))?);
        }
    }
    if records.is_empty() {
        return Err(format!("no records in {}", folder.display()));
    }
    print!("{}", table(&records));
    Ok(())
}

fn parse(text: &str) -> Outcome<Vec<Record>> {
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let header = lines.next().map_or("", |(_, line)| line.trim());
    if header != COLUMNS.join(",") {
        return Err(format!("the first line is not {}", COLUMNS.join(",")));
    }
    lines
        .map(|(index, line)| {
            let at = |why: String| format!("line {}: {why}", index + 1);
            let fields = split(line).map_err(at)?;
            let count = fields.len();
            let fields =
                fields.try_into().map_err(|_| at(format!("{count} fields, not {}", COLUMNS.len())))?;
            let record = Record { fields };
            record.field("value").parse::<f64>().map_err(|error| at(format!("value: {error}")))?;
            Ok(record)
        })
        .collect()
}

/// Fields between commas; one in double quotes may hold commas, and a doubled quote for a quote.
fn split(line: &str) -> Outcome<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut letters = line.trim_end_matches('\r').chars().peekable();
    while let Some(letter) = letters.next() {
        let Some(field) = fields.last_mut() else { break };
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => field.push(other),
        }
    }
    if quoted { Err("a quote is not closed".to_owned()) } else { Ok(fields) }
}

fn table(records: &[Record]) -> String {
    let mut newest: BTreeMap<[&str; 4], &Record> = BTreeMap::new();
    for record in records {
        // Dates are written year first, so text order is time order; of one day's records the later line counts.
        let kept = newest.entry(record.subject()).or_insert(record);
        if record.field("date") >= kept.field("date") {
            *kept = record;
        }
    }
    let mut text = "| bench | case | metric | value | device | driver | date | note |\n".to_owned();
    text.push_str("|---|---|---|---:|---|---|---|---|\n");
    for record in newest.values() {
        let cell = |column: &str| record.field(column).replace('|', "\\|");
        let value = format!("{} {}", cell("value"), cell("unit"));
        let cells = [cell("bench"), cell("case"), cell("metric"), value.trim().to_owned()];
        let origin = ["device", "driver", "date", "note"].map(cell);
        text.push_str(&format!("| {} | {} |\n", cells.join(" | "), origin.join(" | ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "date,device,driver,bench,case,metric,value,unit,note";

    #[test]
    fn the_newest_record_of_a_subject_is_shown() {
        let text = format!(
            "{HEADER}\n2026-11-21,H200,580,attention,S=1024,rate,41.5,GFLOP/s,\n\
             2026-11-20,H200,580,attention,S=1024,rate,30,GFLOP/s,before tiling\n\
             2026-11-20,H200,580,attention,S=64,rate,3,GFLOP/s,\"small, so \"\"slow\"\"\"\n"
        );
        let records = parse(&text).unwrap();
        let table = table(&records);
        assert!(
            table.contains("| attention | S=1024 | rate | 41.5 GFLOP/s | H200 | 580 | 2026-11-21 |  |"),
            "{table}"
        );
        assert!(table.contains("small, so \"slow\""), "{table}");
        assert!(!table.contains("before tiling"), "{table}");
    }

    #[test]
    fn malformed_records_are_refused_by_line() {
        assert!(parse("date,value\n").unwrap_err().contains("first line"));
        let short = parse(&format!("{HEADER}\n\n2026-11-21,a\n")).unwrap_err();
        assert!(short.contains("line 3: 2 fields"), "{short}");
        let word = parse(&format!("{HEADER}\nd,e,f,g,h,i,fast,s,\n")).unwrap_err();
        assert!(word.contains("line 2: value"), "{word}");
        assert!(parse(&format!("{HEADER}\n\"d,e,f,g,h,i,1,s,\n")).unwrap_err().contains("not closed"));
    }
}

//! Writes results as JUnit XML, which every CI service reads.

use crate::libtest::Verdict;
use crate::suites::Outing;

/// The document for `outings`.
pub fn document(outings: &[Outing]) -> String {
    let mut text =
        String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"gatewarp\">\n");
    for outing in outings {
        let tally = outing.tally();
        let tests = tally.passed + tally.failed + tally.skipped;
        text.push_str(&format!(
            "  <testsuite name=\"{}\" tests=\"{tests}\" failures=\"{}\" skipped=\"{}\" time=\"{:.3}\">\n",
            escaped(&outing.name),
            tally.failed,
            tally.skipped,
            outing.time.as_secs_f64()
        ));
        for case in &outing.output.cases {
            let inner = match (&case.verdict, outing.output.reason(case)) {
                (Verdict::Failed, _) => "<failure message=\"see the suite's log\"/>".to_owned(),
                (_, Some(reason)) => format!("<skipped message=\"{}\"/>", escaped(reason)),
                (_, None) => String::new(),
            };
            push_case(&mut text, &outing.name, &case.name, &inner);
        }
        if let Some(fault) = &outing.fault {
            push_case(
                &mut text,
                &outing.name,
                "(program)",
                &format!("<failure message=\"{}\"/>", escaped(fault)),
            );
        }
        text.push_str("  </testsuite>\n");
    }
    text.push_str("</testsuites>\n");
    text
}

fn push_case(text: &mut String, suite: &str, name: &str, inner: &str) {
    let (suite, name) = (escaped(suite), escaped(name));
    text.push_str(&format!("    <testcase classname=\"{suite}\" name=\"{name}\">{inner}</testcase>\n"));
}

/// Text for an attribute. Control characters, which XML cannot carry at all, become spaces.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            letter if letter.is_control() => safe.push(' '),
            letter => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libtest::Output;
    use std::time::Duration;

    #[test]
    fn every_verdict_is_told() {
        let mut output = Output::default();
        for line in [
            "test [cuda] a<b> ... ok",
            "test c ... FAILED",
            "test d ... ignored, no \"GPU\"",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured",
        ] {
            output.take(line);
        }
        let outing = Outing {
            name: "s".into(),
            output,
            time: Duration::from_millis(1500),
            fault: Some("died".into()),
        };
        let text = document(&[outing]);
        assert!(
            text.contains("<testsuite name=\"s\" tests=\"4\" failures=\"2\" skipped=\"1\" time=\"1.500\">"),
            "{text}"
        );
        assert!(text.contains("name=\"[cuda] a&lt;b&gt;\"></testcase>"), "{text}");
        assert!(text.contains("name=\"c\"><failure"), "{text}");
        assert!(text.contains("<skipped message=\"no &quot;GPU&quot;\"/>"), "{text}");
        assert!(text.contains("name=\"(program)\"><failure message=\"died\"/>"), "{text}");
    }
}

//! Failures that are known and not yet repaired, each with its reason. The list is meant to be empty.
//!
//! A known failure is an entry whose check still fails; when it passes, the entry is stale and this test says so.

/// A known failure.
struct KnownIssue {
    /// What is wrong, in one line.
    name: &'static str,
    /// Why it is not repaired yet, and what would repair it.
    reason: &'static str,
    /// The behaviour wanted: fails as long as the issue is there.
    check: fn() -> Result<(), String>,
}

const KNOWN_ISSUES: &[KnownIssue] = &[];

/// What is wrong with the list: entries that pass, and entries without a reason.
fn stale(issues: &[KnownIssue]) -> Vec<String> {
    let mut problems = Vec::new();
    for issue in issues {
        if issue.reason.trim().is_empty() {
            problems.push(format!("`{}` gives no reason", issue.name));
        }
        match (issue.check)() {
            Ok(()) => problems.push(format!("`{}` passes now: remove it from the list", issue.name)),
            Err(message) => println!("known issue: {}: {message} ({})", issue.name, issue.reason),
        }
    }
    problems
}

#[test]
fn known_issues_still_fail() {
    let problems = stale(KNOWN_ISSUES);
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn an_issue_that_passes_is_reported() {
    let entry = |name, reason, check| KnownIssue { name, reason, check };
    let fails: fn() -> Result<(), String> = || Err("wrong".into());
    assert!(stale(&[entry("still there", "nobody knows why", fails)]).is_empty());
    assert_eq!(stale(&[entry("repaired", "was hard", || Ok(()))]).len(), 1);
    assert_eq!(stale(&[entry("unexplained", " ", fails)]).len(), 1);
}

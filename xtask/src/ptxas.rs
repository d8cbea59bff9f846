//! Reads what ptxas says of a compilation when asked with `-v`.

/// What one kernel entry takes from the hardware.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Name of the `extern "C"` entry.
    pub entry: String,
    /// Registers per thread.
    pub registers: u32,
    /// Bytes stored to local memory for want of registers, and loaded back.
    pub spills: u32,
    /// Stack frame in bytes: arrays indexed by what is known only at run time, and spills.
    pub stack: u32,
    /// Static shared memory in bytes; dynamic shared memory is the launch's business.
    pub shared: u32,
}

/// A compilation's log, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// One per entry, sorted by name.
    pub entries: Vec<Usage>,
    /// Every line that is no plain count: notices such as C7508 (an instruction ignored), front-end warnings, and any form of
    /// line this reader does not know. A kernel with one does not pass.
    pub notices: Vec<String>,
}

/// Takes a log of NVRTC with `--ptxas-options=-v` apart.
///
/// Spills and stack of a function that was not inlined are added to the entry it was listed under.
pub fn parse(log: &str) -> Report {
    let mut report = Report::default();
    for line in
        log.lines().map(|line| line.trim_matches(['\0', ' ', '\t', '\r'])).filter(|line| !line.is_empty())
    {
        if !understood(line, &mut report.entries) {
            report.notices.push(line.to_owned());
        }
    }
    report.entries.sort_by(|a, b| a.entry.cmp(&b.entry));
    report
}

/// Takes one line into `entries`; `false` if it is none of the lines of counts.
fn understood(line: &str, entries: &mut Vec<Usage>) -> bool {
    let Some(text) =
        line.strip_prefix("ptxas").map(|text| text.trim_start().trim_start_matches("info").trim_start())
    else {
        return false;
    };
    let Some(text) = text.strip_prefix([':', '.']).map(str::trim) else { return false };
    if let Some(rest) = text.strip_prefix("Compiling entry function '") {
        let entry = rest.split('\'').next().unwrap_or_default().to_owned();
        entries.push(Usage { entry, ..Usage::default() });
        return true;
    }
    if text.starts_with("Function properties for ")
        || text.starts_with("Compile time = ")
        || text.contains("bytes gmem")
    {
        return true;
    }
    let Some(usage) = entries.last_mut() else { return false };
    if text.contains("bytes stack frame") {
        usage.stack += count_before(text, "bytes stack frame");
        usage.spills += count_before(text, "bytes spill stores") + count_before(text, "bytes spill loads");
        return true;
    }
    if text.starts_with("Used ") {
        usage.registers = count_before(text, "registers");
        usage.shared = count_before(text, "bytes smem");
        return true;
    }
    false
}

/// The number in front of `words`, 0 if they do not occur.
fn count_before(text: &str, words: &str) -> u32 {
    let before = text.split_once(words).map_or("", |(before, _)| before);
    before.split_whitespace().next_back().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'spill' for 'sm_80'
ptxas info    : Function properties for spill
ptxas         .     680 bytes stack frame, 848 bytes spill stores, 844 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 680 bytes cumulative stack size, 360 bytes cmem[0]
ptxas info    : Compile time = 25.521 ms
ptxas info    : Compiling entry function 'copy_64' for 'sm_80'
ptxas info    : Function properties for copy_64
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 9 registers, used 1 barriers, 256 bytes smem, 360 bytes cmem[0]
ptxas info    : Compile time = 0.815 ms
\0";

    #[test]
    fn counts_are_read_per_entry() {
        let report = parse(LOG);
        assert_eq!(report.notices, Vec::<String>::new());
        let copy = Usage { entry: "copy_64".into(), registers: 9, shared: 256, ..Usage::default() };
        let spill = Usage { entry: "spill".into(), registers: 32, spills: 1692, stack: 680, shared: 0 };
        assert_eq!(report.entries, [copy, spill]);
    }

    #[test]
    fn a_notice_is_kept() {
        let notice = "ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored; unable to determine \
                      register count at entry.";
        let report = parse(&format!("{notice}\n{LOG}"));
        assert_eq!(report.notices, [notice]);
        assert_eq!(report.entries.len(), 2);
    }

    #[test]
    fn warnings_and_unknown_lines_are_notices() {
        let warning = "forward.cu(3): warning #177-D: variable \"x\" was declared but never referenced";
        let unknown = "ptxas info    : Registers are scarce today";
        assert_eq!(parse(&format!("{warning}\n{unknown}")).notices, [warning, unknown]);
    }

    #[test]
    fn spills_of_a_called_function_count_for_its_entry() {
        let log = "\
ptxas info    : Compiling entry function 'outer' for 'sm_90a'
ptxas info    : Function properties for outer
    ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers
ptxas info    : Function properties for inner
ptxas         .     16 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads
";
        assert_eq!(parse(log).entries[0].spills, 16);
    }
}

//! `gatewarp devices`.

use crate::{Outcome, json};
use gatewarp::Device;
use gatewarp::device::DeviceReport;
use serde::Serialize;
use std::process::ExitCode;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Candidate<'a> {
    device: &'a str,
    backend: String,
    name: &'a str,
    software: bool,
    taken: bool,
    unavailable: Option<&'a str>,
}

fn candidates(report: &DeviceReport) -> Vec<Candidate<'_>> {
    let all = report.candidates.iter().enumerate();
    all.map(|(index, candidate)| Candidate {
        device: &candidate.spec,
        backend: candidate.backend.to_string(),
        name: &candidate.name,
        software: candidate.software,
        taken: index == report.taken,
        unavailable: candidate.unavailable.as_deref(),
    })
    .collect()
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let report = Device::list();
    let text = if arguments.json { json(&candidates(&report))? } else { report.to_string() };
    Ok((text, ExitCode::SUCCESS))
}

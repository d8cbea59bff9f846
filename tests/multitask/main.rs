//! `multitask` on every device: losses, gradients and metrics against per-task loops in f64.
//!
//! `GATEWARP_REQUIRE=wgpu,cuda-emulated` makes a missing device a failure, `GATEWARP_TEST_SEED` changes the cases and
//! `GATEWARP_TEST_CASES` their number.

#[path = "../support/mod.rs"]
mod support;

mod case;
mod losses;
mod metrics;
mod refusals;

use std::process::ExitCode;
use support::devices::{Test, run};

static TESTS: &[Test] = &[
    Test::new("cross_entropy_is_the_formula", losses::cross_entropy_is_the_formula),
    Test::new("squared_error_is_the_formula", losses::squared_error_is_the_formula),
    Test::new("gradients_are_central_differences", losses::gradients_are_central_differences),
    Test::new("permuting_samples_permutes_rows", losses::permuting_samples_permutes_rows),
    Test::new("the_same_bits_every_time", losses::the_same_bits_every_time),
    Test::new("all_tasks_are_each_task_alone", losses::all_tasks_are_each_task_alone),
    Test::new(
        "infinite_logits_are_what_the_formula_gives",
        losses::infinite_logits_are_what_the_formula_gives,
    ),
    Test::new("class_metrics_are_per_task_loops", metrics::class_metrics_are_per_task_loops),
    Test::new("class_metrics_of_a_table", metrics::class_metrics_of_a_table),
    Test::new("regression_metrics_are_per_task_loops", metrics::regression_metrics_are_per_task_loops),
    Test::new("gradient_similarity_is_the_formula", metrics::gradient_similarity_is_the_formula),
    Test::new("bad_host_values_are_refused", refusals::bad_host_values_are_refused),
    Test::alone("a_bad_device_value_spoils_its_row_alone", refusals::a_bad_device_value_spoils_its_row_alone),
    Test::new("bad_arguments_are_refused", refusals::bad_arguments_are_refused),
];

fn main() -> ExitCode {
    run(TESTS).exit_code()
}

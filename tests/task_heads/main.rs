//! `task_heads` on every device: gates, lists, outputs and gradients against the f64 oracle, and against attention itself.
//!
//! `GATEWARP_REQUIRE=wgpu,cuda-emulated` makes a missing device a failure, `GATEWARP_TEST_SEED` changes the cases and
//! `GATEWARP_TEST_CASES` their number.

#[path = "../support/mod.rs"]
mod support;

mod case;
mod every_task;
mod every_task_laws;
mod invariance;
mod launch;
mod oracle_agreement;
mod projection;
mod refusals;
mod skipping;
mod statistics;
mod types;
mod want;

use std::process::ExitCode;
use support::devices::{Test, run};

static TESTS: &[Test] = &[
    Test::new("forward_is_the_formula", oracle_agreement::forward_is_the_formula),
    Test::new("backward_is_the_formula", oracle_agreement::backward_is_the_formula),
    Test::new("gradients_are_central_differences", oracle_agreement::gradients_are_central_differences),
    Test::new("lists_are_stable_partitions", oracle_agreement::lists_are_stable_partitions),
    Test::new("long_lists_are_stable_partitions", oracle_agreement::long_lists_are_stable_partitions),
    Test::new("gate_one_is_attention", invariance::gate_one_is_attention),
    Test::new("permuting_samples_permutes_outputs", invariance::permuting_samples_permutes_outputs),
    Test::new("a_sample_does_not_see_its_batch", invariance::a_sample_does_not_see_its_batch),
    Test::new("the_same_bits_every_time", invariance::the_same_bits_every_time),
    Test::new("gradients_not_asked_for_change_nothing", invariance::gradients_not_asked_for_change_nothing),
    Test::new("a_skipped_head_may_hold_anything", skipping::a_skipped_head_may_hold_anything),
    Test::new("nothing_is_read_for_skipped_heads", skipping::nothing_is_read_for_skipped_heads),
    Test::new("a_nan_gate_spoils_its_rows_alone", skipping::a_nan_gate_spoils_its_rows_alone),
    Test::new("projection_is_the_formula", projection::projection_is_the_formula),
    Test::new(
        "a_projected_sample_does_not_see_its_batch",
        projection::a_projected_sample_does_not_see_its_batch,
    ),
    Test::new("statistics_are_the_formulas", statistics::statistics_are_the_formulas),
    Test::new(
        "balance_gradients_are_central_differences",
        statistics::balance_gradients_are_central_differences,
    ),
    Test::new("pruning_keeps_the_heads_that_matter", statistics::pruning_keeps_the_heads_that_matter),
    Test::new("every_task_is_separate_calls", every_task::every_task_is_separate_calls),
    Test::new("every_task_gradients_are_the_sums", every_task::every_task_gradients_are_the_sums),
    Test::new(
        "every_task_gradients_are_central_differences",
        every_task::every_task_gradients_are_central_differences,
    ),
    Test::new("every_task_statistics_are_those_of_each", every_task::every_task_statistics_are_those_of_each),
    Test::new("what_no_task_uses_may_hold_anything", every_task_laws::what_no_task_uses_may_hold_anything),
    Test::new("a_head_is_read_once_for_all_tasks", every_task_laws::a_head_is_read_once_for_all_tasks),
    Test::new("permuting_tasks_permutes_outputs", every_task_laws::permuting_tasks_permutes_outputs),
    Test::new(
        "every_task_bits_are_the_same_every_time",
        every_task_laws::every_task_bits_are_the_same_every_time,
    ),
    Test::new("no_task_at_all", every_task_laws::no_task_at_all),
    Test::new("bad_every_task_arguments_are_refused", every_task_laws::bad_every_task_arguments_are_refused),
    Test::new("gated_types_and_layouts_are_attention", types::gated_types_and_layouts_are_attention),
    Test::new(
        "other_types_are_refused_before_anything_runs",
        types::other_types_are_refused_before_anything_runs,
    ),
    Test::new("bad_host_ids_are_refused", refusals::bad_host_ids_are_refused),
    Test::alone("a_bad_device_id_spoils_its_sample_alone", refusals::a_bad_device_id_spoils_its_sample_alone),
    Test::new("constant_gates_have_no_gradient", refusals::constant_gates_have_no_gradient),
    Test::new("bad_arguments_are_refused", refusals::bad_arguments_are_refused),
];

fn main() -> ExitCode {
    run(TESTS).exit_code()
}

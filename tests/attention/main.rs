//! `attention` on every device: against the f64 oracle, and against itself.
//!
//! `GATEWARP_REQUIRE=wgpu,cuda-emulated` makes a missing device a failure, `GATEWARP_TEST_SEED` changes the cases and
//! `GATEWARP_TEST_CASES` their number.

#[path = "../support/mod.rs"]
mod support;

mod active_heads;
mod device_values;
mod invariance;
mod launch;
mod metamorphic;
mod oracle_agreement;

use std::process::ExitCode;
use support::devices::{Test, run};

static TESTS: &[Test] = &[
    Test::new("forward_is_the_formula", oracle_agreement::forward_is_the_formula),
    Test::new("backward_is_the_formula", oracle_agreement::backward_is_the_formula),
    Test::new("a_key_nobody_sees_may_hold_anything", oracle_agreement::a_key_nobody_sees_may_hold_anything),
    Test::new("nan_reaches_the_rows_that_see_it", oracle_agreement::nan_reaches_the_rows_that_see_it),
    Test::new("offsets_beyond_every_length", oracle_agreement::offsets_beyond_every_length),
    Test::new("every_head_dim", oracle_agreement::every_head_dim),
    Test::new(
        "permuting_keys_with_values_changes_nothing",
        metamorphic::permuting_keys_with_values_changes_nothing,
    ),
    Test::new(
        "adding_a_constant_to_scores_changes_only_lse",
        metamorphic::adding_a_constant_to_scores_changes_only_lse,
    ),
    Test::new("value_gradient_is_the_adjoint", metamorphic::value_gradient_is_the_adjoint),
    Test::new("a_sample_does_not_see_its_batch", invariance::a_sample_does_not_see_its_batch),
    Test::new("the_same_bits_every_time", invariance::the_same_bits_every_time),
    Test::new("gradients_not_asked_for_change_nothing", invariance::gradients_not_asked_for_change_nothing),
    Test::new("allocating_calls_give_the_same_bits", invariance::allocating_calls_give_the_same_bits),
    Test::new("active_heads_are_the_dense_rows", active_heads::active_heads_are_the_dense_rows),
    Test::new("row_scales_multiply_active_rows", active_heads::row_scales_multiply_active_rows),
    Test::alone("a_bad_length_spoils_its_sample_alone", device_values::a_bad_length_spoils_its_sample_alone),
];

fn main() -> ExitCode {
    run(TESTS).exit_code()
}

//! `attention` with every score, mask, layout and element type, on every device, against an f64 oracle of its own.

#[path = "../support/mod.rs"]
mod support;

mod agreement;
mod case;
mod launch;
mod limits;
mod sameness;

use std::process::ExitCode;
use support::devices::{Test, run};

static TESTS: &[Test] = &[
    Test::new("any_options_are_the_formula", agreement::any_options_are_the_formula),
    Test::new("every_score_is_its_formula", agreement::every_score_is_its_formula),
    Test::new("every_option_is_its_formula", agreement::every_option_is_its_formula),
    Test::new("f16_is_as_good_as_unfused", agreement::f16_is_as_good_as_unfused),
    Test::new("bf16_is_as_good_as_unfused", agreement::bf16_is_as_good_as_unfused),
    Test::new("f64_is_the_formula", agreement::f64_is_the_formula),
    Test::new("hidden_keys_may_hold_anything", agreement::hidden_keys_may_hold_anything),
    Test::new("one_query_of_each_head_keeps_its_own", agreement::one_query_of_each_head_keeps_its_own),
    Test::new("odd_lengths_and_large_dims", agreement::odd_lengths_and_large_dims),
    Test::new("packed_is_each_sequence_alone", sameness::packed_is_each_sequence_alone),
    Test::new("pages_are_the_dense_cache", sameness::pages_are_the_dense_cache),
    Test::new("dropout_draws_the_same_words", sameness::dropout_draws_the_same_words),
    Test::new("decode_is_prefill_row_by_row", sameness::decode_is_prefill_row_by_row),
];

fn main() -> ExitCode {
    run(TESTS).exit_code()
}

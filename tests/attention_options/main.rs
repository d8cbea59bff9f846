//! `attention` with every score, mask, layout and element type, on every device, against an f64 oracle of its own.

#[path = "../support/mod.rs"]
mod support;

mod agreement;
mod appending;
mod case;
mod grid;
mod launch;
mod limits;
mod looking;
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
    Test::new("weights_and_entropies_are_the_formula", looking::weights_and_entropies_are_the_formula),
    Test::new("inactive_pairs_weigh_nothing", looking::inactive_pairs_weigh_nothing),
    Test::new("appended_rows_are_copied_bit_by_bit", appending::appended_rows_are_copied_bit_by_bit),
    Test::new("appending_then_attending_is_one_shot", appending::appending_then_attending_is_one_shot),
    Test::alone("a_bad_page_is_called_one_everywhere", appending::a_bad_page_is_called_one_everywhere),
    Test::new("packed_is_each_sequence_alone", sameness::packed_is_each_sequence_alone),
    Test::new("pages_are_the_dense_cache", sameness::pages_are_the_dense_cache),
    Test::new("dropout_draws_the_same_words", sameness::dropout_draws_the_same_words),
    Test::new("long_odd_lengths", grid::long_odd_lengths),
    Test::new("packed_batches_with_empty_sequences", grid::packed_batches_with_empty_sequences),
    Test::new("any_options_give_the_same_bits_again", grid::any_options_give_the_same_bits_again),
    Test::new("a_thousand_repeats_have_the_same_bits", grid::a_thousand_repeats_have_the_same_bits),
    Test::new("memory_at_32768_is_linear", grid::memory_at_32768_is_linear),
    Test::new("only_the_spec_refuses", grid::only_the_spec_refuses),
    Test::new("decode_is_prefill_row_by_row", sameness::decode_is_prefill_row_by_row),
];

fn main() -> ExitCode {
    run(TESTS).exit_code()
}

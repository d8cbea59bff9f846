//! `statevec` on every device: against dense matrices in f64, and against itself.
//!
//! `GATEWARP_REQUIRE=wgpu,cuda-emulated` makes a missing device a failure, `GATEWARP_TEST_SEED` changes the cases and
//! `GATEWARP_TEST_CASES` their number.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod case;
mod density;
mod every_start;
mod gates;
mod gradients;
mod memory_states;
mod precision;
mod qubit_sequences;
mod random_words;
mod readout;
mod sampling;
mod starts;
mod states;
mod tasks;

use std::process::ExitCode;
use support::devices::{Test, run};

static TESTS: &[Test] = &[
    Test::new("random_circuits_are_their_matrices", states::random_circuits_are_their_matrices),
    Test::new("every_gate_everywhere", gates::every_gate_everywhere),
    Test::new("sample_matrices_are_their_samples", gates::sample_matrices_are_their_samples),
    Test::new("matrices_are_seen_for_what_they_are", gates::matrices_are_seen_for_what_they_are),
    Test::new("a_sample_has_the_parameters_of_its_task", tasks::a_sample_has_the_parameters_of_its_task),
    Test::new("bad_tasks_are_typed_errors", tasks::bad_tasks_are_typed_errors),
    Test::new("states_go_back_to_what_they_came_from", starts::states_go_back_to_what_they_came_from),
    Test::new("large_states_go_back_as_batched_ones", starts::large_states_go_back_as_batched_ones),
    Test::new("encodings_are_their_definitions", starts::encodings_are_their_definitions),
    Test::new("every_start_at_every_size", every_start::every_start_at_every_size),
    Test::new("there_and_back_from_every_start", every_start::there_and_back_from_every_start),
    Test::new("starts_do_not_see_their_batch", every_start::starts_do_not_see_their_batch),
    Test::new("the_way_back_is_explained", every_start::the_way_back_is_explained),
    Test::new("bad_starts_are_typed_errors", starts::bad_starts_are_typed_errors),
    Test::new("circuits_survive_as_bytes", starts::circuits_survive_as_bytes),
    Test::new("double_precision_is_double", precision::double_precision_is_double),
    Test::new("large_doubles_agree_with_batched_ones", precision::large_doubles_agree_with_batched_ones),
    Test::new("relabelled_circuits_are_their_matrices", states::relabelled_circuits_are_their_matrices),
    Test::new("angles_around_two_pi_under_controls", states::angles_around_two_pi_under_controls),
    Test::new(
        "a_circuit_and_its_inverse_are_the_identity",
        states::a_circuit_and_its_inverse_are_the_identity,
    ),
    Test::new("the_norm_is_conserved", states::the_norm_is_conserved),
    Test::new("a_sample_does_not_see_its_batch", states::a_sample_does_not_see_its_batch),
    Test::new("initial_states_are_evolved", states::initial_states_are_evolved),
    Test::new("relabelling_moves_basis_states_exactly", states::relabelling_moves_basis_states_exactly),
    Test::new("pauli_sums_are_dense_observables", readout::pauli_sums_are_dense_observables),
    Test::new("probabilities_are_squared_amplitudes", readout::probabilities_are_squared_amplitudes),
    Test::new("expectations_do_not_see_their_batch", readout::expectations_do_not_see_their_batch),
    Test::new(
        "expectations_of_a_large_state_are_accurate",
        readout::expectations_of_a_large_state_are_accurate,
    ),
    Test::new("large_states_agree_with_batched_ones", readout::large_states_agree_with_batched_ones),
    Test::new("the_adjoint_is_the_central_difference", gradients::the_adjoint_is_the_central_difference),
    Test::new("the_adjoint_is_the_parameter_shift", gradients::the_adjoint_is_the_parameter_shift),
    Test::new("gradients_do_not_see_their_batch", gradients::gradients_do_not_see_their_batch),
    Test::new("large_adjoints_agree_with_batched_ones", gradients::large_adjoints_agree_with_batched_ones),
    Test::new("outputs_are_written_inside_their_views", readout::outputs_are_written_inside_their_views),
    Test::new("marginals_are_sums_of_probabilities", memory_states::marginals_are_sums_of_probabilities),
    Test::new(
        "reduced_density_matrices_are_partial_traces",
        memory_states::reduced_density_matrices_are_partial_traces,
    ),
    Test::new(
        "overlaps_and_fidelities_are_inner_products",
        memory_states::overlaps_and_fidelities_are_inner_products,
    ),
    Test::new("overlap_gradients_are_derivatives", memory_states::overlap_gradients_are_derivatives),
    Test::new("gram_matrices_are_loops_of_overlaps", memory_states::gram_matrices_are_loops_of_overlaps),
    Test::new(
        "expectations_of_given_states_are_dense",
        memory_states::expectations_of_given_states_are_dense,
    ),
    Test::new("readout_does_not_see_its_batch", memory_states::readout_does_not_see_its_batch),
    Test::new("bad_readout_is_a_typed_error", memory_states::bad_readout_is_a_typed_error),
    Test::new("shots_follow_their_probabilities", sampling::shots_follow_their_probabilities),
    Test::new("shots_are_those_of_the_definition", sampling::shots_are_those_of_the_definition),
    Test::new("shots_are_in_logical_order", sampling::shots_are_in_logical_order),
    Test::new("trajectories_follow_their_branches", sampling::trajectories_follow_their_branches),
    Test::new("teleportation_delivers_the_state", sampling::teleportation_delivers_the_state),
    Test::new("trajectories_are_the_same_everywhere", sampling::trajectories_are_the_same_everywhere),
    Test::new("bad_dynamic_circuits_are_typed_errors", sampling::bad_dynamic_circuits_are_typed_errors),
    Test::alone("a_state_without_norm_is_reported", sampling::a_state_without_norm_is_reported),
    Test::new("density_circuits_are_dense", density::density_circuits_are_dense),
    Test::new(
        "without_channels_a_density_matrix_is_pure",
        density::without_channels_a_density_matrix_is_pure,
    ),
    Test::new("density_gradients_are_derivatives", density::density_gradients_are_derivatives),
    Test::new("bad_channels_are_typed_errors", density::bad_channels_are_typed_errors),
    Test::new("sequences_are_their_kraus_operators", qubit_sequences::sequences_are_their_kraus_operators),
    Test::new("sequence_gradients_are_derivatives", qubit_sequences::sequence_gradients_are_derivatives),
    Test::alone("a_bad_parameter_spoils_its_sequence", qubit_sequences::a_bad_parameter_spoils_its_sequence),
    Test::new("random_words_are_the_same_everywhere", random_words::random_words_are_the_same_everywhere),
    Test::new("bad_input_is_a_typed_error", bad_input::bad_input_is_a_typed_error),
    Test::alone("a_bad_start_spoils_its_sample_alone", every_start::a_bad_start_spoils_its_sample_alone),
    Test::alone("a_bad_task_spoils_its_sample_alone", tasks::a_bad_task_spoils_its_sample_alone),
    Test::alone("a_nan_angle_spoils_its_sample_alone", bad_input::a_nan_angle_spoils_its_sample_alone),
];

fn main() -> ExitCode {
    run(TESTS).exit_code()
}

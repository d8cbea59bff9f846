//! Mistakes that no single access betrays: each shows as NaN or a changed result under some schedule.

mod support;

use gatewarp_emulator::Schedule;
use support::{Buffer, SCHEDULES, launch};

fn ramp(len: usize) -> Vec<f32> {
    (0..len).map(|i| i as f32 + 1.0).collect()
}

/// Runs a kernel of one block with an input of 128 floats and returns its first 64 outputs.
fn run(entry: &str, block: u32, extra: &[&dyn support::Argument], schedule: Schedule) -> Vec<f32> {
    let input = Buffer::new(&ramp(128));
    let output = Buffer::<f32>::zeroed(64);
    let mut arguments: Vec<&dyn support::Argument> = vec![&input, &output];
    arguments.extend(extra);
    launch(entry, [1, 1, 1], block, 64 * 4, &arguments, schedule, 1).unwrap();
    output.read()
}

#[test]
fn a_missing_barrier_reads_poison_under_every_schedule() {
    for schedule in SCHEDULES {
        for shift in [1, -1] {
            let out = run("broken_missing_barrier", 64, &[&shift], schedule);
            let expected: Vec<f32> = (0..64).map(|i| ((i + shift) & 63) as f32 + 1.0).collect();
            assert!(
                out != expected && out.iter().any(|x| x.is_nan()),
                "{schedule:?}, shift {shift}: {out:?}"
            );
        }
    }
}

#[test]
fn the_schedules_differ_in_what_a_missing_barrier_shows() {
    // Reading the previous thread's element goes well in order, but for the first thread; nowhere else reversed.
    let poisoned =
        |schedule| run("broken_missing_barrier", 64, &[&-1], schedule).iter().filter(|x| x.is_nan()).count();
    assert_eq!(poisoned(Schedule::InOrder), 1);
    assert_eq!(poisoned(Schedule::Reversed), 63);
    let random: Vec<usize> = (0..8).map(|seed| poisoned(Schedule::Random(seed))).collect();
    assert!(random.iter().all(|&n| (10..54).contains(&n)), "{random:?}");
    assert!(random.iter().any(|&n| n != random[0]), "seeds give different orders: {random:?}");
    assert_eq!(poisoned(Schedule::Random(3)), random[3], "a seed gives the same order again");
}

#[test]
fn the_schedules_differ_in_the_order_of_blocks() {
    // Each thread draws a ticket from one counter; the first tickets of the blocks tell their order on one worker.
    let order = |schedule| {
        let (flags, tickets) = (Buffer::<u32>::zeroed(2), Buffer::<u32>::poisoned(20 * 64));
        launch("primitive_atomics", [20, 1, 1], 64, 0, &[&flags, &tickets], schedule, 1).unwrap();
        tickets.read().chunks_exact(64).map(|block| block.iter().min().unwrap() / 64).collect::<Vec<u32>>()
    };
    assert!(order(Schedule::InOrder).into_iter().eq(0..20));
    assert!(order(Schedule::Reversed).into_iter().eq((0..20).rev()));
    let (one, two) = (order(Schedule::Random(1)), order(Schedule::Random(2)));
    assert!(one != two && one != order(Schedule::InOrder), "{one:?} {two:?}");
    let mut sorted = one;
    sorted.sort_unstable();
    assert!(sorted.into_iter().eq(0..20), "every block once");
}

#[test]
fn a_buffer_reused_before_all_have_read_it_gives_other_sums() {
    let expected: Vec<f32> = (0..64).map(|i| (64 - i) as f32 + (128 - i) as f32).collect();
    for entry in ["broken_early_reuse", "broken_early_copy"] {
        for schedule in SCHEDULES {
            assert_ne!(run(entry, 64, &[], schedule), expected, "{entry} under {schedule:?}");
        }
    }
}

#[test]
fn copied_data_is_poison_until_waited_for() {
    for schedule in SCHEDULES {
        let out = run("broken_read_before_wait", 32, &[], schedule);
        assert!(out[..32].iter().all(|x| x.is_nan()), "{schedule:?}: {out:?}");
    }
}

#[test]
fn a_wait_completes_no_group_that_it_does_not_cover() {
    for schedule in SCHEDULES {
        let out = run("broken_wait_for_too_few", 32, &[], schedule);
        assert_eq!(out[..32], ramp(32), "{schedule:?}: the older group is there");
        assert!(out[32..].iter().all(|x| x.is_nan()), "{schedule:?}: {out:?}");
    }
}

#[test]
fn a_wait_without_a_barrier_does_not_cover_other_threads_copies() {
    for schedule in SCHEDULES {
        let out = run("broken_wait_without_barrier", 64, &[], schedule);
        assert!(out.iter().any(|x| x.is_nan()), "{schedule:?}: {out:?}");
    }
}

#[test]
fn shared_memory_starts_as_nan_in_every_block() {
    for schedule in SCHEDULES {
        let output = Buffer::<f32>::zeroed(3 * 32);
        launch("broken_stale_shared", [3, 1, 1], 32, 128, &[&output], schedule, 1).unwrap();
        let out = output.read();
        assert_eq!(out[..32], [1.0; 32]);
        assert!(out[32..].iter().all(|x| x.is_nan()), "{schedule:?}: {out:?}");
    }
}

#[test]
#[cfg_attr(not(emulator_patterns_locals), ignore = "the C++ compiler lacks -ftrivial-auto-var-init=pattern")]
fn an_uninitialised_local_is_no_lucky_zero() {
    let sum = |filled: i32| {
        let output = Buffer::<f32>::zeroed(32);
        launch("broken_uninitialised", [1, 1, 1], 32, 0, &[&output, &filled], Schedule::InOrder, 1).unwrap();
        output.read()[31]
    };
    assert_eq!(sum(4), 4.0);
    assert!(sum(3) < -1e38, "{}", sum(3));
}

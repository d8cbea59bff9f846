//! Each mistake of `kernels/broken.cu` is a fault that names kernel, block and thread, under every schedule, and leaves
//! the emulator healthy.

mod support;

use gatewarp_emulator::{Fault, MemoryError, Schedule, kernels};
use support::{Argument, Buffer, SCHEDULES, launch};

/// Launches a broken kernel, returns its fault and checks that a sound kernel still runs.
fn fault(
    entry: &str,
    grid: u32,
    block: u32,
    shared_bytes: usize,
    arguments: &[&dyn Argument],
    schedule: Schedule,
) -> Fault {
    let fault = launch(entry, [grid, 1, 1], block, shared_bytes, arguments, schedule, 1)
        .expect_err(&format!("{entry} is broken, but {schedule:?} found nothing"));
    assert_eq!(fault.kernel, entry);
    assert!(fault.block[0] < grid && fault.thread[0] < block, "{fault}");
    check_healthy(schedule);
    fault
}

/// A kernel with shared memory, barriers and several blocks still works.
fn check_healthy(schedule: Schedule) {
    let input: Vec<f32> = (0..128).map(|i| i as f32).collect();
    let (device_input, output) = (Buffer::new(&input), Buffer::<f32>::poisoned(129));
    launch("primitive_reverse", [1, 1, 1], 128, 512, &[&device_input, &output], schedule, 1).unwrap();
    assert!(input.iter().rev().eq(&output.read()[..128]), "{schedule:?}");
}

/// The message contains every part.
fn assert_says(fault: &Fault, parts: &[&str]) {
    for part in parts {
        assert!(fault.message.contains(part), "{part:?} is missing in: {fault}");
    }
}

// --------------------------------------------------------------------------------------------------------- divergence

#[test]
fn divergent_barrier() {
    for schedule in SCHEDULES {
        let half = fault("broken_divergent_barrier", 1, 64, 0, &[&32], schedule);
        assert_says(&half, &["deadlock", "32 in sync_threads", "32 exited"]);
        assert_eq!(half.thread, [0, 0, 0], "the first that waits");
        let one_missing = fault("broken_divergent_barrier", 1, 64, 0, &[&63], schedule);
        assert_says(&one_missing, &["63 in sync_threads", "1 exited"]);
        let more = fault("broken_unequal_barriers", 1, 64, 0, &[], schedule);
        assert_says(&more, &["32 exited", "32 in sync_threads"]);
        assert_eq!(more.thread, [32, 0, 0]);
    }
}

#[test]
fn barrier_and_shuffle_in_branches_of_one_warp() {
    let out = Buffer::<u32>::poisoned(1);
    for schedule in SCHEDULES {
        let mixed = fault("broken_barrier_in_lane_branch", 1, 64, 0, &[&out], schedule);
        assert_says(&mixed, &["deadlock", "32 in sync_threads", "32 in shuffle_xor"]);
    }
}

#[test]
fn named_barriers() {
    for schedule in SCHEDULES {
        let count = fault("broken_barrier_count", 1, 96, 0, &[], schedule);
        assert_says(&count, &["barrier 3", "64", "96"]);
        let half = fault("broken_half_warps", 1, 64, 0, &[], schedule);
        assert_says(&half, &["barrier 1", "only 16 lanes of warp 0"]);
    }
    for (id, threads) in [(16, 64), (-1, 64), (1, 0), (1, 33), (1, 96)] {
        let refused = fault("broken_barrier_arguments", 1, 64, 0, &[&id, &threads], Schedule::InOrder);
        assert_says(&refused, &["barrier"]);
    }
}

#[test]
fn divergent_shuffle() {
    let out = Buffer::<u32>::poisoned(32);
    for schedule in SCHEDULES {
        let odd = fault("broken_divergent_shuffle", 1, 32, 0, &[&out], schedule);
        assert_says(&odd, &["deadlock", "16 in shuffle_xor", "16 exited"]);
        assert_eq!(odd.thread, [1, 0, 0]);
        let mixed = fault("broken_mixed_collectives", 1, 32, 0, &[&out], schedule);
        assert_says(&mixed, &["divergent warp collective"]);
        let source = fault("broken_shuffle_source", 1, 32, 0, &[&out], schedule);
        assert_says(&source, &["lane 16", "does not take part"]);
        let mask = fault("broken_shuffle_mask", 1, 32, 0, &[&out], schedule);
        assert_says(&mask, &["0x0000ffff", "leaves out the calling lane"]);
        assert!(mask.thread[0] >= 16, "{mask}");
    }
}

// ---------------------------------------------------------------------------------------------------------- addresses

#[test]
fn global_load_out_of_bounds() {
    let (input, output) = (Buffer::new(&[1.0_f32; 64]), Buffer::<f32>::poisoned(64));
    let run =
        |offset: i64, schedule| fault("broken_global_load", 2, 32, 0, &[&input, &output, &offset], schedule);
    for schedule in SCHEDULES {
        let past = run(1, schedule);
        assert_says(&past, &["global load of 4 bytes", "ends 0 bytes before", "256 bytes"]);
        assert_says(&past, &[&format!("{:#x}", input.address() + 256)]);
        assert_eq!((past.block, past.thread), ([1, 0, 0], [31, 0, 0]));
        let before = run(-1, schedule);
        assert_says(&before, &["begins 4 bytes after"]);
        assert_eq!((before.block, before.thread), ([0; 3], [0; 3]));
    }
    let displayed = run(1, Schedule::InOrder).to_string();
    assert!(
        displayed.starts_with("kernel broken_global_load block [1, 0, 0] thread [31, 0, 0]: "),
        "{displayed}"
    );
}

#[test]
fn global_store_and_atomic_out_of_bounds() {
    let output = Buffer::<f32>::poisoned(64);
    let words = Buffer::<u32>::zeroed(1);
    for schedule in SCHEDULES {
        let store = fault("broken_global_store", 2, 32, 0, &[&output, &3_i64], schedule);
        assert_says(&store, &["global store of 4 bytes"]);
        assert_eq!(store.block, [1, 0, 0]);
        let atomic = fault("broken_atomic", 1, 32, 0, &[&words, &1_i64], schedule);
        assert_says(&atomic, &["global atomic of 4 bytes"]);
    }
    assert_eq!(words.read(), [0]);
}

#[test]
fn stray_pointers() {
    let output = Buffer::<f32>::poisoned(32);
    for address in [0_u64, 16, 0x7fff_0000, u64::MAX - 3] {
        let load = fault("broken_global_load", 1, 32, 0, &[&address, &output, &0_i64], Schedule::InOrder);
        assert_says(&load, &["out of bounds"]);
    }
}

#[test]
fn misaligned_vectors() {
    let (input, output) = (Buffer::new(&[1.0_f32; 64]), Buffer::<f32>::poisoned(32));
    for schedule in SCHEDULES {
        for offset in [1, 2, 3] {
            let load = fault("broken_vector_load", 1, 32, 0, &[&input, &output, &offset], schedule);
            assert_says(&load, &["misaligned global load of 16 bytes"]);
        }
        let shared = fault("broken_shared_window", 1, 32, 96 * 4, &[&output, &32, &32, &1], schedule);
        assert_says(&shared, &["misaligned shared vector access of 16 bytes"]);
        assert_eq!(shared.thread, [3, 0, 0]);
        let source = fault("broken_copy", 1, 32, 96 * 4, &[&input, &0, &2_i64], schedule);
        assert_says(&source, &["misaligned cp_async source"]);
        let destination = fault("broken_copy", 1, 32, 96 * 4, &[&input, &2, &0_i64], schedule);
        assert_says(&destination, &["misaligned shared vector access"]);
        assert_eq!(destination.thread, [7, 0, 0]);
    }
}

#[test]
fn vector_across_the_end_of_an_allocation() {
    let (input, output) = (Buffer::new(&[1.0_f32; 62]), Buffer::<f32>::poisoned(32));
    let load = fault("broken_vector_load", 1, 32, 0, &[&input, &output, &60], Schedule::InOrder);
    assert_says(&load, &["global load of 16 bytes", "crosses the end of the 248-byte allocation"]);
}

#[test]
fn shared_memory_out_of_bounds() {
    let output = Buffer::<f32>::poisoned(32);
    for schedule in SCHEDULES {
        for index in [32, -1, 64, i32::MIN] {
            let read = fault("broken_shared_index", 1, 32, 96 * 4, &[&output, &index], schedule);
            assert_says(
                &read,
                &["shared memory access out of bounds", &format!("element {index} of a window of 32")],
            );
            assert_eq!(read.thread, [3, 0, 0]);
        }
        for (offset, count) in [(0, 97), (96, 1), (-1, 4), (4, -1), (97, 0)] {
            let window =
                fault("broken_shared_window", 1, 32, 96 * 4, &[&output, &offset, &count, &0], schedule);
            assert_says(&window, &["shared slice", "leaves its window of 96 elements"]);
        }
        let vector = fault("broken_shared_window", 1, 32, 96 * 4, &[&output, &0, &6, &4], schedule);
        assert_says(&vector, &["shared memory access out of bounds", "element 4 of a window of 6"]);
        // What the launch did not ask for is not there.
        let small = fault("broken_shared_index", 1, 32, 32 * 4, &[&output, &0], schedule);
        assert_says(&small, &["shared memory access out of bounds", "of a window of 32"]);
    }
}

// -------------------------------------------------------------------------------------------------- asynchronous copies

#[test]
fn copies_not_waited_for() {
    let input = Buffer::new(&[1.0_f32; 32]);
    for schedule in SCHEDULES {
        for commit in [0, 1] {
            let exit = fault("broken_unwaited_copy", 1, 32, 128, &[&input, &commit], schedule);
            assert_says(&exit, &["1 cp_async copies", "not waited for"]);
        }
    }
}

#[test]
fn copy_source_and_destination_out_of_bounds() {
    let input = Buffer::new(&[1.0_f32; 32]);
    let source = fault("broken_copy", 1, 32, 96 * 4, &[&input, &0, &32_i64], Schedule::InOrder);
    assert_says(&source, &["cp_async load of 16 bytes", "out of bounds"]);
    let destination = fault("broken_copy", 1, 32, 96 * 4, &[&input, &96, &0_i64], Schedule::InOrder);
    assert_says(&destination, &["shared memory access out of bounds"]);
}

// --------------------------------------------------------------------------------------------------- guards, launches

#[test]
fn raw_writes_outside_an_allocation_are_found_when_it_is_freed() {
    for (bytes, offset) in [(100_usize, 100_i64), (100, -1), (256, 256), (256, 1000), (0, 0)] {
        let address = gatewarp_emulator::allocate(bytes).unwrap();
        launch("broken_raw_pointer", [1, 1, 1], 32, 0, &[&address, &offset], Schedule::InOrder, 1).unwrap();
        let expected = MemoryError::GuardOverwritten { address, offset: offset as isize };
        assert_eq!(gatewarp_emulator::free(address), Err(expected));
    }
}

#[test]
fn launches_that_a_driver_refuses() {
    let out = Buffer::<f32>::poisoned(32);
    let refused = |entry: &str, grid: [u32; 3], block: u32, shared: usize, arguments: &[&dyn Argument]| {
        let fault = launch(entry, grid, block, shared, arguments, Schedule::InOrder, 1).unwrap_err();
        assert_eq!((fault.block, fault.thread), ([0; 3], [0; 3]));
        fault.message
    };
    let one = [1, 1, 1];
    assert!(refused("no_such_kernel", one, 32, 0, &[]).contains("no kernel is exported"));
    assert!(refused("broken_stale_shared", one, 32, 0, &[]).contains("wrong number"));
    assert!(refused("broken_stale_shared", one, 32, 0, &[&out, &out]).contains("wrong number"));
    assert!(refused("broken_stale_shared", [0, 1, 1], 32, 0, &[&out]).contains("zero"));
    assert!(refused("broken_stale_shared", [1, 65536, 1], 32, 0, &[&out]).contains("grid"));
    assert!(refused("broken_stale_shared", one, 0, 0, &[&out]).contains("zero"));
    assert!(refused("broken_stale_shared", one, 1056, 0, &[&out]).contains("block exceeds"));
    assert!(refused("broken_stale_shared", one, 33, 0, &[&out]).contains("warps"));
    assert!(refused("broken_stale_shared", one, 32, 228 << 10, &[&out]).contains("shared memory exceeds"));
}

#[test]
fn a_fault_stops_the_other_workers() {
    // Block 0 of a million faults; running them all would take seconds.
    let (input, output) = (Buffer::new(&[1.0_f32; 32]), Buffer::<f32>::poisoned(32));
    let fault = launch(
        "broken_global_load",
        [1_000_000, 1, 1],
        32,
        0,
        &[&input, &output, &-1_i64],
        Schedule::InOrder,
        4,
    )
    .unwrap_err();
    assert_says(&fault, &["out of bounds"]);
    let stored = output.traffic().stores;
    assert!(stored < 32 * 1000, "{stored} stores after the fault");
}

#[test]
fn concurrent_launches_do_not_disturb_each_other() {
    std::thread::scope(|scope| {
        for worker in 0..8_u64 {
            scope.spawn(move || {
                let input = Buffer::new(&[1.0_f32; 64]);
                let output = Buffer::<f32>::poisoned(64);
                for round in 0..25 {
                    let schedule = Schedule::Random(worker * 100 + round);
                    check_healthy(schedule);
                    let broken = launch(
                        "broken_global_load",
                        [2, 1, 1],
                        32,
                        0,
                        &[&input, &output, &1_i64],
                        schedule,
                        2,
                    )
                    .expect_err("out of bounds");
                    assert_eq!(broken.thread, [31, 0, 0], "{broken}");
                    let sound = launch(
                        "broken_global_load",
                        [2, 1, 1],
                        32,
                        0,
                        &[&input, &output, &0_i64],
                        schedule,
                        2,
                    );
                    assert_eq!(sound.unwrap().loads, 64);
                    let waits = fault("broken_divergent_barrier", 1, 64, 0, &[&32], schedule);
                    assert_says(&waits, &["32 exited"]);
                }
            });
        }
    });
}

#[test]
fn the_kernel_list_tells_arguments_and_files() {
    let all = kernels();
    let matmul = all.iter().find(|kernel| kernel.entry == "matmul_f32").expect("matmul.cu is built");
    assert_eq!(matmul.argument_sizes, [8, 8, 8, 4, 4, 4]);
    assert_eq!(matmul.source, "emulator/tests/kernels/matmul.cu");
    let none =
        all.iter().find(|kernel| kernel.entry == "broken_unequal_barriers").expect("broken.cu is built");
    assert!(none.argument_sizes.is_empty());
    let structure =
        all.iter().find(|kernel| kernel.entry == "primitive_indices").expect("primitives.cu is built");
    assert_eq!(structure.argument_sizes, [8, 16]);
    for pair in all.windows(2) {
        assert!(pair[0].entry < pair[1].entry, "{} is exported twice", pair[0].entry);
    }
}

//! The host's side of emulated device memory.

mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};

use gatewarp_emulator::{
    Counters, MemoryError, Schedule, allocate, copy_in, copy_out, copy_within, fill, free, reset_traffic,
    traffic,
};
use support::{Buffer, launch};

/// These tests speak of addresses that are not allocated, so none may allocate meanwhile.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn allocations_are_aligned_and_poisoned() {
    let _alone = alone();
    for bytes in [0, 1, 255, 256, 257, 100_000] {
        let address = allocate(bytes).unwrap();
        assert_eq!(address % 256, 0);
        let mut contents = vec![0; bytes];
        copy_out(address, &mut contents).unwrap();
        assert!(contents.iter().all(|&byte| byte == 0xFF));
        free(address).unwrap();
    }
}

#[test]
fn copies_stay_within_one_allocation() {
    let _alone = alone();
    let address = allocate(16).unwrap();
    copy_in(address + 4, &[1, 2, 3, 4]).unwrap();
    fill(address + 8, 9, 8).unwrap();
    copy_within(address, address + 4, 6).unwrap();
    let mut contents = [0; 16];
    copy_out(address, &mut contents).unwrap();
    assert_eq!(contents, [1, 2, 3, 4, 9, 9, 3, 4, 9, 9, 9, 9, 9, 9, 9, 9]);

    let out_of_bounds = |address, bytes| Err(MemoryError::OutOfBounds { address, bytes });
    let unknown = |address| Err(MemoryError::UnknownAddress { address });
    assert_eq!(copy_in(address, &[0; 17]), out_of_bounds(address, 17));
    assert_eq!(copy_in(address + 15, &[0; 2]), out_of_bounds(address + 15, 2));
    assert_eq!(copy_out(address + 8, &mut [0; 9]), out_of_bounds(address + 8, 9));
    assert_eq!(fill(address, 0, usize::MAX), out_of_bounds(address, usize::MAX));
    assert_eq!(copy_within(address, address + 8, 9), out_of_bounds(address + 8, 9));
    assert_eq!(copy_within(address + 8, address, 9), out_of_bounds(address + 8, 9));
    assert_eq!(copy_in(address + 16, &[0]), unknown(address + 16));
    assert_eq!(copy_in(address - 1, &[0]), unknown(address - 1));
    assert_eq!(copy_in(0, &[]), unknown(0));
    let mut after = [0; 16];
    copy_out(address, &mut after).unwrap();
    assert_eq!(after, contents, "a refused copy writes nothing");
    free(address).unwrap();
}

#[test]
fn only_live_allocations_can_be_freed_read_or_launched_on() {
    let _alone = alone();
    let address = allocate(4 * 32).unwrap();
    assert_eq!(free(address + 4), Err(MemoryError::UnknownAddress { address: address + 4 }));
    free(address).unwrap();
    assert_eq!(free(address), Err(MemoryError::UnknownAddress { address }));
    assert_eq!(copy_out(address, &mut [0]), Err(MemoryError::UnknownAddress { address }));
    let fault =
        launch("broken_global_load", [1, 1, 1], 32, 0, &[&address, &address, &0_i64], Schedule::InOrder, 1)
            .unwrap_err();
    assert!(fault.message.contains("out of bounds"), "{fault}");
}

#[test]
fn device_memory_is_finite() {
    let _alone = alone();
    assert_eq!(allocate(usize::MAX), None);
    assert_eq!(allocate((4 << 30) + 1), None);
    let small = allocate(1).expect("a refused size leaves the rest usable");
    free(small).unwrap();
}

#[test]
fn traffic_is_counted_for_each_allocation() {
    let _alone = alone();
    let (input, output, other) =
        (Buffer::new(&[1.0_f32; 96]), Buffer::<f32>::poisoned(64), Buffer::new(&[0_u32; 4]));
    let total =
        launch("broken_global_load", [2, 1, 1], 32, 0, &[&input, &output, &32_i64], Schedule::Reversed, 2)
            .unwrap();
    assert_eq!(total, Counters { bytes_loaded: 256, bytes_stored: 256, loads: 64, stores: 64 });
    assert_eq!(input.traffic(), Counters { bytes_loaded: 256, loads: 64, ..Counters::default() });
    assert_eq!(output.traffic(), Counters { bytes_stored: 256, stores: 64, ..Counters::default() });
    assert_eq!(other.traffic(), Counters::default(), "never touched");
    // Copies by the host are no kernel traffic; counts add up over launches, and any address inside will do.
    input.read();
    launch("broken_global_load", [1, 1, 1], 32, 0, &[&input, &output, &0_i64], Schedule::InOrder, 1).unwrap();
    assert_eq!(traffic(input.address() + 100).loads, 96);
    reset_traffic(input.address()).unwrap();
    assert_eq!(input.traffic(), Counters::default());
    assert_eq!(output.traffic().stores, 96);
    assert_eq!(reset_traffic(1), Err(MemoryError::UnknownAddress { address: 1 }));
}

#[test]
fn a_faulted_launch_counts_what_it_did() {
    let _alone = alone();
    let (input, output) = (Buffer::new(&[1.0_f32; 32]), Buffer::<f32>::poisoned(64));
    launch("broken_global_load", [2, 1, 1], 32, 0, &[&input, &output, &0_i64], Schedule::InOrder, 1)
        .unwrap_err();
    assert_eq!((input.traffic().loads, output.traffic().stores), (32, 32), "block 0, not block 1");
}

#[test]
fn asynchronous_copies_count_when_they_read() {
    let _alone = alone();
    let (input, output) = (Buffer::new(&[1.0_f32; 256]), Buffer::<f32>::poisoned(512));
    launch("primitive_cp_async", [1, 1, 1], 64, 2048, &[&input, &output, &100], Schedule::InOrder, 1)
        .unwrap();
    // 25 pieces of 16 bytes and 100 of 4; those past the count are zeros that cost nothing.
    let expected = Counters { bytes_loaded: 800, loads: 125, ..Counters::default() };
    assert_eq!(input.traffic(), expected);
}

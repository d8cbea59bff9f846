//! Mistakes with the asynchronous units (`kernels/broken_sm90.cu`): a fault, poison or a wrong sum under every schedule.

mod support;

use gatewarp_emulator::{Counters, Fault, Schedule, TensorMap};
use std::ffi::c_void;
use support::{Argument, Buffer, SCHEDULES, launch};

/// A map and a number after it, as the kernel's structure has them.
#[repr(C, align(64))]
struct LoadParams {
    map: TensorMap,
    mistake: i32,
    unused: [i32; 15],
}

impl Argument for LoadParams {
    fn pointer(&self) -> *const c_void {
        std::ptr::from_ref(self).cast()
    }
}

const NONE: i32 = 0;

fn load(mistake: i32, schedule: Schedule) -> Result<Vec<u16>, Fault> {
    let elements: Vec<u16> = (1..=512).collect();
    let (tensor, out) = (Buffer::new(&elements), Buffer::<u16>::poisoned(512));
    let map = TensorMap::new(tensor.address(), [64, 8, 1, 1], [128, 1024, 1024], 8).expect("a legal map");
    let params = LoadParams { map, mistake, unused: [0; 15] };
    launch("broken_load", [1, 1, 1], 32, 2048 + 16, &[&out, &params], schedule, 1)?;
    let traffic = tensor.traffic();
    assert!(traffic.bytes_loaded == 1024 || traffic == Counters::default(), "{traffic:?}");
    Ok(out.read())
}

fn product(mistake: i32, schedule: Schedule) -> Result<Vec<f32>, Fault> {
    let out = Buffer::<f32>::poisoned(128);
    launch("broken_product", [1, 1, 1], 128, 2 * 2 * 64 * 64, &[&out, &mistake], schedule, 1)?;
    Ok(out.read())
}

#[test]
fn without_a_mistake_they_are_right() {
    for schedule in SCHEDULES {
        let mut tile = load(NONE, schedule).expect("no fault");
        tile.sort_unstable();
        assert!(tile.into_iter().eq(1..=512), "{schedule:?}");
        assert_eq!(product(NONE, schedule).expect("no fault"), [16.0; 128], "{schedule:?}");
    }
}

#[test]
fn a_tile_that_nobody_waited_for_is_poison() {
    for (mistake, schedule) in [1, 7].into_iter().flat_map(|m| SCHEDULES.map(|s| (m, s))) {
        assert_eq!(load(mistake, schedule).expect("no fault"), [0xffff; 512], "{mistake} {schedule:?}");
    }
}

#[test]
fn barriers_that_do_not_fit_their_loads_are_faults() {
    for schedule in SCHEDULES {
        for (mistake, says) in [
            (2, "no barrier has been initialised"),
            (3, "deadlock"),
            (4, "deadlock"),
            (5, "misaligned destination of tensor_load"),
            (6, "overwritten"),
        ] {
            let fault = load(mistake, schedule).expect_err("a mistake");
            assert!(fault.message.contains(says), "{mistake} {schedule:?}: {fault}");
        }
        let fault = launch("broken_arrivals", [1, 1, 1], 32, 8, &[], schedule, 1).expect_err("a mistake");
        assert!(fault.message.contains("all 1 arrivals of this phase are in"), "{fault}");
    }
}

#[test]
fn sums_are_poison_until_waited_for() {
    for schedule in SCHEDULES {
        assert!(product(1, schedule).expect("no fault").iter().all(|x| x.is_nan()), "{schedule:?}");
        let fault = product(2, schedule).expect_err("a mistake");
        assert!(fault.message.contains("has not waited for"), "{fault}");
    }
}

#[test]
fn operands_are_read_after_the_issue() {
    for schedule in SCHEDULES {
        assert_eq!(product(3, schedule).expect("no fault"), [0.0; 128], "{schedule:?}");
    }
}

#[test]
fn a_warpgroup_multiplies_together() {
    for schedule in SCHEDULES {
        let fault = product(4, schedule).expect_err("a mistake");
        assert!(fault.message.contains("different products"), "{fault}");
        let fault = product(5, schedule).expect_err("a mistake");
        assert!(fault.message.contains("products that other threads have not issued"), "{fault}");
    }
}

#[test]
fn maps_that_the_driver_refuses() {
    for (address, sizes, strides, rows, says) in [
        (8, [64, 8, 1, 1], [128, 1024, 1024], 8, "address"),
        (16, [64, 8, 1, 1], [130, 1024, 1024], 8, "130"),
        (16, [64, 0, 1, 1], [128, 1024, 1024], 8, "size of 0"),
        (16, [64, 8, 1, 1], [128, 1024, 1024], 0, "0 rows"),
        (16, [64, 8, 1, 1], [128, 1024, 1024], 257, "257 rows"),
    ] {
        let fault = TensorMap::new(address, sizes, strides, rows).expect_err("refused");
        assert!(fault.contains(says), "{fault}");
    }
}

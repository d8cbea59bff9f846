//! A realistic kernel: tiles, double-buffered asynchronous copies, vector accesses, several blocks and workers.

mod support;

use std::time::Instant;

use support::{Buffer, Random, SCHEDULES, launch};

const SHARED_BYTES: usize = 2 * 2 * 64 * 16 * 4;

#[test]
fn tiled_matmul_is_right_and_the_same_under_every_schedule_and_worker_count() {
    let (m, n, k) = (128, 192, 80);
    let mut random = Random(3);
    let a: Vec<f32> = (0..m * k).map(|_| random.symmetric()).collect();
    let b: Vec<f32> = (0..k * n).map(|_| random.symmetric()).collect();
    let (device_a, device_b) = (Buffer::new(&a), Buffer::new(&b));
    let mut first: Option<Vec<f32>> = None;
    for schedule in SCHEDULES {
        for workers in [1, 3] {
            let c = Buffer::<f32>::poisoned(m * n);
            let arguments: [&dyn support::Argument; 6] =
                [&device_a, &device_b, &c, &(m as i32), &(n as i32), &(k as i32)];
            let grid = [n as u32 / 64, m as u32 / 64, 1];
            let counters =
                launch("matmul_f32", grid, 256, SHARED_BYTES, &arguments, schedule, workers).unwrap();
            let tiles = (m / 64 * (n / 64)) as u64;
            assert_eq!(counters.bytes_loaded, tiles * 2 * 64 * k as u64 * 4);
            assert_eq!(counters.bytes_stored, (m * n * 4) as u64);
            assert_eq!(counters.stores, (m * n / 4) as u64, "c is written 16 bytes at a time");
            let c = c.read();
            for i in 0..m {
                for j in 0..n {
                    let exact: f64 = (0..k).map(|d| f64::from(a[i * k + d]) * f64::from(b[d * n + j])).sum();
                    let error = (f64::from(c[i * n + j]) - exact).abs();
                    assert!(error < 1e-5, "c[{i},{j}] = {} instead of {exact}", c[i * n + j]);
                }
            }
            let bits: Vec<f32> = c;
            match &first {
                None => first = Some(bits),
                Some(expected) => assert!(*expected == bits, "{schedule:?} with {workers} workers differs"),
            }
        }
    }
}

/// Prints the time; run with `--nocapture` to see it.
#[test]
fn matmul_256_is_fast_enough_for_test_suites() {
    let size = 256_usize;
    let mut random = Random(4);
    let a = Buffer::new(&(0..size * size).map(|_| random.symmetric()).collect::<Vec<f32>>());
    let b = Buffer::new(&(0..size * size).map(|_| random.symmetric()).collect::<Vec<f32>>());
    let c = Buffer::<f32>::poisoned(size * size);
    let side = size as i32;
    for schedule in SCHEDULES {
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            let start = Instant::now();
            launch(
                "matmul_f32",
                [4, 4, 1],
                256,
                SHARED_BYTES,
                &[&a, &b, &c, &side, &side, &side],
                schedule,
                1,
            )
            .unwrap();
            best = best.min(start.elapsed().as_secs_f64());
        }
        println!("256x256x256 {schedule:?}: {:.1} ms on one worker", best * 1e3);
        assert!(best < 1.0, "{schedule:?} took {best} s");
    }
}

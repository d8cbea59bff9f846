//! Each primitive of `kernels/device.cuh` against a plain statement of what it should do, under every schedule.
//!
//! The kernels and their buffers know nothing of the emulator: the same ones, run on a device, test the instructions.

mod support;

use gatewarp_emulator::Schedule;
use support::{Argument, Buffer, Plain, Random, SCHEDULES, launch};

/// Launches a kernel of `grid` blocks on two workers.
fn run(
    entry: &str,
    grid: u32,
    block: u32,
    shared_floats: usize,
    arguments: &[&dyn Argument],
    schedule: Schedule,
) {
    launch(entry, [grid, 1, 1], block, shared_floats * 4, arguments, schedule, 2)
        .unwrap_or_else(|fault| panic!("{schedule:?}: {fault}"));
}

fn words(seed: u64, len: usize) -> Vec<u32> {
    let mut random = Random(seed);
    (0..len).map(|_| (random.next() >> 32) as u32).collect()
}

fn floats(seed: u64, len: usize) -> Vec<f32> {
    let mut random = Random(seed);
    (0..len).map(|_| random.symmetric()).collect()
}

// ------------------------------------------------------------------------------------------------------------ indices

#[test]
fn indices_and_structure_arguments() {
    #[repr(C)]
    struct IndexArgument {
        base: u64,
        step: u32,
    }
    impl Argument for IndexArgument {
        fn pointer(&self) -> *const std::ffi::c_void {
            std::ptr::from_ref(self).cast()
        }
    }
    let argument = IndexArgument { base: 1 << 40, step: 3 };
    for schedule in SCHEDULES {
        let out = Buffer::<u64>::poisoned(2 * 3 * 5 * 96);
        let pointers = [out.pointer(), argument.pointer()];
        // SAFETY: a buffer's address and a structure laid out as the kernel's.
        let ended = unsafe {
            gatewarp_emulator::launch("primitive_indices", [2, 3, 5], [8, 4, 3], 0, &pointers, schedule, 2)
        };
        ended.unwrap();
        for (i, value) in out.read().into_iter().enumerate() {
            assert_eq!(value, (1 << 40) + 3 * i as u64, "{schedule:?}");
        }
    }
}

// ------------------------------------------------------------------------------------------------------ global memory

#[test]
fn loads_and_stores_of_every_type() {
    fn pair<T: Plain>(values: &[T]) -> (Buffer<T>, Buffer<T>) {
        (Buffer::new(values), Buffer::poisoned(values.len()))
    }
    for schedule in SCHEDULES {
        let source = words(1, 64 * 4);
        let value = |i: usize| source[i];
        let u8s: Vec<u8> = (0..64).map(|i| value(i) as u8).collect();
        let u16s: Vec<u16> = (0..64).map(|i| value(i) as u16).collect();
        let f32s = floats(2, 64);
        let i32s: Vec<i32> = (0..64).map(|i| value(i) as i32).collect();
        let u64s: Vec<u64> = (0..64).map(|i| u64::from(value(i)) << 20 | 7).collect();
        let f64s: Vec<f64> = (0..64).map(|i| f64::from(value(i)) / 3.0).collect();
        let pairs: Vec<[f32; 2]> = (0..64).map(|i| [value(i) as f32, 0.5]).collect();
        let quads: Vec<[f32; 4]> = (0..64).map(|i| [value(i) as f32, 1.0, -2.0, f32::INFINITY]).collect();
        let (a, b, c, d) = (pair(&u8s), pair(&u16s), pair(&f32s), pair(&i32s));
        let (e, f, g, h) = (pair(&u64s), pair(&f64s), pair(&pairs), pair(&quads));
        let arguments: [&dyn Argument; 16] =
            [&a.0, &a.1, &b.0, &b.1, &c.0, &c.1, &d.0, &d.1, &e.0, &e.1, &f.0, &f.1, &g.0, &g.1, &h.0, &h.1];
        run("primitive_copy", 2, 32, 0, &arguments, schedule);
        assert_eq!(a.1.read(), u8s);
        assert_eq!(b.1.read(), u16s);
        assert_eq!(c.1.read(), f32s);
        assert_eq!(d.1.read(), i32s);
        assert_eq!(e.1.read(), u64s);
        assert_eq!(f.1.read(), f64s);
        assert_eq!(g.1.read(), pairs);
        assert_eq!(h.1.read(), quads);
    }
}

#[test]
fn atomics_return_what_was_there() {
    for schedule in SCHEDULES {
        let (flags, old) = (Buffer::<u32>::zeroed(2), Buffer::<u32>::poisoned(20 * 64));
        run("primitive_atomics", 20, 64, 0, &[&flags, &old], schedule);
        assert_eq!(flags.read(), [(1 << 20) - 1, 20 * 64]);
        let mut tickets = old.read();
        tickets.sort_unstable();
        assert!(tickets.into_iter().eq(0..20 * 64), "{schedule:?}: every ticket once");
    }
}

#[test]
fn the_last_block_sees_all_sums() {
    let input: Vec<f32> = (0..37 * 32).map(|i| (i % 101) as f32).collect();
    let device_input = Buffer::new(&input);
    for schedule in SCHEDULES {
        let (sums, counter, total) =
            (Buffer::<f32>::poisoned(37), Buffer::<u32>::zeroed(1), Buffer::<f32>::poisoned(1));
        run("primitive_last_block", 37, 32, 0, &[&device_input, &sums, &counter, &total], schedule);
        // Whole numbers below 2^24: exact in any order.
        assert_eq!(total.read(), [input.iter().sum::<f32>()], "{schedule:?}");
    }
}

// ------------------------------------------------------------------------------------------------------ shared memory

#[test]
fn shared_memory_passes_values_across_the_block() {
    let input = floats(3, 128);
    let device_input = Buffer::new(&input);
    for schedule in SCHEDULES {
        let out = Buffer::<f32>::poisoned(129);
        run("primitive_reverse", 1, 128, 128, &[&device_input, &out], schedule);
        let out = out.read();
        assert!(input.iter().rev().eq(&out[..128]), "{schedule:?}");
        assert_eq!(out[128], 0.0, "the base is 1024-byte aligned");
    }
}

#[test]
fn shared_windows_casts_and_vectors() {
    let input: Vec<[f32; 4]> = floats(4, 128).chunks_exact(4).map(|c| [c[0], c[1], c[2], c[3]]).collect();
    let device_input = Buffer::new(&input);
    for schedule in SCHEDULES {
        let out = Buffer::<u32>::poisoned(64);
        run("primitive_windows", 1, 32, 256, &[&device_input, &out], schedule);
        let expected: Vec<u32> =
            (0..32).flat_map(|i| [input[i][2].to_bits(), input[(i + 1) % 32][0].to_bits()]).collect();
        assert_eq!(out.read(), expected, "{schedule:?}");
    }
}

// ----------------------------------------------------------------------------------------------------- block and warp

#[test]
fn named_barriers_serve_groups_of_warps() {
    let input: Vec<u32> = words(5, 128).into_iter().map(|w| w / 2).collect();
    let device_input = Buffer::new(&input);
    for schedule in SCHEDULES {
        let out = Buffer::<u32>::poisoned(128);
        run("primitive_barriers", 1, 128, 128, &[&device_input, &out, &5], schedule);
        // The second pair of warps goes ten rounds while the first goes five.
        let expected: Vec<u32> = (0..128).map(|i| input[i ^ 32] + if i < 64 { 4 } else { 9 }).collect();
        assert_eq!(out.read(), expected, "{schedule:?}");
    }
}

#[test]
fn sync_warp_orders_shared_memory_within_its_lanes() {
    let input: Vec<u32> = words(6, 64).into_iter().map(|w| w / 8).collect();
    let device_input = Buffer::new(&input);
    for schedule in SCHEDULES {
        let out = Buffer::<u32>::poisoned(64);
        run("primitive_sync_warp", 1, 64, 64, &[&device_input, &out], schedule);
        let expected: Vec<u32> = (0..64).map(|i| input[i] + input[i ^ 5]).collect();
        assert_eq!(out.read(), expected, "{schedule:?}");
    }
}

#[test]
fn shuffles_move_values_between_lanes() {
    let input = words(7, 64);
    let device_input = Buffer::new(&input);
    for schedule in SCHEDULES {
        for argument in [0, 1, 2, 5, 16, 31] {
            let out = Buffer::<u32>::poisoned(256);
            run("primitive_shuffle", 1, 64, 0, &[&device_input, &out, &(argument as i32)], schedule);
            let out = out.read();
            for i in 0..64_usize {
                let (warp, lane) = (i / 32 * 32, i % 32);
                let up = if lane >= argument { lane - argument } else { lane };
                let down = if lane + argument < 32 { lane + argument } else { lane };
                let sources = [lane ^ argument, argument, up, down];
                for (kind, source) in sources.into_iter().enumerate() {
                    let got = out[kind * 64 + i];
                    assert_eq!(
                        got,
                        input[warp + source],
                        "{schedule:?} kind {kind} lane {lane} by {argument}"
                    );
                }
            }
        }
    }
}

#[test]
fn shuffles_of_every_type() {
    let f32s = floats(8, 32);
    let f64s: Vec<f64> = floats(9, 32).into_iter().map(|x| f64::from(x) / 3.0).collect();
    let u64s: Vec<u64> = (0..32).map(|i| 0x1234_5678_9abc_def0_u64.rotate_left(i)).collect();
    let pairs: Vec<[f32; 2]> = floats(10, 64).chunks_exact(2).map(|c| [c[0], c[1]]).collect();
    let inputs = (Buffer::new(&f32s), Buffer::new(&f64s), Buffer::new(&u64s), Buffer::new(&pairs));
    for schedule in SCHEDULES {
        for by in [1, 8, 21] {
            let (a, b) = (Buffer::<f32>::poisoned(32), Buffer::<f64>::poisoned(32));
            let (c, d) = (Buffer::<u64>::poisoned(32), Buffer::<[f32; 2]>::poisoned(32));
            let arguments: [&dyn Argument; 9] =
                [&inputs.0, &a, &inputs.1, &b, &inputs.2, &c, &inputs.3, &d, &(by as i32)];
            run("primitive_shuffle_types", 1, 32, 0, &arguments, schedule);
            let (a, b, c, d) = (a.read(), b.read(), c.read(), d.read());
            for i in 0..32_usize {
                assert_eq!(a[i], f32s[i ^ by]);
                assert_eq!(b[i], f64s[i ^ by]);
                assert_eq!(c[i], u64s[(i + by) % 32], "the source lane is taken modulo 32");
                assert_eq!(d[i], pairs[i ^ by]);
            }
        }
    }
}

#[test]
fn half_warps_shuffle_and_vote_on_their_own() {
    let input = words(11, 64);
    let device_input = Buffer::new(&input);
    for schedule in SCHEDULES {
        let out = Buffer::<u32>::poisoned(128);
        run("primitive_masks", 1, 64, 0, &[&device_input, &out], schedule);
        let out = out.read();
        for i in 0..64 {
            let half = i / 16 * 16;
            assert_eq!(out[2 * i], input[half + 15 - i % 16], "{schedule:?} thread {i}");
            let (modulus, shift) = if i % 32 < 16 { (2, 0) } else { (3, 16) };
            let votes: u32 = (0..16)
                .filter(|lane| input[half + lane] % modulus == 1)
                .map(|lane| 1 << (lane + shift))
                .sum();
            assert_eq!(out[2 * i + 1], votes, "{schedule:?} thread {i}");
        }
    }
}

#[test]
fn ballots_collect_one_bit_a_lane() {
    let input = words(12, 64);
    let device_input = Buffer::new(&input);
    for schedule in SCHEDULES {
        for bit in [0, 13, 31] {
            let out = Buffer::<u32>::poisoned(64);
            run("primitive_ballot", 1, 64, 0, &[&device_input, &out, &bit], schedule);
            let votes = |warp: usize| (0..32).map(|lane| (input[warp * 32 + lane] >> bit & 1) << lane).sum();
            let expected: Vec<u32> = (0..64).map(|i| votes(i / 32)).collect();
            assert_eq!(out.read(), expected, "{schedule:?}");
        }
    }
}

// ------------------------------------------------------------------------------------------------ asynchronous copies

#[test]
fn asynchronous_copies_and_their_zero_fill() {
    for schedule in SCHEDULES {
        for count in [0, 4, 100, 256] {
            // No longer than what may be read: zero-filled pieces must not touch their source.
            let input = floats(13, count);
            let device_input = Buffer::new(&input);
            let out = Buffer::<f32>::poisoned(512);
            run("primitive_cp_async", 1, 64, 512, &[&device_input, &out, &(count as i32)], schedule);
            let mut expected = input.clone();
            expected.resize(256, 0.0);
            expected.extend_from_within(..);
            assert_eq!(out.read(), expected, "{schedule:?} {count}");
        }
    }
}

#[test]
fn groups_complete_in_order() {
    for schedule in SCHEDULES {
        for steps in [1, 2, 3, 7] {
            let input = floats(14, steps * 32);
            let device_input = Buffer::new(&input);
            let out = Buffer::<f32>::poisoned(steps * 32);
            run("primitive_cp_async_ring", 1, 32, 96, &[&device_input, &out, &(steps as i32)], schedule);
            let expected: Vec<f32> =
                input.chunks_exact(32).flat_map(|step| step.iter().rev().copied()).collect();
            assert_eq!(out.read(), expected, "{schedule:?} {steps}");
        }
    }
}

// --------------------------------------------------------------------------------------------------------- arithmetic

/// Runs `primitive_unary`: [exp2_approx, rcp, sin, cos] of each input.
fn unary(inputs: &[f32]) -> Vec<[f32; 4]> {
    let (input, out) = (Buffer::new(inputs), Buffer::<[f32; 4]>::poisoned(inputs.len()));
    let count = inputs.len() as i32;
    run(
        "primitive_unary",
        inputs.len().div_ceil(256) as u32,
        256,
        0,
        &[&input, &out, &count],
        Schedule::InOrder,
    );
    out.read()
}

/// The distance of `got` from `exact` in units of the last place of `exact` rounded to f32.
fn ulps(got: f32, exact: f64) -> f64 {
    let exponent = exact.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor();
    (f64::from(got) - exact).abs() / (exponent - 23.0).exp2()
}

const SPECIAL: [f32; 8] =
    [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN_POSITIVE, 1e-45];

#[test]
fn exp2_within_two_ulp_with_subnormals_flushed() {
    let inputs: Vec<f32> = (-1260..=1279).map(|i| i as f32 / 10.0).chain(floats(15, 2000)).collect();
    for (&x, y) in inputs.iter().zip(unary(&inputs)) {
        assert!(ulps(y[0], f64::from(x).exp2()) <= 2.0, "2^{x} = {}", y[0]);
    }
    let special =
        unary(&[-126.5, -150.0, f32::NEG_INFINITY, f32::INFINITY, 128.0, 0.0, -0.0, 1e-45, f32::NAN]);
    let results: Vec<f32> = special.iter().map(|y| y[0]).collect();
    assert_eq!(results[..8], [0.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY, 1.0, 1.0, 1.0]);
    assert!(results[8].is_nan());
}

#[test]
fn reciprocal_is_correctly_rounded() {
    let mut inputs = floats(16, 4000);
    inputs.extend(SPECIAL);
    inputs.extend([3.0, 1e38, -3e38, 1e-39]);
    for (&x, y) in inputs.iter().zip(unary(&inputs)) {
        assert_eq!(y[1].to_bits() & !(1 << 22), (1.0 / x).to_bits() & !(1 << 22), "1 / {x} = {}", y[1]);
    }
}

#[test]
fn sine_and_cosine_within_two_ulp() {
    let mut inputs = Vec::new();
    // Dense near zero, every quadrant, near the multiples of π/2 where cancellation is worst, and to 10,000.
    inputs.extend((-4000..=4000).map(|i| i as f32 / 1000.0));
    inputs.extend(floats(17, 20_000).into_iter().map(|x| x * 1e4));
    for quarter in 1..6400 {
        let nearest = (f64::from(quarter) * std::f64::consts::FRAC_PI_2) as f32;
        inputs.extend([nearest, nearest.next_up(), nearest.next_down(), -nearest]);
    }
    // Up to and beyond the change of reduction at 2^17, and every power of two.
    inputs.extend(floats(18, 20_000).into_iter().map(|x| x * 2e5));
    inputs.extend([131071.99, 131072.0, 131072.02, -131072.02]);
    inputs.extend(
        (-149..128).flat_map(|e| [(f64::from(e)).exp2() as f32, -(f64::from(e)).exp2() as f32 * 1.25]),
    );
    let mut random = Random(19);
    inputs.extend((0..50_000).map(|_| f32::from_bits(random.next() as u32)).filter(|x| x.is_finite()));
    inputs.extend([f32::MAX, f32::MIN, 0.0, -0.0]);

    let mut worst = (0.0, 0.0_f32);
    for (&x, y) in inputs.iter().zip(unary(&inputs)) {
        // The platform's f64 sine is right to well below an f32 ulp, huge arguments included.
        let error = ulps(y[2], f64::from(x).sin()).max(ulps(y[3], f64::from(x).cos()));
        assert!(error <= 2.0, "x = {x:e}: sin {} cos {}, off by {error} ulp", y[2], y[3]);
        if error > worst.0 {
            worst = (error, x);
        }
    }
    println!("{} arguments, worst error {:.2} ulp at {:e}", inputs.len(), worst.0, worst.1);
    for y in unary(&[f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::from_bits(0xffa0_0001)]) {
        assert!(y[2].is_nan() && y[3].is_nan());
    }
}

#[test]
fn fused_multiply_add_rounds_once() {
    let (a, b, c) = (floats(20, 1000), floats(21, 1000), floats(22, 1000));
    // Cancellation shows a product that was rounded first.
    let c: Vec<f32> =
        c.iter().enumerate().map(|(i, &c)| if i % 2 == 0 { -(a[i] * b[i]) } else { c }).collect();
    let (device_a, device_b, device_c) = (Buffer::new(&a), Buffer::new(&b), Buffer::new(&c));
    let (fused, wide, larger) =
        (Buffer::<f32>::poisoned(1000), Buffer::<f64>::poisoned(1000), Buffer::<f32>::poisoned(1000));
    let arguments: [&dyn Argument; 7] = [&device_a, &device_b, &device_c, &fused, &wide, &larger, &1000];
    run("primitive_ternary", 4, 256, 0, &arguments, Schedule::InOrder);
    let (fused, wide) = (fused.read(), wide.read());
    for i in 0..1000 {
        assert_eq!(fused[i], a[i].mul_add(b[i], c[i]));
        assert_eq!(wide[i], f64::from(a[i]).mul_add(f64::from(b[i]) + 1e-9, f64::from(c[i])));
    }
}

#[test]
fn maximum_prefers_numbers_to_nan() {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for x in SPECIAL.into_iter().chain([1.0, -1.0]) {
        for y in SPECIAL.into_iter().chain([2.0, -2.0]) {
            a.push(x);
            b.push(y);
        }
    }
    let len = a.len();
    let (device_a, device_b, device_c) = (Buffer::new(&a), Buffer::new(&b), Buffer::<f32>::zeroed(len));
    let (fused, wide, larger) =
        (Buffer::<f32>::poisoned(len), Buffer::<f64>::poisoned(len), Buffer::<f32>::poisoned(len));
    let arguments: [&dyn Argument; 7] =
        [&device_a, &device_b, &device_c, &fused, &wide, &larger, &(len as i32)];
    run("primitive_ternary", 1, 256, 0, &arguments, Schedule::InOrder);
    for (i, got) in larger.read().into_iter().enumerate() {
        let (x, y) = (a[i], b[i]);
        if x.is_nan() && y.is_nan() {
            assert!(got.is_nan());
        } else if x.is_nan() || y.is_nan() {
            assert_eq!(got.to_bits(), if x.is_nan() { y } else { x }.to_bits(), "max({x}, {y})");
        } else {
            // By the total order of the bits, which puts -0 below +0.
            assert_eq!(got.to_bits(), if x.total_cmp(&y).is_gt() { x } else { y }.to_bits(), "max({x}, {y})");
        }
    }
}

#[test]
fn classification_by_bits() {
    let mut inputs: Vec<u32> = words(23, 1000);
    inputs.extend(SPECIAL.map(f32::to_bits));
    inputs.extend([0x7f80_0001, 0xff80_0001, 0x7fff_ffff, 0x7f7f_ffff, 0xff7f_ffff]);
    let (input, out) = (Buffer::new(&inputs), Buffer::<u32>::poisoned(inputs.len()));
    run("primitive_classify", 4, 256, 0, &[&input, &out, &(inputs.len() as i32)], Schedule::InOrder);
    for (&bits, got) in inputs.iter().zip(out.read()) {
        let x = f32::from_bits(bits);
        let expected = u32::from(x.is_finite())
            | u32::from(x.is_nan()) << 1
            | 1 << 2
            | u32::from(x == f32::INFINITY) << 3;
        assert_eq!(got, expected, "{bits:#010x}");
    }
}

//! What each primitive of `kernels/device.cuh` must compute: inputs and a plain statement of the result, for whatever runs
//! the kernels of `emulator/tests/kernels/primitives.cu`.
//!
//! Compiled into two test programs: the emulator's own, under every schedule, and the library's, which launches through its
//! CUDA backend, on the emulator and on NVIDIA devices. Where the twins pass and a device does not, a twin is wrong.

#[path = "asynchronous.rs"]
pub mod asynchronous;
#[allow(clippy::duplicate_mod, reason = "the library's test has no other")]
mod random;

use bytemuck::Pod;
use random::Random;

/// Runs test kernels on one device.
pub trait Launcher {
    /// Device and schedule, for reports.
    fn name(&self) -> String;
    /// Runs a kernel to its end and returns `call.memory` as it is then.
    ///
    /// # Errors
    /// What the device says about a refused or failed launch.
    fn launch(&self, call: &Call) -> Result<Vec<Vec<u8>>, String>;
}

/// A kernel launch: one pointer argument for each piece of `memory`, then `params` unless that is empty.
pub struct Call {
    pub entry: &'static str,
    pub grid: [u32; 3],
    pub block: u32,
    pub shared_bytes: u32,
    /// What the allocations hold before the launch, each a multiple of 4 bytes.
    pub memory: Vec<Vec<u8>>,
    pub params: Vec<u8>,
    /// A map that stands before `params`, of a tensor which is no argument of its own.
    pub tensor: Option<Mapped>,
}

/// A tensor of 16-bit elements for asynchronous loads: `[batch, head, row, column]` from the outermost in, strides in bytes.
pub struct Mapped {
    pub memory: Vec<u8>,
    /// Innermost first.
    pub sizes: [u64; 4],
    /// Of rows, heads and samples.
    pub strides: [u64; 3],
    /// Of a tile.
    pub rows: u32,
}

/// The memory of a call, after it.
struct Memory(Vec<Vec<u8>>);

impl Call {
    fn new(entry: &'static str, grid: u32, block: u32) -> Self {
        Self {
            entry,
            grid: [grid, 1, 1],
            block,
            shared_bytes: 0,
            memory: Vec::new(),
            params: Vec::new(),
            tensor: None,
        }
    }

    fn shared_floats(mut self, floats: u32) -> Self {
        self.shared_bytes = floats * 4;
        self
    }

    fn input<T: Pod>(mut self, values: &[T]) -> Self {
        self.memory.push(bytemuck::cast_slice(values).to_vec());
        self
    }

    /// Poisoned memory: 0xFF everywhere, a NaN for every float type.
    fn output<T: Pod>(mut self, len: usize) -> Self {
        self.memory.push(vec![0xff; len * size_of::<T>()]);
        self
    }

    fn params(mut self, bytes: &[u8]) -> Self {
        self.params = bytes.to_vec();
        self
    }

    fn int(self, value: usize) -> Self {
        let value = i32::try_from(value).expect("test sizes are small");
        self.params(&value.to_le_bytes())
    }

    fn run(&self, device: &dyn Launcher) -> Memory {
        Memory(device.launch(self).unwrap_or_else(|fault| panic!("{}: {fault}", device.name())))
    }
}

impl Memory {
    /// The argument at `index`, as numbers.
    fn read<T: Pod>(&self, index: usize) -> Vec<T> {
        bytemuck::pod_collect_to_vec(&self.0[index])
    }
}

/// Hands the name of every case below to a macro, which makes a test of each.
macro_rules! for_each_case {
    ($tests:ident) => {
        $tests! {
            indices_and_structure_arguments
            loads_and_stores_of_every_type
            atomics_return_what_was_there
            the_last_block_sees_all_sums
            shared_memory_passes_values_across_the_block
            shared_windows_casts_and_vectors
            named_barriers_serve_groups_of_warps
            sync_warp_orders_shared_memory_within_its_lanes
            shuffles_move_values_between_lanes
            shuffles_of_every_type
            half_warps_shuffle_and_vote_on_their_own
            ballots_collect_one_bit_a_lane
            asynchronous_copies_and_their_zero_fill
            groups_complete_in_order
            exp2_within_two_ulp_with_subnormals_flushed
            reciprocal_is_correctly_rounded
            sine_and_cosine_within_two_ulp
            fused_multiply_add_rounds_once
            maximum_prefers_numbers_to_nan
            classification_by_bits
            sixteen_bit_floats_round_to_nearest_even
            pairs_of_sixteen_bit_floats_are_packed_low_first
            matrices_load_as_they_lie_and_transposed
            matrix_products_of_16_bit_elements
        }
    };
}
pub(crate) use for_each_case;

fn words(seed: u64, len: usize) -> Vec<u32> {
    let mut random = Random(seed);
    (0..len).map(|_| (random.next() >> 32) as u32).collect()
}

fn floats(seed: u64, len: usize) -> Vec<f32> {
    let mut random = Random(seed);
    (0..len).map(|_| random.symmetric()).collect()
}

// ------------------------------------------------------------------------------------------------------------ indices

pub fn indices_and_structure_arguments(device: &dyn Launcher) {
    // struct { u64 base; u32 step; }: 16 bytes with the padding at its end.
    let params = [(1u64 << 40).to_le_bytes(), 3u64.to_le_bytes()].concat();
    let mut call = Call::new("primitive_indices", 2, 96).output::<u64>(2 * 3 * 5 * 96).params(&params);
    call.grid = [2, 3, 5];
    let expected: Vec<u64> = (0..2 * 3 * 5 * 96).map(|i| (1 << 40) + 3 * i).collect();
    assert_eq!(call.run(device).read::<u64>(0), expected);
}

// ------------------------------------------------------------------------------------------------------ global memory

pub fn loads_and_stores_of_every_type(device: &dyn Launcher) {
    let source = words(1, 64);
    let u8s: Vec<u8> = source.iter().map(|&x| x as u8).collect();
    let u16s: Vec<u16> = source.iter().map(|&x| x as u16).collect();
    let f32s = floats(2, 64);
    let i32s: Vec<i32> = source.iter().map(|&x| x as i32).collect();
    let u64s: Vec<u64> = source.iter().map(|&x| u64::from(x) << 20 | 7).collect();
    let f64s: Vec<f64> = source.iter().map(|&x| f64::from(x) / 3.0).collect();
    let pairs: Vec<[f32; 2]> = source.iter().map(|&x| [x as f32, 0.5]).collect();
    let quads: Vec<[f32; 4]> = source.iter().map(|&x| [x as f32, 1.0, -2.0, f32::INFINITY]).collect();
    let call = Call::new("primitive_copy", 2, 32);
    let call = call.input(&u8s).output::<u8>(64).input(&u16s).output::<u16>(64);
    let call = call.input(&f32s).output::<f32>(64).input(&i32s).output::<i32>(64);
    let call = call.input(&u64s).output::<u64>(64).input(&f64s).output::<f64>(64);
    let call = call.input(&pairs).output::<[f32; 2]>(64).input(&quads).output::<[f32; 4]>(64);
    let memory = call.run(device);
    assert_eq!(memory.read::<u8>(1), u8s);
    assert_eq!(memory.read::<u16>(3), u16s);
    assert_eq!(memory.read::<f32>(5), f32s);
    assert_eq!(memory.read::<i32>(7), i32s);
    assert_eq!(memory.read::<u64>(9), u64s);
    assert_eq!(memory.read::<f64>(11), f64s);
    assert_eq!(memory.read::<[f32; 2]>(13), pairs);
    assert_eq!(memory.read::<[f32; 4]>(15), quads);
}

pub fn atomics_return_what_was_there(device: &dyn Launcher) {
    let call = Call::new("primitive_atomics", 20, 64).input(&[0u32; 2]).output::<u32>(20 * 64);
    let memory = call.run(device);
    assert_eq!(memory.read::<u32>(0), [(1 << 20) - 1, 20 * 64]);
    let mut tickets: Vec<u32> = memory.read(1);
    tickets.sort_unstable();
    assert!(tickets.into_iter().eq(0..20 * 64), "every ticket once");
}

pub fn the_last_block_sees_all_sums(device: &dyn Launcher) {
    let input: Vec<f32> = (0..37 * 32).map(|i| (i % 101) as f32).collect();
    let call = Call::new("primitive_last_block", 37, 32);
    let call = call.input(&input).output::<f32>(37).input(&[0u32]).output::<f32>(1);
    // Whole numbers below 2^24: exact in any order.
    assert_eq!(call.run(device).read::<f32>(3), [input.iter().sum::<f32>()]);
}

// ------------------------------------------------------------------------------------------------------ shared memory

pub fn shared_memory_passes_values_across_the_block(device: &dyn Launcher) {
    let input = floats(3, 128);
    let call = Call::new("primitive_reverse", 1, 128).shared_floats(128).input(&input).output::<f32>(129);
    let out: Vec<f32> = call.run(device).read(1);
    assert!(input.iter().rev().eq(&out[..128]));
    assert_eq!(out[128], 0.0, "the base is 1024-byte aligned");
}

pub fn shared_windows_casts_and_vectors(device: &dyn Launcher) {
    let input: Vec<[f32; 4]> = floats(4, 128).chunks_exact(4).map(|c| [c[0], c[1], c[2], c[3]]).collect();
    let call = Call::new("primitive_windows", 1, 32).shared_floats(256).input(&input).output::<u32>(64);
    let expected: Vec<u32> =
        (0..32).flat_map(|i| [input[i][2].to_bits(), input[(i + 1) % 32][0].to_bits()]).collect();
    assert_eq!(call.run(device).read::<u32>(1), expected);
}

// ----------------------------------------------------------------------------------------------------- block and warp

pub fn named_barriers_serve_groups_of_warps(device: &dyn Launcher) {
    let input: Vec<u32> = words(5, 128).into_iter().map(|w| w / 2).collect();
    let call = Call::new("primitive_barriers", 1, 128).shared_floats(128);
    let call = call.input(&input).output::<u32>(128).int(5);
    // The second pair of warps goes ten rounds while the first goes five.
    let expected: Vec<u32> = (0..128).map(|i| input[i ^ 32] + if i < 64 { 4 } else { 9 }).collect();
    assert_eq!(call.run(device).read::<u32>(1), expected);
}

pub fn sync_warp_orders_shared_memory_within_its_lanes(device: &dyn Launcher) {
    let input: Vec<u32> = words(6, 64).into_iter().map(|w| w / 8).collect();
    let call = Call::new("primitive_sync_warp", 1, 64).shared_floats(64).input(&input).output::<u32>(64);
    let expected: Vec<u32> = (0..64).map(|i| input[i] + input[i ^ 5]).collect();
    assert_eq!(call.run(device).read::<u32>(1), expected);
}

pub fn shuffles_move_values_between_lanes(device: &dyn Launcher) {
    let input = words(7, 64);
    for argument in [0, 1, 2, 5, 16, 31] {
        let call = Call::new("primitive_shuffle", 1, 64).input(&input).output::<u32>(256).int(argument);
        let out: Vec<u32> = call.run(device).read(1);
        for i in 0..64_usize {
            let (warp, lane) = (i / 32 * 32, i % 32);
            let up = if lane >= argument { lane - argument } else { lane };
            let down = if lane + argument < 32 { lane + argument } else { lane };
            let sources = [lane ^ argument, argument, up, down];
            for (kind, source) in sources.into_iter().enumerate() {
                let got = out[kind * 64 + i];
                assert_eq!(got, input[warp + source], "kind {kind} lane {lane} by {argument}");
            }
        }
    }
}

pub fn shuffles_of_every_type(device: &dyn Launcher) {
    let f32s = floats(8, 32);
    let f64s: Vec<f64> = floats(9, 32).into_iter().map(|x| f64::from(x) / 3.0).collect();
    let u64s: Vec<u64> = (0..32).map(|i| 0x1234_5678_9abc_def0_u64.rotate_left(i)).collect();
    let pairs: Vec<[f32; 2]> = floats(10, 64).chunks_exact(2).map(|c| [c[0], c[1]]).collect();
    for by in [1, 8, 21] {
        let call = Call::new("primitive_shuffle_types", 1, 32);
        let call = call.input(&f32s).output::<f32>(32).input(&f64s).output::<f64>(32);
        let call = call.input(&u64s).output::<u64>(32).input(&pairs).output::<[f32; 2]>(32).int(by);
        let memory = call.run(device);
        let (a, b): (Vec<f32>, Vec<f64>) = (memory.read(1), memory.read(3));
        let (c, d): (Vec<u64>, Vec<[f32; 2]>) = (memory.read(5), memory.read(7));
        for i in 0..32_usize {
            assert_eq!(a[i], f32s[i ^ by]);
            assert_eq!(b[i], f64s[i ^ by]);
            assert_eq!(c[i], u64s[(i + by) % 32], "the source lane is taken modulo 32");
            assert_eq!(d[i], pairs[i ^ by]);
        }
    }
}

pub fn half_warps_shuffle_and_vote_on_their_own(device: &dyn Launcher) {
    let input = words(11, 64);
    let call = Call::new("primitive_masks", 1, 64).input(&input).output::<u32>(128);
    let out: Vec<u32> = call.run(device).read(1);
    for i in 0..64 {
        let half = i / 16 * 16;
        assert_eq!(out[2 * i], input[half + 15 - i % 16], "thread {i}");
        let (modulus, shift) = if i % 32 < 16 { (2, 0) } else { (3, 16) };
        let votes: u32 =
            (0..16).filter(|lane| input[half + lane] % modulus == 1).map(|lane| 1 << (lane + shift)).sum();
        assert_eq!(out[2 * i + 1], votes, "thread {i}");
    }
}

pub fn ballots_collect_one_bit_a_lane(device: &dyn Launcher) {
    let input = words(12, 64);
    for bit in [0, 13, 31] {
        let call = Call::new("primitive_ballot", 1, 64).input(&input).output::<u32>(64).int(bit);
        let votes = |warp: usize| (0..32).map(|lane| (input[warp * 32 + lane] >> bit & 1) << lane).sum();
        let expected: Vec<u32> = (0..64).map(|i| votes(i / 32)).collect();
        assert_eq!(call.run(device).read::<u32>(1), expected, "bit {bit}");
    }
}

// ------------------------------------------------------------------------------------------------ asynchronous copies

pub fn asynchronous_copies_and_their_zero_fill(device: &dyn Launcher) {
    for count in [0, 4, 100, 256] {
        // No longer than what may be read: zero-filled pieces must not touch their source.
        let input = floats(13, count);
        let call = Call::new("primitive_cp_async", 1, 64).shared_floats(512);
        let call = call.input(&input).output::<f32>(512).int(count);
        let mut expected = input.clone();
        expected.resize(256, 0.0);
        expected.extend_from_within(..);
        assert_eq!(call.run(device).read::<f32>(1), expected, "{count} floats");
    }
}

pub fn groups_complete_in_order(device: &dyn Launcher) {
    for steps in [1, 2, 3, 7] {
        let input = floats(14, steps * 32);
        let call = Call::new("primitive_cp_async_ring", 1, 32).shared_floats(96);
        let call = call.input(&input).output::<f32>(steps * 32).int(steps);
        let expected: Vec<f32> = input.chunks_exact(32).flat_map(|step| step.iter().rev().copied()).collect();
        assert_eq!(call.run(device).read::<f32>(1), expected, "{steps} steps");
    }
}

// --------------------------------------------------------------------------------------------------------- arithmetic

/// Runs `primitive_unary`: [exp2_approx, rcp, sin, cos] of each input.
fn unary(device: &dyn Launcher, inputs: &[f32]) -> Vec<[f32; 4]> {
    let call = Call::new("primitive_unary", inputs.len().div_ceil(256) as u32, 256);
    let call = call.input(inputs).output::<[f32; 4]>(inputs.len()).int(inputs.len());
    let results = call.run(device).read(1);
    assert_eq!(results.len(), inputs.len());
    results
}

/// Runs `primitive_ternary`: fma in f32, fma in f64 (of `b + 1e-9`), and max_nan_free of a and b.
fn ternary(device: &dyn Launcher, a: &[f32], b: &[f32], c: &[f32]) -> (Vec<f32>, Vec<f64>, Vec<f32>) {
    let len = a.len();
    let call = Call::new("primitive_ternary", len.div_ceil(256) as u32, 256).input(a).input(b).input(c);
    let call = call.output::<f32>(len).output::<f64>(len).output::<f32>(len).int(len);
    let memory = call.run(device);
    (memory.read(3), memory.read(4), memory.read(5))
}

/// The distance of `got` from `exact` in units of the last place of `exact` rounded to f32.
fn ulps(got: f32, exact: f64) -> f64 {
    let exponent = exact.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor();
    (f64::from(got) - exact).abs() / (exponent - 23.0).exp2()
}

const SPECIAL: [f32; 8] =
    [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN_POSITIVE, 1e-45];

pub fn exp2_within_two_ulp_with_subnormals_flushed(device: &dyn Launcher) {
    let inputs: Vec<f32> = (-1260..=1279).map(|i| i as f32 / 10.0).chain(floats(15, 2000)).collect();
    for (&x, y) in inputs.iter().zip(unary(device, &inputs)) {
        assert!(ulps(y[0], f64::from(x).exp2()) <= 2.0, "2^{x} = {}", y[0]);
    }
    let special = [-126.5, -150.0, f32::NEG_INFINITY, f32::INFINITY, 128.0, 0.0, -0.0, 1e-45, f32::NAN];
    let results: Vec<f32> = unary(device, &special).iter().map(|y| y[0]).collect();
    assert_eq!(results[..8], [0.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY, 1.0, 1.0, 1.0]);
    assert!(results[8].is_nan());
}

pub fn reciprocal_is_correctly_rounded(device: &dyn Launcher) {
    let mut inputs = floats(16, 4000);
    inputs.extend(SPECIAL);
    inputs.extend([3.0, 1e38, -3e38, 1e-39]);
    for (&x, y) in inputs.iter().zip(unary(device, &inputs)) {
        // A device's NaN has other bits than the host's.
        let same = if x.is_nan() { y[1].is_nan() } else { y[1].to_bits() == (1.0 / x).to_bits() };
        assert!(same, "1 / {x:e} = {:e}", y[1]);
    }
}

pub fn sine_and_cosine_within_two_ulp(device: &dyn Launcher) {
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

    for (&x, y) in inputs.iter().zip(unary(device, &inputs)) {
        // The platform's f64 sine is right to well below an f32 ulp, huge arguments included.
        let error = ulps(y[2], f64::from(x).sin()).max(ulps(y[3], f64::from(x).cos()));
        assert!(error <= 2.0, "x = {x:e}: sin {} cos {}, off by {error} ulp", y[2], y[3]);
    }
    for y in unary(device, &[f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::from_bits(0xffa0_0001)]) {
        assert!(y[2].is_nan() && y[3].is_nan());
    }
}

pub fn fused_multiply_add_rounds_once(device: &dyn Launcher) {
    let (a, b, c) = (floats(20, 1000), floats(21, 1000), floats(22, 1000));
    // Cancellation shows a product that was rounded first.
    let c: Vec<f32> =
        c.iter().enumerate().map(|(i, &c)| if i % 2 == 0 { -(a[i] * b[i]) } else { c }).collect();
    let (fused, wide, _) = ternary(device, &a, &b, &c);
    for i in 0..1000 {
        assert_eq!(fused[i], a[i].mul_add(b[i], c[i]));
        assert_eq!(wide[i], f64::from(a[i]).mul_add(f64::from(b[i]) + 1e-9, f64::from(c[i])));
    }
}

pub fn maximum_prefers_numbers_to_nan(device: &dyn Launcher) {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for x in SPECIAL.into_iter().chain([1.0, -1.0]) {
        for y in SPECIAL.into_iter().chain([2.0, -2.0]) {
            a.push(x);
            b.push(y);
        }
    }
    let (_, _, larger) = ternary(device, &a, &b, &vec![0.0; a.len()]);
    for (i, got) in larger.into_iter().enumerate() {
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

pub fn classification_by_bits(device: &dyn Launcher) {
    let mut inputs: Vec<u32> = words(23, 1000);
    inputs.extend(SPECIAL.map(f32::to_bits));
    inputs.extend([0x7f80_0001, 0xff80_0001, 0x7fff_ffff, 0x7f7f_ffff, 0xff7f_ffff]);
    let len = inputs.len();
    let call = Call::new("primitive_classify", len.div_ceil(256) as u32, 256);
    let out: Vec<u32> = call.input(&inputs).output::<u32>(len).int(len).run(device).read(1);
    assert_eq!(out.len(), len);
    for (&bits, got) in inputs.iter().zip(out) {
        let x = f32::from_bits(bits);
        let expected = u32::from(x.is_finite())
            | u32::from(x.is_nan()) << 1
            | 1 << 2
            | u32::from(x == f32::INFINITY) << 3;
        assert_eq!(got, expected, "{bits:#010x}");
    }
}

// ------------------------------------------------------------------------------------------------------- 16-bit floats

/// The value of a format of 16 bits, `exponents` of them for the exponent.
fn value_of_half(bits: u16, exponents: u32) -> f64 {
    let (mantissas, bias) = (15 - exponents, (1i32 << (exponents - 1)) - 1);
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let mantissa = f64::from(bits & ((1 << mantissas) - 1)) / f64::from(1u32 << mantissas);
    let exponent = i32::from(bits >> mantissas & ((1 << exponents) - 1));
    match exponent {
        0 => sign * mantissa * 2f64.powi(1 - bias),
        e if e == (1 << exponents) - 1 => {
            if mantissa == 0.0 {
                sign * f64::INFINITY
            } else {
                f64::NAN
            }
        }
        e => sign * (1.0 + mantissa) * 2f64.powi(e - bias),
    }
}

pub fn sixteen_bit_floats_round_to_nearest_even(device: &dyn Launcher) {
    // Every low half; as floats, words around every exponent, halfway cases among them.
    let mut bits: Vec<u32> = (0..=0xffffu32).map(|low| low.rotate_left(16) | low).collect();
    for exponent in 0..=0xffu32 {
        for tail in [
            0, 1, 0xfff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x7fff, 0x8000, 0x8001, 0x17fff, 0x18000, 0x7fefff,
            0x7fffff,
        ] {
            bits.extend([exponent << 23 | tail, 1 << 31 | exponent << 23 | tail]);
        }
    }
    bits.extend(words(90, 4096));
    let blocks = u32::try_from(bits.len().div_ceil(256)).expect("few");
    let call =
        Call::new("primitive_half", blocks, 256).input(&bits).output::<u32>(4 * bits.len()).int(bits.len());
    let out = call.run(device).read::<u32>(1);
    for (&bits, out) in bits.iter().zip(out.chunks(4)) {
        for (got, exponents) in [(out[0], 5), (out[1], 8)] {
            let (got, want) = (f64::from(f32::from_bits(got)), value_of_half(bits as u16, exponents));
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{bits:#x}: {got} for {want}"
            );
        }
        let x = f32::from_bits(bits);
        for (got, exponents) in [(out[2], 5u32), (out[3], 8)] {
            let got = u16::try_from(got).expect("16 bits");
            if x.is_nan() {
                assert_eq!(got, 0x7fff, "{bits:#x}");
                continue;
            }
            // No neighbour is nearer, and where one is as near, the last bit is 0. Beyond the largest finite value lies
            // infinity, which rounds as if it were the next number.
            let overflow = 2f64.powi(1 << (exponents - 1));
            let value = |bits: u16| {
                let value = value_of_half(bits, exponents);
                if value.is_infinite() { overflow.copysign(value) } else { value }
            };
            assert_eq!(got >> 15 == 1, x.is_sign_negative(), "{bits:#x}");
            let error = (value(got) - f64::from(x).clamp(-overflow, overflow)).abs();
            let magnitude = got & 0x7fff;
            let neighbours = [magnitude.checked_sub(1), Some(magnitude + 1)];
            for neighbour in neighbours.into_iter().flatten().map(|m| m | got & 0x8000) {
                if value_of_half(neighbour, exponents).is_nan() {
                    continue;
                }
                let other = (value(neighbour) - f64::from(x).clamp(-overflow, overflow)).abs();
                assert!(
                    error < other || error == other && got & 1 == 0,
                    "{bits:#x} as {exponents}: {got:#x}"
                );
            }
        }
    }
}

pub fn pairs_of_sixteen_bit_floats_are_packed_low_first(device: &dyn Launcher) {
    // Exact in both types, then values that round, overflow and are no number.
    let pairs: [([f32; 2], u32, u32); 6] = [
        ([1.0, -2.0], 0xc000_3c00, 0xc000_3f80),
        ([0.0, -0.0], 0x8000_0000, 0x8000_0000),
        ([f32::INFINITY, 0.5], 0x3800_7c00, 0x3f00_7f80),
        ([1.0 + 1.0 / 256.0, 3.0 / 256.0 + 1.0], 0x3c0c_3c04, 0x3f82_3f80),
        ([65_520.0, 2.0_f32.powi(-24)], 0x0001_7c00, 0x3380_4780),
        ([f32::NAN, 1.0], 0x3c00_7fff, 0x3f80_7fff),
    ];
    let input: Vec<f32> = pairs.iter().flat_map(|(pair, ..)| *pair).collect();
    let call = Call::new("primitive_pack16", 1, 32).input(&input).output::<u32>(2 * pairs.len());
    let out = call.int(pairs.len()).run(device).read::<u32>(1);
    for (i, (pair, f16, bf16)) in pairs.iter().enumerate() {
        assert_eq!(out[2 * i], *f16, "{pair:?} as f16: {:#x}", out[2 * i]);
        assert_eq!(out[2 * i + 1], *bf16, "{pair:?} as bf16: {:#x}", out[2 * i + 1]);
    }
}

pub fn matrices_load_as_they_lie_and_transposed(device: &dyn Launcher) {
    let elements: Vec<u16> = (0..256).map(|i| 0x4000 + 7 * i).collect();
    // Rows of the four matrices in no order: 11 has no factor in common with 32.
    let rows: Vec<u32> = (0..32).map(|i| (11 * i + 5) % 32).collect();
    let call = Call::new("primitive_ldmatrix", 1, 32).shared_floats(128);
    let out = call.input(&elements).input(&rows).output::<[u32; 4]>(64).run(device).read::<[u32; 4]>(2);
    let element = |m: usize, r: usize, c: usize| u32::from(elements[8 * rows[8 * m + r] as usize + c]);
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for m in 0..4 {
            let plain = element(m, g, 2 * t) | element(m, g, 2 * t + 1) << 16;
            let turned = element(m, 2 * t, g) | element(m, 2 * t + 1, g) << 16;
            assert_eq!(out[lane][m], plain, "lane {lane}, matrix {m}");
            assert_eq!(out[32 + lane][m], turned, "lane {lane}, matrix {m}, transposed");
        }
    }
}

pub fn matrix_products_of_16_bit_elements(device: &dyn Launcher) {
    // Small whole numbers: products and sums are exact in any order, and every element differs from its neighbours.
    let mut random = Random(77);
    let mut whole =
        |len: usize| -> Vec<f32> { (0..len).map(|_| (random.next() >> 40) as f32 % 17.0 - 8.0).collect() };
    let (a, b, c) = (whole(256), whole(128), whole(128));
    for (entry, bf16) in [("primitive_mma_f16", false), ("primitive_mma_bf16", true)] {
        let encoded =
            |values: &[f32]| values.iter().map(|&x| asynchronous::encode(x, bf16)).collect::<Vec<u16>>();
        let call = Call::new(entry, 1, 32).shared_floats(192).input(&encoded(&a)).input(&encoded(&b));
        let memory = call.input(&c).output::<f32>(128).run(device);
        let (sums, products) = (memory.read::<f32>(2), memory.read::<f32>(3));
        for i in 0..16 {
            for j in 0..8 {
                let product: f32 = (0..16).map(|k| a[16 * i + k] * b[8 * k + j]).sum();
                assert_eq!(sums[8 * i + j], c[8 * i + j] + product, "{entry} ({i}, {j})");
                assert_eq!(products[8 * i + j], product, "{entry} ({i}, {j}) through shared memory");
            }
        }
    }
}

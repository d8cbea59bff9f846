//! The asynchronous units of `kernels/device.cuh`, which compute capability 9.0 has: kernels of
//! `emulator/tests/kernels/asynchronous_sm90.cu`.

use super::{Call, Launcher, Mapped, floats, random::Random, words};

/// Hands the name of every case below to a macro, which makes a test of each.
macro_rules! for_each_asynchronous_case {
    ($tests:ident) => {
        $tests! {
            barriers_hand_lines_round_a_ring
            tiles_are_loaded_where_and_as_asked
            products_by_a_warpgroup
            registers_change_hands
        }
    };
}
pub(crate) use for_each_asynchronous_case;

pub fn barriers_hand_lines_round_a_ring(device: &dyn Launcher) {
    for rounds in [1, 2, 3, 8, 13] {
        let input = words(rounds as u64, 32 * rounds);
        let call =
            Call::new("async_ring", 1, 64).shared_floats(2 * 4 + 64).input(&input).output::<u32>(32 * rounds);
        let got = call.int(rounds).run(device).read::<u32>(1);
        for (i, got) in got.into_iter().enumerate() {
            assert_eq!(got, input[i / 32 * 32 + 31 - i % 32], "{rounds} rounds, element {i}");
        }
    }
}

pub fn tiles_are_loaded_where_and_as_asked(device: &dyn Launcher) {
    // [batch 2, head 3, row 37, column 72] in rows of 80, heads interleaved: [batch, row, head, column] in memory.
    let (sizes, row, head) = ([72u64, 37, 3, 2], 80 * 3, 80);
    let elements: Vec<u16> = words(7, 2 * 37 * row).iter().map(|&word| word as u16).collect();
    for (tile, from) in [
        (8, [0i32, 0, 0, 0]),
        (16, [0, 21, 2, 1]),  // the last row of the second load is the tensor's
        (64, [64, 16, 1, 0]), // rows and columns beyond the tensor
        (32, [0, -5, 0, 1]),  // rows before it
        (8, [8, 40, 1, 1]),   // nothing of it
    ] {
        let mapped = Mapped {
            memory: bytemuck::cast_slice(&elements).to_vec(),
            sizes,
            strides: [2 * row as u64, 2 * head as u64, 2 * 37 * row as u64],
            rows: tile,
        };
        let tile = tile as usize;
        let mut call = Call::new("async_tensor_load", 1, 64).shared_floats(2 * 32 * tile as u32 + 4);
        call = call.output::<u16>(2 * 64 * tile);
        let params: Vec<i32> = from.into_iter().chain([tile as i32]).chain([0; 11]).collect();
        call = call.params(bytemuck::cast_slice(&params));
        call.tensor = Some(mapped);
        let got = call.run(device).read::<u16>(0);
        for (i, got) in got.into_iter().enumerate() {
            let (load, line, column) = (i / (64 * tile), i / 64 % tile, i % 64);
            let at = [from[0] + column as i32, from[1] + (line + load) as i32, from[2], from[3]];
            let inside = at.iter().zip(sizes).all(|(&at, size)| at >= 0 && (at as u64) < size);
            let [c, r, h, b] = at.map(|at| at.max(0) as usize);
            let want = if inside { elements[b * 37 * row + r * row + h * head + c] } else { 0 };
            assert_eq!(got, want, "tile of {tile} from {from:?}: load {load}, ({line}, {column})");
        }
    }
}

pub fn products_by_a_warpgroup(device: &dyn Launcher) {
    // Small whole numbers: products and sums are exact in any order, and every element differs from its neighbours.
    const DEPTH: usize = 128;
    let mut random = Random(91);
    let mut whole =
        |len: usize| -> Vec<f32> { (0..len).map(|_| (random.next() >> 40) as f32 % 17.0 - 8.0).collect() };
    for n in [64, 128] {
        let (a, b, t) = (whole(64 * DEPTH), whole(n * DEPTH), whole(DEPTH * n));
        for (bf16, entry) in [
            (false, if n == 64 { "async_products_n64_f16" } else { "async_products_n128_f16" }),
            (true, if n == 64 { "async_products_n64_bf16" } else { "async_products_n128_bf16" }),
        ] {
            let encoded = |values: &[f32]| values.iter().map(|&x| encode(x, bf16)).collect::<Vec<u16>>();
            let call = Call::new(entry, 1, 128).shared_floats(((64 + 2 * n) * DEPTH / 2) as u32);
            let call = call.input(&encoded(&a)).input(&encoded(&b)).input(&encoded(&t));
            let memory = call.output::<f32>(64 * n).output::<f32>(64 * n).run(device);
            let (c, d) = (memory.read::<f32>(3), memory.read::<f32>(4));
            for i in 0..64 {
                for j in 0..n {
                    let along: f32 = (0..DEPTH).map(|k| a[DEPTH * i + k] * b[DEPTH * j + k]).sum();
                    let across: f32 = (0..DEPTH).map(|k| a[DEPTH * i + k] * t[n * k + j]).sum();
                    assert_eq!(c[n * i + j], 2.0 * along, "{entry} ({i}, {j})");
                    assert_eq!(d[n * i + j], across, "{entry} ({i}, {j}), transposed");
                }
            }
        }
    }
}

pub fn registers_change_hands(device: &dyn Launcher) {
    let input = floats(3, 256);
    let call = Call::new("async_registers", 1, 256).input(&input).output::<f32>(256);
    let want: Vec<f32> = input.iter().map(|x| 2.0 * x).collect();
    assert_eq!(call.run(device).read::<f32>(1), want);
}

/// A whole number of magnitude at most 8 as bits of bfloat16 or binary16.
pub(super) fn encode(x: f32, bf16: bool) -> u16 {
    let bits = x.to_bits();
    match (bf16, x == 0.0) {
        (true, _) => (bits >> 16) as u16,
        (false, true) => 0,
        (false, false) => (bits >> 16 & 0x8000 | ((bits >> 13 & 0x3_ffff) - 0x1_c000)) as u16,
    }
}

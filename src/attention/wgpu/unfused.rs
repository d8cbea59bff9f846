//! The figure to beat: attention as three dispatches with the scores in memory, each written as well as the fused kernels
//! (tiles of 32 × 32 in workgroup memory, four by four values a thread), timed in the same run.

use crate::attention::*;
use crate::device::wgpu::{WgpuDevice, tests};
use crate::device::{Device, Kind};
use crate::manifest::Access::{Read, ReadWrite};
use crate::manifest::WgslKernel;
use crate::tensor::{Memory, Tensor};
use std::time::Instant;

/// s = scale·q·kᵀ or o = p·v: a [n, m, inner] · b, where b is [n, columns, inner] or [n, inner, columns].
const PRODUCT: &str = "
struct Params { count: u32, rows: u32, columns: u32, inner: u32, scale: f32, unused0: u32, unused1: u32, unused2: u32 }
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;
var<workgroup> tile: array<vec4f, 288>;
fn a_at(n: u32, row: u32, d: u32) -> f32 {
    if (row < params.rows && d < params.inner) { return a[(n * params.rows + row) * params.inner + d]; }
    return 0.0;
}
fn b_at(n: u32, column: u32, d: u32) -> f32 {
    if (column >= params.columns || d >= params.inner) { return 0.0; }
    if (TRANSPOSED != 0u) { return b[(n * params.columns + column) * params.inner + d]; }
    return b[(n * params.inner + d) * params.columns + column];
}
fn put(n: u32, row: u32, column: u32, values: vec4f) {
    for (var i = 0u; i < 4u; i += 1u) {
        if (row + i < params.rows && column < params.columns) { c[(n * params.rows + row + i) * params.columns + column] = params.scale * values[i]; }
    }
}
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let ty = thread / 8u;
    let tx = thread % 8u;
    let n = group.z;
    let row0 = 32u * group.y;
    let column0 = 32u * group.x;
    var s = mat4x4f();
    for (var d0 = 0u; d0 < params.inner; d0 += 16u) {
        workgroupBarrier();
        for (var i = thread; i < 128u; i += 64u) {
            var d = d0 + i % 16u;
            var line = i / 16u;
            var to = (i % 16u) * 9u + line;
            tile[to] = vec4f(a_at(n, row0 + 4u * line, d), a_at(n, row0 + 4u * line + 1u, d), a_at(n, row0 + 4u * line + 2u, d),
                a_at(n, row0 + 4u * line + 3u, d));
            if (TRANSPOSED == 0u) {
                d = d0 + i / 8u;
                line = i % 8u;
                to = (i / 8u) * 9u + line;
            }
            let column = column0 + 4u * line;
            tile[144u + to] = vec4f(b_at(n, column, d), b_at(n, column + 1u, d), b_at(n, column + 2u, d), b_at(n, column + 3u, d));
        }
        workgroupBarrier();
        for (var d = 0u; d < min(16u, params.inner - d0); d += 1u) {
            let x = tile[d * 9u + ty];
            let y = tile[144u + d * 9u + tx];
            s += mat4x4f(x * y.x, x * y.y, x * y.z, x * y.w);
        }
    }
    put(n, row0 + 4u * ty, column0 + 4u * tx, s[0]);
    put(n, row0 + 4u * ty, column0 + 4u * tx + 1u, s[1]);
    put(n, row0 + 4u * ty, column0 + 4u * tx + 2u, s[2]);
    put(n, row0 + 4u * ty, column0 + 4u * tx + 3u, s[3]);
}";

/// p = softmax(s) of each row, in place.
const SOFTMAX: &str = "
struct Params { count: u32, rows: u32, columns: u32, inner: u32, scale: f32, unused0: u32, unused1: u32, unused2: u32 }
@group(0) @binding(0) var<storage, read_write> s: array<f32>;
@group(0) @binding(1) var<uniform> params: Params;
var<workgroup> partial: array<f32, 64>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let first = (group.z * params.rows + group.x) * params.columns;
    var peak = -3.0e38;
    for (var j = thread; j < params.columns; j += 64u) { peak = max(peak, s[first + j]); }
    partial[thread] = peak;
    workgroupBarrier();
    for (var i = 0u; i < 64u; i += 1u) { peak = max(peak, partial[i]); }
    var sum = 0.0;
    for (var j = thread; j < params.columns; j += 64u) {
        let e = exp(s[first + j] - peak);
        s[first + j] = e;
        sum += e;
    }
    workgroupBarrier();
    partial[thread] = sum;
    workgroupBarrier();
    sum = 0.0;
    for (var i = 0u; i < 64u; i += 1u) { sum += partial[i]; }
    for (var j = thread; j < params.columns; j += 64u) { s[first + j] = s[first + j] / sum; }
}";

const fn product(entry: &'static str, constants: &'static [(&'static str, u32)]) -> WgslKernel {
    WgslKernel {
        entry,
        file: "test",
        source: PRODUCT,
        constants,
        workgroup: [64, 1, 1],
        bindings: &[("a", Read), ("b", Read), ("c", ReadWrite)],
        params: 32,
        workgroup_bytes: 288 * 16,
        uses_subgroups: false,
    }
}
static SCORES: WgslKernel = product("unfused_scores", &[("TRANSPOSED", 1)]);
static VALUES: WgslKernel = product("unfused_values", &[("TRANSPOSED", 0)]);
static SOFTMAX_ROWS: WgslKernel = WgslKernel {
    source: SOFTMAX,
    bindings: &[("s", ReadWrite)],
    workgroup_bytes: 64 * 4,
    ..product("unfused_softmax", &[])
};

/// Queues the three dispatches for `heads` products of `rows` queries and keys of `dim` components.
fn unfused(device: &WgpuDevice, tensors: [&Tensor; 5], heads: u32, rows: u32, dim: u32) {
    let views = tensors.map(Tensor::view);
    let [q, k, v, scores, o] = views.each_ref().map(|view| match view.memory() {
        Memory::Wgpu(buffer) => Some(buffer),
        _ => None,
    });
    let params = |columns: u32, inner: u32, scale: f32| -> [u8; 32] {
        bytemuck::cast([heads, rows, columns, inner, scale.to_bits(), 0, 0, 0])
    };
    let tiles = rows.div_ceil(32);
    let scale = params(rows, dim, 1.0 / (dim as f32).sqrt());
    device.launch(&SCORES, &[q, k, scores], &scale, [tiles, tiles, heads]).unwrap();
    device.launch(&SOFTMAX_ROWS, &[scores], &params(rows, 0, 1.0), [rows, 1, heads]).unwrap();
    let values = params(dim, rows, 1.0);
    device.launch(&VALUES, &[scores, v, o], &values, [dim.div_ceil(32), tiles, heads]).unwrap();
}

#[test]
fn fused_is_faster_than_three_dispatches() {
    let Some(gpu) = tests::device() else { return };
    let device = Device(Kind::Wgpu(gpu.clone()));
    let long = std::env::var("GATEWARP_BENCH").is_ok();
    // The short form only checks that both compute the same; the long one (GATEWARP_BENCH=1) measures.
    let cases: &[(usize, usize)] =
        if long { &[(512, 64), (1024, 64), (512, 128), (2048, 64)] } else { &[(96, 40)] };
    for &(rows, dim) in cases {
        let heads = 2;
        let shape = [1, heads, rows, dim];
        let values = |seed: u64| -> Vec<f32> {
            let mut x = seed;
            (0..heads * rows * dim)
                .map(|_| {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
                })
                .collect()
        };
        let tensor = |data: &[f32]| Tensor::from_slice(&device, data, &shape).unwrap();
        let [q, k, v] = [1, 2, 3].map(|seed| tensor(&values(seed)));
        let o = tensor(&vec![0.0; heads * rows * dim]);
        let scores =
            Tensor::from_slice(&device, &vec![0.0f32; heads * rows * rows], &[heads * rows * rows]).unwrap();
        let options = AttentionOptions::default();
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..if long { 7 } else { 1 } {
            let start = Instant::now();
            let fused = attention_forward(&q.view(), &k.view(), &v.view(), &options).unwrap();
            device.synchronize().unwrap();
            times[0].push(start.elapsed().as_secs_f64());
            let start = Instant::now();
            unfused(&gpu, [&q, &k, &v, &scores, &o], heads as u32, rows as u32, dim as u32);
            device.synchronize().unwrap();
            times[1].push(start.elapsed().as_secs_f64());
            let (fused, plain) = (fused.o.to_vec::<f32>().unwrap(), o.to_vec::<f32>().unwrap());
            let worst = fused.iter().zip(&plain).fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
            assert!(worst < 1e-5 && fused.iter().all(|x| x.is_finite()), "differ by {worst}");
        }
        let [fused, three] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        if long {
            println!(
                "S = {rows}, D = {dim}: fused {:.1} ms, three dispatches {:.1} ms, {:.2}×",
                1e3 * fused,
                1e3 * three,
                three / fused
            );
            assert!(fused < three, "S = {rows}, D = {dim}: fused {fused} s, three dispatches {three} s");
        }
    }
}

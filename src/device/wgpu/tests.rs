use super::*;
use crate::manifest::Access;

/// The first adapter; `None` (visibly) where there is none, unless the run requires one.
pub(crate) fn device() -> Option<Arc<WgpuDevice>> {
    match WgpuDevice::shared(0) {
        Ok(device) => Some(device),
        Err(error) => {
            let required = std::env::var("GATEWARP_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|name| name == "wgpu"), "wgpu is required: {error}");
            eprintln!("skipped: {error}");
            None
        }
    }
}

const fn row(
    entry: &'static str,
    source: &'static str,
    bindings: &'static [(&'static str, Access)],
) -> WgslKernel {
    WgslKernel {
        entry,
        file: "test",
        source,
        constants: &[],
        workgroup: [1, 1, 1],
        bindings,
        params: 8,
        workgroup_bytes: 0,
        uses_subgroups: false,
    }
}

const ADD_SOURCE: &str = "
struct Params { factor: u32, term: u32 }
@group(0) @binding(0) var<storage, read> unused: array<u32>;
@group(0) @binding(1) var<storage, read_write> value: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;
@compute @workgroup_size(1) fn main(@builtin(workgroup_id) id: vec3u) {
    value[id.x] = value[id.x] * params.factor + params.term;
}";
/// value[i] = value[i] · factor + term: not commutative, so that launches in the wrong order show.
static ADD: WgslKernel =
    row("test_add", ADD_SOURCE, &[("unused", Access::Read), ("value", Access::ReadWrite)]);

fn params(factor: u32, term: u32) -> [u8; 8] {
    bytemuck::cast([factor, term])
}

fn words(buffer: &WgpuBuffer) -> Vec<u32> {
    let mut bytes = vec![0; buffer.bytes()];
    buffer.download(0, &mut bytes).unwrap();
    bytemuck::pod_collect_to_vec(&bytes)
}

#[test]
fn bytes_come_back_as_they_went_in() {
    let Some(device) = device() else { return };
    for bytes in [0, 1, 2, 3, 4, 5, 15, 16, 17, 1023, (4 << 20) - 36, (4 << 20) - 31, 9_000_001] {
        let buffer = device.allocate(bytes).unwrap();
        let mut out = vec![1; bytes];
        buffer.download(0, &mut out).unwrap();
        assert!(out.iter().all(|&byte| byte == 0), "{bytes} bytes are not zeroed");
        let data: Vec<u8> = (0..bytes).map(|i| (i * 7 + i / 251) as u8).collect();
        buffer.upload(0, &data).unwrap();
        buffer.download(0, &mut out).unwrap();
        assert!(out == data, "{bytes} bytes changed");
        if bytes > 12 {
            let part = &mut out[..bytes - 7];
            buffer.download(5, part).unwrap();
            assert!(*part == data[5..bytes - 2], "unaligned part of {bytes} bytes changed");
        }
    }
    let buffer = device.allocate(10).unwrap();
    assert!(matches!(buffer.upload(8, &[0; 4]), Err(Error::InvalidArgument { .. })));
    assert!(matches!(buffer.upload(2, &[0; 4]), Err(Error::InvalidArgument { .. })));
    assert!(matches!(buffer.upload(0, &[0; 3]), Err(Error::InvalidArgument { .. })));
    assert!(matches!(buffer.download(7, &mut [0; 4]), Err(Error::InvalidArgument { .. })));
    buffer.upload(8, &[1, 2]).unwrap();
}

#[test]
fn launches_run_in_order_with_their_own_parameters_on_every_thread() {
    let Some(device) = device() else { return };
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let device = &device;
            scope.spawn(move || {
                let buffer = device.allocate(12).unwrap();
                let mut want = 0u32;
                for i in 0..150 {
                    if i % 50 == 49 {
                        // An upload between launches takes effect between them.
                        buffer.upload(4, &(want + 1).to_le_bytes()).unwrap();
                        want += 1;
                        let all: Vec<u8> = [want; 3].iter().flat_map(|w| w.to_le_bytes()).collect();
                        buffer.upload(0, &all).unwrap();
                    }
                    device.launch(&ADD, &[None, Some(&buffer)], &params(3, thread + i), [3, 1, 1]).unwrap();
                    want = want.wrapping_mul(3).wrapping_add(thread + i);
                }
                assert_eq!(words(&buffer), [want; 3]);
            });
        }
    });
}

#[test]
fn wrong_arguments_are_typed_errors_and_leave_the_device_usable() {
    let Some(device) = device() else { return };
    let (a, b) = (device.allocate(16).unwrap(), device.allocate(16).unwrap());
    let launches = device.launches();
    let code = |result: Result<()>| match result {
        Err(Error::Launch { kernel, code }) if kernel == "test_add" => code,
        other => panic!("{other:?}"),
    };
    let ok = params(1, 1);
    assert!(code(device.launch(&ADD, &[Some(&a)], &ok, [1; 3])).contains("1 buffers for 2 bindings"));
    assert!(code(device.launch(&ADD, &[None, None], &ok[..4], [1; 3])).contains("4 parameter bytes"));
    assert!(code(device.launch(&ADD, &[Some(&a), Some(&a)], &ok, [1; 3])).contains("one buffer"));
    let refused = device.launch(&ADD, &[None, Some(&a)], &ok, [1, 70_000_000, 1]);
    assert!(
        matches!(&refused, Err(Error::Unsupported { what: "workgroups per dimension", got, .. }) if got == "70000000")
    );
    // Nothing to do is not an error.
    device.launch(&ADD, &[None, Some(&a)], &ok, [0, 1, 1]).unwrap();
    assert_eq!(words(&a), [0; 4]);
    device.launch(&ADD, &[Some(&a), Some(&b)], &ok, [1; 3]).unwrap();
    assert_eq!(words(&b), [1, 0, 0, 0]);
    assert!(device.launches() > launches);
}

#[test]
fn kernels_beyond_a_limit_or_with_errors_do_not_compile() {
    let Some(device) = device() else { return };
    static GREEDY: WgslKernel =
        WgslKernel { workgroup_bytes: 1 << 20, ..row("test_greedy", ADD_SOURCE, &[]) };
    static WIDE: WgslKernel = WgslKernel { workgroup: [1 << 20, 1, 1], ..row("test_wide", ADD_SOURCE, &[]) };
    let refusal = |kernel| match device.launch(kernel, &[], &params(0, 0), [1; 3]) {
        Err(Error::Unsupported { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(&GREEDY), "workgroup memory in bytes");
    assert_eq!(refusal(&WIDE), "invocations per workgroup");

    static SYNTAX: WgslKernel = row("test_syntax", "fn main( {", &[]);
    // The row says the second buffer is only read: the explicit layout contradicts the text.
    static ACCESS: WgslKernel =
        row("test_access", ADD_SOURCE, &[("unused", Access::Read), ("value", Access::Read)]);
    for kernel in [&SYNTAX, &ACCESS] {
        for _ in 0..2 {
            let nothing = vec![None; kernel.bindings.len()];
            match device.launch(kernel, &nothing, &params(0, 0), [1; 3]) {
                Err(Error::Compile { kernel: name, log, .. }) => {
                    assert!(name == kernel.entry && !log.is_empty());
                }
                other => panic!("{other:?}"),
            }
        }
    }
    device.launch(&ADD, &[None, None], &params(0, 0), [1; 3]).unwrap();
}

#[test]
fn impossible_sizes_are_refused() {
    let Some(device) = device() else { return };
    for bytes in [usize::MAX / 2, 1 << 60] {
        let refused = device.allocate(bytes).map(|buffer| buffer.bytes());
        assert!(matches!(refused, Err(Error::Unsupported { .. } | Error::OutOfMemory { .. })), "{refused:?}");
    }
    device.allocate(64).unwrap();
}

#[test]
fn a_driver_that_leaves_loops_early_is_named() {
    let Some(device) = device() else { return };
    static STOPS: WgslKernel = WgslKernel {
        params: 4,
        ..row(
            "test_stops",
            "struct Params { iterations: u32 }
            @group(0) @binding(0) var<storage, read_write> count: array<u32>;
            @group(0) @binding(1) var<uniform> params: Params;
            @compute @workgroup_size(1) fn main() { count[0] = min(params.iterations, 65535u); }",
            &[("count", Access::ReadWrite)],
        )
    };
    device.check_long_loops(&STOPS, 65_535).unwrap();
    match device.check_long_loops(&STOPS, 65_536) {
        Err(Error::BackendUnavailable { backend: Backend::Wgpu, reason }) => {
            assert!(reason.contains("Mesa 23.1 or newer") && reason.contains("65535"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    device.check_long_loops(&LOOP_GUARD, 200_000).unwrap();
}

/// A device of this test's own: what happens to it must not be seen by tests on other threads.
pub(crate) fn private_device() -> Option<WgpuDevice> {
    device()?;
    Some(WgpuDevice::open(&all_adapters()[0]).unwrap())
}

#[test]
fn bad_values_are_reported_once_by_the_next_wait() {
    let Some(device) = private_device() else { return };
    static FLAG: WgslKernel = row(
        "test_flag",
        "struct Params { word: u32, unused: u32 }
        @group(0) @binding(0) var<storage, read_write> status: array<atomic<u32>>;
        @group(0) @binding(1) var<uniform> params: Params;
        @compute @workgroup_size(1) fn main() { atomicOr(&status[params.word], 1u); }",
        &[("status", Access::ReadWrite)],
    );
    let buffer = device.allocate(8).unwrap();
    for status in [Status::Length, Status::TaskId, Status::Parameter] {
        for read in [false, true] {
            device.launch(&FLAG, &[Some(device.status())], &params(status as u32, 0), [1; 3]).unwrap();
            let wait = || if read { buffer.download(0, &mut [0; 8]) } else { device.synchronize() };
            let mut expected = [0; STATUS_WORDS];
            expected[status as usize] = 1;
            assert_eq!(wait(), Err(Status::error(&expected).unwrap()));
            assert_eq!(wait(), Ok(()));
        }
    }
}

#[test]
fn a_lost_device_says_so_and_does_not_panic() {
    let Some(device) = private_device() else { return };
    let buffer = device.allocate(8).unwrap();
    device.launch(&ADD, &[None, Some(&buffer)], &params(1, 1), [1; 3]).unwrap();
    device.core.device.destroy();
    let lost = |result: Result<()>| assert!(matches!(result, Err(Error::DeviceLost { .. })), "{result:?}");
    lost(device.synchronize());
    lost(buffer.download(0, &mut [0; 8]));
    lost(buffer.upload(0, &[0; 8]));
    lost(device.launch(&ADD, &[None, Some(&buffer)], &params(1, 1), [1; 3]));
    lost(device.allocate(8).map(drop));
}

#[test]
fn ids_of_every_type_saturate_to_i32() {
    let Some(device) = device() else { return };
    static IDS: WgslKernel = row(
        "test_ids",
        "struct Params { kind: u32, unused: u32 }
        @group(0) @binding(0) var<storage, read> ids: array<u32>;
        @group(0) @binding(1) var<storage, read_write> values: array<i32>;
        @group(0) @binding(2) var<uniform> params: Params;
        @compute @workgroup_size(1) fn main(@builtin(workgroup_id) id: vec3u) {
            values[id.x] = id_value(params.kind, ids[id_low(params.kind, id.x)], ids[id_high(params.kind, id.x)]);
        }",
        &[("ids", Access::Read), ("values", Access::ReadWrite)],
    );
    let run = |kind: u32, bytes: &[u8], want: &[i32]| {
        let (ids, values) = (device.allocate(bytes.len()).unwrap(), device.allocate(4 * want.len()).unwrap());
        ids.upload(0, bytes).unwrap();
        let count = want.len() as u32;
        device.launch(&IDS, &[Some(&ids), Some(&values)], &params(kind, 0), [count, 1, 1]).unwrap();
        let got: Vec<i32> = words(&values).into_iter().map(|word| word as i32).collect();
        assert_eq!(got, want, "kind {kind}");
    };
    let (least, most) = (i32::MIN, i32::MAX);
    run(0, bytemuck::cast_slice(&[0, 5, -1, least, most]), &[0, 5, -1, least, most]);
    run(1, bytemuck::cast_slice(&[0, 5, most as u32, most as u32 + 1, u32::MAX]), &[0, 5, most, most, most]);
    let wide =
        [0, 5, -1, i64::from(least), i64::from(least) - 1, i64::from(most) + 1, i64::MIN, i64::MAX, 1 << 32];
    run(2, bytemuck::cast_slice(&wide), &[0, 5, -1, least, least, most, least, most, most]);
}

#[test]
fn an_adapter_that_is_not_there_is_named() {
    let result = WgpuDevice::shared(1000).map(|device| device.name());
    match result {
        Err(Error::BackendUnavailable { backend: Backend::Wgpu, reason }) => {
            assert!(reason.contains("1000") || reason.contains("no Vulkan"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

const PAIR_SOURCE: &str = "
struct Params { factor: u32, term: u32 }
@group(0) @binding(0) var<storage, read_write> one: array<u32>;
@group(0) @binding(1) var<storage, read_write> other: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;
@compute @workgroup_size(1) fn main(@builtin(workgroup_id) id: vec3u) {
    one[id.x] = params.factor;
    other[id.x] = params.term;
}";
static PAIR: WgslKernel =
    row("test_pair", PAIR_SOURCE, &[("one", Access::ReadWrite), ("other", Access::ReadWrite)]);

#[test]
fn parts_of_a_buffer_are_bound_by_themselves() {
    let Some(device) = device() else { return };
    let buffer = device.allocate(1024).unwrap();
    let part = |offset, bytes| Some(Binding::part(&buffer, offset, bytes));
    let launch = |kernel, one, other| device.launch_parts(kernel, &[one, other], &params(7, 9), [2, 1, 1]);
    launch(&PAIR, part(256, 8), part(512, 8)).unwrap();
    let mut want = vec![0; 256];
    want[64..66].fill(7);
    want[128..130].fill(9);
    assert_eq!(words(&buffer), want);
    // No boundary, no whole words, nothing, beyond the end, overlapping, read beside what is written.
    let refused = [
        launch(&PAIR, part(128 + 4, 8), None),
        launch(&PAIR, part(256, 6), None),
        launch(&PAIR, part(256, 0), None),
        launch(&PAIR, part(768, 512), None),
        launch(&PAIR, part(0, 512), part(256, 256)),
        launch(&ADD, part(0, 256), part(256, 256)),
        launch(&PAIR, part(256, 8), Some(Binding::from(&buffer))),
    ];
    for (number, outcome) in refused.into_iter().enumerate() {
        assert!(matches!(outcome, Err(Error::Launch { .. })), "{number}: {outcome:?}");
    }
    device.synchronize().unwrap();
    assert_eq!(words(&buffer), want);
}

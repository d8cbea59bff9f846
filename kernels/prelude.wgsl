// Helpers every shader may use; put in front of each source after its constants.

// Words of the device's status buffer (src/device/status.rs): `atomicOr(&status[STATUS_LENGTH], 1u)`.
const STATUS_LENGTH: u32 = 0u;
const STATUS_TASK_ID: u32 = 1u;
const STATUS_PARAMETER: u32 = 2u;
const STATUS_LABEL: u32 = 3u;
const STATUS_NORM: u32 = 4u;
const STATUS_PAGE: u32 = 5u;

// Stored as bits: WGSL has no such constants as f32, and a compiler may assume that f32 values are finite.
const NAN_BITS: u32 = 0x7fc00000u;
const NEGATIVE_INFINITY_BITS: u32 = 0xff800000u;

// Ids and lengths are bound as array<u32>; kind 0 = i32, 1 = u32, 2 = i64, low word first.
// Words `id_low(kind, i)` and `id_high(kind, i)` of the array go to `id_value`, which saturates to i32.
fn id_low(kind: u32, index: u32) -> u32 { return select(index, 2u * index, kind == 2u); }
fn id_high(kind: u32, index: u32) -> u32 { return select(index, 2u * index + 1u, kind == 2u); }
fn id_value(kind: u32, low: u32, high: u32) -> i32 {
    // What the upper 32 bits of the value are.
    let upper = select(select(high, 0u, kind == 1u), select(0u, 0xffffffffu, (low & 0x80000000u) != 0u), kind == 0u);
    let sign = select(0u, 0xffffffffu, (low & 0x80000000u) != 0u);
    let saturated = select(0x7fffffffu, 0x80000000u, (upper & 0x80000000u) != 0u);
    return bitcast<i32>(select(saturated, low, upper == sign));
}

// On the bits, because a compiler may assume that x == x.
fn is_finite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u; }

// device_loop_guard: counts a loop to params.iterations, so that the host can tell whether the driver runs loops to their end.
// Shapes    count [1]
// Mapping   one invocation
// Traffic   4 bytes
// Why       the lavapipe of Mesa 22 silently leaves loops after 65,535 iterations; every long sum on it would be wrong
// Host      run once on each software adapter, before the device is handed out
// Twin      none: the result is params.iterations        Source  our own
struct Params { iterations: u32 }
@group(0) @binding(0) var<storage, read_write> count: array<u32>;
@group(0) @binding(1) var<uniform> params: Params;

@compute @workgroup_size(1)
fn main() {
    var total = 0u;
    for (var i = 0u; i < params.iterations; i += 1u) {
        // Data-dependent, so that no compiler replaces the loop by a formula; the increment is always 1.
        total += 1u + ((total ^ i) & 0u) + select(1u, 0u, total == i);
    }
    count[0] = total;
}

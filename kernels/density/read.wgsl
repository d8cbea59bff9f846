// density_read_c64: Tr(ρ·observable) of every sample and observable, or the diagonals of ρ.
// Shapes    rho [samples, 2^n, 2^n] c64, matrices contiguous; table: first term of each observable and the end, then terms {x, z,
//           number of Y, coefficient}; result [samples, observables] f32, or [samples, 2^n]
// Mapping   persistent, workgroup 128; a workgroup owns a sample and observable, an invocation strides over the rows; for diagonals
//           an invocation owns an element
// Shared    128 partial sums
// Traffic   8 bytes a row and term
// Numerics  as read.cu
// Host      samples · max(observables, 2^n) < 2^31, n ≤ 15; every element index < 2^32
// Twin      src/statevec/density/batch.rs        Source  our own
struct Params {
    rho_first: u32, table_first: u32, result_first: u32,
    // Elements from sample to sample; the high word is 0.
    step: u32, step_high: u32,
    samples: u32, qubits: u32, observables: u32,
    diagonal: u32,
}
@group(0) @binding(0) var<storage, read> rho: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> table: array<u32>;
@group(0) @binding(2) var<storage, read_write> result: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

const BLOCK: u32 = 128u;
var<workgroup> sums: array<f32, 128>;

@compute @workgroup_size(128)
fn main(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let side = 1u << params.qubits;
    if (params.diagonal != 0u) {
        for (var at = workgroup.x * BLOCK + thread; at < (params.samples << params.qubits); at += workgroups.x * BLOCK) {
            let row = at & (side - 1u);
            let entry = rho[params.rho_first + (at >> params.qubits) * params.step + row * (side + 1u)];
            result[params.result_first + at] = entry.x;
        }
        return;
    }
    for (var item = workgroup.x; item < params.samples * params.observables; item += workgroups.x) {
        let observable = item % params.observables;
        let matrix = params.rho_first + item / params.observables * params.step;
        var total = 0.0;
        let end = table[params.table_first + observable + 1u];
        for (var term = table[params.table_first + observable]; term < end; term += 4u) {
            let at = params.table_first + term;
            let x = table[at];
            let z = table[at + 1u];
            let y = table[at + 2u] & 3u;
            let coefficient = bitcast<f32>(table[at + 3u]);
            var outer = 0.0;
            var inner = 0.0;
            var count = 0u;
            for (var row = thread; row < side; row += BLOCK) {
                let entry = rho[matrix + ((row << params.qubits) | (row ^ x))];
                // Re(i^y·(u + iv)) is u, −v, −u, v.
                let part = select(entry.x, entry.y, (y & 1u) != 0u);
                let sign = (countOneBits(row & z) + select(0u, 1u, y == 1u || y == 2u)) & 1u;
                inner += select(part, -part, sign != 0u);
                count += 1u;
                if ((count & 15u) == 0u) {
                    outer += inner;
                    inner = 0.0;
                }
            }
            total = fma(coefficient, outer + inner, total);
        }
        // Sync: the sums of the last item are still being read.
        workgroupBarrier();
        sums[thread] = total;
        for (var half = BLOCK / 2u; half > 0u; half >>= 1u) {
            // Sync: an invocation adds what another wrote in the round before.
            workgroupBarrier();
            if (thread < half) { sums[thread] += sums[thread + half]; }
        }
        if (thread == 0u) { result[params.result_first + item] = sums[0]; }
    }
}

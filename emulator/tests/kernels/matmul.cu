// matmul_f32: c = a·b, a realistic kernel for the emulator: cp.async double buffering, 16-byte shared accesses.
// Shapes    a [m,k]  b [k,n]  c [m,n], row-major and contiguous; m, n, k multiples of 64, 64 and 16
// Mapping   grid (n/64, m/64), block 256; a thread owns 4×4 of c
// Shared    a and b tiles 2 × (64×16 + 16×64) × 4 = 16 KiB
// Traffic   a n/64 times, b m/64 times, c once
#include "device.cuh"

namespace {

constexpr int TILE = 64;
constexpr int DEPTH = 16;
constexpr int TILE_FLOATS = TILE * DEPTH;
constexpr int STAGE_FLOATS = 2 * TILE_FLOATS;

// Each of 256 threads copies one 16-byte piece of either tile.
GW_DEVICE void load_stage(gw::Shared<float> stage, const float* a, const float* b, int k0, int n, int k) {
    const int thread = threadIdx.x;
    const int a_row = thread / 4, a_column = thread % 4 * 4;
    const int b_row = thread / 16, b_column = thread % 16 * 4;
    gw::cp_async16(stage.slice(a_row * DEPTH + a_column), a + (size_t)a_row * k + k0 + a_column, true);
    gw::cp_async16(stage.slice(TILE_FLOATS + b_row * TILE + b_column), b + (size_t)(k0 + b_row) * n + b_column, true);
}

}  // namespace

GW_KERNEL(256, 1) matmul_f32(const float* a, const float* b, float* c, int m, int n, int k) {
    (void)m;
    GW_SHARED(float, shared);
    const int row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE;
    const float* a_rows = a + (size_t)row0 * k;
    const float* b_columns = b + column0;
    const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    float sum[4][4] = {};

    load_stage(shared.slice(0, STAGE_FLOATS), a_rows, b_columns, 0, n, k);
    gw::cp_async_commit();
    for (int step = 0; step < k / DEPTH; ++step) {
        // Always a commit, empty at the end: so "all but one group" means this step's tile in every iteration.
        if ((step + 1) * DEPTH < k)
            load_stage(shared.slice((step + 1) % 2 * STAGE_FLOATS, STAGE_FLOATS), a_rows, b_columns, (step + 1) * DEPTH, n, k);
        gw::cp_async_commit();
        gw::cp_async_wait<1>();
        gw::sync_threads();
        const gw::Shared<float> a_tile = shared.slice(step % 2 * STAGE_FLOATS, TILE_FLOATS);
        const gw::Shared<float> b_tile = shared.slice(step % 2 * STAGE_FLOATS + TILE_FLOATS, TILE_FLOATS);
        for (int d = 0; d < DEPTH; ++d) {
            const float4 b4 = b_tile.load4(d * TILE + column);
            for (int i = 0; i < 4; ++i) {
                const float x = a_tile[(row + i) * DEPTH + d];
                sum[i][0] = gw::fma(x, b4.x, sum[i][0]);
                sum[i][1] = gw::fma(x, b4.y, sum[i][1]);
                sum[i][2] = gw::fma(x, b4.z, sum[i][2]);
                sum[i][3] = gw::fma(x, b4.w, sum[i][3]);
            }
        }
        // The next iteration's copies overwrite the tile that slow warps still read.
        gw::sync_threads();
    }
    for (int i = 0; i < 4; ++i) {
        float4* out = reinterpret_cast<float4*>(c + (size_t)(row0 + row + i) * n + column0 + column);
        gw::store_global(out, make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]));
    }
}
GW_EXPORT(matmul_f32)

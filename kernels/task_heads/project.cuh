// project.cuh: what the output projection and its gradients share: the tiled product of two strided matrices.
#pragma once
#include "device.cuh"

namespace project {

using gw::i64;
using gw::u32;

struct ProjectParams {
    i64 y_stride_b, y_stride_h, y_stride_s, w_stride_t, w_stride_k, out_stride_b, out_stride_s, id_stride;
    u32 batch, heads, rows, depth, width;  // Dv, E
    u32 tasks, has_ids, id_kind;
};

constexpr u32 TILE = 64, STEP = 16, PITCH = TILE + 1, THREADS = 256, OWN = 4;
constexpr i64 NO_TASK = -1;
constexpr i64 BAD_TASK = -2;

GW_DEVICE i64 task_of(const u32* ids, i64 sample, const ProjectParams& p) {
    if (!p.has_ids) return 0;
    const bool wide = p.id_kind == 2;
    const i64 word = sample * p.id_stride * (wide ? 2 : 1);
    const u32 low = gw::load_global(ids + word);
    const u32 sign = p.id_kind == 0 && low >> 31 != 0 ? 0xffffffffu : 0u;
    const u32 high = wide ? gw::load_global(ids + word + 1) : sign;
    if (low == 0xffffffffu && (p.id_kind == 1 || high == 0xffffffffu)) return NO_TASK;
    return high == 0 && low < p.tasks ? static_cast<i64>(low) : BAD_TASK;
}

GW_DEVICE u32 tiles(u32 size) { return size / TILE + (size % TILE != 0 ? 1 : 0); }

// A matrix in memory, seen as rows × columns by its two strides; 0 outside.
struct Matrix {
    const float* base;
    i64 row_stride, column_stride;
    u32 rows, columns;

    GW_DEVICE float at(u32 row, u32 column) const {
        return row < rows && column < columns ? gw::load_global_cached(base + row * row_stride + column * column_stride) : 0.0f;
    }
};

struct Accumulator {
    float value[OWN][OWN] = {};

    // += a[first_row.., :] · b[:, first_column..]; a is [m, depth], b [depth, n]. All threads call it.
    GW_DEVICE void add(gw::Shared<float> shared, const Matrix& a, const Matrix& b, u32 first_row, u32 first_column) {
        const gw::Shared<float> left = shared.slice(0, STEP * PITCH), right = shared.slice(STEP * PITCH, STEP * PITCH);
        const u32 thread = threadIdx.x, mine_row = thread / STEP, mine_column = thread % STEP;
        for (u32 depth = 0; depth < a.columns; depth += STEP) {
            for (u32 i = thread; i < STEP * TILE; i += THREADS) {
                // Neighbouring threads read along whichever dimension is contiguous.
                const bool is_along_depth = a.column_stride == 1;
                const u32 k = is_along_depth ? i % STEP : i / TILE, m = is_along_depth ? i / STEP : i % TILE;
                left[k * PITCH + m] = a.at(first_row + m, depth + k);
            }
            for (u32 i = thread; i < STEP * TILE; i += THREADS) {
                const bool is_along_depth = b.row_stride == 1 && b.column_stride != 1;
                const u32 k = is_along_depth ? i % STEP : i / TILE, n = is_along_depth ? i / STEP : i % TILE;
                right[k * PITCH + n] = b.at(depth + k, first_column + n);
            }
            gw::sync_threads();
            for (u32 k = 0; k < STEP; ++k) {
                for (u32 i = 0; i < OWN; ++i) {
                    const float x = left[k * PITCH + mine_row + STEP * i];
                    for (u32 j = 0; j < OWN; ++j) value[i][j] = gw::fma(x, right[k * PITCH + mine_column + STEP * j], value[i][j]);
                }
            }
            // The next step overwrites what slow threads still read.
            gw::sync_threads();
        }
    }

    GW_DEVICE void store(float* out, i64 row_stride, u32 first_row, u32 first_column, u32 rows, u32 columns, bool is_nan) const {
        for (u32 i = 0; i < OWN; ++i) {
            for (u32 j = 0; j < OWN; ++j) {
                const u32 row = first_row + threadIdx.x / STEP + STEP * i, column = first_column + threadIdx.x % STEP + STEP * j;
                if (row < rows && column < columns) gw::store_global(out + row * row_stride + column, is_nan ? NAN : value[i][j]);
            }
        }
    }
};

}  // namespace project

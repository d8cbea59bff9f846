// task_heads_gate_f32: gates and probabilities of every (sample, head), from logits by task or values by sample.
// Shapes    values [tasks|batch, heads] strided; ids [batch] i32, u32 or i64 strided; gates, probabilities [batch, heads] contiguous
// Mapping   persistent, block 128; a thread owns one (sample, head) and walks that sample's row of z alone: heads are few, and
//           without cooperation there is nothing to order, so the bits depend on the row only
// Traffic   values heads² reads a sample, from cache; FLOPs: one exp a (head, head)
// Numerics  softmax subtracts the maximum; a row of −∞ gives 0; NaN or +∞ under softmax, top-k or top-p gives NaN. Heads are ranked
//           by the bits of z as integers, so ties and order are the same on every backend. A single kept head has the gate 1 exactly.
//           Top-p adds what ranks higher in the order of heads, so that a lower rank never has a smaller sum
// Bad id    gates NaN, status word set, never used as an index
// Host      batch · heads < 2^31, 1 ≤ k ≤ heads, tasks < 2^31
// Twin      src/task_heads/cpu.rs        Source  arXiv:1701.06538 (top-k gates)
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;

struct GateParams {
    i64 row_stride, head_stride;  // of values
    i64 id_stride;
    u32 batch, heads, tasks;
    u32 rows;        // 0 row b is sample b's; 1 rows are picked by task id; 2 row b, but the sample has a task id
    u32 id_kind;     // 0 i32, 1 u32, 2 i64 (low word first)
    u32 activation;  // Activation
    u32 k, renormalise;
    float softmax_scale;
    float no_task_gate;
    u32 shared_heads;  // the first ones have gate 1; the others are routed
    float limit;       // of TOP_P and THRESHOLD
};

enum Activation : u32 { IDENTITY = 0, SIGMOID = 1, SOFTMAX = 2, TOP_K = 3, TOP_P = 4, THRESHOLD = 5 };

constexpr u32 STATUS_TASK_ID = 1;
constexpr i64 NO_TASK = -1;
constexpr i64 BAD_TASK = -2;

// The task of a sample: below p.tasks, NO_TASK or BAD_TASK.
GW_DEVICE i64 task_of(const u32* ids, i64 sample, const GateParams& p) {
    const bool wide = p.id_kind == 2;
    const i64 word = sample * p.id_stride * (wide ? 2 : 1);
    const u32 low = gw::load_global(ids + word);
    const u32 sign = p.id_kind == 0 && low >> 31 != 0 ? 0xffffffffu : 0u;
    const u32 high = wide ? gw::load_global(ids + word + 1) : sign;
    if (low == 0xffffffffu && (p.id_kind == 1 || high == 0xffffffffu)) return NO_TASK;
    return high == 0 && low < p.tasks ? static_cast<i64>(low) : BAD_TASK;
}

// Monotone in z; −0 equals +0, and every NaN is above +∞.
GW_DEVICE u32 sort_key(float z) {
    const u32 bits = gw::float_bits(z), magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0xffffffffu;
    if (magnitude == 0) return 0x80000000u;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

constexpr u32 KEY_OF_INFINITY = 0xff800000u;
constexpr u32 KEY_OF_MINUS_INFINITY = 0x007fffffu;

struct Row {
    const float* z;
    i64 stride;
    u32 heads;

    GW_DEVICE float at(u32 head) const { return gw::load_global_cached(z + head * stride); }

    // e^(z − max), 0 for −∞ even when that is the maximum.
    GW_DEVICE float exponential(u32 head, float maximum) const {
        const float x = at(head);
        return sort_key(x) == KEY_OF_MINUS_INFINITY ? 0.0f : ::expf(x - maximum);
    }
};

GW_DEVICE float sigmoid(float z) {
    const float e = ::expf(-::fabsf(z));  // never overflows
    return z >= 0.0f ? 1.0f / (1.0f + e) : e / (1.0f + e);
}

// x / total, 0 where nothing was summed, and 1 exactly for the only summand.
GW_DEVICE float ratio(float x, float total) {
    if (x == total) return total == 0.0f ? 0.0f : 1.0f;
    return total == 0.0f ? 0.0f : x / total;
}

// Sum of the exponentials of the k first heads by (z descending, head ascending); says whether `head` is among them.
GW_DEVICE float sum_of_kept(const Row& row, u32 k, float maximum, u32 head, bool* is_kept) {
    float sum = 0.0f;
    *is_kept = false;
    u32 last_key = 0, last_head = 0;
    for (u32 round = 0; round < k; ++round) {
        u32 best_key = 0, best_head = row.heads;  // no key is 0
        for (u32 j = 0; j < row.heads; ++j) {
            const u32 key = sort_key(row.at(j));
            const bool follows = round == 0 || key < last_key || (key == last_key && j > last_head);
            if (follows && key > best_key) {
                best_key = key;
                best_head = j;
            }
        }
        sum += row.exponential(best_head, maximum);
        *is_kept = *is_kept || best_head == head;
        last_key = best_key;
        last_head = best_head;
    }
    return sum;
}

// Sum of the exponentials of the heads before `head` by (z descending, head ascending).
GW_DEVICE float sum_before(const Row& row, float maximum, u32 head) {
    const u32 own = sort_key(row.at(head));
    float sum = 0.0f;
    for (u32 j = 0; j < row.heads; ++j) {
        const u32 key = sort_key(row.at(j));
        if (key > own || (key == own && j < head)) sum += row.exponential(j, maximum);
    }
    return sum;
}

struct Gate {
    float gate, probability;
};

GW_DEVICE Gate activate(const Row& row, u32 head, const GateParams& p) {
    const float z = row.at(head);
    if (p.activation == IDENTITY) return {z, z};
    if (p.activation == SIGMOID) {
        const float g = sigmoid(z);
        return {g, g};
    }
    if (p.activation == THRESHOLD) {
        const float g = sigmoid(z);
        return {g < p.limit ? 0.0f : g, g};  // a NaN is not below
    }
    float maximum = -INFINITY;
    u32 largest = KEY_OF_MINUS_INFINITY;
    for (u32 j = 0; j < row.heads; ++j) {
        const float x = row.at(j);
        const u32 key = sort_key(x);
        if (key > largest) {
            largest = key;
            maximum = x;
        }
    }
    if (largest >= KEY_OF_INFINITY) return {NAN, NAN};
    float total = 0.0f;
    for (u32 j = 0; j < row.heads; ++j) total += row.exponential(j, maximum);
    const float e = row.exponential(head, maximum);
    const float probability = ratio(e, total);
    if (p.activation == SOFTMAX) return {probability * p.softmax_scale, probability};
    if (p.activation == TOP_P) {
        const bool is_in = p.limit >= 1.0f || sum_before(row, maximum, head) < p.limit * total;
        return {is_in ? probability : 0.0f, probability};
    }
    bool is_kept;
    const float kept = sum_of_kept(row, p.k, maximum, head, &is_kept);
    if (!is_kept) return {0.0f, probability};
    return {p.renormalise ? ratio(e, kept) : probability, probability};
}

}  // namespace

GW_KERNEL(128, 1)
task_heads_gate_f32(const float* values, const u32* ids, float* gates, float* probabilities, u32* status, GateParams p) {
    const i64 pairs = static_cast<i64>(p.batch) * p.heads;
    for (i64 pair = static_cast<i64>(blockIdx.x) * 128 + threadIdx.x; pair < pairs;
         pair += static_cast<i64>(gridDim.x) * 128) {
        const i64 sample = pair / p.heads;
        const u32 head = static_cast<u32>(pair % p.heads);
        i64 row = p.rows != 0 ? task_of(ids, sample, p) : sample;
        if (p.rows == 2 && row >= 0) row = sample;
        Gate gate;
        if (row == BAD_TASK) {
            if (head == 0) gw::atomic_or_global(status + STATUS_TASK_ID, 1);
            gate = {NAN, NAN};
        } else if (row == NO_TASK) {
            gate = {p.no_task_gate, 0.0f};
        } else if (head < p.shared_heads) {
            gate = {1.0f, 1.0f};
        } else {
            const float* routed = values + row * p.row_stride + p.shared_heads * p.head_stride;
            gate = activate(Row{routed, p.head_stride, p.heads - p.shared_heads}, head - p.shared_heads, p);
        }
        gw::store_global(gates + pair, gate.gate);
        gw::store_global(probabilities + pair, gate.probability);
    }
}
GW_EXPORT(task_heads_gate_f32)

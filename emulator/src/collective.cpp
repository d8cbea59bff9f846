// Barriers, warp collectives and asynchronous copies: the places where one thread waits for others or for memory.
#include "runtime.hpp"

namespace emulator {

// ------------------------------------------------------------------------------------------------------- barriers

unsigned block_threads() { return current_block()->launch->threads(); }

void barrier(unsigned id, unsigned threads) {
    Block* block = current_block();
    const unsigned block_threads = block->launch->threads();
    if (id >= BARRIERS) fault("barrier %u: a block has %u barriers", id, BARRIERS);
    if (threads == 0 || threads % WARP_SIZE != 0 || threads > block_threads)
        fault("barrier %u for %u threads: not a whole number of this block's %u warps", id, threads, block_threads / WARP_SIZE);
    Barrier& barrier = block->barriers[id];
    if (barrier.arrived == 0) {
        barrier.expected = threads;
    } else if (barrier.expected != threads) {
        fault("barrier %u: this thread waits for %u threads, an earlier one for %u", id, threads, barrier.expected);
    }
    Fiber* self = current_fiber();
    self->state = State::AtBarrier;
    self->barrier = static_cast<uint8_t>(id);
    if (++barrier.arrived == threads) {
        barrier.arrived = 0;
        // bar.sync counts whole warps: half a warp here and half elsewhere is undefined on the device.
        for (unsigned w = 0; threads != block_threads && w < block_threads / WARP_SIZE; ++w) {
            unsigned waiting = 0;
            for (unsigned i = w * WARP_SIZE; i < (w + 1) * WARP_SIZE; ++i)
                waiting += block->fibers[i].state == State::AtBarrier && block->fibers[i].barrier == id;
            if (waiting % WARP_SIZE != 0) fault("barrier %u: only %u lanes of warp %u arrived", id, waiting, w);
        }
        for (unsigned i = 0; i < block_threads; ++i) {
            Fiber& fiber = block->fibers[i];
            if (fiber.state != State::AtBarrier || fiber.barrier != id) continue;
            fiber.state = State::Running;
            block->ready.push(&fiber);
        }
    }
    yield_fiber();
}

// ------------------------------------------------------------------------------------------------ warp collectives

FiberView* lane_of_warp(unsigned lane) {
    return &current_block()->fibers[current->linear / WARP_SIZE * WARP_SIZE + lane];
}

bool join_collective(Collective kind, uint32_t mask) {
    Fiber* self = current_fiber();
    Block* block = current_block();
    const unsigned lane = self->linear % WARP_SIZE;
    if (!(mask >> lane & 1)) fault("warp collective with mask 0x%08x, which leaves out the calling lane %u", mask, lane);
    Rendezvous& meeting = block->warps[self->linear / WARP_SIZE].rendezvous[__builtin_ctz(mask)];
    if (meeting.arrived == 0) {
        meeting.mask = mask;
        meeting.kind = kind;
    } else if (meeting.mask != mask || meeting.kind != kind) {
        fault("divergent warp collective: lanes 0x%08x of the warp wait in another one with mask 0x%08x", meeting.arrived, meeting.mask);
    }
    self->state = State::InCollective;
    self->collective = kind;
    meeting.arrived |= 1u << lane;
    if (meeting.arrived == mask) {
        meeting.arrived = 0;
        return true;
    }
    yield_fiber();
    return false;
}

void leave_collective(uint32_t mask) {
    Block* block = current_block();
    Fiber* warp = &block->fibers[current->linear / WARP_SIZE * WARP_SIZE];
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
        Fiber& fiber = warp[__builtin_ctz(rest)];
        fiber.state = State::Running;
        block->ready.push(&fiber);
    }
    yield_fiber();
}

void sync_warp(uint32_t mask) {
    if (join_collective(Collective::SyncWarp, mask)) leave_collective(mask);
}

uint32_t ballot(bool predicate, uint32_t mask) {
    uint32_t votes = 0;
    self()->input = &predicate;
    self()->output = &votes;
    if (join_collective(Collective::Ballot, mask)) {
        uint32_t result = 0;
        for (unsigned lane = 0; lane < WARP_SIZE; ++lane)
            if (mask >> lane & 1) result |= uint32_t{*static_cast<const bool*>(lane_of_warp(lane)->input)} << lane;
        for (unsigned lane = 0; lane < WARP_SIZE; ++lane)
            if (mask >> lane & 1) *static_cast<uint32_t*>(lane_of_warp(lane)->output) = result;
        leave_collective(mask);
    }
    return votes;
}

// ---------------------------------------------------------------------------------------------------- matrix units

void ldmatrix_x4(uint32_t (&out)[4], const void* row, bool transposed) {
    self()->input = row;
    self()->output = out;
    if (!join_collective(transposed ? Collective::LoadTransposed : Collective::LoadMatrix, 0xffffffffu)) return;
    for (unsigned lane = 0; lane < WARP_SIZE; ++lane) {
        const unsigned g = lane / 4, t = lane % 4;
        for (unsigned matrix = 0; matrix < 4; ++matrix) {
            const auto element = [&](unsigned r, unsigned column) {
                return uint32_t{static_cast<const uint16_t*>(lane_of_warp(8 * matrix + r)->input)[column]};
            };
            static_cast<uint32_t*>(lane_of_warp(lane)->output)[matrix] =
                transposed ? element(2 * t, g) | element(2 * t + 1, g) << 16 : element(g, 2 * t) | element(g, 2 * t + 1) << 16;
        }
    }
    leave_collective(0xffffffffu);
}

void mma_m16n8k16(float (&c)[4], const float (&terms)[12]) {
    self()->input = terms;
    self()->output = c;
    if (!join_collective(Collective::Multiply, 0xffffffffu)) return;
    float a[16][16], b[16][8];
    for (unsigned lane = 0; lane < WARP_SIZE; ++lane) {
        const unsigned g = lane / 4, t = lane % 4;
        const float* own = static_cast<const float*>(lane_of_warp(lane)->input);
        for (unsigned i = 0; i < 8; ++i) a[g + i / 2 % 2 * 8][2 * t + i / 4 * 8 + i % 2] = own[i];
        for (unsigned i = 0; i < 4; ++i) b[2 * t + i / 2 * 8 + i % 2][g] = own[8 + i];
    }
    for (unsigned row = 0; row < 16; ++row) {
        // The hardware's order of summation is its own: tests with rounding take bounds that hold for any.
        float sum[8] = {};
        for (unsigned k = 0; k < 16; ++k)
            for (unsigned n = 0; n < 8; ++n) sum[n] += a[row][k] * b[k][n];
        for (unsigned n = 0; n < 8; ++n)
            static_cast<float*>(lane_of_warp(row % 8 * 4 + n / 2)->output)[row / 8 * 2 + n % 2] += sum[n];
    }
    leave_collective(0xffffffffu);
}

// ----------------------------------------------------------------------------------------------- asynchronous copies

void cp_async(void* destination, const void* source, unsigned bytes) {
    if (source) {
        const uintptr_t address = reinterpret_cast<uintptr_t>(source);
        if (address % bytes != 0) fault_misaligned(source, bytes, "cp_async source");
        Range* latest = current->block->latest;
        Counters& counters = (latest->contains(address, bytes) ? *latest : find_range(address, bytes, "cp_async load")).counters;
        counters.bytes_loaded += bytes;
        counters.loads += 1;
    }
    // Between issue and wait the destination holds nothing that a kernel may rely on, old or new.
    std::memset(destination, POISON, bytes);
    Fiber* self = current_fiber();
    self->copies.push_back({destination, source, bytes, self->committed_groups});
}

void cp_async_commit() { current_fiber()->committed_groups += 1; }

void cp_async_wait(unsigned pending) {
    Fiber* self = current_fiber();
    const unsigned done = self->committed_groups > pending ? self->committed_groups - pending : 0;
    size_t completed = 0;
    for (; completed < self->copies.size() && self->copies[completed].group < done; ++completed) {
        const PendingCopy& copy = self->copies[completed];
        if (copy.source) {
            std::memcpy(copy.destination, copy.source, copy.bytes);
        } else {
            std::memset(copy.destination, 0, copy.bytes);
        }
    }
    self->copies.erase(self->copies.begin(), self->copies.begin() + static_cast<std::ptrdiff_t>(completed));
}

}  // namespace emulator

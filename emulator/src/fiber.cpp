// Running one block: its fibers, the order they run in, and what happens when one of them faults.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "runtime.hpp"

namespace emulator {

__thread FiberView* current = nullptr;

// ------------------------------------------------------------------------------------------------------ schedules

Random::Random(uint64_t seed) {
    uint64_t z = seed + 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    state_ = (z ^ (z >> 31)) | 1;
}

uint64_t Random::next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return (state_ * 0x2545F4914F6CDD1Du) >> 16;
}

void ReadyQueue::reset(size_t capacity, Order order, uint64_t seed) {
    size_t size = 1;
    while (size < capacity) size *= 2;
    if (ring_.size() != size) ring_.resize(size);
    mask_ = size - 1;
    head_ = tail_ = 0;
    order_ = order;
    random_ = Random(seed);
}

// InOrder keeps all warps abreast, lowest thread first. Reversed lets the highest warp run as far ahead of the others as
// the barriers allow. Random does anything in between.
Fiber* ReadyQueue::pop() {
    if (head_ == tail_) return nullptr;
    switch (order_) {
        case Order::InOrder: return ring_[head_++ & mask_];
        case Order::Reversed: return ring_[--tail_ & mask_];
        case Order::Random: break;
    }
    Fiber*& chosen = ring_[(head_ + random_.below(tail_ - head_)) & mask_];
    Fiber* fiber = chosen;
    chosen = ring_[--tail_ & mask_];
    return fiber;
}

// --------------------------------------------------------------------------------------------------------- stacks

/// One mapping with a stack per fiber, each above an inaccessible page: an overflow stops there instead of spoiling a
/// neighbour.
struct Block::Stacks {
    static constexpr size_t STACK_BYTES = 64 << 10;

    explicit Stacks(size_t count) : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))), stride_(STACK_BYTES + page_), count_(count) {
        void* mapping = mmap(nullptr, count_ * stride_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapping == MAP_FAILED) throw std::bad_alloc();
        base_ = static_cast<unsigned char*>(mapping);
        for (size_t i = 0; i < count_; ++i) {
            if (mprotect(base_ + i * stride_, page_, PROT_NONE) != 0) {
                munmap(base_, count_ * stride_);
                throw std::bad_alloc();
            }
        }
    }
    ~Stacks() { munmap(base_, count_ * stride_); }
    Stacks(const Stacks&) = delete;
    Stacks& operator=(const Stacks&) = delete;

    unsigned char* bottom(size_t index) const { return base_ + index * stride_ + page_; }
    // Every top lies at the same offset in a page, so all would share a few cache sets: shift each by some lines.
    static size_t usable(size_t index) { return STACK_BYTES - index % 32 * 128; }
    size_t count() const { return count_; }

  private:
    size_t page_, stride_, count_;
    unsigned char* base_;
};

void Block::FreeDeleter::operator()(unsigned char* memory) const { std::free(memory); }

Block::Block() : BlockView{}, barriers{}, worker{} {}
Block::~Block() = default;

void Block::prepare(Launch& launch_) {
    launch = &launch_;
    block_size = launch_.block;
    grid_size = launch_.grid;
    shared_bytes = launch_.shared_bytes;
    const unsigned threads = launch_.threads();
    if (!stacks_ || stacks_->count() < threads) {
        stacks_.reset();
        stacks_ = std::make_unique<Stacks>(threads);
    }
    if (fibers.size() < threads) fibers.resize(threads);
    if (warps.size() < threads / WARP_SIZE) warps.resize(threads / WARP_SIZE);
    if (shared_capacity_ < shared_bytes) {
        constexpr size_t ALIGNMENT = 1024;  // what GW_SHARED promises
        const size_t capacity = (shared_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        shared_capacity_ = 0;
        shared_memory_.reset(static_cast<unsigned char*>(std::aligned_alloc(ALIGNMENT, capacity)));
        if (!shared_memory_) throw std::bad_alloc();
        shared_capacity_ = capacity;
    }
    shared = shared_memory_.get();
}

// -------------------------------------------------------------------------------------------------------- running

namespace {

const char* collective_name(Collective kind) {
    switch (kind) {
        case Collective::SyncWarp: return "sync_warp";
        case Collective::ShuffleXor: return "shuffle_xor";
        case Collective::Shuffle: return "shuffle";
        case Collective::ShuffleUp: return "shuffle_up";
        case Collective::ShuffleDown: return "shuffle_down";
        case Collective::Ballot: return "ballot";
        case Collective::LoadMatrix:
        case Collective::LoadTransposed: return "ldmatrix_x4";
        case Collective::Multiply: return "mma_m16n8k16";
        case Collective::None: break;
    }
    return "nothing";
}

/// Names the place where a fiber stands.
std::string place(const Fiber& fiber) {
    switch (fiber.state) {
        case State::Exited: return "exited";
        case State::AtBarrier:
            return fiber.barrier == 0 ? std::string("in sync_threads") : "in barrier_sync " + std::to_string(fiber.barrier);
        case State::InCollective: return std::string("in ") + collective_name(fiber.collective);
        case State::Running: break;
    }
    return "running";
}

/// Counts the threads at each place: "96 in sync_threads, 32 exited".
void describe_places(const Block& block, char* text, size_t bytes) {
    std::vector<std::pair<std::string, unsigned>> places;
    for (unsigned i = 0; i < block.launch->threads(); ++i) {
        const std::string where = place(block.fibers[i]);
        size_t known = 0;
        while (known < places.size() && places[known].first != where) ++known;
        if (known == places.size()) places.emplace_back(where, 0);
        places[known].second += 1;
    }
    std::string census;
    for (const auto& [where, count] : places)
        census += (census.empty() ? "" : ", ") + std::to_string(count) + " " + where;
    snprintf(text, bytes, "%s", census.c_str());
}

/// No fiber can run and some have not finished. Blames the first thread that waits.
[[noreturn]] void fault_deadlock(Block& block) {
    for (unsigned i = 0; i < block.launch->threads(); ++i) {
        if (block.fibers[i].state == State::Exited) continue;
        current = &block.fibers[i];
        break;
    }
    char places[400];  // not a string: a fault abandons this stack without running destructors
    describe_places(block, places, sizeof places);
    fault("deadlock, a divergent barrier or collective: %s", places);
}

[[noreturn]] void leave_block(Block& block) {
    Context abandoned;
    switch_context(abandoned, block.worker);
    std::abort();  // nothing switches back to an abandoned context
}

[[noreturn]] void fiber_main() {
    Fiber* fiber = current_fiber();
    Block* block = current_block();
    const Launch& launch = *block->launch;
    launch.kernel->invoke(launch.kernel->body, launch.arguments);
    if (!fiber->copies.empty())
        fault("the thread exits with %zu cp_async copies that it has not waited for", fiber->copies.size());
    fiber->state = State::Exited;
    block->live -= 1;
    if (block->live == 0) leave_block(*block);
    yield_fiber();
    std::abort();  // an exited fiber is never queued again
}

}  // namespace

void yield_fiber() {
    Fiber* from = current_fiber();
    Block* block = current_block();
    Fiber* to = block->ready.pop();
    if (!to) fault_deadlock(*block);
    if (to == from) return;
    current = to;
    switch_context(from->context, to->context);
}

void fault(const char* format, ...) {
    char message[600];
    va_list values;
    va_start(values, format);
    vsnprintf(message, sizeof message, format, values);
    va_end(values);
    Block* block = current_block();
    block->launch->record_fault(block->block_index, current->thread_index, message);
    leave_block(*block);
}

void Block::run(uint64_t linear_index) {
    const unsigned threads = launch->threads();
    block_index = {static_cast<unsigned>(linear_index % grid_size.x),
                   static_cast<unsigned>(linear_index / grid_size.x % grid_size.y),
                   static_cast<unsigned>(linear_index / grid_size.x / grid_size.y)};
    if (shared_bytes) std::memset(shared, POISON, shared_bytes);
    for (unsigned w = 0; w < threads / WARP_SIZE; ++w) warps[w] = Warp{};
    for (Barrier& barrier : barriers) barrier = Barrier{};
    // The seed depends on the block alone, so a random schedule repeats whatever worker runs the block.
    ready.reset(threads, launch->schedule.order, launch->schedule.seed ^ (linear_index * 0xD1B54A32D192ED03u));
    live = threads;
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        fiber.thread_index = {i % block_size.x, i / block_size.x % block_size.y, i / block_size.x / block_size.y};
        fiber.linear = i;
        fiber.block = this;
        fiber.state = State::Running;
        fiber.committed_groups = 0;
        fiber.copies.clear();
        prepare_context(fiber.context, stacks_->bottom(i), Stacks::usable(i), fiber_main);
        ready.push(&fiber);
    }
    Fiber* first = ready.pop();
    current = first;
    switch_context(worker, first->context);
    current = nullptr;
}

}  // namespace emulator

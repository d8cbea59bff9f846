// The units that work beside the threads: loads of tiles that barriers wait for, and products by a warpgroup.
//
// Nothing is done when it is issued, but as late as the rules allow: a tile is filled when somebody waits for it, a product
// reads shared memory when its first thread waits for it. So a wait that lacks shows as poison, and memory that is written too
// early as a wrong product, under every schedule.
#include <algorithm>

#include "runtime.hpp"

namespace emulator {

// --------------------------------------------------------------------------------------------------------- barriers

namespace {

// What the word in shared memory holds once it is a barrier: a barrier that is overwritten is noticed.
constexpr uint64_t MARK = 0x6d626172726965u;

Mbarrier* find_mbarrier(Block& block, const unsigned long long* word) {
    for (Mbarrier& barrier : block.mbarriers)
        if (barrier.word == word) return &barrier;
    return nullptr;
}

Mbarrier& checked_mbarrier(const unsigned long long* word, const char* what) {
    Mbarrier* barrier = find_mbarrier(*current_block(), word);
    if (!barrier) fault("%s: no barrier has been initialised here", what);
    if (*word != MARK) fault("%s: the barrier's word has been overwritten", what);
    return *barrier;
}

/// Ends the phase if everything is in. True if a fiber can run that could not before.
bool end_phase(Block& block, Mbarrier& barrier) {
    if (barrier.arrived != barrier.count || barrier.bytes != 0) return false;
    barrier.arrived = 0;
    barrier.phase ^= 1;
    const bool wakes = !barrier.waiting.empty();
    for (Fiber* fiber : barrier.waiting) {
        fiber->state = State::Running;
        block.ready.push(fiber);
    }
    barrier.waiting.clear();
    return wakes;
}

/// Fills the tiles that are to arrive at a barrier.
bool arrive_loads(Block& block, Mbarrier& barrier) {
    if (barrier.loads.empty()) return false;
    for (const PendingLoad& load : barrier.loads) {
        const TensorMap& map = load.map;
        int64_t at[4];
        uint64_t index[4];
        for (index[3] = 0; index[3] < map.box[3]; ++index[3])
            for (index[2] = 0; index[2] < map.box[2]; ++index[2])
                for (index[1] = 0; index[1] < map.box[1]; ++index[1]) {
                    const uint64_t line = (index[3] * map.box[2] + index[2]) * map.box[1] + index[1];
                    for (index[0] = 0; index[0] < map.box[0]; ++index[0]) {
                        bool inside = true;
                        for (int d = 0; d < 4; ++d) {
                            at[d] = static_cast<int64_t>(load.from[d]) + static_cast<int64_t>(index[d]);
                            inside = inside && at[d] >= 0 && static_cast<uint64_t>(at[d]) < map.sizes[d];
                        }
                        const uint64_t chunk = index[0] / 8 ^ line % 8;
                        uint16_t& element = load.to[line * 64 + chunk * 8 + index[0] % 8];
                        element = 0;
                        if (!inside) continue;
                        uint64_t address = map.address + 2 * static_cast<uint64_t>(at[0]);
                        for (int d = 1; d < 4; ++d) address += static_cast<uint64_t>(at[d]) * map.strides[d - 1];
                        element = load_global(reinterpret_cast<const uint16_t*>(address));
                    }
                }
        barrier.bytes -= 2ll * map.box[0] * map.box[1] * map.box[2] * map.box[3];
    }
    barrier.loads.clear();
    return end_phase(block, barrier);
}

}  // namespace

void mbarrier_init(unsigned long long* word, unsigned count) {
    Block* block = current_block();
    if (count == 0) fault("mbarrier_init: a phase of no arrivals never ends");
    if (Mbarrier* old = find_mbarrier(*block, word)) {
        if (!old->waiting.empty() || !old->loads.empty()) fault("mbarrier_init: threads or loads are at this barrier");
        *old = Mbarrier{word, count, 0, 0, 0, {}, {}};
    } else {
        block->mbarriers.push_back(Mbarrier{word, count, 0, 0, 0, {}, {}});
    }
    *word = MARK;
}

void mbarrier_arrive(unsigned long long* word, unsigned bytes) {
    Mbarrier& barrier = checked_mbarrier(word, "mbarrier_arrive");
    if (barrier.arrived == barrier.count) fault("mbarrier_arrive: all %u arrivals of this phase are in", barrier.count);
    barrier.arrived += 1;
    barrier.bytes += bytes;
    end_phase(*current_block(), barrier);
}

void mbarrier_wait(unsigned long long* word, unsigned parity) {
    if (parity > 1) fault("mbarrier_wait: %u is no parity", parity);
    Block* block = current_block();
    Mbarrier& barrier = checked_mbarrier(word, "mbarrier_wait");
    if (barrier.phase != parity) return;
    arrive_loads(*block, barrier);
    if (barrier.phase != parity) return;
    Fiber* self = current_fiber();
    self->state = State::AtMbarrier;
    barrier.waiting.push_back(self);
    yield_fiber();
}

bool finish_loads(Block& block) {
    bool wakes = false;
    // By index: waking nobody, it does not change the list.
    for (size_t i = 0; i < block.mbarriers.size(); ++i) wakes = arrive_loads(block, block.mbarriers[i]) || wakes;
    return wakes;
}

void tensor_load(uint16_t* to, long long count, const TensorMap& map, unsigned long long* word, int column, int row, int head, int batch) {
    Mbarrier& barrier = checked_mbarrier(word, "tensor_load");
    if (map.magic != TensorMap::MAGIC) fault("tensor_load: the map has not been encoded");
    if (reinterpret_cast<uintptr_t>(&map) % 64 != 0) fault_misaligned(&map, 64, "tensor map");
    if (reinterpret_cast<uintptr_t>(to) % 1024 != 0) fault_misaligned(to, 1024, "destination of tensor_load");
    const long long elements = 64ll * map.box[1] * map.box[2] * map.box[3];
    if (count < elements) fault("tensor_load of %lld elements into a window of %lld", elements, count);
    std::memset(to, POISON, static_cast<size_t>(2 * elements));
    barrier.loads.push_back(PendingLoad{to, map, {column, row, head, batch}});
}

// --------------------------------------------------------------------------------------------------------- products

uint32_t shared_offset(const void* pointer) {
    const Block* block = current_block();
    return static_cast<uint32_t>(static_cast<const unsigned char*>(pointer) - block->shared);
}

namespace {

float widened(uint16_t bits, bool bf16) {
    const uint32_t sign = uint32_t{bits & 0x8000u} << 16, magnitude = bits & 0x7fffu;
    uint32_t word;
    if (bf16) {
        word = uint32_t{bits} << 16;
    } else if (magnitude >= 0x7c00u) {
        word = sign | 0x7f800000u | (magnitude & 0x3ffu) << 13;
    } else {
        float scaled;
        const uint32_t small = magnitude << 13;
        std::memcpy(&scaled, &small, sizeof scaled);
        scaled *= 5.192296858534828e33f;  // 2^112
        std::memcpy(&word, &scaled, sizeof word);
        word |= sign;
    }
    float x;
    std::memcpy(&x, &word, sizeof x);
    return x;
}

/// Element (n, k) of an operand in shared memory, as its descriptor says; rows of 128 bytes, chunks exchanged within each.
float operand_element(const Block& block, const Product& product, uint64_t descriptor, bool transposed, unsigned n, unsigned k) {
    const uint64_t start = (descriptor & 0x3fffu) << 4, panel = (descriptor >> 16 & 0x3fffu) << 4, eight = (descriptor >> 32 & 0x3fffu) << 4;
    const unsigned row = transposed ? k : n, column = transposed ? n : k;
    uint64_t at = start + row / 8 * eight + row % 8 * 128 + column % 64 * 2 + column / 64 * panel;
    at ^= (at >> 7 & 7u) << 4;
    if (at + 2 > block.shared_bytes) fault("wgmma reads at %llu of %zu bytes of shared memory", static_cast<unsigned long long>(at), block.shared_bytes);
    uint16_t bits;
    std::memcpy(&bits, block.shared + at, sizeof bits);
    return widened(bits, product.bf16);
}

/// Computes a product that all threads have issued.
void multiply(const Block& block, Product& product) {
    const unsigned columns = product.columns;
    // Kept: a fault below abandons this stack.
    static thread_local std::vector<float> a, b, sums;
    a.assign(64 * 16, 0.0f);
    b.assign(16 * columns, 0.0f);
    sums.assign(64 * columns, 0.0f);
    for (unsigned k = 0; k < 16; ++k) {
        for (unsigned m = 0; m < 64 && !product.from_registers; ++m) a[m * 16 + k] = operand_element(block, product, product.a, false, m, k);
        for (unsigned n = 0; n < columns; ++n) b[k * columns + n] = operand_element(block, product, product.b, product.transposed, n, k);
    }
    for (unsigned thread = 0; thread < WARPGROUP && product.from_registers; ++thread) {
        const unsigned g = thread % 32 / 4, t = thread % 4;
        for (unsigned i = 0; i < 8; ++i) {
            const uint32_t word = product.registers[4 * thread + i / 2];
            const unsigned m = thread / 32 * 16 + g + i / 2 % 2 * 8, k = 2 * t + i / 4 * 8 + i % 2;
            a[m * 16 + k] = widened(static_cast<uint16_t>(word >> i % 2 * 16), product.bf16);
        }
    }
    // The hardware's order of summation is its own: tests with rounding take bounds that hold for any.
    for (unsigned m = 0; m < 64; ++m)
        for (unsigned k = 0; k < 16; ++k)
            for (unsigned n = 0; n < columns; ++n) sums[m * columns + n] += a[m * 16 + k] * b[k * columns + n];
    product.result.resize(size_t{WARPGROUP} * columns / 2);
    for (unsigned thread = 0; thread < WARPGROUP; ++thread) {
        const unsigned g = thread % 32 / 4, t = thread % 4;
        for (unsigned i = 0; i < columns / 2; ++i) {
            const unsigned m = thread / 32 * 16 + g + i / 2 % 2 * 8, n = i / 4 * 8 + 2 * t + i % 2;
            product.result[thread * (columns / 2) + i] = sums[m * columns + n];
        }
    }
}

Warpgroup& warpgroup_of(Block& block, const Fiber& fiber) {
    const unsigned threads = block.launch->threads();
    if ((fiber.linear / WARPGROUP + 1) * WARPGROUP > threads) fault("wgmma: the block's last warps are no warpgroup");
    return block.warpgroups[fiber.linear / WARPGROUP];
}

}  // namespace

const char* unfinished(const Fiber& fiber) {
    return fiber.products.empty() ? nullptr : "products of wgmma that it has not waited for";
}

void wgmma(float* c, unsigned columns, bool bf16, bool transposed, const unsigned long long* a, const uint32_t* registers, uint64_t b, bool adds_up) {
    Block* block = current_block();
    Fiber* self = current_fiber();
    Warpgroup& group = warpgroup_of(*block, *self);
    const uint64_t number = self->issued_products++;
    if (number - group.first == group.products.size())
        group.products.push_back(Product{columns, bf16, transposed, registers != nullptr, a ? *a : 0, b, 0, 0, {}, {}});
    Product& product = group.products[number - group.first];
    const Product own{columns, bf16, transposed, registers != nullptr, a ? *a : 0, b, 0, 0, {}, {}};
    if (product.columns != own.columns || product.bf16 != own.bf16 || product.transposed != own.transposed ||
        product.from_registers != own.from_registers || product.a != own.a || product.b != own.b)
        fault("wgmma: threads of a warpgroup issue different products");
    if (registers) {
        product.registers.resize(4 * WARPGROUP);
        std::copy(registers, registers + 4, product.registers.begin() + 4 * (self->linear % WARPGROUP));
    }
    product.issued += 1;

    size_t sums = 0;
    while (sums < self->sums.size() && self->sums[sums].place != c) ++sums;
    if (sums == self->sums.size()) {
        self->sums.push_back(PendingSums{c, std::vector<float>(c, c + columns / 2)});
        std::memset(c, POISON, columns / 2 * sizeof(float));
    } else if (self->sums[sums].values.size() != columns / 2) {
        fault("wgmma: these sums are those of a product of another width");
    }
    self->products.push_back(PendingProduct{number, sums, self->product_groups, adds_up});
    // Whoever waits for this thread's share.
    if (product.issued == WARPGROUP) {
        const unsigned first = self->linear / WARPGROUP * WARPGROUP;
        for (unsigned i = first; i < first + WARPGROUP; ++i) {
            Fiber& fiber = block->fibers[i];
            if (fiber.state != State::AtProducts) continue;
            fiber.state = State::Running;
            block->ready.push(&fiber);
        }
    }
}

void wgmma_commit() { current_fiber()->product_groups += 1; }

void wgmma_wait(unsigned pending) {
    Block* block = current_block();
    Fiber* self = current_fiber();
    Warpgroup& group = warpgroup_of(*block, *self);
    const unsigned done = self->product_groups > pending ? self->product_groups - pending : 0;
    size_t completed = 0;
    for (; completed < self->products.size() && self->products[completed].group < done; ++completed) {
        const PendingProduct& share = self->products[completed];
        while (group.products[share.number - group.first].issued != WARPGROUP) {
            self->state = State::AtProducts;
            yield_fiber();
        }
        Product& product = group.products[share.number - group.first];
        if (product.result.empty()) multiply(*block, product);
        std::vector<float>& values = self->sums[share.sums].values;
        const float* result = product.result.data() + self->linear % WARPGROUP * values.size();
        for (size_t i = 0; i < values.size(); ++i) values[i] = share.adds_up ? values[i] + result[i] : result[i];
        product.taken += 1;
        while (!group.products.empty() && group.products.front().taken == WARPGROUP) {
            group.products.pop_front();
            group.first += 1;
        }
    }
    self->products.erase(self->products.begin(), self->products.begin() + static_cast<std::ptrdiff_t>(completed));
    // Sums that no product writes any more are the thread's again.
    if (!self->products.empty()) {
        for (size_t i = 0; i < self->sums.size(); ++i) {
            const auto writes = [i](const PendingProduct& share) { return share.sums == i; };
            PendingSums& sums = self->sums[i];
            if (!sums.place || std::any_of(self->products.begin(), self->products.end(), writes)) continue;
            std::copy(sums.values.begin(), sums.values.end(), sums.place);
            sums.place = nullptr;
        }
        return;
    }
    for (const PendingSums& sums : self->sums)
        if (sums.place) std::copy(sums.values.begin(), sums.values.end(), sums.place);
    self->sums.clear();
}

}  // namespace emulator

#include "context.hpp"

#include <cstdint>

namespace emulator {

#ifdef EMULATOR_USES_UCONTEXT

void prepare_context(Context& context, unsigned char* stack, size_t bytes, void (*entry)()) {
    getcontext(&context.state);
    context.state.uc_stack.ss_sp = stack;
    context.state.uc_stack.ss_size = bytes;
    context.state.uc_link = nullptr;
    makecontext(&context.state, entry, 0);
}

void switch_context(Context& from, Context& to) { swapcontext(&from.state, &to.state); }

#else

// Only what the ABI asks a callee to keep. The floating-point control words are left alone: kernels never change them.
extern "C" void gatewarp_emulator_switch(void** save, void* load);
asm(R"(
    .pushsection .text
    .globl gatewarp_emulator_switch
    .type gatewarp_emulator_switch, @function
gatewarp_emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size gatewarp_emulator_switch, . - gatewarp_emulator_switch
    .popsection
)");

void prepare_context(Context& context, unsigned char* stack, size_t bytes, void (*entry)()) {
    constexpr int SAVED_REGISTERS = 6;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t{15};
    void** top = reinterpret_cast<void**>(end);
    // The null word stands where a return address would: it ends backtraces and aligns the stack as a call does.
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < SAVED_REGISTERS; ++i) *--top = nullptr;
    context.stack_pointer = top;
}

void switch_context(Context& from, Context& to) { gatewarp_emulator_switch(&from.stack_pointer, to.stack_pointer); }

#endif

}  // namespace emulator

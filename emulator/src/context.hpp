// context.hpp: the machine state of a fiber, and switching from one to another.
#pragma once

#include <cstddef>

// The assembly below is System V x86-64 with ELF directives; every other Unix takes the slower ucontext route.
#if !defined(__x86_64__) || !defined(__ELF__) || defined(GATEWARP_EMULATOR_UCONTEXT)
#define EMULATOR_USES_UCONTEXT
#include <ucontext.h>
#endif

namespace emulator {

struct Context {
#ifdef EMULATOR_USES_UCONTEXT
    ucontext_t state;
#else
    void* stack_pointer;
#endif
};

/// Makes `context` start `entry` on the given stack when it is next switched to. `entry` must never return.
void prepare_context(Context& context, unsigned char* stack, size_t bytes, void (*entry)());

/// Saves the caller in `from` and continues `to`; returns when something switches back to `from`.
void switch_context(Context& from, Context& to);

}  // namespace emulator

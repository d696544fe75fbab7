// The instruction set that this build of the engine is for, and how its functions are compiled.
//
// Headers that end in -inl.h are compiled once per instruction set, each time with other flags and in the namespace
// MADE_FAST_ISA. They use no STL templates, so that no function built for a newer processor can be merged with one
// built for an older. Each includes all that it needs and compiles alone.
//
// A new instruction set is three entries: the width of its vectors in simd-inl.h, its flags in MADE_FAST_ENGINES of
// CMakeLists.txt, and how a processor that has it is known in engines.def.
#pragma once

#if defined(__SSE__)
#include <immintrin.h>
#endif
#if defined(_OPENMP)
#include <omp.h>
#endif

#ifndef MADE_FAST_ISA
#error "MADE_FAST_ISA names the namespace of this build"
#endif

#define MADE_FAST_INLINE inline __attribute__((always_inline))

// Never inlined and never copied for one caller, so that all callers round alike.
#if defined(__clang__)
#define MADE_FAST_NOINLINE __attribute__((noinline))
#else
#define MADE_FAST_NOINLINE __attribute__((noinline, noclone))
#endif

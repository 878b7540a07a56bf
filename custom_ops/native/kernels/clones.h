// One function, compiled for several widths of vectors; the best that the processor has is picked
// when the library is loaded. Without contraction and with sums in fixed lanes, all give the same
// bits.
#pragma once

// GCC alone can do this to templates. The sanitizers are not ready yet when the picking happens.
#if defined(ONNX_CBP_TARGETS) && defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && \
    !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// flatten: what is called inside has to become part of every clone, or it would stay code for the
// smallest vectors.
#define ONNX_CBP_CLONES __attribute__((flatten, target_clones(ONNX_CBP_TARGETS, "default")))
#else
#define ONNX_CBP_CLONES
#endif

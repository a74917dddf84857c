// Compiles a hot function once per x86-64 level and picks one at run time.
#pragma once

// Sanitizers instrument the resolvers of multi-versioned functions, which run before their runtime is set up;
// clang is used for fuzzing alone. Both get the baseline version.
#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define ONGGI_TARGET_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ONGGI_TARGET_CLONES
#endif
// Helpers of a multi-versioned function must become part of each version.
#define ONGGI_ALWAYS_INLINE inline __attribute__((always_inline))

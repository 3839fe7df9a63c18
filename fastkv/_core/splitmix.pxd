# splitmix64: a small fast pseudorandom generator for which any seed is a good seed (Steele, Lea, Flood: "Fast
# splittable pseudorandom number generators", 2014). Header only. It lives by overflow, which the debug build reports
# in Cython code, so it is written in C.

from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    static inline uint64_t splitmix64(uint64_t* state) {
        uint64_t z = (*state += 0x9E3779B97F4A7C15ULL);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
        return z ^ (z >> 31);
    }
    """
    uint64_t splitmix64(uint64_t* state) noexcept nogil

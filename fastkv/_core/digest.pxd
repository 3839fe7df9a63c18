# The 64-bit digest that the state hash is a sum of. Header only, so that it is inlined into the apply loop.
#
# Every replica has to come to the same number, for ever: nothing here is drawn by the process, and a change of it is a
# change of the state's format. It is computed for every write, so it is made of the fastest good mixing there is on a
# 64-bit machine: the product of two 64-bit numbers, its upper half folded into the lower (as in Wang Yi's wyhash). Four
# chains of products go side by side, because one product has to wait for the one before it. It finds replicas that
# differ by accident; it is no defence against somebody who chooses what differs.
#
# `tests/reference/digest.py` is the specification to read.
#
# It lives by overflow, which the debug build reports in Cython code, so it is written in C.

from libc.stdint cimport uint8_t, uint64_t

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>

    /* The first five numbers of splitmix64 from 0: nothing is up anybody's sleeve. */
    #define FASTKV_S0 0xE220A8397B1DCDAFULL
    #define FASTKV_S1 0x6E789E6AA1B965F4ULL
    #define FASTKV_S2 0x06C45D188009454FULL
    #define FASTKV_S3 0xF88BB8A8724C81ECULL
    #define FASTKV_S4 0x1B39896A51A8749BULL

    static inline uint64_t fastkv_fold(uint64_t a, uint64_t b) {
        unsigned __int128 product = (unsigned __int128)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    }

    static inline uint64_t fastkv_load64(const uint8_t *at) {
        uint64_t value;
        memcpy(&value, at, 8);
        return value;
    }

    static inline uint64_t fastkv_load32(const uint8_t *at) {
        uint32_t value;
        memcpy(&value, at, 4);
        return value;
    }

    /* Sixteen bytes into a chain. */
    static inline uint64_t fastkv_chain(uint64_t chain, const uint8_t *at) {
        return fastkv_fold(fastkv_load64(at) ^ FASTKV_S0, fastkv_load64(at + 8) ^ chain);
    }

    static inline uint64_t fastkv_digest(const uint8_t *at, size_t nbytes, uint64_t seed) {
        uint64_t a = seed ^ FASTKV_S1, b = seed ^ FASTKV_S2, c = seed ^ FASTKV_S3, d = seed ^ FASTKV_S4;
        uint64_t low = 0, high = 0;
        size_t i;
        if (nbytes >= 64) {
            for (i = nbytes / 64; i; i--, at += 64) {
                a = fastkv_chain(a, at);
                b = fastkv_chain(b, at + 16);
                c = fastkv_chain(c, at + 32);
                d = fastkv_chain(d, at + 48);
            }
            i = nbytes % 64;
            at += i;                        /* the rest backwards from the end; its last piece may overlap a block */
            if (i > 0)
                a = fastkv_chain(a, at - 16);
            if (i > 16)
                b = fastkv_chain(b, at - 32);
            if (i > 32)
                c = fastkv_chain(c, at - 48);
            if (i > 48)
                d = fastkv_chain(d, at - 64);
            a = fastkv_fold(a ^ b, c ^ d);
        } else if (nbytes >= 16) {
            for (i = 0; i < nbytes - 16; i += 16)
                a = fastkv_chain(a, at + i);
            a = fastkv_chain(a, at + nbytes - 16);
        } else {
            if (nbytes >= 8) {
                low = fastkv_load64(at);
                high = fastkv_load64(at + nbytes - 8);
            } else if (nbytes >= 4) {
                low = fastkv_load32(at);
                high = fastkv_load32(at + nbytes - 4);
            } else if (nbytes) {
                low = at[0] | (uint64_t)at[nbytes / 2] << 8 | (uint64_t)at[nbytes - 1] << 16;
            }
            a = fastkv_fold(low ^ FASTKV_S0, high ^ a);
        }
        return fastkv_fold(a ^ FASTKV_S3, (uint64_t)nbytes ^ FASTKV_S4);
    }

    static inline uint64_t fastkv_digest_numbers(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t seed) {
        uint64_t chain = fastkv_fold(a ^ FASTKV_S0, b ^ seed ^ FASTKV_S1);
        chain = fastkv_fold(c ^ FASTKV_S0, d ^ chain);
        return fastkv_fold(chain ^ FASTKV_S3, FASTKV_S4);
    }
    """
    # Of some bytes.
    uint64_t digest_bytes "fastkv_digest"(const uint8_t* at, size_t nbytes, uint64_t seed) noexcept nogil
    # Of four numbers.
    uint64_t digest_numbers "fastkv_digest_numbers"(
        uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t seed) noexcept nogil


# What a digest is of. The same numbers mean something else in another place, so each place has a seed of its own.
cdef enum:
    OF_KEY = 1
    OF_SESSION = 2
    OF_SESSION_RESULT = 3
    OF_IDEMPOTENCY_KEY = 4
    OF_COMMAND = 5


cdef inline uint64_t digest_record(
    const uint8_t* key, size_t key_bytes, const uint8_t* record, size_t record_bytes,
) noexcept nogil:
    """Of a key and its record: the record's, seeded by the key's."""
    return digest_bytes(record, record_bytes, digest_bytes(key, key_bytes, OF_KEY))

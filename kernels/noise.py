"""Gumbel noise from a counter: the same numbers as `dodona.engine.philox`, bit for bit up to the logarithms.

    g = -ln(-ln u),   u = ((word >> 9) + 1/2) 2^-23

of Philox4x32-10 words (Salmon et al., SC 2011) with a row's two 32-bit keys and the counter (token // 4, position,
stream, 0), of which a token takes word token % 4. Nothing else enters.
"""

from __future__ import annotations

import triton
import triton.language as tl

STREAM_SAMPLE = 1  # the stream of the committed token's noise


@triton.jit
def philox_words(counter, position, stream, key0, key1):
    """The four 32-bit words of Philox4x32-10 at (counter, position, stream, 0); all uint32, broadcast together."""
    zero = counter * 0
    return tl.philox_impl(counter, zero + position, zero + stream, zero, zero + key0, zero + key1, 10)


@triton.jit
def gumbel(word):
    """Standard Gumbel noise of a 32-bit word. The logarithms must be the accurate ones: near u = 1, where the largest
    values come from, an approximate logarithm has few or no correct digits."""
    u = ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07
    return -tl.log(-tl.log(u))


@triton.jit
def row_noise(first, position, stream, key0, key1, BLOCK: tl.constexpr):
    """Noise ``[BLOCK]`` of tokens first, first + 1, ...; first is a multiple of 4."""
    counter = (first // 4 + tl.arange(0, BLOCK // 4)).to(tl.uint32)
    w0, w1, w2, w3 = philox_words(counter, position, stream, key0, key1)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))  # [BLOCK / 4, 2, 2]: words 0 1 2 3 in memory order
    return gumbel(tl.reshape(words, [BLOCK]))

"""Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011), the same on NumPy and on torch.

A draw is a pure function of (seed, request key, position, stream, index). Nothing is consumed, so a sequence's draws do
not depend on its batch mates, on order or on restarts; and two arms of a problem that share seed and key share draws.

The counter is (index, position, stream, 0); the 64-bit key is a hash of seed and request key.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

STREAM_TRIGGER = 0  # the trigger's uniform draw u
STREAM_SAMPLE = 1  # Gumbel noise of the committed token, whichever model commits it

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def request_key(seed: int, key: str) -> tuple[int, int]:
    """The two 32-bit words of the Philox key for a seed (any integer) and a request key (any text)."""
    digest = hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def philox4x32(counter: tuple[Any, Any, Any, Any], key: tuple[Any, Any]) -> tuple[Any, Any, Any, Any]:
    """Ten rounds on int64 arrays (NumPy or torch, broadcast together) that hold unsigned 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _multiply(word: Any, constant: int) -> tuple[Any, Any]:
    """High and low 32 bits of a product of two 32-bit words.

    The product wraps around in signed 64 bits, where it has the bits of the unsigned one.
    """
    product = word * constant
    return (product >> 32) & _MASK, product & _MASK


def uniforms(key: tuple[int, int], positions: np.ndarray[Any, Any], stream: int = STREAM_TRIGGER) -> Any:
    """float32 draws in [0, 1) (24 bits) at the given positions of one sequence; shape as ``positions``."""
    counter = np.asarray(positions, dtype=np.int64)
    zero = np.zeros_like(counter)
    word = philox4x32((zero, counter, zero + stream, zero), (zero + key[0], zero + key[1]))[0]
    return (word >> 8).astype(np.float32) * np.float32(2**-24)


def gumbel(keys_N2: Tensor, positions_N: Tensor, vocab: int, stream: int = STREAM_SAMPLE) -> Tensor:
    """Standard Gumbel noise ``[N, vocab]`` float32 for one token choice a row.

    Args:
        keys_N2: int64, the two words of ``request_key`` of each row.
        positions_N: int64, each row's generated-token index.
        vocab: number of tokens; token v uses word v % 4 of counter v // 4.
        stream: which of the sequence's independent streams.

    The uniform is (word >> 9 + 1/2) / 2^23, which float32 holds exactly and which is neither 0 nor 1.
    """
    blocks = torch.arange(-(-vocab // 4), device=positions_N.device).unsqueeze(0)
    position = positions_N.unsqueeze(1)
    zero = torch.zeros_like(blocks)
    words = philox4x32((blocks + zero, position + zero, zero + stream, zero), (keys_N2[:, :1], keys_N2[:, 1:]))
    bits = torch.stack(torch.broadcast_tensors(*words), -1).flatten(1)[:, :vocab]
    uniform = ((bits >> 9).float() + 0.5) * 2.0**-23
    return -(-uniform.log()).log()

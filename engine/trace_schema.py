"""The columns of a trace."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

SCHEMA_VERSION: Final = 2
READABLE: Final = (1, SCHEMA_VERSION)  # version 1 lacks some columns, which read as null
VERSION_KEY: Final = b"dodona_trace_schema"
_TEXT = pa.dictionary(pa.int32(), pa.string())
COLUMNS: Final[tuple[tuple[str, pa.DataType], ...]] = (
    ("sequence", pa.int32()),  # ordinal of the sequence in this file
    ("problem_id", _TEXT),
    ("arm", _TEXT),  # name of the experiment's cell; null outside of experiments
    ("seed", pa.int64()),
    ("sample", pa.int32()),
    ("position", pa.int32()),  # generated-token index
    ("token_id", pa.int32()),
    ("token", _TEXT),  # the token's own text; bytes that are no UTF-8 by themselves are U+FFFD
    ("source", _TEXT),  # base or oracle
    ("consult", pa.int32()),  # which consult wrote the token; null for the base's
    ("entropy", pa.float32()),  # of the base's distribution, nats; likewise below
    ("varentropy", pa.float32()),
    ("top_prob", pa.float32()),
    ("margin", pa.float32()),
    ("logprob", pa.float32()),
    ("base_top1", pa.int32()),
    ("attn_entropy", pa.float32()),  # of the base's attention; null unless it was asked for, likewise below
    ("attn_varentropy", pa.float32()),
    ("agreement", pa.float32()),
    ("interaction_strength", pa.float32()),
    ("oracle_logprob", pa.float32()),  # of the written token, nats
    ("oracle_rank", pa.int32()),  # 1 = the oracle's own first choice
    ("oracle_top1", pa.int32()),
    ("oracle_entropy", pa.float32()),
    ("oracle_margin", pa.float32()),
    ("agree", pa.bool_()),  # both models have the same argmax
    ("kl", pa.float32()),  # of base from oracle, nats; null unless it was asked for
    ("js", pa.float32()),
    ("u", pa.float32()),  # the trigger's uniform draw
    ("c", pa.float32()),
    ("k", pa.float32()),
    ("trigger", _TEXT),
    ("when", _TEXT),
    ("step_size", pa.int32()),
    ("max_new_tokens", pa.int32()),
    ("max_oracle_tokens", pa.int32()),
    ("prompt_tokens", pa.int32()),
    ("finish_reason", _TEXT),
)
SCHEMA = pa.schema(COLUMNS, metadata={VERSION_KEY: str(SCHEMA_VERSION)})
FLOATS: Final = tuple(name for name, kind in COLUMNS if pa.types.is_floating(kind))

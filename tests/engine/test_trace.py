"""Traces on disk: what a row holds, what the file says of itself, and that other programs can read it."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_traces import MODELS, noise, table, write

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.request import Request
from dodona.engine.trace import TraceWriter, open_trace, read_metadata, read_traces, trace_table
from dodona.engine.trace_schema import COLUMNS, FLOATS, SCHEMA, SCHEMA_VERSION
from dodona.engine.trace_writer import TableWriter


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(device="cpu")


@pytest.fixture(scope="module")
def results(engine: Engine):
    requests = [
        Request(prompt=f"Work out {number} * 7.", id=f"p{number}", c=2, k=3, trigger="entropy > 0.3", oracle_tail=tail)
        for number, tail in ((11, True), (12, False), (13, True))
    ]
    return sorted(engine.generate(requests), key=lambda result: result.request.id)


def test_a_row_holds_what_the_result_says_of_its_token(results, engine, tmp_path):
    """A column that is shifted by a token, belongs to another sequence, or has NaN where nobody has looked."""
    with TraceWriter(tmp_path / "t.parquet") as trace:
        for result in results:
            trace.write(result)
    rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
    at = 0
    for ordinal, result in enumerate(results):
        assert result.consults, "the test needs consults"
        for token in result.tokens:
            row = rows[at]
            at += 1
            assert (row["sequence"], row["position"], row["token_id"]) == (ordinal, token.position, token.id)
            assert (row["token"], row["source"], row["problem_id"]) == (token.text, token.source, result.request.id)
            assert row["prompt_tokens"] == len(result.prompt_ids)
            started = [i for i, start in enumerate(result.cheat_positions) if start <= token.position]
            assert row["consult"] == (started[-1] if token.source == "oracle" else None)
            for name in ("entropy", "varentropy", "top_prob", "margin", "logprob", "oracle_logprob", "oracle_margin"):
                expected = result.signals[name][token.position]
                assert row[name] == (None if np.isnan(expected) else pytest.approx(float(expected)))
            agree = result.signals["agree"][token.position]
            assert row["agree"] == (None if np.isnan(agree) else bool(agree))
            assert row["u"] == pytest.approx(float(result.draws[token.position]))
            assert (row["kl"], row["js"], row["attn_entropy"], row["arm"]) == (None, None, None, None)
    assert at == len(rows)
    assert any(row["agree"] is None for row in rows), "one text's tail was not looked at"


def test_the_metadata_names_version_and_models(results, tmp_path):
    """A trace whose schema or models a reader would have to guess."""
    with TraceWriter(tmp_path / "t.parquet") as trace:
        trace.write(results[0])
    metadata = read_metadata(tmp_path / "t.parquet")
    assert metadata == {
        "dodona_trace_schema": str(SCHEMA_VERSION),
        "base_model_id": "arith-base",
        "oracle_model_id": "arith-oracle",
    }


def test_a_token_takes_about_a_hundred_bytes_with_every_column_filled(tmp_path):
    """Texts, settings or ids that are stored again for every row: of the signals nothing can be compressed here."""
    rng = np.random.default_rng(0)
    signals = {name: rng.random(2000).astype(np.float32) for name in FLOATS if name not in ("c", "k")}
    ids = {name: rng.integers(0, 128_000, 2000) for name in ("token_id", "base_top1", "oracle_top1", "oracle_rank")}
    agree, texts = rng.random(2000) < 0.5, [f" word{number}" for number in rng.integers(0, 5000, 2000)]
    made = [table(number, 2000, **signals, **ids, agree=agree, token=texts) for number in range(40)]
    path = write(tmp_path / "t.parquet", made)
    assert len(signals) == 15
    assert path.stat().st_size / 80_000 < 100


def test_an_ordinary_trace_takes_far_less(results, tmp_path):
    """The embedded pair's, with its own signals."""
    writer = TableWriter(tmp_path / "t.parquet")
    for number in range(100):
        writer.write(trace_table(results[number % 3], number))
    writer.close()
    assert (tmp_path / "t.parquet").stat().st_size / open_trace(tmp_path / "t.parquet").metadata.num_rows < 60


def test_sequences_share_row_groups_and_are_never_cut(tmp_path):
    """A row group a run makes a large file slow; a run in two groups would be read as two."""
    made = [table(number, 30_000 if number % 3 == 0 else 40) for number in range(9)]
    path = write(tmp_path / "t.parquet", made)
    file = open_trace(path)
    assert 1 < file.num_row_groups < 5
    assert [len(columns["position"]) for columns in read_traces(path)] == [len(one) for one in made]
    for group in range(file.num_row_groups):
        assert file.read_row_group(group, columns=["position"])["position"][0].as_py() == 0


def test_pandas_reads_it(tmp_path):
    """Types that data frames cannot hold."""
    pandas = pytest.importorskip("pandas")
    path = write(tmp_path / "t.parquet", noise(np.random.default_rng(1), 3, 50))
    frame = pandas.read_parquet(path)
    assert list(frame.columns) == [name for name, _ in COLUMNS] and len(frame) == 150
    assert frame.groupby("problem_id", observed=True).entropy.mean().notna().all()
    assert frame.js.isna().all() and set(frame.source) == {"base"}


def test_polars_reads_it(tmp_path):
    """Encodings that only Arrow's own reader knows."""
    polars = pytest.importorskip("polars")
    path = write(tmp_path / "t.parquet", noise(np.random.default_rng(1), 3, 50))
    frame = polars.read_parquet(path)
    assert frame.columns == [name for name, _ in COLUMNS] and len(frame) == 150
    assert frame.filter(polars.col("agree").not_()).height > 0
    assert frame["problem_id"].cast(polars.String).unique().sort().to_list() == ["p0", "p1", "p2"]


def test_duckdb_reads_it(tmp_path):
    """Likewise."""
    duckdb = pytest.importorskip("duckdb")
    path = write(tmp_path / "t.parquet", noise(np.random.default_rng(1), 3, 50))
    query = f"select problem_id, count(*), avg(entropy) from '{path}' where source = 'base' group by 1 order by 1"
    rows = duckdb.sql(query).fetchall()
    assert [(name, count) for name, count, _ in rows] == [("p0", 50), ("p1", 50), ("p2", 50)]


def test_the_file_has_its_name_only_when_it_is_complete(results, tmp_path):
    """A reader that meets half a file."""
    path = tmp_path / "t.parquet"
    trace = TraceWriter(path)
    trace.write(results[0])
    assert not path.exists()
    trace.close()
    assert len(list(read_traces(path))) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["t.parquet"]


def test_a_trace_of_nothing_is_a_trace(tmp_path):
    """A command that wrote no text leaves a file that cannot be opened."""
    with TraceWriter(tmp_path / "t.parquet"):
        pass
    assert list(read_traces(tmp_path / "t.parquet")) == []
    assert read_metadata(tmp_path / "t.parquet")["dodona_trace_schema"] == str(SCHEMA_VERSION)


def test_a_run_that_fails_before_its_first_text_leaves_an_earlier_trace(results, tmp_path):
    """A second run with a mistake in it costs the trace of the first."""
    path = tmp_path / "t.parquet"
    with TraceWriter(path) as trace:
        trace.write(results[0])
    with pytest.raises(RuntimeError), TraceWriter(path):
        raise RuntimeError
    assert len(list(read_traces(path))) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["t.parquet"]


def test_a_trace_never_takes_the_place_of_a_folder_or_a_device(tmp_path):
    """`--trace /dev/full` as root: the device is a file from then on, for every program."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(DodonaError, match=f"cannot write the trace .*{name}: it is no file"):
            TraceWriter(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 2


def test_the_first_version_reads_with_nulls_for_what_it_lacks(tmp_path):
    """Traces that were written before the schema grew."""
    lacking = ("arm", "token", "attn_entropy", "attn_varentropy", "agreement", "interaction_strength", "kl", "js")
    old = table(0, 5, entropy=0.5).drop_columns([*lacking, "prompt_tokens"])
    pq.write_table(old.replace_schema_metadata({"dodona_trace_schema": "1"}), tmp_path / "old.parquet")
    (columns,) = read_traces(tmp_path / "old.parquet")
    assert list(columns) == [name for name, _ in COLUMNS]
    assert list(columns["entropy"]) == [0.5] * 5 and np.isnan(columns["js"]).all() and columns["arm"][0] is None


@pytest.mark.parametrize(
    ("metadata", "words"),
    [({}, "no trace of dodona"), ({"dodona_trace_schema": "99"}, "schema b'99', this is version 2")],
)
def test_other_files_are_refused(metadata, words, tmp_path):
    """A foreign Parquet file whose columns happen to fit, or a later version's."""
    pq.write_table(table(0, 5).replace_schema_metadata(metadata), tmp_path / "t.parquet")
    with pytest.raises(DodonaError, match=words):
        list(read_traces(tmp_path / "t.parquet"))


def test_what_is_no_parquet_file_is_refused_in_one_line(tmp_path):
    """A traceback of Arrow's."""
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and nothing more")
    for path in (tmp_path / "t.parquet", tmp_path / "missing.parquet"):
        with pytest.raises(DodonaError, match="cannot read the trace"):
            list(read_traces(path))


def test_a_path_that_cannot_be_written_is_refused_at_once(tmp_path):
    """Texts that are generated and then cannot be kept."""
    with pytest.raises(DodonaError, match="cannot write the trace"):
        TraceWriter(tmp_path / "no folder" / "t.parquet")


def test_a_token_that_is_no_utf8_is_text_all_the_same(engine, tmp_path):
    """Half of a character, which Arrow refuses as a string."""
    result = engine.generate("Work out 3 + 4.", c=0, max_new_tokens=4)
    surrogate = type(result)(**{**vars(result), "_tokenizer": _Surrogates()})
    assert trace_table(surrogate)["token"].to_pylist() == ["?"] * 4


class _Surrogates:
    def token_text(self, token_id: int) -> str:
        return "\ud800"


def test_metadata_of_the_writer_does_not_replace_the_version(tmp_path):
    """A file without its schema's version, which no reader would open."""
    path = write(tmp_path / "t.parquet", [table(0, 3)], MODELS)
    assert read_metadata(path) == {"dodona_trace_schema": str(SCHEMA_VERSION), **MODELS}
    assert pa.schema(COLUMNS).names == SCHEMA.names

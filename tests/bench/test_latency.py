"""Rows of the latency, throughput and profile benchmarks, on tiny models: complete, consistent, and written down."""

from __future__ import annotations

import json
import math

import pytest
import torch
from bench_subjects import LOOPS, TINY, tiny_subject

from dodona.bench import ablation, ceiling, floor, latency, profile, steps, throughput
from dodona.bench.effort import FULL, QUICK
from dodona.bench.lines import read_results
from dodona.bench.spread import spread
from dodona.bench.subject import Subject, prompt_ids, requests
from dodona.bench.throughput import Arm, arms
from dodona.cli import main
from dodona.engine.config import LlamaConfig
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.request import Request

CEILINGS = {"read_gb_s": 10.0, "copy_gb_s": 10.0}


@pytest.mark.parametrize("loop", LOOPS)
def test_latency_measures_every_part_once(pair, loop):
    """A part that is left out by a mistake leaves no trace in a table of the others."""
    effort = TINY._replace(temperature=0.7)
    with tiny_subject(pair, loop).engine(max_batch=1, max_length=64) as engine:
        rows = list(latency.rows(engine, effort, CEILINGS))
    by_part = {row["part"]: row for row in rows}
    assert [row["part"] for row in rows] == [
        *("first token", "base step", "oracle step", "sync", "sync", "guided"),
        *("share of signals", "share of sampling", "share of trigger"),
    ]
    for name in ("base step", "oracle step"):
        row = by_part[name]
        assert row["ms"]["p20"] <= row["ms"]["p50"] <= row["ms"]["p80"] <= row["ms"]["p99"]
        assert row["tokens_per_second"] == pytest.approx(1e3 / row["ms"]["p50"])
        assert row["gb_s"] == pytest.approx(row["bytes"] / row["ms"]["p50"] / 1e6)
        assert row["percent_of_read"] == pytest.approx(100 * row["gb_s"] / 10)
        assert row["lengths"]["temperature"] == 0.7
        assert row["forward_ms"]["p50"] <= 1.5 * row["ms"]["p99"]
    guided = by_part["guided"]
    assert guided["tokens"]["base"] + guided["tokens"]["oracle"] == effort.tokens
    assert guided["formula_share"] == pytest.approx(guided["formula_ms"] / guided["ms"]["p50"])
    assert guided["consults"] == 2 and guided["lag"] == 3
    shares = by_part["share of sampling"]
    assert "ablation" in shares["method"] and shares["with_ms"] > 0


def test_a_base_alone_has_its_own_rows(pair):
    """Without an oracle there is no sync to time, and no trigger to leave out."""
    with Subject(pair[0], None, "cpu", "float32").engine(max_batch=1, max_length=64) as engine:
        parts = [row["part"] for row in latency.rows(engine, TINY, CEILINGS)]
        assert [arm.part for arm in arms(TINY, guided=False)] == ["base alone", "base alone"]
        assert profile.asked(engine, TINY, 1)[0].c == 0
    assert parts == ["first token", "base step", "share of signals", "share of sampling"]


@pytest.mark.parametrize("loop", LOOPS)
def test_leaving_statistics_out_leaves_nothing_else_out(pair, loop):
    """The same greedy tokens from the same logits, entropy 0, and afterwards the true one again."""
    with tiny_subject(pair, loop).engine(max_batch=1, max_length=64) as engine:
        (request,) = requests(engine, 1, 6, c=0, max_new_tokens=8)
        want = engine.generate(request)
        with ablation.argmax_alone(engine):
            found = engine.generate(request)
        again = engine.generate(request)
    assert found.ids == want.ids == again.ids
    assert (found.signals["entropy"] == 0).all() and (want.signals["entropy"] > 0).all()
    assert again.signals["entropy"].tolist() == want.signals["entropy"].tolist()


def test_throughput_counts_the_tokens_of_every_arm(pair):
    """Tokens and time must be of the same sequences; the oracle's share is of what was written."""
    with tiny_subject(pair, "host").engine(max_batch=2, max_length=64) as engine:
        rows = list(throughput.rows(engine, TINY, arms(TINY, guided=True)))
    assert [(row["part"], row["batch"]) for row in rows[:6]] == [
        *(("base alone", 1), ("base alone", 2), ("oracle alone", 1), ("oracle alone", 2), ("guided", 1), ("guided", 2))
    ]
    for row in rows:
        assert row["tokens"] == row["batch"] * TINY.tokens
        assert row["tokens_per_second"]["p50"] > 0 and 0 <= row["host_share"] <= 1
        assert row["memory"]["weights"] > 0 and row["memory"]["caches"] > 0
        assert row["oracle_share"] == {"base alone": 0.0, "oracle alone": 1.0}.get(row["part"], row["oracle_share"])
    assert any(0 < row["oracle_share"] < 1 for row in rows)
    one = next(row for row in rows if row["part"] == "guided" and row["c"] == 1)
    assert one["consults"] <= one["batch"]


def test_the_grid_changes_one_thing_at_a_time_and_repeats_nothing():
    """The same arm measured twice under two names looks like an effect."""
    found = arms(FULL, guided=True)
    assert len(found) == len(set(found))
    middle = Arm("guided", FULL.batches[-1], math.inf, throughput.MIDDLE, FULL.rates[1])
    assert middle in found
    for arm in found:
        if arm.part == "guided" and arm.batch == middle.batch:
            assert sum(mine != its for mine, its in zip(arm, middle, strict=True)) <= 1


def test_lengths_stay_within_the_context():
    """A lag that the models cannot hold ends the run after the minutes before it."""
    for effort in (FULL, QUICK):
        for context in (64, 512):
            small = effort.within(context)
            assert small.longest <= context and small.tokens > 0
            assert all(2 * (every + k) <= small.tokens for every, k in small.guided)
    assert FULL.within(100_000) == FULL
    assert FULL.within(512).lags == (1, 2, 8, 32, 64, 128, 180, 256)


def test_requests_go_on_over_end_tokens_and_share_no_prompt(pair):
    """A text that ends early writes fewer tokens than its peer; equal prompts share pages that users' would not."""
    with tiny_subject(pair, "host").engine(max_batch=4, max_length=64) as engine:
        asked = requests(engine, 4, 9, c=0, max_new_tokens=3)
        assert all(request.ignore_eos for request in asked)
    assert len({tuple(request.prompt) for request in asked}) == 4
    assert prompt_ids(9, 317, 2) == asked[2].prompt == prompt_ids(9, 317, 2)


def test_a_forward_reads_the_weights_once_and_each_sequences_keys():
    """The floor of the 1B model is that of docs and papers: 2.47 GB a step, 32 KiB a token of context."""
    config = LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_layers=16, num_heads=32, num_kv_heads=8,
        head_dim=64, max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=500000.0, rope_scaling=None,
        tie_word_embeddings=True, attention_bias=False, mlp_bias=False, bos_token_id=1, eos_token_ids=(2,),
    )  # fmt: skip
    assert floor.weight_bytes(config, 2) == pytest.approx(2.472e9, rel=1e-3)
    assert floor.forward_bytes(config, 2, [10, 20]) - floor.weight_bytes(config, 2) == 30 * 32 * 1024
    figures = floor.against_ceiling(2e9, 1.0, {"read_gb_s": 4000.0})
    assert figures == {"bytes": 2e9, "gb_s": 2000.0, "floor_ms": 0.5, "percent_of_read": 50.0}


def test_percentiles_are_those_of_the_values():
    """A p99 that is the maximum of three values is honest; one beyond it is not."""
    found = spread([float(value) for value in range(1, 102)])
    assert found == (21.0, 51.0, 81.0, 100.0, 101)
    assert spread([3.0]) == (3.0, 3.0, 3.0, 3.0, 1)
    assert max(spread([1.0, 2.0, 9.0])[:4]) <= 9.0
    with pytest.raises(ValueError):
        spread([])


def test_the_cpus_ceilings_are_positive_numbers():
    """A read ceiling below what a model reads makes every percentage nonsense; this one says with how many threads."""
    found = ceiling._on_cpu(1 << 22)
    assert found["read_gb_s"] > 0 and found["copy_gb_s"] > 0 and found["threads"] == torch.get_num_threads()


# --- the profile ---


@pytest.mark.parametrize("loop", LOOPS)
def test_a_profile_writes_a_trace_and_its_phases_fill_the_time(pair, loop, tmp_path):
    """Phases that overlap, or a forward in no phase, make shares that do not add up."""
    trace = tmp_path / "trace.json"
    with tiny_subject(pair, loop).engine(max_batch=1, max_length=64) as engine:
        rows = list(profile.rows(engine, TINY, CEILINGS, trace, batch=1, captured=True))
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"] if event.get("ph") == "X"}
    assert {"dodona: window", "dodona: base step", "dodona: sync", "dodona: burst", "dodona: catch-up"} <= names
    phases = {row["phase"]: row for row in rows if row["part"] == "phase"}
    assert {"prefill", "base step", "sync", "burst", "catch-up", "signals", "head", "host"} <= set(phases)
    assert sum(row["share"] for row in phases.values()) == pytest.approx(1.0, abs=1e-3)
    assert phases["prefill"]["tokens"] == TINY.prompt and phases["burst"]["forwards"] >= 2
    assert phases["base step"]["bytes"] > 0 and "bytes" not in phases["host"]
    kernels = [row for row in rows if row["part"] == "kernel"]
    assert kernels and kernels[0]["ms"] >= kernels[-1]["ms"] and sum(row["share"] for row in kernels) <= 1.001


def event(name: str, start: float, duration: float, category: str, correlation: int | None = None) -> dict[str, object]:
    return {
        **{"ph": "X", "name": name, "ts": start, "dur": duration, "tid": 7, "cat": category},
        "args": {} if correlation is None else {"correlation": correlation},
    }


def test_kernels_belong_to_the_span_that_launched_them():
    """They run after it, and a captured program's all hang on one launch."""
    trace = profile.read_trace(
        {
            "traceEvents": [
                event("dodona: window", 0, 100, "user_annotation"),
                event("dodona: base step", 10, 20, "user_annotation"),
                event("dodona: signals", 15, 5, "user_annotation"),
                event("dodona: sync", 40, 10, "user_annotation"),
                event("theirs", 0, 100, "user_annotation"),
                event("cudaGraphLaunch", 11, 1, "cuda_runtime", 1),
                event("cuLaunchKernelEx", 16, 1, "cuda_driver", 2),
                event("cudaLaunchKernel", 41, 1, "cuda_runtime", 3),
                event("cudaMemcpyAsync", 60, 1, "cuda_runtime", 4),
                event("matmul", 50, 10, "kernel", 1),
                event("matmul", 60, 10, "kernel", 1),
                event("entropy", 70, 5, "kernel", 2),
                event("matmul", 72, 8, "kernel", 3),
                event("Memcpy DtoH", 90, 2, "gpu_memcpy", 4),
                {"ph": "M", "name": "process_name"},
            ]
        }
    )
    found = profile.uses(trace)
    assert [(use.name, use.phase, use.calls, use.microseconds) for use in found] == [
        ("matmul", "base step", 2, 20),
        ("matmul", "sync", 1, 8),
        ("entropy", "signals", 1, 5),
        ("Memcpy DtoH", "window", 1, 2),
    ]
    phases, whole = profile.phases(trace)
    assert whole == 100
    assert phases == {"base step": 20, "sync": 8, "signals": 5, "other kernels": 2, "host": 100 - 32}


def test_time_inside_a_span_is_counted_once():
    """The statistics' time belongs to them and not to the step around them as well."""
    spans = [
        profile.Event("window", 0, 100, 1, None),
        profile.Event("base step", 10, 50, 1, None),
        profile.Event("signals", 20, 10, 1, None),
        profile.Event("signals", 35, 10, 1, None),
        profile.Event("base step", 70, 10, 1, None),
        profile.Event("elsewhere", 20, 10, 2, None),
    ]
    own = sorted((event.name, time) for event, time in profile.own_times(spans))
    assert own == [
        ("base step", 10),
        ("base step", 30),
        ("elsewhere", 10),
        ("signals", 10),
        ("signals", 10),
        ("window", 40),
    ]
    finder = profile.Enclosing(spans)
    at = {at: finder.innermost(profile.Event("x", at, 1, 1, None)) for at in (5, 15, 25, 32, 36, 62, 75, 99)}
    assert at == {
        **{5: "window", 15: "base step", 25: "signals", 32: "base step"},
        **{36: "signals", 62: "window", 75: "base step", 99: "window"},
    }
    assert profile.covered([event for event in spans if event.name == "signals"] + spans[3:4]) == 20


# --- the commands ---


@pytest.mark.slow
def test_the_commands_print_a_table_and_append_lines_with_a_birth_certificate(pair, tmp_path, capsys):
    """A figure in a file must say what made it; a second run must not take the first one's figures away."""
    out, trace = tmp_path / "new" / "out.jsonl", tmp_path / "trace.json"
    models = ["--base-model", pair[0], "--oracle-model", pair[1], "--device", "cpu", "--threads", "1", "--quick"]
    latency_ = ["bench", "latency", *models, "--out", str(out)]
    assert main(latency_) == 0
    assert "| base step | prompt 16" in capsys.readouterr().out
    first = len(read_results(out))
    assert main([*latency_, "--json"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    lines = read_results(out)
    assert len(lines) == 2 * first and lines[first:] == printed
    for line in lines:
        assert line["schema"] == 1 and line["bench"] == "latency" and line["lengths"]
        assert {"date", "command", "commit", "sources", "cpu", "threads", "python", "torch", "load"} <= set(
            line["birth"]
        )
        assert line["birth"]["command"].startswith("dodona")
        assert {"base", "oracle", "dtype", "device", "loop", "seed", "ceilings"} <= set(line["subject"])
    assert main(["bench", "throughput", *models, "--out", str(out), "--batch", "1,2", "--c", "1,inf"]) == 0
    assert "| guided | 2 | inf |" in capsys.readouterr().out
    assert main(["bench", "profile", *models, "--out", str(out), "--trace", str(trace)]) == 0
    assert "| burst |" in capsys.readouterr().out and trace.stat().st_size > 0
    assert {line["bench"] for line in read_results(out)} == {"latency", "throughput", "profile"}
    assert main(["bench", "table", str(out)]) == 0
    printed_table = capsys.readouterr().out
    assert printed_table.count("| base step | prompt 16") == 1, "the last line of a measure stands for it"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["latency", "--oracle-model", "dummy:8B"], "--oracle-model needs a --base-model"),
        (["latency", "--base-model", "nothing"], "no model 'nothing'"),
        (["latency", "--device", "cuda:77"], "no CUDA device"),
        (["latency", "--quick", "--backend", "eagle"], "backend must be"),
        (["latency", "--quick", "--temperature", "-1"], "--temperature must be 0 or more"),
        (["throughput", "--quick", "--out", "/dev/null/x"], "/dev/null/x cannot be written"),
        (["decode", "--out", "/dev/null/x"], "/dev/null/x cannot be written"),
        (["profile", "--quick", "--nvtx", "--trace", "x"], "--nvtx leaves everything to Nsight"),
        (["throughput", "--quick", "--base-model", "arith-base", "--c", "2"], "--c needs an oracle"),
        (["scaling", "--quick", "--base-model", "arith-base", "--k", "2"], "--k needs an oracle"),
        (["ops", "--again"], "--again belongs to --tune"),
        (["table", "x.jsonl", "--check"], "--check and --results are for a page"),
        (["table", "x.md", "--section", "steps"], "--section is for a result file"),
        (["profile", "--quick", "--nvtx", "--device", "cpu"], "--nvtx marks ranges for Nsight on a CUDA device"),
        (["profile", "--quick", "--trace", "/dev/null/x"], "--trace /dev/null/x cannot be written"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the messages are those of a machine without a GPU")
def test_mistakes_are_one_line(arguments, message, capsys):
    """A traceback for a mistyped model."""
    assert main(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        *(["throughput", *o] for o in (["--batch", "0"], ["--rate", "1.5"], ["--c", "x"], ["--lookahead", "0"])),
        ["throughput", "--batsh", "1"],
        ["decode", "--tokens", "0"],
        ["decode", "--repeats", "0"],
        ["peers", "--temperature", "1"],
    ],
)
def test_values_out_of_range_are_refused_before_a_model_is_loaded(arguments, capsys):
    """A batch of 0 would be found out after minutes."""
    with pytest.raises(SystemExit) as stop:
        main(["bench", *arguments])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_run_that_fails_is_an_error_and_not_a_figure(pair):
    """A request that is refused would count as very fast."""
    with tiny_subject(pair, "host").engine(max_batch=1, max_length=64) as engine, pytest.raises(DodonaError):
        steps.run(engine, Request(prompt=[1] * 600, max_new_tokens=2, c=0))
    assert isinstance(engine, Engine)

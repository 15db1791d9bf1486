"""Ours beside the peers: the same work in turn, ratios of turns, and every difference that must not be is a fault."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dodona.bench.commands.peers import guided_of, interpreters, part_of, repeatable
from dodona.bench.compare import (
    BASE_ALONE,
    GUIDED,
    ORACLE_ALONE,
    PEERS,
    WARM_UP,
    Comparison,
    Contender,
    Guided,
    _contenders,
    measured,
)
from dodona.bench.compare_table import peers as peer_tables
from dodona.bench.peers import worker
from dodona.bench.peers.load import Setup
from dodona.bench.peers.sets import ALL, default_comparisons
from dodona.bench.peers.work import Outcome, Work, parse_rule, timed, write_guided
from dodona.cli import main
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.request import Request

WORK = Work(prompts=((1, 2),), tokens=40, c=2, k=3, trigger="every(4)")
COMPARISON = Comparison(
    base="b",
    oracle="o",
    dtype="float32",
    prompts=("x",),
    tokens=40,
    guided=(),
    peers=("careful",),
    repeats=3,
    threads=1,
)


class Fake:
    """A peer's process whose runs take planted seconds."""

    def __init__(self, name: str, log: list[tuple[str, int, bool]], answer: Callable[[int, Work], Outcome]) -> None:
        self.name, self.log, self.answer, self.runs = name, log, answer, 0
        self.facts = {"threads": 1}

    def run(self, work: Work, *, watch: bool = False) -> Outcome:
        self.log.append((self.name, work.tokens, watch))
        self.runs += work.tokens == WORK.tokens and not watch
        return self.answer(self.runs, work)


def wrote(seconds: float, ids: list[int] | None = None, **more: Any) -> Callable[[int, Work], Outcome]:
    def answer(run: int, work: Work) -> Outcome:
        written = list(range(work.tokens)) if ids is None or work.tokens < WORK.tokens else ids
        return Outcome(ids=[written], seconds=seconds * (10 if run == 2 else 1), **more)

    return answer


def beside(theirs: Any, ours: Any, *, peer: str = "careful", part: str = GUIDED, **changes: Any) -> dict[str, Any]:
    from dataclasses import replace

    log: list[tuple[str, int, bool]] = []
    row = measured(
        Fake("theirs", log, theirs), Fake("ours", log, ours), WORK, Contender(part, peer, {"x": WORK}),
        replace(COMPARISON, **changes),
    )  # fmt: skip
    return row | {"log": log}


def test_runs_are_taken_in_turn_after_a_warm_up_of_both():
    """All of one and then all of the other: a minute of another program would be somebody's ratio."""
    row = beside(wrote(0.8), wrote(0.2))
    whole = [name for name, tokens, watch in row["log"] if tokens == WORK.tokens and not watch]
    assert whole == ["theirs", "ours"] * 3
    assert [(name, tokens) for name, tokens, _ in row["log"][:2]] == [("theirs", WARM_UP), ("ours", WARM_UP)]


def test_the_ratio_is_the_median_of_the_turns():
    """The second turn is ten times slower for both; medians of either side alone could mix turns."""
    row = beside(wrote(0.8), wrote(0.2))
    assert row["ratio"]["p50"] == pytest.approx(4.0) and row["ratio"]["p99"] == pytest.approx(4.0)
    assert row["ms_per_token"]["ours"]["p50"] == pytest.approx(1e3 * 0.2 / 40)
    assert row["written"] == [40, 40] and row["same_tokens"] and row["faults"] == []


def test_consults_are_timed_in_runs_of_their_own():
    """Watching token by token costs time, which must not be in the runs whose ratio is taken."""
    row = beside(wrote(0.8, first_ms=[8.0, 9.0], burst_ms=[20.0, 30.0]), wrote(0.2, first_ms=[2.0], burst_ms=[10.0]))
    assert row["first_ratio"] == pytest.approx(8.5 / 2.0) and row["burst_ratio"] == pytest.approx(2.5)
    assert sum(watch for name, tokens, watch in row["log"] if tokens == WORK.tokens) == 3
    assert "first_ratio" not in beside(wrote(0.8), wrote(0.2))


@pytest.mark.parametrize(
    ("theirs", "changes", "fault"),
    [
        (list(range(39)), {}, "careful wrote 39 tokens and dodona 40"),
        ([*range(39), 7], {}, "careful writes another token at position 39 of text 0, in float32"),
        ([*range(39), 7], {"dtype": "bfloat16"}, None),
        ([*range(39), 7], {"peer": "two-servers"}, None),
        (list(range(39)), {"dtype": "bfloat16", "peer": "two-servers"}, "two-servers wrote 39 tokens"),
    ],
)
def test_other_work_is_a_fault(theirs, changes, fault):
    """Fewer tokens are less work; in float32 greedy tokens are the same, in bfloat16 a near-tie may flip."""
    row = beside(wrote(0.8, theirs), wrote(0.2), **changes)
    assert row["same_tokens"] is False
    assert (row["faults"] == []) if fault is None else (fault in row["faults"][0])


def test_a_peer_that_changes_its_text_from_run_to_run_is_a_fault():
    """Whatever it measures, it is not this work."""

    def fickle(run: int, work: Work) -> Outcome:
        return Outcome(ids=[[run] * work.tokens], seconds=1.0)

    faults = beside(fickle, fickle, dtype="bfloat16")["faults"]
    assert faults == ["careful wrote other tokens in another run", "dodona wrote other tokens in another run"]


def test_a_text_that_the_hop_changed_is_counted_and_no_fault():
    """Tokens that text cannot carry are what the hop costs, and the table says so."""
    facts = {"consults": 2, "prompts_changed": 0, "bursts_changed": 1, "ids_read_again": 3}
    row = beside(wrote(0.8, [*range(39), 7], facts=facts), wrote(0.2), peer="http")
    assert row["faults"] == [] and row["facts"] == facts
    line = row | {"part": "guided", "name": "c=2", "peer": "http", "lengths": {"tokens": 40}}
    assert "| guided, c=2, 40 tokens | http | 2 | 0 | 1 | 3 |" in peer_tables([line])["hops"]


def test_only_the_parts_that_are_asked_for_are_measured():
    """The oracle alone takes as long as all the rest."""
    from dataclasses import replace

    works = {BASE_ALONE: WORK, ORACLE_ALONE: WORK, "c=2": WORK}
    whole = replace(COMPARISON, peers=ALL)
    assert {c.part for c in _contenders(whole, works)} == {GUIDED, BASE_ALONE, ORACLE_ALONE}
    some = list(_contenders(replace(whole, parts=(BASE_ALONE,)), works))
    assert [(c.part, c.peer) for c in some] == [(BASE_ALONE, "generate"), (BASE_ALONE, "compiled")]
    assert not list(_contenders(replace(whole, parts=(GUIDED,)), {BASE_ALONE: WORK, ORACLE_ALONE: WORK}))


def test_every_peer_has_a_maker_and_the_default_sets_name_only_peers():
    """A misspelt name would be found out in a process that has loaded for a minute."""
    made = {name for name, _, _ in worker.MAKERS}
    assert {peer for peer, _ in PEERS} <= made
    for quick in (True, False):
        for comparison in default_comparisons(quick=quick):
            assert set(comparison.peers) <= made and comparison.repeats >= 2
            assert all(parse_rule(guided.trigger) for guided in comparison.guided)
    full = default_comparisons(quick=False)
    assert {comparison.dtype for comparison in full} == {"float32", "bfloat16"}
    assert any(Guided(8, 8, "every(12)") in comparison.guided and comparison.tokens == 256 for comparison in full)


# --- the work ---


class Scripted:
    """A model whose greedy token is planted, and that notes what it was given."""

    def __init__(self, token: int) -> None:
        self.token, self.seen = token, []  # type: int, list[int]

    def next(self, ids: Any) -> int:
        self.seen.append(len(ids))
        return self.token


def test_the_loop_of_the_peers_consults_where_the_engine_does(pair):
    """One consult more or less is other work."""
    for c, k, trigger in ((2, 3, "every(4)"), (math.inf, 1, "every(1)"), (3, 2, "at(0, 5)"), (1, 50, "every(2)")):
        base, oracle, outcome = Scripted(5), Scripted(9), Outcome()
        work = Work(prompts=((1, 2, 3),), tokens=17, c=c, k=k, trigger=trigger)
        ids = write_guided(work, work.prompts[0], base, oracle, (), outcome)
        with Engine(pair[0], oracle=pair[1], device="cpu", threads=1, max_batch=1, max_length=64) as engine:
            request = Request(prompt=[1, 2, 3], c=c, k=k, trigger=trigger, max_new_tokens=17, ignore_eos=True)
            result = engine.generate(request)
        assert [token == 9 for token in ids] == [bool(source) for source in result.sources]
        assert len(outcome.first_ms) == len(outcome.burst_ms) == result.consults
        assert oracle.seen == [3 + place for place, token in enumerate(ids) if token == 9]


def test_texts_end_at_an_end_token_in_a_burst_too():
    """A peer that goes on after it writes more tokens than ours."""
    work = Work(prompts=((1,),), tokens=20, c=1, k=8, trigger="every(2)")
    assert write_guided(work, (1,), Scripted(5), Scripted(9), {9}, Outcome()) == [5, 5, 9]
    assert write_guided(work, (5,), Scripted(7), Scripted(9), {5}, Outcome())[:2] == [7, 7], (
        "the prompt does not end it"
    )


def test_work_and_setup_survive_the_way_to_another_process():
    """An infinite budget is no JSON number."""
    work = Work(prompts=((1, 2), (3,)), tokens=4, c=math.inf, k=1, trigger="every(1)")
    assert Work.from_json(json.loads(json.dumps(work.as_json()))) == work
    setup = Setup(
        peer="careful", base=None, oracle="o", base_ends=(2,), oracle_ends=(), dtype="float32", device="cpu", threads=1,
        length=8,
    )  # fmt: skip
    assert Setup.from_json(json.loads(json.dumps(setup.as_json()))) == setup


def test_time_is_that_of_the_writing_alone(monkeypatch):
    """A fake clock: three prompts, each two ticks."""
    ticks = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    work = Work(prompts=((1,), (2,), (3,)), tokens=2)
    outcome = timed(work, lambda prompt, _: [*prompt, 0])
    assert outcome.seconds == 3.0 and outcome.ids == [[1, 0], [2, 0], [3, 0]]


@pytest.mark.parametrize("text", ["entropy > 1", "every(0)", "every(1, 2)", "at(x)", "every()"])
def test_triggers_that_no_peer_knows_are_refused(text):
    """A peer that never consults is fast."""
    with pytest.raises(ValueError, match=r"takes|peers know"):
        parse_rule(text)


# --- the command ---


def test_options_are_read():
    """What they stand for, and one line for what they do not."""
    assert guided_of("inf,1,at(3,17)") == Guided(math.inf, 1, "at(3,17)")
    assert part_of("base") == BASE_ALONE
    assert repeatable(["bench", "peers", "--out", "x", "--json", "--quick", "--out=y"]) == ["bench", "peers", "--quick"]
    for bad in ("8,8", "8,0,every(2)", "x,1,every(2)", "1,1,entropy > 2"):
        with pytest.raises(DodonaError, match="--guided takes C,K,TRIGGER"):
            guided_of(bad)
    with pytest.raises(DodonaError, match="--parts: there is no part 'bse'"):
        part_of("bse")
    with pytest.raises(DodonaError, match="there is no interpreter"):
        interpreters(["naive=/nowhere/python"], ["naive"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers", "nobody"], "there is no peer 'nobody'"),
        (["--base-model", "arith-base"], "--base-model and --oracle-model go together"),
        (["--dtypes", "fp16"], "--dtypes leaves nothing to measure"),
        (["--url-model", "x"], "--url-model needs a --url"),
        (["--peers", "url"], "the peer url needs a --url"),
        (["--parts", "all"], "--parts: there is no part 'all'"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the messages are those of a machine without a GPU")
def test_mistakes_are_one_line(arguments, message, capsys):
    """Before any process is started."""
    assert main(["bench", "peers", "--quick", "--device", "cpu", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1


@pytest.mark.slow
def test_peers_in_processes_of_their_own_write_the_same_tokens(pair, tmp_path, capsys):
    """The whole way: processes, servers, a line for each with its birth, and a baseline that passes its own check."""
    out = tmp_path / "out.jsonl"
    arguments = ["bench", "peers", "--base-model", pair[0], "--oracle-model", pair[1], "--dtypes", "fp32", "--threads"]
    arguments += ["1", "--prompt", "1 2 3", "--tokens", "12", "--repeats", "1", "--guided", "2,3,every(3)"]
    arguments += ["--ignore-eos", "--device", "cpu", "--peers", "naive,careful,generate", "--parts", "guided,base"]
    assert main([*arguments, "--out", str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["part"], line["peer"]) for line in lines] == [
        *(("guided", "naive"), ("guided", "careful"), ("base alone", "generate"))
    ]
    for line in lines:
        assert line["same_tokens"] and line["written"] == [12, 12] and not line["faults"] and line["birth"]["commit"]
        assert line["versions"]["ours"]["threads"] == line["versions"]["theirs"]["threads"] == 1
    capsys.readouterr()
    assert main(["bench", "check", str(out), str(out)]) == 0

"""Forks of recorded texts: the same tokens before the cut, the models as they were, a log that outlives kills."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from recorded_runs import BASE, GUIDED, record_runs

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.request import Request
from dodona.eval.arms import Arm
from dodona.eval.causal.forks import Fork, ForkLog, Forks, cut_at_stop
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.texts import Text
from dodona.eval.causal.views import recorded_views, views_of


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(max_batch=32) as engine:
        yield engine


@pytest.fixture(scope="module")
def folder(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_runs(tmp_path_factory.mktemp("forks") / "run", engine)


def no_engine() -> Engine:
    raise AssertionError("something was run that is known already")


def forked(origin: Origin, arm: Arm, engine: Engine, path: Path, wanted: Sequence[Fork]) -> list[tuple[int, ...]]:
    """The whole texts of some forks."""
    recorded = origin.arm(arm.name)
    with ForkLog(path, origin) as log:
        forks = Forks(origin, recorded, log, lambda: engine)
        list(forks.run(wanted))
        return [forks.texts[f.problem_id].ids[: f.position] + forks.known[f].ids for f in wanted]


def unforked(engine: Engine, text: Text, **options: object) -> tuple[int, ...]:
    """The same by one run from the prompt on, whose trigger consults at the cut."""
    return tuple(engine.generate(Request(prompt=text.problem.prompt, raw=text.problem.raw, **options)).ids)  # type: ignore[arg-type]


def test_a_fork_writes_what_a_run_from_the_prompt_on_would(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """A prompt that is tokenised again, a burst of another length, or a base that does not go on alone."""
    origin = Origin(folder)
    texts = origin.texts(origin.arm(BASE.name))
    draws = random.Random(1)
    wanted = [
        Fork(name, draws.choice([0, draws.randrange(len(text.ids)), len(text.ids) - 1]), k)
        for name, text in list(texts.items())[:5]
        for k in (0, 1, 5, math.inf)
    ]
    whole = forked(origin, BASE, engine, tmp_path / "log", wanted)
    for fork, ids in zip(wanted, whole, strict=True):
        text = texts[fork.problem_id]
        if fork.k == 0:
            assert ids == text.ids
        else:
            assert ids == unforked(engine, text, c=1, k=fork.k, trigger=f"at({fork.position})")


def test_a_fork_of_a_guided_text_keeps_its_earlier_bursts(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """The text before the cut is the run's, the oracle's tokens among it, and no later consult happens."""
    origin = Origin(folder)
    arm = origin.arm(GUIDED.name)
    several = [text for text in origin.texts(arm).values() if len(text.starts) >= 2]
    assert several
    for text in several[:4]:
        second = text.starts[1]
        without, with_it = forked(
            origin, GUIDED, engine, tmp_path / "log", [Fork(text.problem_id, second, k) for k in (0, GUIDED.k)]
        )
        first = f"at({text.starts[0]})"
        assert without == unforked(engine, text, c=1, k=GUIDED.k, trigger=first)
        both = f"at({text.starts[0]}, {second})"
        assert with_it == unforked(engine, text, c=2, k=GUIDED.k, trigger=both)


def test_forks_of_one_cut_share_the_pages_of_what_they_have_read(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """Each branch would read the prompt and the text again, which is most of a fork of a long text."""
    origin = Origin(folder)
    arm = origin.arm(BASE.name)
    with ForkLog(tmp_path / "log", origin) as log:
        forks = Forks(origin, arm, log, lambda: engine)
        name = next(iter(forks.texts))
        requests = [forks.request(Fork(name, 20, k), str(k), engine.tokenizer) for k in (1, 4, 0)]
    read = [result.ledger.prefill_tokens for result in engine.generate(requests)]
    assert sorted(read)[:2] == [1, 1] and max(read) == len(requests[0].prompt)


def test_what_is_written_beside_a_folder_lies_beside_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder given as "." has no name of its own, and one inside its records would be read as records."""
    monkeypatch.chdir(folder)
    assert Origin(".").beside("-x.jsonl") == folder.with_name("run-x.jsonl")
    assert Origin(folder).beside("-x.jsonl") == folder.with_name("run-x.jsonl")
    one = next(folder.glob("c=0*.jsonl"))
    assert Origin(one).beside("-x.jsonl") == one.with_name(f"{one.stem}-x.jsonl")


def test_a_takeover_can_only_matter_where_the_models_differ(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """The search tries diverging positions alone: at every other token, before and after it must give the same text."""
    origin = Origin(folder)
    arm = origin.arm(BASE.name)
    wrong = {name: text for name, text in origin.texts(arm).items() if not text.correct}
    views = views_of(origin, arm, dict(list(wrong.items())[:1]), lambda: engine)
    assert views
    for name, view in views.items():
        places = range(len(view.ids))
        wanted = [Fork(name, p, math.inf) for p in places]
        whole = forked(origin, BASE, engine, tmp_path / "log", wanted)
        differs = [p for p in places[:-1] if whole[p] != whole[p + 1]]
        assert set(differs) <= set(view.diverging.tolist())
        assert whole[-1] == view.ids or len(view.ids) - 1 in view.diverging


def test_the_trace_gives_the_views_that_writing_again_gives(engine: Engine, tmp_path: Path) -> None:
    """Columns shifted by one token, or of another run, would put every diverging position elsewhere."""
    folder = record_runs(tmp_path / "run", engine, [BASE], problems=6, trace=True, oracle_tail=True, divergence=True)
    origin = Origin(folder)
    arm = origin.arm(None, alone=True)
    texts = origin.texts(arm)
    traced = recorded_views(origin, arm, texts.values())
    assert list(traced) == list(texts)
    for trace in folder.glob("*.trace.*"):
        trace.unlink()
    assert recorded_views(origin, arm, texts.values()) == {}
    for name, view in views_of(origin, arm, texts, lambda: engine).items():
        assert view.ids == traced[name].ids == texts[name].ids
        assert view.columns.keys() == traced[name].columns.keys() >= {"js", "oracle_top1"}
        assert all((view.columns[column] == traced[name].columns[column]).all() for column in view.columns)


def test_what_the_log_holds_is_not_run_again(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """A killed command leaves a torn line; every fork before it must count, and that one be run again."""
    origin = Origin(folder)
    arm = origin.arm(BASE.name)
    wanted = [Fork(name, 3, k) for name in list(origin.texts(arm))[:3] for k in (1, math.inf)]
    path = tmp_path / "log"
    whole = forked(origin, BASE, engine, path, wanted)
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + len(wanted) and "header" in json.loads(lines[0])
    with ForkLog(path, origin) as log:
        assert list(Forks(origin, arm, log, no_engine).run(wanted)) == []
    for cut in (1, 4):
        path.write_bytes(b"".join(lines[:cut]) + lines[cut][: len(lines[cut]) // 2])
        assert forked(origin, BASE, engine, path, wanted) == whole
        assert sorted(path.read_bytes().splitlines(keepends=True)) == sorted(lines)


def test_a_log_of_another_experiment_is_refused(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """Forks of other texts under the same problem ids would be taken for these."""
    other = Origin(record_runs(tmp_path / "other", engine, [BASE], problems=2, max_new_tokens=64))
    ForkLog(tmp_path / "log", other).close()
    with pytest.raises(DodonaError, match="is of another experiment: --max-new-tokens is 64 there and 256 here"):
        ForkLog(tmp_path / "log", Origin(folder))
    records = next(folder.glob("*.jsonl"))
    before = records.read_bytes()
    with pytest.raises(DodonaError, match="is another kind of file: name another --forks"):
        ForkLog(records, Origin(folder))
    assert records.read_bytes() == before
    damaged = tmp_path / "damaged"
    ForkLog(damaged, other).close()
    damaged.write_bytes(damaged.read_bytes() + b'{"arm": "c=0 seed=0", "problem_id": "x", "k": 1}\n')
    with pytest.raises(DodonaError, match="damaged, line 2: it cannot be read"):
        ForkLog(damaged, other)


def test_a_stop_string_that_begins_before_the_cut_ends_the_text(engine: Engine, tmp_path: Path) -> None:
    """The engine looks for stop strings in what a request writes: half of one stands in the fork's prompt."""
    tokenizer = engine.tokenizer
    before, after = (tokenizer.encode(part, raw=True) for part in ("12 + 3", "0 = 42.\n"))
    after = [token for token in after if token != tokenizer.bos_id]
    assert tokenizer.decode(cut_at_stop(before, after, ("30 =",), tokenizer)) == "0 ="
    assert cut_at_stop(before, after, ("= 42",), tokenizer)[-1] != after[-1]
    assert cut_at_stop(before, after, ("99",), tokenizer) == after
    assert cut_at_stop(before, after, (), tokenizer) == after
    folder = record_runs(tmp_path / "run", engine, [BASE, GUIDED], problems=6, stop=("so ",))
    origin = Origin(folder)
    arm = origin.arm(BASE.name)
    texts = {name: text for name, text in origin.texts(arm).items() if len(text.ids) > 4}
    wanted = [Fork(name, len(text.ids) - back, 0) for name, text in texts.items() for back in (1, 2, 3)]
    for fork, ids in zip(wanted, forked(origin, BASE, engine, tmp_path / "log", wanted), strict=True):
        assert ids == texts[fork.problem_id].ids


def test_prompts_are_read_as_the_run_read_them(engine: Engine, tmp_path: Path) -> None:
    """Whether a prompt went through the chat template stands in the header's digest alone."""
    folder = record_runs(tmp_path / "run", engine, [BASE], problems=3)
    origin = Origin(folder)
    for text in origin.texts(origin.arm(None, alone=True)).values():
        assert len(origin.prompt_ids(text, engine.tokenizer)) == text.prompt_tokens
    file = next(folder.glob("*.jsonl"))
    content = file.read_text("utf-8")
    file.write_text(content.replace('"prompt_tokens": ', '"prompt_tokens": 1'), encoding="utf-8")
    changed = Origin(folder)
    text = next(iter(changed.texts(changed.arm(None, alone=True)).values()))
    with pytest.raises(DodonaError, match="another tokenizer or chat template"):
        changed.prompt_ids(text, engine.tokenizer)
    record = json.loads(content.splitlines()[1])
    file.write_text(content.replace(json.dumps(record["ground_truth"]), '"123456"'), encoding="utf-8")
    with pytest.raises(DodonaError, match="is not the header's"):
        changed = Origin(folder)
        changed.texts(changed.arm(None, alone=True))


def test_other_models_and_missing_arms_are_one_clear_line(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """Forks by another oracle would be an experiment that nobody asked for."""
    origin = Origin(folder)
    assert origin.models({}).load().identities == engine.identities
    with pytest.raises(DodonaError, match='--dtype is "float32" there and "bfloat16" here; go on with its own'):
        origin.check(origin.models({"dtype": "bfloat16"}).open())
    swapped = {"base_model": "arith-oracle", "oracle_model": "arith-base"}
    with pytest.raises(DodonaError, match="the models' weights are"):
        origin.check(origin.models(swapped).open())
    with pytest.raises(DodonaError, match=r"--arm: .* has no arm 'x' with records: there is 'c=0 seed=0', 'c=3 k=4"):
        origin.arm("x")
    assert origin.arm("c=3 k=4   entropy > 0.5 before seed=0").name == GUIDED.name
    guided = Origin(record_runs(tmp_path / "guided", engine, [GUIDED], problems=1))
    with pytest.raises(DodonaError, match="has no arm of the base alone: run dodona eval with --c 0 first"):
        guided.arm(None, alone=True)
    with pytest.raises(DodonaError, match="there is no file or folder"):
        Origin(tmp_path / "nothing")

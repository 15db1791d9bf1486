"""The scaling benchmark on tiny models: prompts that are read once, runs that keep in step, rows that add up."""

from __future__ import annotations

import math

import pytest
from bench_subjects import LOOPS, tiny_subject

from dodona.bench import scaling, scaling_sizes, tables
from dodona.bench.fit import fitted
from dodona.bench.prefixes import Prefixes
from dodona.bench.scaling import Measured, change, mixed, summary_row, timed, unasked_steps, watch
from dodona.bench.scaling_sizes import ALONE, GUIDED, LARGE, PREFIX, QUICK_LARGE, QUICK_SMALL, SMALL, Run, Sizes
from dodona.cli import main
from dodona.engine.errors import DodonaError
from dodona.engine.ledger import Ledger
from dodona.engine.request import Request

TINY = Sizes(
    tokens=16, short=8, prompt=4, prefixes=(4, 30), known=(4, 30), batches=(1, 2), budgets=(1, 2), bursts=(2,),
    share=0.25, turns=1, consults=((3, 3),), calibrated=12,
)  # fmt: skip
GUIDED_RUN = Run(PREFIX, GUIDED, 12, 2, math.inf, 3, 4, 16)


def engine_of(pair, loop):
    return scaling.with_room(tiny_subject(pair, loop), TINY).engine(max_batch=2, max_length=64)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_prompt_in_the_caches_changes_no_token_and_is_not_read_again(pair, loop):
    """Pages of another prompt, or one token too many of them, would be a benchmark of nonsense."""
    with engine_of(pair, loop) as engine:
        prefixes = Prefixes(engine, [30, 14])
        free = [lane.pool.free_pages for lane in engine.scheduler.lanes]
        _, result = timed(engine, prefixes, GUIDED_RUN)
        again = watch(engine, prefixes, GUIDED_RUN)
        want = engine.generate(
            Request(prompt=prefixes.prompts[0][:12], c=math.inf, k=3, trigger="every(4)", max_new_tokens=16,
                    ignore_eos=True)
        )  # fmt: skip
        assert [lane.pool.free_pages for lane in engine.scheduler.lanes] == free
        assert result.ids == want.ids and result.ledger.prefill_tokens == 1 and want.ledger.prefill_tokens == 12
        assert all(forward.contexts[0] >= 12 for forward in again.forwards)
        prefixes.close()
        assert all(lane.pool.free_pages == lane.pool.pages for lane in engine.scheduler.lanes)
        assert not engine.scheduler._alive and not any(lane.prompts for lane in engine.scheduler.lanes)


@pytest.mark.parametrize("loop", LOOPS)
def test_every_cell_has_a_prediction_and_every_sweep_a_line(pair, loop):
    """A sweep that is left out, or a cell without its prediction, is missed in a long table."""
    with engine_of(pair, loop) as engine:
        rows = list(scaling.rows(engine, TINY))
    cells = [row for row in rows if row["part"] == "cell"]
    assert [row["name"] for row in cells] == [
        *(["prefix, base alone", "prefix, guided"] * 2),
        *(["batch, base alone", "batch, guided"] * 2),
        *("c, guided", "c, guided", "c and tokens, guided", "k, guided"),
    ]
    for row in cells:
        assert row["predicted_ms"] > 0 and row["predicted_share"] == pytest.approx(
            row["predicted_ms"] / row["ms"]["p50"]
        )
        assert row["ms_per_token"] == pytest.approx(row["ms"]["p50"] / row["lengths"]["tokens"])
    shares = [row["oracle_share"] for row in cells if row["name"] == "c, guided"]
    assert shares == [0.25, 0.25], "c changes at one share of oracle tokens"
    assert [row["consults"] for row in cells if row["name"] == "c, guided"] == [1, 2]
    lines = {row["name"]: row for row in rows if row["part"] == "line"}
    assert set(lines) == {"prefix, base alone", "prefix, guided", "batch, base alone", "batch, guided", "c, guided"}
    prefix = lines["prefix, base alone"]
    assert prefix["range"] == [8.0, 34.0] and {"measured", "predicted"} <= prefix.keys()
    assert ("attention" in prefix) == (loop == "host"), "a captured program's attention cannot be told from the rest"
    (summary,) = [row for row in rows if row["part"] == "prediction"]
    errors = [abs(row["predicted_share"] - 1) for row in cells]
    assert summary["cells"] == len(cells) and summary["worst"] == pytest.approx(max(errors))
    reading = [row for row in rows if row["part"] == "reading"]
    assert {row["name"] for row in reading} == {"base", "oracle"}
    assert max(row["lengths"]["prompt"] for row in reading) == TINY.longest
    table = "\n".join(tables.table([{**row, "bench": "scaling", "subject": {}, "birth": None} for row in rows]))
    assert "| prefix, guided |" in table and "predicted / measured" in table


def test_attention_is_a_part_of_the_step(pair):
    """Clocked inside the same runs; afterwards the engine makes its batches as before."""
    with engine_of(pair, "host") as engine:
        before = dict(vars(engine.base.ops))
        step = scaling.step_of(engine, Prefixes(engine, [30]), 20, 6)
        assert step is not None and 0 < step.attention < step.whole
        assert vars(engine.base.ops) == before


def test_runs_that_calibrate_are_no_cells():
    """A prediction from the very runs that it is compared with is none."""
    for sizes in (SMALL, LARGE, QUICK_SMALL, QUICK_LARGE):
        sizes = sizes.within(8192 if sizes.prefixes[-1] > 500 else 512, guided=True)
        measured = scaling_sizes.cells(sizes, guided=True)
        known = scaling_sizes.calibration(sizes, guided=True)
        assert not {run._replace(sweep="") for run in measured if run.c} & set(known)
        assert {run.batch for run in measured} == {run.batch for run in known}
        assert {min(sizes.prefixes), max(sizes.prefixes)} <= {run.prompt for run in known}


def test_the_longest_prompt_leaves_room_to_write():
    """At the end of the context a text of 31 tokens would be compared with one of 32."""
    for context in (256, 512, 2048, 8192, 131072):
        sizes = (SMALL if context < 1000 else LARGE).within(context, guided=True)
        runs = scaling_sizes.cells(sizes, guided=True) + scaling_sizes.calibration(sizes, guided=True)
        assert max(run.prompt + run.tokens for run in runs) < context
    assert LARGE.within(131072, guided=True).prefixes == LARGE.prefixes


def test_what_changes_with_c_is_c_alone():
    """The oracle's share must stay, or the slope is the oracle's price."""
    for sizes in (SMALL, LARGE):
        found = [run for run in scaling_sizes.cells(sizes, guided=True) if run.sweep == "c"]
        assert {run.c * run.k / run.tokens for run in found} == {sizes.share}
        assert all((run.c + 1) * run.every + run.c * run.k <= run.tokens for run in found)


def test_the_order_of_runs_spreads_both_kinds():
    """All calibration first would be another minute of a busy machine than what it predicts."""
    order = mixed(4, 8)
    assert sorted(index for kind, index in order if kind) == list(range(4))
    assert sorted(index for kind, index in order if not kind) == list(range(8))
    assert all(1 <= sum(kind for kind, _ in order[at : at + 4]) <= 2 for at in range(0, 12, 4))


def test_steps_that_ask_no_trigger_are_counted(pair):
    """All of them without a budget, none while there is some, and those after the last burst."""
    with tiny_subject(pair, "host").engine(max_batch=1, max_length=64) as engine:

        def result(c, **options):
            return engine.generate(Request(prompt=[5], c=c, max_new_tokens=20, ignore_eos=True, **options))

        assert unasked_steps(result(0)) == 20
        assert unasked_steps(result(math.inf, k=2, trigger="every(4)")) == 0
        assert unasked_steps(result(1, k=4, trigger="at(3)")) == 20 - 7 - 1


def test_change_is_between_the_ends_of_the_range():
    """The share that a table calls "more" is of the near end's cost."""
    assert change(fitted([(1, 2.0), (3, 3.0)]), [1, 3]) == pytest.approx(0.5)


def test_the_summary_counts_the_worst_cell():
    """One bad cell must not hide behind a good median."""
    run = Run(PREFIX, ALONE, 4, 1, 0, 0, 0, 8)
    cells = [Measured(run, [10.0, 12.0, 11.0], Ledger(), 0), Measured(run, [20.0], Ledger(), 0)]
    row = summary_row(cells, [11.0, 30.0])
    assert row["worst"] == pytest.approx(0.5) and row["median"] == pytest.approx(0.25) and row["within_goal"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--c", "40", "--tokens", "96"], "--c 40 is too much for texts of 96 tokens"),
        (["--k", "90", "--tokens", "96"], "--k 90 is too much"),
        (["--temperature", "-1"], "--temperature must be 0 or more"),
        (["--oracle-model", "dummy:8B"], "--oracle-model needs a --base-model"),
    ],
)
def test_a_grid_that_cannot_be_is_one_line(arguments, message, capsys):
    """A consult of no tokens would be found after minutes, as a traceback."""
    assert main(["bench", "scaling", "--quick", "--device", "cpu", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1


def test_a_context_that_is_too_short_is_said(pair):
    """An empty grid makes no line."""
    with pytest.raises(DodonaError, match="a context of 40 tokens is too short"):
        SMALL.within(40, guided=True)

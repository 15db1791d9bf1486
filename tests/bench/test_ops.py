"""The operator benchmark without a GPU: what it checks, what it reports of wrong kernels, what the tuner keeps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from fragile_work import fragile_work
from torch import Tensor

from dodona.bench import ops, ops_report, timing, tune
from dodona.bench.apart import Lost, results
from dodona.bench.case import Goal, Spec, cloned
from dodona.bench.checks import between, close, equal
from dodona.cli import main
from dodona.kernels import launch, mlp
from dodona.kernels.launch import interpreting

CPU = torch.device("cpu")

pytestmark = [
    pytest.mark.skipif(not interpreting(), reason="these run the kernels in Triton's interpreter"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # of NumPy, from -inf - -inf in interpreted kernels
]


def quick_specs(op: str) -> list[Spec]:
    return list(ops.OPS[op].specs(ops.QUICK))


def bench(*arguments: str) -> int:
    return main(["bench", "ops", "--quick", *arguments])


def zeros_like(value: Any) -> Any:
    """The same nest with every number 0."""
    if isinstance(value, Tensor):
        return torch.zeros_like(value)
    if isinstance(value, tuple):
        items = [zeros_like(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """One quick run of everything: exit code, output, JSON and Markdown."""
    folder = tmp_path_factory.mktemp("ops")
    capture = pytest.MonkeyPatch()
    lines: list[str] = []
    with capture.context() as patch:
        patch.setattr("builtins.print", lambda *values, **_: lines.append(" ".join(map(str, values))))
        code = bench("--out", str(folder / "ops.json"), "--markdown", str(folder / "ops.md"))
    return {
        "code": code,
        "printed": "\n".join(lines),
        "report": json.loads((folder / "ops.json").read_text()),
        "page": (folder / "ops.md").read_text(),
        "files": sorted(path.name for path in folder.iterdir()),
    }


def test_every_kernel_passes_its_check_on_tiny_shapes(quick: Mapping[str, Any]) -> None:
    """A case that no longer fits its wrapper's signature would first be noticed on a rented GPU."""
    wrong = {
        f"{row['op']} {row['shape']}": row["check"]
        for row in quick["report"]["rows"]
        if row["check"]["status"] != "passed"
    }
    assert (wrong, quick["code"]) == ({}, 0)
    assert {row["op"] for row in quick["report"]["rows"]} == set(ops.OPS)


def test_peers_do_the_same_work(quick: Mapping[str, Any]) -> None:
    """A peer that computes something easier makes every comparison of speeds wrong."""
    compared = 0
    for row in quick["report"]["rows"]:
        for name, peer in row["peers"].items():
            assert "error" not in peer, (row["op"], name, peer)
            if "check" in peer:
                compared += 1
                assert peer["check"]["status"] == "passed", (row["op"], row["shape"], name, peer)
    assert compared >= len(quick["report"]["rows"]) - 4  # all but draws, whose noise is their own


def test_a_run_without_a_gpu_prints_no_times_and_says_why(quick: Mapping[str, Any]) -> None:
    """The interpreter's times look like times."""
    assert "there is no CUDA device" in quick["report"]["not_timed"]
    assert f"not timed: {quick['report']['not_timed']}" in quick["printed"]
    assert quick["report"]["not_timed"] in quick["page"]
    assert all(row["ours"] is None for row in quick["report"]["rows"])
    assert "GB/s" not in quick["printed"] + quick["page"]


def test_the_json_says_what_was_run_where_and_how(quick: Mapping[str, Any]) -> None:
    """A figure whose device, versions or bytes nobody wrote down cannot be compared with the next one."""
    report = quick["report"]
    assert report["schema"] == ops.SCHEMA
    assert {"date", "command", "commit", "sources", "cpu", "threads", "python", "torch", "triton"} <= report[
        "birth"
    ].keys()
    for row in report["rows"]:
        keys = {"op", "shape", "dtype", "goal", "check", "ours", "peers", "configs", "moved", "bytes", "from_memory"}
        assert keys <= row.keys()
        assert row["bytes"] == sum(row["moved"].values()) > 0
        assert row["check"]["outputs"] >= 1 and row["check"]["worst"]["error"] <= 1
    assert quick["files"] == ["ops.json", "ops.md"]


def test_the_tuner_knows_every_lookup_and_no_knob_that_is_gone(quick: Mapping[str, Any]) -> None:
    """With a knob that is gone every candidate is refused, and the default wins; a new one would never be tried."""
    found = {name.split()[0]: config for row in quick["report"]["rows"] for name, config in row["configs"].items()}
    assert set(found) == set(tune.KNOBS) == {config for op in ops.OPS.values() for config in op.configs}
    assert {op: set(config) for op, config in found.items()} == {op: set(knobs) for op, knobs in tune.KNOBS.items()}


@pytest.mark.parametrize("op", list(ops.OPS))
def test_no_check_accepts_zeros(op: str) -> None:
    """A tolerance so loose that a kernel which writes nothing passes."""
    case = quick_specs(op)[-1].build(CPU)
    inputs = cloned(case.inputs)
    with torch.inference_mode():
        want = case.expect(inputs)
        comparisons = list(case.compare(inputs, want, zeros_like(case.run(inputs))))
    assert not all(comparison.passed for comparison in comparisons)


def test_a_wrong_kernel_is_reported_and_the_others_still_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One wrong kernel that ends the run hides what the others do; an exit code of 0 hides it from a script."""
    monkeypatch.setattr(mlp, "silu_mul", lambda x: torch.zeros(x.shape[0], x.shape[1] // 2, dtype=x.dtype))
    assert bench("--ops", "silu_mul,rms_norm,rope_append") == 1
    printed = capsys.readouterr().out
    assert "failed: y," in printed
    assert "3 cases: 2 passed, 1 failed, 0 could not run" in printed


def test_a_part_that_cannot_run_is_reported_and_the_others_still_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Out of memory at one shape, or a module that does not import, after twenty minutes of other results."""

    def no_memory(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr("dodona.kernels.rope.rope_append", no_memory)
    monkeypatch.setitem(sys.modules, "dodona.kernels.mlp", None)
    assert bench("--ops", "silu_mul,rms_norm,rope_append", "--out", str(tmp_path / "out.json")) == 1
    printed = capsys.readouterr().out
    assert "OutOfMemoryError: tried to allocate 2 GiB" in printed
    assert "3 cases: 1 passed, 0 failed, 2 could not run" in printed
    rows = {row["op"]: row for row in json.loads((tmp_path / "out.json").read_text())["rows"]}
    assert "dodona.kernels.mlp" in rows["silu_mul"]["check"]["error"]


def test_it_needs_torch_triton_and_numpy_alone(root: Path) -> None:
    """On a rented machine nothing else is installed. Triton must be told to interpret before it is imported."""
    code = (
        "import sys\n"
        "absent = 'transformers tqdm pyarrow safetensors tokenizers datasets gguf accelerate scipy'\n"
        "sys.modules.update(dict.fromkeys(absent.split()))\n"  # None: importing it fails
        "from dodona.cli import main\n"
        "raise SystemExit(main(['bench', 'ops', '--quick', '--ops', 'silu_mul,sample']))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 cases: 3 passed" in done.stdout


def test_what_a_kernel_leaves_unwritten_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory often still holds the right answer of the run before."""
    monkeypatch.setattr(mlp, "silu_mul", lambda x: torch.empty(x.shape[0], x.shape[1] // 2, dtype=x.dtype))
    row = ops.measured_row(quick_specs("silu_mul")[0], ops.Options(quick=True, timed=False), CPU)
    assert row["check"] == {"status": "failed", "outputs": 1, "worst": {"output": "y", "error": None}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quick", "--ops", "liner"], "there is no kernel 'liner': choose among uncertainty,"),
        (["--quick", "--shapes", "8B"], "--quick has shapes of its own"),
        (["--tune", "--quick"], "--tune goes with"),
        (["--quick", "--out", "/dev/null/x"], "/dev/null/x cannot be written"),
        (["--quick", "--markdown", "/dev/null/x"], "/dev/null/x cannot be written"),
        ([], "--quick checks the kernels on tiny shapes in Triton's interpreter"),
        (["--tune"], "there is no CUDA device"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback for a mistyped kernel."""
    assert main(["bench", "ops", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_bench_has_commands_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """`dodona bench` must list them, and `dodona bench opps` name the closest."""
    assert main(["bench"]) == 2
    assert all(f"  {name} " in capsys.readouterr().out or name == "decode" for name in ("ops", "decode"))
    with pytest.raises(SystemExit):
        main(["bench", "opps"])
    assert "there is no command 'opps'; did you mean ops?" in capsys.readouterr().err


# --- the tuner ---


def fake_timer(case: Any, device: torch.device) -> Callable[[Mapping[str, int]], float]:
    """The larger the block the slower, and two warps are best."""
    return lambda config: config["BLOCK"] + 10 * abs(config["num_warps"] - 2)


def tuned_silu_mul(known: set[Any]) -> list[dict[str, Any]]:
    with torch.inference_mode():
        return list(tune.tuned(quick_specs("silu_mul")[0], CPU, known, fake_timer))


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A table of another device in place of the real one; `config_for` reads it as on a GPU called Fake."""
    path = tmp_path / "tuning.json"
    path.write_text(json.dumps({"Other": {"silu_mul": {"96": {"BLOCK": 64, "num_warps": 1}}}}))
    monkeypatch.setattr(launch, "TUNING_TABLE", path)
    launch._table.cache_clear()
    launch._table_entry.cache_clear()
    yield path
    launch._table.cache_clear()
    launch._table_entry.cache_clear()


def test_the_tuner_writes_what_config_for_then_returns(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under another name or with its keys in another order, an entry would never be found, and nobody would notice."""
    (entry,) = tuned_silu_mul(set())
    assert (entry["op"], entry["shape"], entry["config"]) == ("silu_mul", "96", {"BLOCK": 128, "num_warps": 2})
    assert (entry["default_us"], entry["us"], entry["rejected"]) == (1044, 128, [])
    assert tune.write_entries("Fake", [entry]) == 1
    monkeypatch.setattr(launch, "interpreting", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Fake")
    assert dict(launch.config_for("silu_mul", (96,), CPU, {"BLOCK": 1024, "num_warps": 4})) == entry["config"]
    written = json.loads(table.read_text())
    assert written["Other"] == {"silu_mul": {"96": {"BLOCK": 64, "num_warps": 1}}}
    assert list(written) == ["Fake", "Other"] and [path.name for path in table.parent.iterdir()] == ["tuning.json"]


def test_the_tuner_goes_on_where_it_stopped(table: Path) -> None:
    """Tuning takes longer than a machine is lent."""
    tune.write_entries("Fake", tuned_silu_mul(set()))
    assert tune.in_table("Fake") == {("silu_mul", "96")} and tune.in_table("Third") == set()
    assert tuned_silu_mul(tune.in_table("Fake")) == []


def test_the_tuner_never_takes_a_candidate_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest kernel is the one that does nothing."""
    right = mlp.silu_mul

    def wrong_when_small(x: Tensor) -> Tensor:
        block = mlp.config_for("silu_mul", (96,), CPU, {"BLOCK": 1024, "num_warps": 4})["BLOCK"]
        if block == 256:
            raise ValueError("no such block")
        return torch.zeros(x.shape[0], 96, dtype=x.dtype) if block < 256 else right(x)

    monkeypatch.setattr(mlp, "silu_mul", wrong_when_small)
    (entry,) = tuned_silu_mul(set())
    assert entry["config"] == {"BLOCK": 512, "num_warps": 2}
    reasons = {item["config"]["BLOCK"]: item["error"] for item in entry["rejected"]}
    assert reasons == {128: "wrong: y", 256: "ValueError: no such block"}


def test_a_gain_within_noise_keeps_the_default() -> None:
    """Every run would write another table."""
    with torch.inference_mode():
        (entry,) = tune.tuned(
            quick_specs("silu_mul")[0], CPU, set(), lambda case, device: lambda config: 100 - config["BLOCK"] / 4096
        )
    assert entry["config"] == entry["default"]


# --- processes that die ---


def test_a_process_that_dies_or_hangs_costs_one_result() -> None:
    """An illegal address in one kernel makes every later one fail in the same process."""
    names = ["a", "dies", "b", "raises", "c", "hangs", "d", "ends"]
    found = dict(results(fragile_work, ("done",), names, patience=1.5))
    assert list(found) == names
    assert [found[name] for name in "abcd"] == ["done a", "done b", "done c", "done d"]
    assert found["dies"] == Lost("the process died with exit code 3")
    assert found["raises"] == Lost("ValueError: of two lines")
    assert found["hangs"] == Lost("no result within 2 s")
    assert found["ends"] == Lost("the process died with exit code 0")


# --- figures, with a clock that we turn ---


class Clock:
    """A stand-in for CUDA events: a call takes 3 us, a replay of a graph 3 us a call in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, capture: bool = True) -> None:
        self.now = 0.0
        self.calls = 0
        clock = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = clock.now

            def elapsed_time(self, stop: Any) -> float:
                return (stop.at - self.at) / 1000

        class Graph:
            def __init__(self, count: int) -> None:
                self.count = count

            def replay(self) -> None:
                clock.now += 3 * self.count

        def captured(calls: list[Any], warm_up: list[Any], device: torch.device) -> Graph:
            if not capture:
                raise RuntimeError("operation not permitted when stream is capturing")
            return Graph(len(calls))

        class Properties:
            L2_cache_size = 1000

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000, 20_000))
        monkeypatch.setattr(timing, "_captured", captured)

    def call(self) -> None:
        self.calls += 1
        self.now += 3


@pytest.mark.parametrize(("capture", "method"), [(True, "graph"), (False, "events")])
def test_a_time_is_that_of_one_call(monkeypatch: pytest.MonkeyPatch, capture: bool, method: str) -> None:
    """Dividing by the rounds but not by the copies makes a kernel look nineteen times slower than it is."""
    clock = Clock(monkeypatch, capture=capture)
    found = timing.time_calls([clock.call] * 19, CPU)
    assert (found.p20, found.p50, found.p80) == pytest.approx((3, 3, 3))
    assert (found.method, found.copies) == (method, 19 if capture else 1)


@pytest.mark.parametrize(("size", "copies"), [(1, 128), (100, 30), (1000, 3), (2000, 2), (3000, 1), (100_000, 1)])
def test_copies_exceed_the_cache_and_fit_in_memory(monkeypatch: pytest.MonkeyPatch, size: int, copies: int) -> None:
    """Weights that stay in L2 between calls give twice the bandwidth that memory has."""
    Clock(monkeypatch)
    assert timing.copies_needed(size, CPU) == copies


def timed_row(kind: str, limit: float, us: float, product_us: float) -> dict[str, Any]:
    figures = {"us": {"p20": us, "p50": us, "p80": us}, "gb_s": 4000.0}
    row = ops.empty_row(Spec("lm_head", "1B", lambda device: None, Goal(kind, limit)))  # type: ignore[arg-type, return-value]
    peer = {"figures": {"us": {"p50": product_us}}}
    return row | {
        "check": {"status": "passed"},
        "ours": figures,
        "peers": {"product": peer},
        "moved": {"weight": 2_500_000_000},
        "from_memory": True,
    }


@pytest.mark.parametrize(
    ("kind", "limit", "met"),
    [("us", 6, True), ("us", 4, False), ("percent", 85, False), ("percent", 80, True), ("over_product_us", 2, True)],
)
def test_goals_are_reported_as_met_or_missed(kind: str, limit: float, met: bool) -> None:
    """A percentage that is compared as microseconds is always met."""
    row, ceilings = timed_row(kind, limit, us=5.0, product_us=3.5), {"read_gb_s": 5000.0, "copy_gb_s": 4500.0}
    reached = ops_report.reached(row, ceilings)
    assert reached is not None and reached[1] is met
    report = {"rows": [row], "ceilings": ceilings, "not_timed": None}
    assert f"goals: {int(met)} of 1 met" in ops_report.summary(report)
    line = ops_report.line(row, ceilings, timed=True)
    assert "5.00-5.00" in line and "4000" in line and " 80.0 " in line and " 3.50 " in line and "weight 2.5 GB" in line


def test_comparisons_know_nan_shapes_and_bounds() -> None:
    """max() of a NaN error is whatever comes first, and a broadcast shape compares as equal."""
    want = torch.ones(2, 3, dtype=torch.float64)
    assert close("y", want.float(), want).passed
    assert not close("y", torch.full((2, 3), torch.nan), want).passed
    assert not close("y", torch.ones(1, 3), want).passed
    assert not close("y", want.float() + 1e-5, want).passed
    assert close("y", want.float() + 1e-5, want, dtype=torch.bfloat16).passed
    ids = torch.tensor([1, 2])
    assert (
        equal("id", ids, ids).passed and not equal("id", ids, ids + 1).passed and not equal("id", ids, ids[:1]).passed
    )
    assert between("rank", ids, ids, ids).passed and not between("rank", ids, ids + 1, ids + 2).passed

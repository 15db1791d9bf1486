"""What a model wrote cannot run, hang, kill or exhaust anything, from whichever thread or process it is graded."""

from __future__ import annotations

import ast
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import dodona
from dodona.eval import grading
from dodona.eval.checker import pool, worker
from dodona.eval.grading import check, check_choice

ROOT = Path(dodona.__file__).resolve().parent.parent
HANGS = r"\prod_{k=1}^{10000000} k"  # sympy works it out


def injections(path: str) -> list[str]:
    """Texts that would make the file, if anything evaluated them in its folder."""
    letters = "+".join(f"chr({ord(c)})" for c in path)
    code = f"__import__('os').system('touch {path}')"
    call = f"open('{path}','w')"
    return [
        code,
        call,
        f"eval({code!r})",
        f"exec({call!r})",
        f"open({letters},chr(119))",
        rf"\text{{{code}}}",
        rf"\mathrm{{{call}}}",
        rf"\operatorname{{{call}}}",
        rf"\frac{{{code}}}{{1}}",
        rf"\sqrt{{{call}}}",
        rf"\log_{{{call}}} 2",
        rf"\begin{{pmatrix}} {call} \end{{pmatrix}}",
        rf"x_{{{code}}}",
        rf"{code}_2",
        rf"({call}, 1)",
        rf"\{{{call}\}}",
        rf"x = {code}",
        rf"{call} \text{{ cm}}",
        f"(lambda: {call})()",
        f"[{call} for x in [1]]",
        f"().__class__.__bases__[0].__subclasses__() or {call}",
        f"getattr(getattr(open, '__self__'), 'open')('{path}', 'w')",
        f"1 if {call} else 2",
        f"f'{{{call}}}'",
        f"${code}$",
        f"1+{call}",
        f"{call}!",
        rf"\int_0^{{{call}}} x dx",
        rf"\sum_{{k={call}}}^{{3}} k",
        rf"\text{{x}}; import os; os.system('touch {path}')",
        f"5\n{code}",
        f"5 #{code}\n",
        f"@{code}",
        f"{{{{{call}}}}}",
        rf"\input{{{path}}} \write18{{touch {path}}}",
        f"$(touch {path})",
        f"`touch {path}`",
        f"; touch {path} ;",
    ]


def test_nothing_that_a_model_wrote_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """parse_expr and sympify are eval: one of these strings in an answer would run as the user."""
    monkeypatch.chdir(tmp_path)
    checker = grading._Checker()  # with workers of its own, which run in this folder
    monkeypatch.setattr(grading, "_checker", lambda process: checker)
    for text in injections("m"):
        for dressed in (text, rf"\boxed{{{text}}}", f"The answer is {text}", f"#### {text}"):
            check(dressed, r"\int_0^1 x\,dx")
            check_choice(dressed, "A")
        check(rf"\boxed{{{text}}}", "5")
        check(r"\sum_{k=1}^{3} k", text)
    assert checker.pool._idle, "Math-Verify was never asked"
    checker.pool.close()
    assert os.listdir(tmp_path) == []


def test_the_worker_itself_evaluates_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker_process: Callable[[str], str]
) -> None:
    """The list of allowed characters is one wall; behind it Math-Verify must not evaluate text either."""
    monkeypatch.chdir(tmp_path)
    code = f"""
from dodona.eval.checker import worker
worker.warm_up()
for text in {injections("m")!r}:
    for gold, answer in ((text, "5"), (r"\\int_0^1 x dx", text)):
        try:
            worker.equal(gold, answer)
        except BaseException:
            pass
import sympy
for function in (sympy.sympify, sympy.parse_expr, sympy.S):
    try:
        function("open('m', 'w')")
        raise SystemExit("evaluated")
    except (ValueError, sympy.SympifyError):
        pass
print("done")
"""
    assert worker_process(code).endswith("done")
    assert os.listdir(tmp_path) == []


def test_the_checker_calls_nothing_that_evaluates_text() -> None:
    """A later change that reaches for eval, exec, compile, sympify or parse_expr is seen here."""
    forbidden = {"eval", "exec", "compile", "sympify", "parse_expr", "parse_latex", "lambdify", "S", "literal_eval"}
    for file in (*sorted((ROOT / "eval" / "checker").glob("*.py")), ROOT / "eval" / "grading.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                of_re = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") == "re"
                assert called not in forbidden or (called == "compile" and of_re), f"{file.name}:{node.lineno}"
            if isinstance(node, ast.Import | ast.ImportFrom) and file.name != "worker.py":
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not any(name.split(".")[0] == "sympy" for name in names), f"{file.name}:{node.lineno}"


@pytest.mark.parametrize(
    "text",
    [
        "1" * 10**6,
        rf"\boxed{{{'1' * 10**5}}}",
        "{" * 10**6,
        r"\boxed{" * 10**5,
        r"\boxed{" * 10**5 + "1" + "}" * 10**5,
        rf"\boxed{{{'(' * 5000}1{')' * 5000}}}",
        rf"\boxed{{{'{' * 150}1{'}' * 150}}}",
        r"\boxed{" + r"\frac{1}{" * 90 + "1" + "}" * 90 + "}",
        r"\boxed{" + r"\sqrt" * 190 + "2}",
        r"\boxed{" + "2^" * 190 + "2}",
        r"\boxed{" + "-" * 390 + "5}",
        r"\boxed{5" + "!" * 300 + "}",
        r"\boxed{" + "|" * 300 + "}",
        r"\boxed{9^{9^{9^{9^{9}}}}}",
        r"\boxed{((9!)!)!}",
        r"\boxed{\exp(\exp(\exp(\exp(10))))}",
        r"\boxed{1.0000001^{999999999}}",
        r"\boxed{1e999999999}",
        r"\boxed{\tan(10^{100000})}",
        r"\boxed{\sin(10^{5000})}",
        r"\boxed{\binom{999999}{500000}}",
        r"\boxed{" + "1," * 199 + "1}",
        r"\boxed{" + ",".join(rf"\sin(x+{i})" for i in range(40)) + "}",
        r"\boxed{" + "+".join(rf"\frac{{1}}{{7^{{70{i:02}}}}}" for i in range(60)) + "}",
        "the answer is " * (10**6 // 14),
        "answer: " * (10**6 // 8),
        "####" * (10**6 // 4),
        "$" * 10**6,
        "$1$ " * (10**6 // 4),
        "\\" * 10**6,
        r"\left(" * (10**6 // 6),
        "A " * (10**6 // 2),
        "The answer is A or " * (10**6 // 19),
        "word " * (10**6 // 5),
        " " * 10**6,
        "\0" * 1000,
        "\\boxed{5\0}",
        "\ud800" * 1000,
        "\\boxed{5\ud800}",
        "\\boxed{\U0001f600}",
        "<|" * (10**6 // 2),
        "</think>" * (10**6 // 8),
        "1,000" * (10**6 // 5),
    ],
    ids=lambda text: f"{len(text)} {text[:25]!r}",
)
def test_absurd_texts_are_wrong_answers_and_no_more(text: str) -> None:
    """Recursion limits, quadratic patterns, digits beyond int's limit, NUL bytes and half surrogates."""
    for gold in ("5", "x^2+1"):
        verdict = check(text, gold)
        assert not verdict.correct or text.count("-") > 300 or "{" * 100 in text
    assert check_choice(text, "A").correct in (True, False)
    if text.strip() and len(text) < 10**5:
        assert check(text, text).correct


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (r"10^{6000}+0.3!+\sqrt{2}!", r"10^{6000}+0.3!+\sqrt{3}!"),
        (r"10^{2000}+0.3!+0.7!+0.9!", r"10^{2000}+0.3!+0.7!+0.91!"),
        (r"10^{6000}x+x!", r"x!+10^{6000}x+1"),
        (",".join(rf"\sqrt{{{n}}}" for n in range(59)), ",".join(rf"\sqrt{{{n}}}" for n in range(60, 1, -1))),
        (",".join(f"x^{n}+1" for n in range(55)), ",".join(f"x^{n}+2" for n in range(55, 0, -1))),
        (r"9^{9^{9^{9}}}+1", r"9^{9^{9^{9}}}"),
        (r"\cup".join(f"({n},{n}.5)" for n in range(20)), r"\cup".join(f"({n},{n}.6)" for n in range(20))),
    ],
    ids=lambda text: text[:20],
)
def test_our_own_arithmetic_has_limits_too(answer: str, gold: str) -> None:
    """A thousand digits of a factorial take minutes, and no clock is looked at inside of one."""
    assert not check(answer, gold).correct
    assert check(answer, answer).correct


def test_a_hang_costs_its_limit_and_the_next_answer_is_graded() -> None:
    """Sympy works such products out for minutes; a signal would end it in the main thread only."""
    started = time.monotonic()
    verdict = check(rf"\boxed{{{HANGS}}}", "5")
    assert (verdict.correct, verdict.method) == (False, "math-verify")
    assert verdict.reason.startswith("no result in")
    assert time.monotonic() - started < 120  # not for ever; how long exactly depends on the machine
    assert check(r"\int_0^1 x\,dx", r"\frac12").correct


def test_an_answer_with_several_readings_has_one_limit_for_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two boxes may be one answer or two: each reading that hangs would cost the whole limit again."""
    asked = []

    def hang(self: pool.Pool, gold: str, answer: str, seconds: float) -> grading.Judgement:
        asked.append((answer, seconds))
        return grading.Judgement(False, pool.METHOD, f"{pool.NO_RESULT} in {seconds:.1f} s")

    monkeypatch.setattr(pool.Pool, "equal", hang)
    text = rf"Either $\boxed{{{HANGS}}}$ or $\boxed{{2 {HANGS}}}$"
    assert len(grading.final_answers(text)) == 2
    assert not check(text, "5").correct
    assert len(asked) == 1 and asked[0][1] <= grading.SECONDS


def test_several_threads_may_ask_at_once() -> None:
    """Replies must not be mixed up, and mpmath's precision is shared by threads unless each has its own."""
    questions = [(rf"\sum_{{k=1}}^{{{n}}} k", str(n * (n + 1) // 2 + wrong)) for n in range(3, 9) for wrong in (0, 1)]
    questions += [
        (rf"\sqrt{{{n}}}", rf"\frac{{{n + wrong}}}{{\sqrt{{{n}}}}}") for n in range(2, 30) for wrong in (0, 1)
    ]
    wanted = [index % 2 == 0 for index in range(len(questions))]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(2):
            assert [v.correct for v in threads.map(lambda pair: check(*pair), questions)] == wanted


def test_a_worker_that_dies_is_replaced() -> None:
    """The system may kill a process for its memory at any moment."""
    mine = pool.Pool()
    assert mine.equal(r"\frac12", r"\int_0^1 x dx", 60).equal
    for waiting in mine._idle:
        waiting._process.kill()
        waiting._process.wait()
    assert mine.equal(r"\frac12", r"\int_0^1 x dx", 60).equal

    mine._idle[0].wait_until_ready()
    threading.Timer(0.3, mine._idle[0]._process.kill).start()  # while it works
    assert mine.equal("5", HANGS, 60) == (False, "math-verify", "Math-Verify's process died")
    assert mine.equal(r"\frac12", r"\int_0^1 x dx", 60).equal
    mine.close()


def test_without_math_verify_the_rest_works_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is one step of four; an import error, or a line for each answer, helps nobody."""
    monkeypatch.setattr(pool, "find_spec", lambda name: None)
    checker = grading._Checker()
    monkeypatch.setattr(grading, "_checker", lambda process: checker)
    with caplog.at_level(logging.WARNING):
        assert check("0.5", r"\frac12").correct
        for _ in range(3):
            verdict = check(r"\int_0^1 x\,dx", r"\frac12")
            assert (verdict.correct, verdict.reason) == (False, "not asked: Math-Verify is not there")
    assert [record.message.split(";")[0] for record in caplog.records] == ["math-verify is not installed"]


def test_a_worker_that_never_starts_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each start may take long; five thousand of them would take days."""
    monkeypatch.setattr(pool, "_START", "raise SystemExit(1)")
    mine = pool.Pool()
    reasons = [mine.equal("1", r"\int_0^1 x dx", 5).reason for _ in range(5)]
    assert reasons[:3] == ["Math-Verify did not start"] * 3
    assert reasons[3:] == ["not asked: Math-Verify is not there"] * 2
    assert len(caplog.records) == 1
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert "cannot be started" in pool.Pool().equal("1", r"\int_0^1 x dx", 5).reason


PROGRAM = r"""
from dodona.eval.grading import check
assert check(r"\int_0^1 x\,dx", r"\frac12").correct
print("graded")
"""


def run(*arguments: str, text: str | None = None) -> str:
    """The output of a Python process, which must end well and say nothing on standard error."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, env=environment, input=text
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()


@pytest.fixture
def worker_process() -> Callable[[str], str]:
    """Runs code where a worker would run it."""
    return lambda code: run("-c", code)


def test_it_works_from_a_command_a_script_and_standard_input(tmp_path: Path) -> None:
    """multiprocessing would run a script without a main guard again, and cannot find the one of `python -c`."""
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    assert run("-c", PROGRAM) == "graded"
    assert run(str(script)) == "graded"
    assert run("-", text=PROGRAM) == "graded"


def test_modules_in_the_working_folder_are_not_the_workers(tmp_path: Path) -> None:
    """A folder with a json.py in it, which `python script` elsewhere does not import, must not be imported either."""
    script = tmp_path / "scripts" / "script.py"
    script.parent.mkdir()
    script.write_text(PROGRAM)
    work = tmp_path / "work"
    work.mkdir()
    for name in ("json", "sympy", "signal"):
        (work / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, env=environment, cwd=work
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "graded\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_it_works_on_both_sides_of_a_fork() -> None:
    """A child that writes into its parent's pipes mixes up both; one that ends must not end its parent's worker."""
    program = (
        PROGRAM
        + r"""
import os, sys
child = os.fork()
for n in range(2, 6):
    assert check(rf"\sum_{{k=1}}^{{{n}}} k", str(n * (n + 1) // 2)).correct, n
    assert not check(rf"\sum_{{k=1}}^{{{n}}} k", str(n)).correct, n
if child == 0:
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert check(r"\int_0^1 x\,dx", r"\frac12").correct
print("both")
"""
    )
    assert run("-W", "ignore::DeprecationWarning", "-c", program) == "graded\nboth"


def test_no_worker_outlives_its_parent() -> None:
    """Neither where the parent ends by itself, nor where it is killed and cannot tidy up."""
    program = (
        PROGRAM
        + r"""
import os, sys
from dodona.eval import grading
print(grading._checker(os.getpid()).pool._idle[0]._process.pid, flush=True)
if len(sys.argv) > 1:
    os.kill(os.getpid(), 9)
"""
    )
    for arguments, code in (([], 0), (["kill"], -9)):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert (done.returncode, done.stderr) == (code, "")
        pid = int(done.stdout.split()[-1])
        deadline = time.monotonic() + 60
        while _runs(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * 500, "longer"),
        ("x'", "character"),
        ("x@y", "character"),
        ("é", "character"),
        (r"\input{x}", "list"),
        (r"\begin{verbatim}x\end{verbatim}", "environment"),
        (r"\text{x(1)}", "word"),
        ("1" * 50, "long"),
        ("1_2", "base"),
        ("(" * 20 + ")" * 20, "deep"),
    ],
)
def test_math_verify_is_given_plain_answers_only(text: str, reason: str) -> None:
    """Its parser is large; what no answer needs does not get there."""
    found = pool.refusal(text)
    assert found is not None and reason in found


@pytest.mark.parametrize("text", [r"\frac{1}{2}", r"x \in (1,2]", r"\begin{pmatrix}1\\2\end{pmatrix}", r"\text{ and }"])
def test_plain_answers_are_not_refused(text: str) -> None:
    """A list that is too short makes the last step useless."""
    assert pool.refusal(text) is None


def test_numbers_are_made_of_digits_and_nothing_else() -> None:
    """The function that takes sympify's place in Math-Verify's converter."""
    assert [str(worker.rational(text)) for text in ("5", "0.25", ".5", "3/2", "1,000", "-7")] == [
        *("5", "1/4", "1/2", "3/2", "1000", "-7"),
    ]
    for text in ("x", "", "1e5", "__import__('os')", "5.5.5", "1/0x", "٣"):
        with pytest.raises(ValueError, match="not evaluated"):
            worker.rational(text)

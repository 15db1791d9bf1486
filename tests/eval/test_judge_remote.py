"""A judge behind a URL: whatever a server does is a verdict or one counted error, and the key is never written down."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import Reply, Seen, serving
from judged_pairs import figures_of, judge_all, make_pairs, write_csv

from dodona.cli import main
from dodona.engine.errors import DodonaError
from dodona.eval.judge.prompt import load_prompt
from dodona.eval.judge.remote import RemoteJudge, endpoint, key_from

KEY = "sk-secret-0123456789"


def judge_at(url: str, **options: Any) -> RemoteJudge:
    prompt = load_prompt("helpfulness", None, reference=False)
    return RemoteJudge(endpoint(url), "m", prompt, **{"wait": 0.0, "timeout": 20.0, **options})


def one(reply: Callable[[Seen, int], Reply], folder: Path, **options: Any) -> tuple[Any, list[Seen]]:
    """The judgement of one pair (two requests at least, one worker) and the requests."""
    with serving(reply) as server:
        (found,) = judge_all(judge_at(server.url, workers=1, **options), make_pairs(1), folder)
    return found, server.seen


def test_verdicts_of_a_server_are_put_together_from_both_orders(tmp_path: Path) -> None:
    """Answers in the wrong place of the prompt, or verdicts of one pair given to another."""
    pairs = make_pairs(25)

    def longer(seen: Seen, number: int) -> Reply:
        time.sleep(0.002 * (number % 5))  # answers overtake each other
        first, second = (seen.prompt.split(f"[Answer {label}]\n")[1].split("\n\n")[0] for label in "AB")
        verdict = "A" if len(first) > len(second) else "B" if len(first) < len(second) else "C"
        return Reply(f"Let me see.\n\nVerdict: {verdict}")

    with serving(longer) as server:
        found = judge_all(judge_at(server.url + "/v1", workers=6), pairs, tmp_path)
    assert len(server.seen) == 50
    for judged in found:
        a, b = judged.pair.lengths or (0, 0)
        assert judged.judgement.winner == ("a" if a > b else "b" if a < b else "tie")
        assert judged.judgement.consistent
    request = server.seen[0]
    assert request.path == "/v1/chat/completions" and "Authorization" not in request.headers
    assert request.body["model"] == "m" and request.body["temperature"] == 0 and request.body["logprobs"] is True


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Reply(status=429, body=b'{"error": {"message": "slow down"}}'), "429 Too Many Requests: slow down"),
        (Reply(status=500, body=b"<html>oops</html>"), "500 Internal Server Error: <html>oops</html>"),
        (Reply(status=503, body=b""), "503"),
        (Reply(body=b"not json {"), "not JSON"),
        (Reply(body=b""), "not JSON"),
        (Reply(body=b"\xff\xfe\x00"), "not JSON"),
        (Reply(body=b"[" * 100000), "not JSON"),
        (Reply(body=b"null"), "no chat completion"),
        (Reply(body=b"[]"), "no chat completion"),
        (Reply(body=b'{"error": {"message": "overloaded"}}'), 'no chat completion: {"message": "overloaded"}'),
        (Reply(body=b'{"choices": []}'), "no chat completion"),
        (Reply(body=b'{"choices": [{"message": {"content": null}}]}'), "no chat completion"),
        (Reply(body=b'{"choices": {"0": 1}}'), "no chat completion"),
        (Reply("I cannot say."), "no verdict could be read"),
        (Reply(""), "no verdict could be read"),
        (Reply(cut=True), "connection broke"),
        (Reply(drop=True), "connection"),
    ],
)
def test_one_retry_and_then_an_error_that_says_why(tmp_path: Path, bad: Reply, said: str) -> None:
    """A crash on what a server says, endless retries, and a verdict made up from nothing."""
    found, seen = one(lambda request, number: bad, tmp_path / "bad")
    assert found.judgement.winner is None and said in found.judgement.error, found.judgement.error
    assert len(seen) == 4 and [verdict.attempts for verdict in found.verdicts] == [2, 2]
    found, seen = one(lambda request, number: bad if number % 2 == 0 else Reply("Verdict: A"), tmp_path / "then")
    assert found.judgement.winner == "tie" and len(seen) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 302])
def test_what_a_second_try_cannot_mend_is_not_tried_again(tmp_path: Path, status: int) -> None:
    """A refused key that is sent twice for every pair, and a redirect that takes the key elsewhere."""
    with serving(lambda request, number: Reply()) as elsewhere:
        headers = {"Location": elsewhere.url} if status == 302 else {}
        reply = Reply(status=status, body=b'{"error": "no"}', headers=headers)
        found, seen = one(lambda request, number: reply, tmp_path, key=KEY)
        assert not elsewhere.seen
    assert found.judgement.winner is None and str(status) in found.judgement.error and len(seen) == 2


@pytest.mark.parametrize("slow", [Reply(hang=True), Reply(body=b"{", drip=True)])
def test_a_server_that_does_not_answer_in_time_is_an_error(tmp_path: Path, slow: Reply) -> None:
    """A run that hangs, also where bytes keep dripping in so that no single read times out."""
    found, seen = one(lambda request, number: slow, tmp_path, timeout=0.3)
    assert found.judgement.winner is None and "within 0.3 s" in found.judgement.error and len(seen) == 4


def test_nobody_at_the_address_is_an_error_of_every_pair(tmp_path: Path) -> None:
    """A traceback where no connection can be made."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = figures_of(judge_at(f"http://127.0.0.1:{port}"), make_pairs(3), tmp_path)
    assert (found.n, found.errors) == (3, 3)


def test_the_server_says_how_long_to_wait_within_reason(tmp_path: Path) -> None:
    """Retry-After that is passed over, or that stops a run for a day."""
    for header, wanted in (("7", 7.0), ("100000", 60.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 2.0), ("-5", 2.0)):
        waits: list[float] = []
        reply = Reply(status=429, body=b"", headers={"Retry-After": header})
        one(lambda request, number, reply=reply: reply, tmp_path / header[:3], sleep=waits.append, wait=2.0)
        assert waits == [wanted, wanted]


def test_probabilities_are_read_at_the_verdict_where_the_server_gives_them(tmp_path: Path) -> None:
    """The probabilities of another token, and a crash on odd ones."""
    top = [{"token": " A", "logprob": math.log(0.7)}, {"token": "B", "logprob": math.log(0.2)}]
    top += [{"token": "A", "logprob": math.log(0.05)}]
    tokens = [
        {"token": "A", "logprob": -9.0, "top_logprobs": []},
        {"token": ":", "logprob": 0.0, "top_logprobs": []},
        {"token": " A", "logprob": math.log(0.7), "top_logprobs": top},
        {"token": ".", "logprob": -0.1, "top_logprobs": []},
    ]
    found, _ = one(lambda request, number: Reply("A? Verdict: A.", logprobs={"content": tokens}), tmp_path / "good")
    probabilities = found.verdicts[0].probabilities
    assert probabilities == pytest.approx({"first": 0.75, "second": 0.2, "tie": 0.0}, rel=1e-5)
    assert found.judgement.preference == pytest.approx(0.5)
    for place, odd in enumerate(
        (
            {"content": None},
            {"content": [{"token": 5}]},
            {"content": [{"token": "A", "logprob": "x", "top_logprobs": []}]},
            {"content": [{"token": "A", "logprob": 3.0, "top_logprobs": []}]},
            [],
            "x",
        )
    ):
        found, _ = one(lambda request, number, odd=odd: Reply(logprobs=odd), tmp_path / str(place))
        assert found.judgement.winner == "tie" and found.judgement.preference is None


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1/chat/completions"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1/chat/completions"),
        ("https://a.b/v1", "https://a.b/v1/chat/completions"),
        ("https://a.b/x/v1/", "https://a.b/x/v1/chat/completions"),
        ("HTTPS://a.b/v1/chat/completions", "https://a.b/v1/chat/completions"),
    ],
)
def test_addresses_are_completed(url: str, address: str) -> None:
    """A path that is doubled or left out."""
    assert endpoint(url) == address


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://", "no address"),
        ("http://a:b:c/", "no address"),
        ("http://a:99999/", "no address"),
        ("http://a b/", "no address"),
        ("http://user:pw@a/v1", "--judge-key-env"),
        ("http://a/v1?key=secret", "--judge-key-env"),
    ],
)
def test_addresses_that_cannot_be_used_or_hold_a_secret_are_refused(url: str, fault: str) -> None:
    """A password in every record's header."""
    with pytest.raises(DodonaError, match=fault):
        endpoint(url)


def test_a_key_comes_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without a key that was meant to have one, and a header that cannot be sent."""
    monkeypatch.setenv("JUDGE_KEY", f" {KEY}\n")
    assert key_from("JUDGE_KEY") == KEY and key_from(None) is None
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(DodonaError, match="no such environment variable"):
        key_from("JUDGE_KEY")
    for bad in ("a\nb", "ключ", "  "):
        monkeypatch.setenv("JUDGE_KEY", bad)
        with pytest.raises(DodonaError, match="--judge-key-env") as caught:
            key_from("JUDGE_KEY")
        assert bad.strip() == "" or bad not in str(caught.value)


def test_the_key_is_sent_and_stands_in_no_file_and_in_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that repeats the key in its error, which then lands in records, log, page and on the terminal."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    rows = [{"question": f"q{n}", "answer_a": f"x{n}", "answer_b": f"yy{n}"} for n in range(4)]
    file = write_csv(tmp_path / "pairs.csv", rows)

    def repeating(request: Seen, number: int) -> Reply:
        sent = request.headers["Authorization"].removeprefix("Bearer ")
        if "q0" in request.prompt:
            return Reply(status=401, body=json.dumps({"error": {"message": f"Incorrect key {sent}"}}).encode())
        return Reply(f"Your key is {sent}.\nVerdict: A")

    with serving(repeating) as server:
        command = ["judge", str(file), "--judge", server.url, "--judge-model", "m", "--judge-key-env", "JUDGE_KEY"]
        assert main([*command, "--output-dir", str(tmp_path / "out")]) == 0
    assert all(request.headers["Authorization"] == f"Bearer {KEY}" for request in server.seen)
    captured = capsys.readouterr()
    assert KEY not in captured.out + captured.err and "1 of 4 pairs are errors" in captured.out
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"verdicts.jsonl", "judgements.jsonl", "log.txt", "pairs.html"}
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_errors_stay_until_they_are_asked_for_again(tmp_path: Path) -> None:
    """A server's bad day that is paid for in every later run, or that is never mended."""
    pairs = make_pairs(6)
    with serving(lambda request, number: Reply(status=500)) as server:
        assert figures_of(judge_at(server.url), pairs, tmp_path).errors == 6
        before = len(server.seen)
        assert figures_of(judge_at(server.url), pairs, tmp_path).errors == 6
        assert len(server.seen) == before
    answers = iter([500, 500, 500, 500] + [200] * 4)
    with serving(lambda request, number: Reply(status=next(answers))) as server:
        judge = judge_at(server.url, workers=1)
        assert figures_of(judge, pairs[:1], tmp_path / "mended").errors == 1
        assert figures_of(judge, pairs[:1], tmp_path / "mended", retry_errors=True).errors == 0
        assert figures_of(judge, pairs[:1], tmp_path / "mended").errors == 0
        assert len(server.seen) == 6

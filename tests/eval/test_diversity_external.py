"""Samples that somebody else drew: read from JSON lines, they give the figures that are known of them."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dodona.cli import main
from dodona.engine.errors import DodonaError
from dodona.eval.diversity.external import pools_of, read_lines
from dodona.eval.diversity.settings import Options


def write(path: Path, *records: dict) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def make(problems: int, n: int, seed: int = 0) -> list[dict]:
    """Records whose predictions are written in several ways, with ties and missing answers."""
    random = np.random.default_rng(seed)
    spelt = {"1/2": ["0.5", r"\frac{1}{2}", "1/2"], "7": ["7", "7.0"], "12": ["12"], "x": ["x"]}
    records = []
    for number in range(problems):
        golds = random.choice(["1/2", "7", "12"])
        answers = random.choice(["1/2", "7", "12", "x", ""], size=n)
        predictions = [None if not a else str(random.choice(spelt[a])) for a in answers]
        records.append(
            {
                "question": f"question {number}",
                "answer": str(golds),
                "samples": [f"It is \\boxed{{{p}}}." if p else "" for p in predictions],
                "predictions": predictions,
                "scores": np.round(random.random(n), 1).tolist(),
                "truth": [bool(a == golds) for a in answers],
                "groups": [str(a) for a in answers],
            }
        )
    return records


def figures(records: list[dict], k: int) -> dict[str, float]:
    """pass@k, maj@k and best@k by enumeration, from what the records were made of."""
    sums = Counter[str]()
    for record in records:
        n = len(record["truth"])
        found = Counter[str]()
        listed = list(itertools.combinations(range(n), k))
        for subset in listed:
            found["pass"] += any(record["truth"][i] for i in subset)
            votes = Counter(record["groups"][i] for i in subset if record["groups"][i])
            winners = [name for name, count in votes.items() if count == max(votes.values())]
            found["maj"] += sum(name == record["answer"] for name in winners) / max(len(winners), 1)
            top = max(record["scores"][i] for i in subset)
            chosen = [record["truth"][i] for i in subset if record["scores"][i] == top]
            found["best"] += sum(chosen) / len(chosen)
        sums.update({name: value / len(listed) for name, value in found.items()})
    return {name: value / len(records) for name, value in sums.items()}


def test_known_figures_come_out_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command itself on a file: coverage, majority and best-of-N of every size, as enumeration gives them."""
    records = make(12, 7)
    path = write(tmp_path / "samples.jsonl", *records)
    assert main(["diversity", "--from", str(path), "--sizes", "1,2,5,7", "--json", "--resamples", "50"]) == 0
    printed = json.loads(capsys.readouterr().out)
    found = {(row["samples"], row["rule"]): row["accuracy"] for row in printed["sizes"]}
    for k in (1, 2, 5, 7):
        wanted = figures(records, k)
        assert found[k, "coverage"] == pytest.approx(wanted["pass"], abs=1e-12)
        assert found[k, "majority"] == pytest.approx(wanted["maj"], abs=1e-12)
        assert found[k, "best by score"] == pytest.approx(wanted["best"], abs=1e-12)


def test_the_table_is_for_people_too_and_a_folder_gets_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a report that needs texts, likelihoods or temperatures which such a file does not have."""
    path = write(tmp_path / "samples.jsonl", *make(4, 4))
    folder = tmp_path / "out"
    assert main(["diversity", "--from", str(path), "--output-dir", str(folder), "--no-plots"]) == 0
    shown = capsys.readouterr().out
    assert "Percent correct by sample size" in shown and "vote by score" in shown
    assert (folder / "report.html").exists() and (folder / "tables" / "sizes.csv").exists()


def test_answers_are_taken_out_of_samples_where_there_are_no_predictions(tmp_path: Path) -> None:
    """Catches a file of texts that is graded as if the texts were answers."""
    records = make(6, 5, seed=3)
    path = write(tmp_path / "texts.jsonl", *({k: v for k, v in r.items() if k != "predictions"} for r in records))
    for line, record in zip(read_lines(path), records, strict=True):
        assert line.correct.tolist() == [float(right) for right in record["truth"]]
        assert [answer is None for answer in line.predictions] == [p is None for p in record["predictions"]]


def test_an_empty_prediction_has_no_vote_and_numbers_are_answers(tmp_path: Path) -> None:
    """Catches null and empty predictions that form a group, and numbers that are no texts."""
    path = write(tmp_path / "a.jsonl", {"answer": 7, "predictions": [None, "", " ", 7, 7.0, "8"]})
    (pool,) = pools_of(read_lines(path))
    assert pool.correct.tolist() == [0, 0, 0, 1, 1, 0]
    assert pool.classes.tolist() == [-1, -1, -1, 0, 0, 1]
    assert pool.expected([6], Options())["majority"].tolist() == [1.0]
    assert pool.rules() == ["majority", "coverage", "right"]


@pytest.mark.parametrize(("steps", "wanted"), [("last", 0.2), ("min", 0.2), ("mean", 0.6), ("prod", 0.128)])
def test_scores_of_steps_become_one_score(tmp_path: Path, steps: str, wanted: float) -> None:
    """Process reward models score every step; there are several ways to sum them up, and the user says which."""
    path = write(tmp_path / "a.jsonl", {"answer": "1", "predictions": ["1", "2"], "scores": [[0.8, 0.8, 0.2], []]})
    (line,) = read_lines(path, steps)
    assert line.scores is not None
    assert line.scores[0] == pytest.approx(wanted)
    assert np.isnan(line.scores[1])


def test_scores_below_zero_rank_and_do_not_weigh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Logits of a reward model: best-of-N is fine, a sum of negative votes is not."""
    path = write(
        tmp_path / "a.jsonl",
        {"answer": "1", "predictions": ["1", "2"], "scores": [-0.5, -2.0]},
        {"answer": "1", "predictions": ["1", "2"], "scores": [0.5, 2.0]},
    )
    assert main(["diversity", "--from", str(path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {row["rule"] for row in printed["sizes"]} == {"majority", "best by score", "coverage", "right"}
    assert any("below 0" in note for note in printed["notes"])


def test_texts_of_a_file_are_looked_at_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches measures of another question's texts; without likelihoods there is no quality and nothing held fixed."""
    pytest.importorskip("sacrebleu", reason="BLEU is tokenised by sacrebleu")
    path = write(tmp_path / "samples.jsonl", *make(8, 4))
    command = ["diversity", "--from", str(path), "--texts", "--without", "embeddings", "--json", "--resamples", "20"]
    assert main(command) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {row["rule"] for row in printed["sizes"]} >= {"lexical MBR"}
    assert {row["measure"] for row in printed["correlations"]} == {
        "distinct-1",
        "distinct-2",
        "distinct-3",
        "self-bleu",
    }
    assert not any(name.startswith("given") for row in printed["correlations"] for name in row)
    assert {row["method"] for row in printed["pruning"]} == {"random", "k-medoids, n-grams", "k-medoids, BLEU"}
    path = write(tmp_path / "bare.jsonl", {"answer": "1", "predictions": ["1"]})
    assert main(["diversity", "--from", str(path), "--texts", "--without", "embeddings"]) == 2
    assert "predictions alone" in capsys.readouterr().err


def test_questions_with_different_numbers_of_samples_keep_all_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches sizes beyond the smallest one, and samples that are cut off to make counts equal."""
    path = write(
        tmp_path / "a.jsonl",
        {"answer": "1", "predictions": ["1", "2"]},
        {"answer": "1", "predictions": ["1", "2", "3", "4"]},
    )
    assert main(["diversity", "--from", str(path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    found = {(row["samples"], row["rule"]): row["accuracy"] for row in printed["sizes"]}
    assert found[1, "coverage"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert found[2, "coverage"] == pytest.approx((1 + 1 / 2) / 2)
    assert (4, "coverage") not in found
    assert any("2 to 4 samples" in note for note in printed["notes"])
    assert main(["diversity", "--from", str(path), "--sizes", "4"]) == 2
    assert "--sizes asks for 4" in capsys.readouterr().err


GOOD = {"answer": "1", "predictions": ["1"]}


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"predictions": ["1"]}, "line 2: answer holds None"),
        ({"answer": " ", "predictions": ["1"]}, "line 2: answer is empty"),
        ({"answer": "1"}, "line 2: there must be samples or predictions"),
        ({"answer": "1", "predictions": []}, "line 2: there is no sample"),
        ({"answer": "1", "predictions": "1"}, "line 2: predictions is no list"),
        ({"answer": "1", "predictions": ["1", "2"], "samples": ["a"]}, "line 2: 1 samples for 2 predictions"),
        ({"answer": "1", "predictions": ["1"], "scores": [0.1, 0.2]}, "line 2: 2 scores for 1 predictions"),
        ({"answer": "1", "predictions": ["1"], "scores": ["good"]}, "line 2: scores holds 'good'"),
        ({"answer": "1", "predictions": ["1"], "scores": [0.5]}, "line 1: no scores"),
        ({"answer": "1", "predictions": [True]}, "line 2: predictions holds True"),
        ({"answer": "1", "predictions": ["1"], "id": "line-1"}, "line 2: the id 'line-1' is there twice"),
    ],
)
def test_a_line_that_lacks_something_is_named(tmp_path: Path, record: dict, says: str) -> None:
    """Catches a traceback, and a bad line that is passed over so that the figures are of fewer questions."""
    with pytest.raises(DodonaError, match=says):
        read_lines(write(tmp_path / "a.jsonl", GOOD, record))


def test_files_that_are_no_samples_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on standard error and exit code 2."""
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "text.jsonl").write_text("hello\n")
    for name, says in (
        ("empty.jsonl", "holds no samples"),
        ("text.jsonl", "not JSON"),
        ("none.jsonl", "cannot be read"),
    ):
        assert main(["diversity", "--from", str(tmp_path / name)]) == 2
        assert says in capsys.readouterr().err
    path = str(write(tmp_path / "a.jsonl", GOOD))
    assert main(["diversity", "--from", path, "--reward-model", "x"]) == 2
    assert "--reward-model is for samples that are drawn here" in capsys.readouterr().err
    for option, value in (("--dataset", "arith"), ("--samples", "4"), ("--temperatures", "1"), ("--max-batch", "2")):
        assert main(["diversity", "--from", path, option, value]) == 2
        assert f"{option} is for samples that are drawn here" in capsys.readouterr().err
    assert main(["diversity", "--dataset", "arith", "--texts"]) == 2
    assert "--texts is for samples of a file" in capsys.readouterr().err
    assert main(["diversity", "--from", path, "--step-scores", "max"]) == 2
    assert "--step-scores must be one of last, min, mean, prod" in capsys.readouterr().err

"""The fitted trigger: against scikit-learn, honest about what it is worth, and the same as its text."""

from __future__ import annotations

import numpy as np
import pytest
from sample_traces import noise, recording, table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from dodona.engine.errors import DodonaError
from dodona.engine.replay import Budget, Replayer
from dodona.engine.trigger_parser import parse_trigger
from dodona.eval.analysis.fit import fit_trigger, read_signals
from dodona.eval.analysis.labels import Limits, labels
from dodona.eval.analysis.logistic import Logistic, cross_validated, fit_logistic
from dodona.eval.analysis.thresholds import filled

FEW = {"resamples": 200, "seed": 0}


def data(seed: int, rows: int = 2000):
    rng = np.random.default_rng(seed)
    features = np.column_stack([rng.exponential(size=rows), 100 + 5 * rng.normal(size=rows), rng.random(rows) * 1e-3])
    logit = 1.2 * features[:, 0] - 0.3 * (features[:, 1] - 100) - 2
    return features, rng.random(rows) < 1 / (1 + np.exp(-logit))


@pytest.mark.parametrize("ridge", [1e-6, 1.0, 50.0])
def test_it_equals_scikit_learns(ridge):
    """A ridge on the intercept or on unscaled signals, or a fit that stops early."""
    features, positive = data(0)
    ours = fit_logistic(["a", "b", "c"], features, positive, ridge)
    scaler = StandardScaler().fit(features)
    theirs = LogisticRegression(C=1 / ridge, tol=1e-10, max_iter=10_000).fit(scaler.transform(features), positive)
    np.testing.assert_allclose(ours.coefficients * scaler.scale_, theirs.coef_[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.scores(features), theirs.decision_function(scaler.transform(features)), atol=1e-4)


def test_separated_classes_and_constant_signals_have_a_fit():
    """Coefficients that run away to infinity, or a division by a spread of zero."""
    features = np.column_stack([np.arange(20.0), np.full(20, 3.0)])
    fit = fit_logistic(["a", "b"], features, np.arange(20) >= 10)
    assert np.isfinite(fit.coefficients).all() and fit.coefficients[1] == 0
    assert ((fit.scores(features) > 0) == (np.arange(20) >= 10)).all()
    rare = np.zeros(5000, dtype=bool)
    rare[7] = True
    fit = fit_logistic(["a"], np.random.default_rng(0).normal(size=(5000, 1)), rare)
    assert np.isfinite(fit.intercept) and fit.scores(np.zeros((1, 1)))[0] < -5


def test_the_text_gives_the_decisions_of_the_fit():
    """Coefficients with too few digits, or a sign that is lost before a minus."""
    features, positive = data(1)
    fit = fit_logistic(["entropy", "varentropy", "margin"], features, positive)
    text = f"{fit.expression} > 0"
    program = parse_trigger(text)
    columns = dict(zip(fit.names, features.T.astype(np.float32), strict=True)) | {"position": np.zeros(len(features))}
    scores = fit.scores(features.astype(np.float32).astype(np.float64))
    clear = np.abs(scores) > 1e-4
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(program.decide(columns)[clear], scores[clear] > 0)


@pytest.mark.parametrize(
    ("coefficients", "intercept", "text"),
    [
        ([0.8, -1.2], 0.1, "0.8*entropy - 1.2*margin + 0.1"),
        ([-0.5, 1e-7], -3.0, "-0.5*entropy + 1e-07*margin - 3"),
        ([1e12, 0.0], 0.25, "1e+12*entropy + 0*margin + 0.25"),
        ([1 / 3, 2.0], 0.0, "0.33333334*entropy + 2*margin + 0"),
    ],
)
def test_the_text_is_short_and_can_be_parsed(coefficients, intercept, text):
    """`+ -1.2`, forty digits, or a number that a trigger refuses."""
    fit = Logistic(("entropy", "margin"), np.array(coefficients), intercept)
    assert fit.expression == text
    parse_trigger(f"{text} > 0")


def test_cross_validation_sees_that_there_is_nothing_to_find():
    """A fit that is judged on what it was fitted to: 40 signals of noise on 120 rows look very good there."""
    rng = np.random.default_rng(3)
    features, positive, problem = rng.normal(size=(120, 40)), rng.random(120) < 0.4, np.repeat(np.arange(30), 4)
    names = [f"s{number}" for number in range(40)]
    inside = roc_auc_score(positive, fit_logistic(names, features, positive).scores(features))
    outside = cross_validated(names, features, positive, problem, **FEW)
    assert inside > 0.75 > 0.65 > outside.value
    assert outside.interval.low < 0.5


def test_folds_are_of_problems():
    """Rows of one problem on both sides: here a problem's label is its own, and signals say which problem it is."""
    rng = np.random.default_rng(4)
    problem = np.repeat(np.arange(40), 25)
    own = rng.normal(size=(40, 30))[problem]
    positive = (rng.random(40) < 0.5)[problem]
    found = cross_validated([f"s{number}" for number in range(30)], own, positive, problem, **FEW)
    assert found.value < 0.75


def test_a_signal_alone_is_worth_the_same_in_folds():
    """Scores of different fits compared with each other: their zeros differ, which costs a rare label a lot."""
    rng = np.random.default_rng(5)
    problem = np.repeat(np.arange(50), 100)
    signal = rng.exponential(size=(5000, 1)) ** 3
    positive = rng.random(5000) < np.clip(0.002 + 0.02 * signal[:, 0], 0, 1)
    found = cross_validated(["a"], signal, positive, problem, **FEW)
    assert found.value == pytest.approx(roc_auc_score(positive, signal[:, 0]), abs=0.03)


def test_what_cannot_be_fitted_is_refused():
    """Crashes inside, or a number that means nothing."""
    features, positive = data(6, 50)
    with pytest.raises(DodonaError, match="two problems or more"):
        cross_validated(["a", "b", "c"], features, positive, np.zeros(50, dtype=np.int64), **FEW)
    one = np.zeros(50, dtype=bool)
    one[:3] = True
    with pytest.raises(DodonaError, match="no fold"):
        cross_validated(["a", "b", "c"], features, one, np.repeat(np.arange(5), 10), **FEW)


def test_a_fit_on_a_trace_is_a_trigger_that_replays(tmp_path):
    """Rows of the oracle in the fit, an average other than the trigger's, or a text that does not parse."""
    rng = np.random.default_rng(7)
    tables = []
    for number, plain in enumerate(noise(rng, 30, 80)):
        entropy, margin = (plain[name].to_numpy() for name in ("entropy", "margin"))
        agree = rng.random(80) > 1 / (1 + np.exp(3 - 1.5 * entropy + 2 * margin))
        tables.append(table(number, 80, entropy=entropy, margin=margin, agree=agree))
    read = recording(tmp_path / "t.parquet", tables)
    replayer = Replayer(read, Budget(np.inf, 1))
    names = read_signals("entropy, margin,ema(entropy, 0.9)", after=False)
    assert names == ["entropy", "margin", "ema(entropy, 0.9)"]
    fit = fit_trigger(replayer, labels(read, Limits())["differs"], names, **FEW)
    assert fit.rows == 2400 and fit.auroc.value > fit.alone["margin"].value
    columns = [read.columns["entropy"], read.columns["margin"], replayer.column("ema(entropy,0.9)")]
    scores = fit.logistic.scores(np.column_stack(columns).astype(np.float64))
    found = replayer.consults(filled(fit.template, -1.0))
    clear = np.abs(scores + 1) > 1e-4
    fires = np.zeros(read.tokens, dtype=bool)
    fires[found.start] = True
    np.testing.assert_array_equal(fires[clear], scores[clear] > -1)
    assert 0 < len(found.start) < read.tokens / 2


@pytest.mark.parametrize(
    "text", ["", "entropy,", "boundary", "since_consult", "c", "entropy > 2", "2*entropy", "nonsense"]
)
def test_what_is_no_signal_is_refused(text):
    """A fit over a counter that depends on the trigger itself, or over a typing mistake."""
    with pytest.raises(DodonaError):
        read_signals(text, after=False)


def test_signals_that_a_running_trigger_does_not_know_are_refused():
    """A trigger that could never run."""
    for text in ("oracle_logprob", "js", "agree"):
        with pytest.raises(DodonaError, match="after the fact"):
            read_signals(text, after=False)
    with pytest.raises(DodonaError, match="when='after'"):
        read_signals("logprob", after=False)
    assert read_signals("logprob,logprob,entropy", after=True) == ["logprob", "entropy"]

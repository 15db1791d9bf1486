"""Correlations, buckets, medoids and pruning: against plain computations, and where they are undefined."""

from __future__ import annotations

import itertools
import math

import diversity_naive as naive
import numpy as np
import pytest

from dodona.engine.errors import DodonaError
from dodona.eval.analysis.resample import problem_weights
from dodona.eval.diversity.buckets import buckets
from dodona.eval.diversity.correlations import associations, partial_correlation
from dodona.eval.diversity.findings import analyse
from dodona.eval.diversity.medoids import k_medoids
from dodona.eval.diversity.pool import Pool, Texts, logprob_rewards
from dodona.eval.diversity.pruning import kept, pruned
from dodona.eval.diversity.settings import Options, Settings
from dodona.eval.stats.correlation import spearman

# --- correlations ---


def batches(seed: int, problems: int = 30, each: int = 6) -> tuple[np.ndarray, ...]:
    """A measure and an outcome that both follow the likelihood and the temperature, and each other a little."""
    random = np.random.default_rng(seed)
    problem = np.repeat(np.arange(problems), each)
    n = len(problem)
    hard = random.normal(size=problems)[problem]
    temperature = random.choice([0.3, 0.7, 1.0], size=n)
    logprob = -0.5 * hard - temperature + 0.3 * random.normal(size=n)
    x = 0.8 * logprob + temperature + random.normal(size=n)
    y = 0.6 * logprob + 0.4 * x + random.normal(size=n)
    return problem, x, y, logprob, temperature


def found_in(
    problem: np.ndarray, x: np.ndarray, y: np.ndarray, fixed: dict[str, np.ndarray], *controls: tuple[str, ...]
):
    weights = problem_weights(int(problem.max()) + 1, 200)
    return associations({"x": x}, {"y": y}, problem, weights, fixed, controls)["x", "y"]


@pytest.mark.parametrize("seed", range(5))
def test_partial_correlation_is_that_of_the_residuals(seed: int) -> None:
    """Catches a formula for one control that is used for two, and controls without an intercept."""
    problem, x, y, logprob, temperature = batches(seed)
    fixed = {"logprob": logprob, "temperature": temperature}
    found = found_in(problem, x, y, fixed, ("logprob",), ("temperature",), ("logprob", "temperature"))
    sets = [[logprob], [temperature], [logprob, temperature]]
    for estimate, columns in zip(found.partial, sets, strict=True):
        wanted = naive.residual_correlation(x, y, columns)
        assert estimate.value == pytest.approx(wanted, abs=1e-9)
        assert partial_correlation(x, y, columns) == pytest.approx(wanted, abs=1e-9)
        assert estimate.interval is not None and estimate.interval.low < wanted < estimate.interval.high
    assert found.pearson.value == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)
    assert found.spearman.value == pytest.approx(spearman(x, y), abs=1e-12)
    assert found.rows == len(x)


def test_the_scale_of_a_control_makes_no_difference() -> None:
    """Catches an inverse that loses a column whose numbers are small beside another's."""
    _, x, y, logprob, temperature = batches(1)
    wanted = partial_correlation(x, y, [logprob, temperature])
    assert partial_correlation(x * 1e6 + 1e8, y, [logprob * 1e-6, temperature * 1e5]) == pytest.approx(wanted, abs=1e-6)


def test_ranks_are_made_anew_in_every_resample() -> None:
    """Resampled by hand: the rows of the drawn problems, as often as each was drawn, ties by their mean rank."""
    problem, x, y, logprob, temperature = batches(2, problems=12)
    x, y = np.round(x), np.round(y)
    weights = problem_weights(12, 40, seed=3)
    found = associations({"x": x}, {"y": y}, problem, weights, {"l": logprob, "t": temperature}, (("l", "t"),))[
        "x", "y"
    ]
    for place, drawn in enumerate(weights):
        rows = np.concatenate([np.flatnonzero(problem == p) for p in range(12) for _ in range(int(drawn[p]))])
        assert found.spearman.draws[place] == pytest.approx(spearman(x[rows], y[rows]), abs=1e-9)
        assert found.pearson.draws[place] == pytest.approx(np.corrcoef(x[rows], y[rows])[0, 1], abs=1e-9)
        wanted = naive.residual_correlation(x[rows], y[rows], [logprob[rows], temperature[rows]])
        assert found.partial[0].draws[place] == pytest.approx(wanted, abs=1e-8)


def test_correlations_that_are_undefined_are_not_numbers() -> None:
    """Catches 0 or 1 for a constant, and a partial correlation of a measure with itself held fixed."""
    problem, x, y, logprob, _ = batches(3)
    same = np.ones(len(x))
    found = found_in(problem, same, y, {"l": logprob}, ("l",))
    assert math.isnan(found.pearson.value) and math.isnan(found.spearman.value) and math.isnan(found.partial[0].value)
    assert found.pearson.interval is None
    assert math.isnan(found_in(problem, logprob, y, {"l": logprob}, ("l",)).partial[0].value)
    assert math.isnan(found_in(problem, 2 * logprob + 1, y, {"l": logprob}, ("l",)).partial[0].value)
    constant = found_in(problem, x, y, {"t": same}, ("t",))
    assert constant.partial[0].value == pytest.approx(constant.pearson.value)


def test_batches_without_a_value_are_left_out_for_that_measure_alone() -> None:
    """Catches NaN that spreads to other measures, and rows that are dropped from one side."""
    problem, x, y, logprob, _ = batches(4)
    holes = x.copy()
    holes[::3] = math.nan
    weights = problem_weights(30, 50)
    found = associations({"x": x, "holes": holes}, {"y": y}, problem, weights, {"l": logprob}, (("l",),))
    assert found["x", "y"].rows == len(x)
    there = ~np.isnan(holes)
    assert found["holes", "y"].rows == there.sum()
    assert found["holes", "y"].pearson.value == pytest.approx(np.corrcoef(x[there], y[there])[0, 1])
    wanted = naive.residual_correlation(x[there], y[there], [logprob[there]])
    assert found["holes", "y"].partial[0].value == pytest.approx(wanted, abs=1e-9)


# --- buckets ---


def test_buckets_of_equal_width_cover_the_range_once() -> None:
    """Catches the largest value in no bucket, and empty buckets that vanish from the axis."""
    values = np.array([0.0, 0.1, 0.25, 0.5, 1.0, math.nan])
    found = buckets(values, 4, "width")
    assert [bucket.rows.tolist() for bucket in found] == [[0, 1], [2], [3], [4]]
    assert [(bucket.low, bucket.high) for bucket in found] == [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)]
    assert (found[0].least, found[0].most, found[0].mean) == (0.0, 0.1, 0.05)
    wide = buckets(np.array([0.0, 10.0]), 5, "width")
    assert [len(bucket.rows) for bucket in wide] == [1, 0, 0, 0, 1]
    assert math.isnan(wide[2].mean)


def test_buckets_by_quantiles_hold_about_as_many_and_never_divide_equals() -> None:
    """Catches edges that put half of the equal values here and half there, by their order in the file."""
    found = buckets(np.arange(10.0)[::-1], 5, "quantile")
    assert [sorted(bucket.rows.tolist()) for bucket in found] == [[8, 9], [6, 7], [4, 5], [2, 3], [0, 1]]
    ties = buckets(np.array([1.0] * 7 + [2.0, 3.0, 3.0]), 5, "quantile")
    assert sum(len(bucket.rows) for bucket in ties) == 10
    assert [(bucket.least, bucket.most) for bucket in ties] == [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)] or len(ties) == 2
    assert all(not set(a.rows) & set(b.rows) for a, b in itertools.combinations(ties, 2))


@pytest.mark.parametrize("kind", ["width", "quantile"])
def test_values_that_are_all_equal_make_one_bucket(kind: str) -> None:
    """Catches a width of zero."""
    (only,) = buckets(np.full(6, 2.5), 4, kind)  # type: ignore[arg-type]
    assert len(only.rows) == 6 and only.least == only.most == only.mean == 2.5
    assert buckets(np.array([math.nan]), 4, kind) == []  # type: ignore[arg-type]


# --- medoids ---


def plane(seed: int, n: int) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(n, 2))
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def cost(distances: np.ndarray, chosen: tuple[int, ...]) -> float:
    return float(distances[:, list(chosen)].min(axis=1).sum())


@pytest.mark.parametrize("seed", range(8))
def test_no_single_swap_improves_the_medoids(seed: int) -> None:
    """Catches a wrong gain in the swaps, which would end early or go on for ever."""
    distances = plane(seed, 14)
    for k in (1, 2, 4, 7, 13, 14):
        found = k_medoids(distances, k)
        assert len(set(found.chosen.tolist())) == k
        assert found.cost == pytest.approx(cost(distances, tuple(found.chosen)))
        for out, h in itertools.product(range(k), range(14)):
            swapped = tuple(int(h) if place == out else int(c) for place, c in enumerate(found.chosen))
            assert cost(distances, swapped) >= found.cost - 1e-9
        assert found.sizes.sum() == 14 and (found.sizes >= 1).all()


@pytest.mark.parametrize("seed", range(4))
def test_medoids_are_near_the_best_there_are(seed: int) -> None:
    """A local optimum may miss a little; BUILD that starts badly misses much."""
    distances = plane(seed + 50, 10)
    for k in (1, 2, 3):
        best = min(cost(distances, chosen) for chosen in itertools.combinations(range(10), k))
        assert k_medoids(distances, k).cost <= 1.1 * best + 1e-9
    assert k_medoids(distances, 1).cost == pytest.approx(distances.sum(axis=0).min())


def test_clusters_that_are_far_apart_have_one_medoid_each() -> None:
    """Catches medoids that crowd into the largest cluster."""
    places = np.array([0.0, 0.1, 0.2, 10.0, 10.1, 10.2, 20.0])
    found = k_medoids(np.abs(places[:, None] - places[None]), 3)
    assert found.chosen.tolist() == [1, 4, 6]
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert found.sizes.tolist() == [3, 3, 1]


def test_points_that_are_all_equal_end_at_once() -> None:
    """Catches swaps without gain that go round for ever, and medoids that are not each in their own cluster."""
    found = k_medoids(np.zeros((5, 5)), 3)
    assert found.chosen.tolist() == [0, 1, 2]
    assert found.labels.tolist() == [0, 1, 2, 0, 0]
    for k in (0, 6):
        with pytest.raises(ValueError):
            k_medoids(np.zeros((5, 5)), k)
    with pytest.raises(ValueError):
        k_medoids(np.full((2, 2), math.nan), 1)


# --- pools together ---


def pools(problems: int, temperatures: tuple[float, ...] = (0.3, 1.0), n: int = 8) -> list[Pool]:
    """Problems of different difficulty; right texts are alike, wrong ones are each their own."""
    found = []
    for number in range(problems):
        for temperature in temperatures:
            random = np.random.default_rng([number, int(10 * temperature)])
            right = random.random(n) < 1 / (1 + math.exp(number - problems / 2 + temperature))
            noise = random.integers(0, 3, n)
            classes = np.where(right, 0, 1 + noise)
            texts = [
                "so the answer is right" if r else f"it could be {c} or {j}"
                for j, (r, c) in enumerate(zip(right, classes, strict=True))
            ]
            vectors = np.stack([np.r_[5.0, np.zeros(8)] if r else random.normal(size=9) for r in right])
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            kernel = np.clip(vectors @ vectors.T, -1, 1)
            np.fill_diagonal(kernel, 1.0)
            logprobs = np.where(right, -0.1, -0.5 - 0.1 * random.random(n))
            numbers = {c: place for place, c in enumerate(dict.fromkeys(classes.tolist()))}
            found.append(
                Pool(
                    f"p{number}",
                    temperature,
                    right.astype(float),
                    np.array([numbers[c] for c in classes.tolist()]),
                    logprobs,
                    {"logprob": logprob_rewards(logprobs)},
                    Texts.of(texts, kernel, with_bleu=False),
                )
            )
    return found


def test_what_was_planted_is_found() -> None:
    """Right texts are alike and likely here: diversity must fall with accuracy, and the likely sample be right."""
    found = analyse(pools(20), Options(resamples=200))
    assert found.sizes == (1, 2, 4, 8) and found.batch == 4
    assert found.controls == (("logprob",), ("temperature",), ("logprob", "temperature"))
    by_name = {(one.size, one.measure, one.outcome): one.found for one in found.correlated}
    assert by_name[4, "cosine", "number right"].pearson.interval.low > 0.5
    assert by_name[4, "dpp", "number right"].spearman.value < -0.5
    assert by_name[4, "logprob", "majority"].pearson.value > 0.5
    line = next(line for line in found.lines if line.temperature == 0.3 and line.size == 8)
    assert line.rules["best by logprob"].value == line.rules["coverage"].value
    last = {one.method: one for one in found.pruned if one.temperature == 0.3 and one.size == 4}
    assert last["likelihood"].outcomes["coverage"].value == line.rules["coverage"].value
    assert last["random"].outcomes["coverage"].value < line.rules["coverage"].value
    assert last["likelihood"].kept["coverage"].value == 1.0
    assert {"random", "likelihood", "k-medoids, n-grams", "k-medoids, cosine"} == set(last)
    assert {line.kind for line in found.buckets} == {"width", "quantile"}
    for kind in ("width", "quantile"):
        counted = [len(line.bucket.rows) for line in found.buckets if line.measure == "dpp" and line.kind == kind]
        assert sum(counted) == 20 * 2 * 8


def test_the_same_pools_give_the_same_findings_in_any_order_of_problems() -> None:
    """Catches one generator that all problems draw from."""
    first, second = pools(8), pools(8)
    second = [second[i] for i in (10, 11, 2, 3, 0, 1, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15)]
    options = Options(resamples=50, most=5, draws=4)
    one, other = analyse(first, options), analyse(second, options)
    assert [line.rules["semantic MBR"].value for line in one.lines] == pytest.approx(
        [line.rules["semantic MBR"].value for line in other.lines]
    )
    assert [o.found.pearson.value for o in one.correlated] == pytest.approx(
        [o.found.pearson.value for o in other.correlated], nan_ok=True
    )


def test_one_sample_and_one_problem_are_enough_for_a_report() -> None:
    """Catches sizes, batches and quantiles of nothing."""
    found = analyse(pools(1, (0.7,), n=1), Options(resamples=20))
    assert found.sizes == (1,) and found.batch is None
    assert not found.correlated and not found.buckets and not found.pruned
    assert found.lines[0].rules["majority"].value == found.lines[0].rules["right"].value
    few = analyse(pools(1, (0.7,), n=2), Options(resamples=20))
    assert few.controls == (("logprob",),)


def test_likelihood_keeps_the_likely_samples_and_medoids_stand_for_their_clusters() -> None:
    """Catches the least likely ones, and votes of medoids that count wrong samples."""
    one = pools(6)[4]
    chosen = kept(one, 3, one.distances())
    assert set(chosen["likelihood"].chosen) <= set(np.argsort(-one.logprobs, kind="stable")[:3])
    for method, subset in chosen.items():
        assert len(set(subset.chosen.tolist())) == 3
        assert subset.sizes.sum() == (3 if method == "likelihood" else one.n)
    outcomes = pruned(one, [3, 8], Options())
    assert math.isnan(outcomes["likelihood", 3]["weighted majority"])
    whole = {method: values for (method, size), values in outcomes.items() if size == 8}
    assert {round(values["coverage"], 12) for values in whole.values()} == {float(one.correct.any())}


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"sizes": (0,)}, "--sizes"),
        ({"batch": 1}, "--batch-size"),
        ({"ties": "last"}, "--ties"),
        ({"without": ("plots",)}, "--without"),
        ({"buckets": 0}, "--buckets"),
        ({"resamples": 0}, "--resamples"),
    ],
)
def test_options_out_of_range_are_named(values: dict, option: str) -> None:
    """Catches a division by zero much later."""
    with pytest.raises(DodonaError, match=option):
        Options(**values)


def test_sizes_beyond_the_samples_are_refused() -> None:
    """pass@k of fewer samples than k has no estimate."""
    with pytest.raises(DodonaError, match="--sizes asks for 9 samples"):
        Options(sizes=(1, 9)).sizes_of(8)
    with pytest.raises(DodonaError, match="--batch-size asks for 9"):
        Options(batch=9).batch_of(8)
    assert Options().sizes_of(12) == [1, 2, 4, 8, 12]


@pytest.mark.parametrize("temperatures", [(0.0,), (-1.0,), (math.nan,), (math.inf,), ()])
def test_temperatures_that_draw_nothing_are_refused(temperatures: tuple[float, ...]) -> None:
    """Greedy samples are all the same, and 32 of them look like a study."""
    with pytest.raises(DodonaError, match="--temperatures"):
        Settings(temperatures=temperatures)
    assert Settings(temperatures=(0.70, 0.3, 0.7)).temperatures == (0.3, 0.7)

"""Bootstrap intervals against scipy and the metric functions, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from VideoMAE.data.v2v import Pair
from VideoMAE.reporting import bootstrap
from VideoMAE.reporting.bootstrap import Resampling
from VideoMAE.reporting.emotion_numbers import values_per_video
from VideoMAE.reporting.preference_numbers import components_holding
from VideoMAE.training import metrics


def drawn_rows(counts: np.ndarray) -> np.ndarray:
    """The rows of a draw, with repetitions."""
    return np.repeat(np.arange(len(counts)), counts.astype(int))


def test_intervals_of_a_mean_agree_with_scipy() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=150)
    drawn = Resampling(9999, 0).draw({"mean": bootstrap.mean_of(values)}, 150)["mean"]
    peer = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    found = bootstrap.interval(drawn)
    assert found == pytest.approx([*peer], abs=0.04 * (peer.high - peer.low))


def test_draws_have_the_sample_size_and_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.concatenate(list(Resampling(300, 3).draws(40)))
    assert counts.shape == (300, 40)
    assert (counts.sum(axis=1) == 40).all()
    assert counts.mean() == 1
    assert counts.var(axis=0).mean() == pytest.approx(1 - 1 / 40, abs=0.05)
    monkeypatch.setattr(bootstrap, "MAX_CELLS", 40 * 7)
    assert np.array_equal(counts, np.concatenate(list(Resampling(300, 3).draws(40))))


def test_metrics_of_a_draw_equal_the_metric_functions_on_its_videos() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((50, 6)), rng.random((50, 6)).astype(np.float32)
    targets[:, 4] = 0.25
    targets[:, 5] = np.arange(50) == 7  # in some draws it never varies
    each_video = values_per_video(logits, logits, targets)
    statistics = {name: bootstrap.mean_of(values) for name, values in each_video.items()}
    predicted = 1 / (1 + np.exp(-logits))
    by_emotion = bootstrap.correlations_of(predicted, targets)
    statistics["mean_correlation"] = bootstrap.mean_over_columns(by_emotion)
    found = Resampling(30, 0).draw(statistics, 50)
    correlations = Resampling(30, 0).draw({"r": by_emotion}, 50)["r"]
    counts = np.concatenate(list(Resampling(30, 0).draws(50)))
    for place, rows in enumerate(map(drawn_rows, counts)):
        expected = {
            **metrics.ranking_metrics(logits[rows], targets[rows]),
            "predicted_in_true_top3": metrics.predicted_in_true_top_k(logits[rows], targets[rows]),
            **metrics.intensity_metrics(logits[rows], targets[rows]),
        }
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name][place] == pytest.approx(value, rel=1e-9), name
        each = metrics.correlations(predicted[rows], targets[rows])
        assert correlations[place] == pytest.approx(each, nan_ok=True)
    assert np.isnan(correlations[:, 4]).all()
    assert 0 < np.isnan(correlations[:, 5]).sum() < 30


def test_pair_accuracies_are_means_over_the_pairs_of_the_drawn_components() -> None:
    pairs = [Pair("a", "b"), Pair("c", "b"), Pair("x", "y"), Pair("p", "q"), Pair("q", "r"), Pair("p", "r")]
    right = np.array([1.0, 0, 1, 0, 1, 1])
    components = components_holding(pairs, pairs)
    members = [{0, 1}, {2}, {3, 4, 5}]
    assert components.num_components == 3
    assert {frozenset(np.flatnonzero(components.component == c).tolist()) for c in range(3)} == set(
        map(frozenset, members)
    )
    numbers = [int(components.component[min(group)]) for group in members]
    statistic = components.mean(right)
    for counts in np.concatenate(list(Resampling(20, 5).draws(3))):
        drawn = [right[pair] for group, c in zip(members, numbers, strict=True) for pair in [*group] * int(counts[c])]
        assert statistic(counts[None])[0] == pytest.approx(np.mean(drawn))


def test_pairs_connected_by_a_list_form_one_component() -> None:
    pairs = [Pair("a", "b"), Pair("x", "y"), Pair("p", "q")]
    assert components_holding(pairs, pairs).num_components == 3
    assert components_holding(pairs, [*pairs, ("b", "k", "x")]).num_components == 2


def test_identical_runs_do_not_differ_in_any_draw() -> None:
    values = np.random.default_rng(0).random(80)
    statistics = {who: bootstrap.mean_of(values) for who in "ab"}
    drawn = Resampling(200, 0).draw(statistics, 80)
    differences = drawn["b"] - drawn["a"]
    assert (differences == 0).all()
    assert bootstrap.interval(differences) == [0, 0]
    assert bootstrap.probability_better(differences) == 0.5


def test_pairing_detects_a_difference_smaller_than_the_variation_of_each_run() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(0, 1, 200)
    statistics = {"a": bootstrap.mean_of(a), "b": bootstrap.mean_of(a + 0.05 + rng.normal(0, 0.1, 200))}
    drawn = Resampling(500, 0).draw(statistics, 200)
    alone, together = bootstrap.interval(drawn["b"]), bootstrap.interval(drawn["b"] - drawn["a"])
    assert alone[0] < np.mean(a) < alone[1]
    assert together[0] > 0
    assert bootstrap.probability_better(drawn["b"] - drawn["a"]) > 0.99
    assert bootstrap.probability_better(drawn["b"] - drawn["a"], lower_is_better=True) < 0.01


def coverage(*, by_component: bool) -> float:
    """How often a 95 % interval contains the true share, 0.6, if all 5 pairs of a component are right or wrong."""
    rng, held = np.random.default_rng(0), 0
    for number in range(200):
        right = np.repeat(rng.random(60) < 0.6, 5).astype(float)
        values = right[::5] if by_component else right
        drawn = Resampling(300, number).draw({"share": bootstrap.mean_of(values)}, len(values))["share"]
        low, high = bootstrap.interval(drawn)
        held += low <= 0.6 <= high
    return held / 200


def test_intervals_have_their_nominal_coverage_only_if_whole_components_are_drawn() -> None:
    assert 0.90 <= coverage(by_component=True) <= 0.98
    assert coverage(by_component=False) < 0.75


def test_undefined_draws_are_ignored() -> None:
    assert bootstrap.interval(np.array([np.nan, 1.0, 2.0])) == pytest.approx([1.025, 1.975])
    assert np.isnan(bootstrap.interval(np.array([np.nan]))).all()

"""The linear probe against scikit-learn's solution of the same problem."""

import jax
import numpy as np
import pytest
from scipy.ndimage import uniform_filter
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from jepa_jax.errors import UserError
from jepa_jax.evaluation import linear
from jepa_jax.evaluation.splits import held_out
from tests.given import task_of


def clusters(n: int, seed: int, width: int = 12, classes: int = 4):
    """Overlapping clusters; features of very different scales and means, one constant."""
    fixed = np.random.default_rng(0)
    centres, scale = fixed.normal(size=(classes, width)), 10.0 ** fixed.uniform(-3, 3, width)
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    features = (centres[labels] + 1.5 * rng.normal(size=(n, width)) + 2) * scale
    return np.append(features, np.full((n, 1), 0.1), 1).astype(np.float32), labels + 3


TRAIN, TEST = clusters(300, seed=1), clusters(500, seed=2)


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_predictions_are_scikit_learns(l2):
    scaler = StandardScaler().fit(TRAIN[0].astype(np.float64))
    reference = LogisticRegression(C=1 / (l2 * len(TRAIN[0])), tol=1e-6, max_iter=1000)
    reference.fit(scaler.transform(TRAIN[0].astype(np.float64)), TRAIN[1])
    p = reference.predict_proba(scaler.transform(TEST[0].astype(np.float64)))
    top = np.sort(p)[:, ::-1]
    clear = top[:, 0] - top[:, 1] > 0.01  # two solvers may disagree on what is all but a tie
    assert clear.mean() > 0.9
    predicted = reference.classes_[p.argmax(-1)]
    assert 0.5 < np.mean(predicted == TEST[1]) < 0.95
    assert linear.linear_probe_accuracy(*TRAIN, TEST[0][clear], predicted[clear], l2=l2) == 1.0


def largest_gradient(x: np.ndarray, y: np.ndarray, l2: float = 1e-3) -> float:
    """In float64, at what the probe takes for the solution."""
    weights, bias = linear._fit(x, y, l2)
    assert np.abs(weights).max() > 0.1
    logits = x @ weights + bias
    p = np.exp(logits - logits.max(-1, keepdims=True))
    error = (p / p.sum(-1, keepdims=True) - np.eye(p.shape[1])[y]) / len(y)
    return max(np.abs(x.T @ error + l2 * weights).max(), np.abs(error.sum(0)).max())


def test_gradient_is_zero_at_the_solution():
    x = StandardScaler().fit_transform(TRAIN[0].astype(np.float64))
    assert largest_gradient(x, TRAIN[1] - 3) < 2e-5


def test_few_images_with_many_features_are_solved_to_the_end():
    """Which are alike, as neighbouring pixels are: on the way there many answers are others."""
    images, labels = load_digits(return_X_y=True)
    features = np.repeat(images.reshape(-1, 8, 8), 3, 2).repeat(3, 1)
    features = uniform_filter(features, (0, 3, 3)).reshape(len(images), -1)
    assert largest_gradient(StandardScaler().fit_transform(features[:300]), labels[:300]) < 2e-5


def test_scale_and_offset_of_a_feature_have_no_effect():
    move = lambda x: x * np.float32(64) + np.float32(8)  # noqa: E731
    moved = linear.linear_probe_accuracy(move(TRAIN[0]), TRAIN[1], move(TEST[0]), TEST[1])
    assert moved == pytest.approx(linear.linear_probe_accuracy(*TRAIN, *TEST), abs=0.005)


def test_a_feature_constant_in_training_is_ignored():
    wild = TEST[0].copy()
    wild[:, -1] = np.random.default_rng(0).normal(size=len(wild)) * 1e6
    assert linear.linear_probe_accuracy(*TRAIN, wild, TEST[1]) == linear.linear_probe_accuracy(
        *TRAIN, *TEST
    )


def test_separable_classes_are_learnt_without_a_warning():
    labels = np.arange(40) % 2
    features = (labels[:, None] * 2.0 - 1) * np.ones(3)
    assert linear.linear_probe_accuracy(features, labels, features, labels, l2=1e-6) == 1.0


def test_a_label_that_training_lacks_counts_as_wrong():
    labels = np.full(len(TEST[1]), 99)
    assert linear.linear_probe_accuracy(*TRAIN, TEST[0], labels) == 0.0


def test_runs_where_implicit_transfers_are_forbidden():
    with jax.transfer_guard("disallow"):
        assert linear.linear_probe_accuracy(*TRAIN, *TEST) > 0.5


def test_settings_are_tried_though_the_only_image_of_a_class_is_held_out():
    features = np.arange(12, dtype=np.float32).reshape(4, 3)
    labels = np.where(held_out(4, seed=0), 1, 0)
    both = task_of((features, labels), (features, labels))
    rows = linear.run(both, linear.Options(l2=(1e-3, 1e-1))).rows.values()
    assert [row["on held-out training images"] for row in rows] == [0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_labels": TEST[1][:-1]}, "one label for each image"),
        ({"train_features": TRAIN[0][:, 1:]}, "same model"),
        ({"train_labels": np.zeros_like(TRAIN[1])}, "at least two"),
    ],
)
def test_wrong_input_is_answered_in_one_line(change, message):
    arguments = {
        "train_features": TRAIN[0],
        "train_labels": TRAIN[1],
        "test_features": TEST[0],
        "test_labels": TEST[1],
    }
    with pytest.raises(UserError, match=message) as error:
        linear.linear_probe_accuracy(**arguments | change)
    assert "\n" not in str(error.value)

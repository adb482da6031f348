"""The k-NN probe against scikit-learn's, and its rules for ties and odd input."""

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from jepa_jax.errors import UserError
from jepa_jax.evaluation import knn


def clusters(n: int, seed: int, width: int = 16, classes: int = 5):
    """Overlapping clusters around fixed centres: (n, width) float32 and labels 0..classes-1."""
    centres = np.random.default_rng(0).normal(size=(classes, width))
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    features = centres[labels] + 1.5 * rng.normal(size=(n, width))
    return features.astype(np.float32), labels


TRAIN, TEST = clusters(600, seed=1), clusters(2 * knn.CHUNK + 41, seed=2)


@pytest.mark.parametrize(("neighbours", "temperature"), [(20, 0.07), (5, 0.5), (1, 0.07)])
def test_predictions_are_scikit_learns(neighbours, temperature):
    reference = KNeighborsClassifier(
        neighbours,
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / temperature),
    )
    predicted = reference.fit(*TRAIN).predict(TEST[0])
    assert 0.5 < np.mean(predicted == TEST[1]) < 0.95  # a task on which predictions can differ
    options = {"neighbours": neighbours, "temperature": temperature}
    assert knn.knn_accuracy(*TRAIN, TEST[0], predicted, **options) == 1.0
    assert knn.knn_accuracy(*TRAIN, *TEST, **options) == np.mean(predicted == TEST[1])


def test_neighbours_are_cut_to_the_training_images():
    few = TRAIN[0][:12], TRAIN[1][:12]
    assert knn.knn_accuracy(*few, *TEST, neighbours=500) == knn.knn_accuracy(
        *few, *TEST, neighbours=12
    )


def test_scale_of_features_has_no_effect():
    scale = np.float32(2.0) ** np.arange(-3, 3)
    train = TRAIN[0] * np.resize(scale, (len(TRAIN[0]), 1))
    assert knn.knn_accuracy(train, TRAIN[1], *TEST) == knn.knn_accuracy(*TRAIN, *TEST)


def test_of_equally_similar_images_the_earlier_is_taken():
    train, test = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0]])
    for labels in ([7, 4, 4], [4, 7, 7]):
        first = np.array(labels[:1])
        assert knn.knn_accuracy(train, np.array(labels), test, first, neighbours=1) == 1.0


def test_of_equal_votes_the_lower_label_wins():
    train, test = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 0.0]])
    assert knn.knn_accuracy(train, np.array([9, 2]), test, np.array([2])) == 1.0


def test_a_low_temperature_does_not_overflow():
    options = {"temperature": 1e-3}
    nearest = knn.knn_accuracy(*TRAIN, *TEST, neighbours=1)
    assert knn.knn_accuracy(*TRAIN, *TEST, **options) == pytest.approx(nearest, abs=0.03)


def test_a_label_that_training_lacks_counts_as_wrong():
    labels = TEST[1].copy()
    correct = knn.knn_accuracy(*TRAIN, *TEST) * len(labels)
    first = knn.knn_accuracy(*TRAIN, TEST[0][:1], labels[:1])
    labels[0] = 99
    assert knn.knn_accuracy(*TRAIN, TEST[0], labels) * len(labels) == pytest.approx(correct - first)


def test_runs_where_implicit_transfers_are_forbidden():
    with jax.transfer_guard("disallow"):
        assert knn.knn_accuracy(*TRAIN, *TEST) > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": TRAIN[1][:-1]}, "one label for each image"),
        ({"test_features": TEST[0][:0], "test_labels": TEST[1][:0]}, "at least one image"),
        ({"test_features": TEST[0][:, 1:]}, "same model"),
        ({"train_labels": np.zeros_like(TRAIN[1])}, "at least two"),
        ({"train_features": TRAIN[0][:, None]}, "averaging over patches"),
        ({"test_labels": TEST[1].astype(float)}, "give integers"),
        ({"test_features": TEST[0] * np.float32("nan")}, "NaN"),
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
        knn.knn_accuracy(**arguments | change)
    assert "\n" not in str(error.value)


def test_what_is_nearer_is_decided_in_float64():
    """Cosines that are the same in float32, of which the later image's is the larger."""
    near = np.array([[1.0, 1e-4], [1.0, 0.9999e-4], [0.0, 1.0]], np.float32)
    found = knn.nearest(near, np.array([0, 1, 2]), np.array([[1.0, 0.0]], np.float32), 2)
    assert np.float32(found.similarity[0, 0]) == np.float32(found.similarity[0, 1])
    assert found.labels.tolist() == [[1, 0]]

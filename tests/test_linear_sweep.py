"""The sweep of the paper's linear probe, against a plain NumPy version of it."""

import jax
import numpy as np
import pytest

from jepa_jax.errors import UserError
from jepa_jax.evaluation import linear_sweep
from jepa_jax.evaluation.linear import linear_probe_accuracy
from jepa_jax.evaluation.linear_sweep import HEADS, Head
from tests.given import task_of

PAIR = Head(1, False, 0.05, 5e-4), Head(2, True, 0.01, 0.0)


def clusters(n: int, seed: int, layers: int = 2, width: int = 12, classes: int = 4):
    """Overlapping clusters, in features of different scales; a constant one in the last layer."""
    fixed = np.random.default_rng(0)
    centres = fixed.normal(size=(classes, layers, width))
    scale = 10.0 ** fixed.uniform(-1, 0.5, (layers, width))
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    features = (centres[labels] + 1.5 * rng.normal(size=(n, layers, width)) + 0.5) * scale
    features[:, -1, 0] = 0.1
    return features.astype(np.float32), labels + 3


TRAIN, TEST = clusters(400, seed=1), clusters(500, seed=2)


@pytest.fixture(scope="module")
def sweep() -> linear_sweep.Sweep:
    return linear_sweep.linear_sweep(*TRAIN, *TEST, heads=PAIR)


def by_hand(features, labels, head: Head, classes: int, epochs: int):
    """One head: SGD with momentum on a kernel whose steps LARS scales, and a bias."""
    n, _, width = features.shape
    key = jax.random.key(0)
    own = jax.random.fold_in(key, 2 * head.layers + head.norm)
    kernel = 0.01 * np.asarray(jax.random.normal(own, (head.layers * width, classes)))
    bias, moving = np.zeros(classes), [0.0, 0.0]
    x = features[:, -head.layers :].reshape(n, -1).astype(np.float64)
    if head.norm:
        deviation = np.where(np.ptp(x, 0) > 0, x.std(0), np.inf)
        x = (x - x.mean(0)) / deviation
    size = max(1, n // 78)
    for epoch in range(epochs):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), n))
        for index in order[: n // size * size].reshape(-1, size):
            logits = x[index] @ kernel + bias
            p = np.exp(logits - logits.max(-1, keepdims=True))
            error = (p / p.sum(-1, keepdims=True) - np.eye(classes)[labels[index]]) / size
            gradient = x[index].T @ error + head.weight_decay * kernel
            gradient *= 1e-3 * np.linalg.norm(kernel) / np.linalg.norm(gradient)
            rate = 64 * head.learning_rate * 0.1 ** (epoch // 15)
            moving = [
                0.9 * old - rate * g
                for old, g in zip(moving, (gradient, error.sum(0)), strict=True)
            ]
            kernel, bias = kernel + moving[0], bias + moving[1]
    return x @ kernel + bias


def test_each_head_is_trained_as_if_alone(monkeypatch):
    features, labels = TRAIN[0], TRAIN[1] - 3
    seen = []
    logits = linear_sweep._logits
    monkeypatch.setattr(linear_sweep, "_logits", lambda *a: seen.append(logits(*a)) or seen[-1])
    linear_sweep._accuracies(
        features, labels, features, labels, classes=4, heads=PAIR, epochs=2, seed=0
    )
    for head in PAIR:
        found = np.asarray(seen[-1][head.layers, head.norm][:, 0])
        expected = by_hand(features, labels, head, classes=4, epochs=2)
        np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def test_reaches_what_the_exact_solution_does(sweep):
    train, test = (x.reshape(len(x), -1) for x in (TRAIN[0], TEST[0]))
    exact = linear_probe_accuracy(train, TRAIN[1], test, TEST[1])
    assert sweep.test[1] > exact - 0.02 > 0.8  # of the head that sees the same


def test_the_best_may_be_named_with_and_without_the_test_images():
    sweep = linear_sweep.Sweep(HEADS[:8], test=tuple(range(8)), held_out=(9, 3, 4, 2, 1, 0, 8, 7))
    both = [(1, False), (1, True)]
    assert sweep.best(sweep.test, both) == 7
    assert sweep.best(sweep.held_out, both) == 0
    assert sweep.best(sweep.held_out, both[1:]) == 6


def test_held_out_images_are_not_trained_on():
    """With labels at random they are learned by heart, of those that are seen."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(200, 1, 300)).astype(np.float32), rng.integers(4, size=200)
    heads = (Head(1, True, 0.01, 0.0),)
    sweep = linear_sweep.linear_sweep(*images, *images, heads=heads)
    assert sweep.test[0] > 0.8
    assert sweep.held_out[0] < 0.5


def test_the_heads_are_the_papers():
    assert len(set(HEADS)) == 24
    settings = [sorted(set(column)) for column in zip(*HEADS, strict=True)]
    assert settings == [[1, 4], [False, True], [0.001, 0.01, 0.05], [0.0, 5e-4]]


def test_the_protocol_tells_of_each_kind_of_head():
    options = linear_sweep.Options((1, 2), (0.05,), (0.0,), epochs=1)
    train, test = ((x.reshape(len(x), -1), y) for x, y in (TRAIN, TEST))
    result = linear_sweep.run(task_of(train, test), options)
    assert list(result.rows) == [
        "last layer, linear",
        "last layer, batch norm and linear",
        "last 2 layers, linear",
        "last 2 layers, batch norm and linear",
        "all 4 heads",
    ]
    assert len(result.details["heads"]) == 4
    best = result.rows["all 4 heads"]["best of them"]
    assert best == result.best == max(head["test"] for head in result.details["heads"])


def test_a_label_that_training_lacks_counts_as_wrong(sweep):
    strange = np.where(np.arange(500) % 2, TEST[1], 99)
    found = linear_sweep.linear_sweep(*TRAIN, TEST[0], strange, heads=PAIR)
    assert 0.3 < max(found.test) < 0.5


def test_batches_of_smaller_sets_make_as_many_steps_as_imagenet():
    assert linear_sweep.batch_size(1_281_167) == 16_384
    assert [images // linear_sweep.batch_size(images) for images in (60_000, 7_800, 78)] == [78] * 3
    assert linear_sweep.batch_size(5) == 1


def test_wrong_input_is_answered_in_one_line():
    train, test = ((x.reshape(len(x), -1), y) for x, y in (TRAIN, TEST))
    with pytest.raises(UserError, match="same model"):
        linear_sweep.run(task_of((train[0][:, 1:], train[1]), test), linear_sweep.Options())

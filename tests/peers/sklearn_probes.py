"""k-NN and the linear probe on features from files, beside scikit-learn's of the same.

python launch/extract.py --checkpoint=runs/digits --split=train --out=train.npz
python launch/extract.py --checkpoint=runs/digits --split=test --out=test.npz
python -m tests.peers.sklearn_probes train.npz test.npz
"""

import pathlib
import sys
import time

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from jepa_jax.evaluation.features_file import read
from jepa_jax.evaluation.knn import nearest
from jepa_jax.evaluation.linear import linear_predictions

NEIGHBOURS = 1, 20
L2 = 1e-3


def main(train_file: str, test_file: str) -> None:
    train, test = (read(pathlib.Path(file)) for file in (train_file, test_file))
    print(f"{len(train.features)} and {len(test.features)} images")
    found = nearest(train.features, train.labels, test.features, max(NEIGHBOURS))
    # scikit-learn compares in the precision that it is given, and ours decides in float64.
    exact = train.features.astype(np.float64), test.features.astype(np.float64)
    for k in NEIGHBOURS:
        theirs = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
        theirs.fit(exact[0], train.labels)
        _tell(f"{k}-NN", found.vote(k), theirs.predict(exact[1]), test.labels)
    start = time.monotonic()
    ours = linear_predictions(train.features, train.labels, test.features, l2=L2)
    middle = time.monotonic()
    scaler = StandardScaler().fit(train.features)
    theirs = LogisticRegression(C=1 / (L2 * len(train.features)), max_iter=2000)
    theirs.fit(scaler.transform(train.features), train.labels)
    predicted = theirs.predict(scaler.transform(test.features))
    _tell("linear", ours, predicted, test.labels)
    print(f"linear: {middle - start:.1f} s, theirs {time.monotonic() - middle:.1f} s")


def _tell(name: str, ours: np.ndarray, theirs: np.ndarray, labels: np.ndarray) -> None:
    accuracies = [f"{100 * np.mean(each == labels):.2f} %" for each in (ours, theirs)]
    differ = np.sum(ours != theirs)
    print(f"{name}: {accuracies[0]}, theirs {accuracies[1]}; {differ} predictions differ")


if __name__ == "__main__":
    main(*sys.argv[1:])

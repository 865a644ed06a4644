"""Train a model and judge it: tasks hand each other a fitted pipeline, its metrics and a confusion matrix.

Nothing has to be configured for it. The pipeline is one of scikit-learn's, whose types are known; ``Metrics`` is a
dataclass of this file, rebuilt without running any method of it. What is small stays in Airflow's database, where the
UI shows it: ``Metrics(accuracy=…)``, ``[[18, 0, 0], …]``.

Try it: ``airflow dags test model``
"""

from __future__ import annotations

from dataclasses import dataclass

from airflow.sdk import dag, task


@dataclass
class Metrics:
    """How good a model is on data that it has not seen."""

    accuracy: float
    macro_f1: float
    samples: int


@task
def split():
    """Return wines of three kinds, those to train with and those to judge with: measurements, and the kinds."""
    from sklearn.datasets import load_wine
    from sklearn.model_selection import train_test_split

    frame, kinds = load_wine(return_X_y=True, as_frame=True)
    return train_test_split(frame, kinds, test_size=0.3, random_state=0, stratify=kinds)


@task
def fit(parts):
    """Fit a pipeline, and return it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, _, kinds, _ = parts
    return make_pipeline(StandardScaler(), LogisticRegression(random_state=0)).fit(train, kinds)


@task
def confusion(model, parts):
    """Return how often each kind of wine was taken for which: a small array."""
    from sklearn.metrics import confusion_matrix

    _, test, _, kinds = parts
    return confusion_matrix(kinds, model.predict(test))


@task
def judge(model, parts):
    """Return the model's metrics."""
    from sklearn.metrics import accuracy_score, f1_score

    _, test, _, kinds = parts
    found = model.predict(test)
    return Metrics(float(accuracy_score(kinds, found)), float(f1_score(kinds, found, average="macro")), len(test))


@task
def report(model, metrics, matrix):
    """Print what became of it."""
    assert isinstance(metrics, Metrics)
    print(f"{' + '.join(name for name, _ in model.steps)}: {metrics.accuracy:.1%} of {metrics.samples} wines")
    print(f"macro F1 {metrics.macro_f1:.3f}")
    for kind, row in zip(model.classes_, matrix.tolist()):
        print(f"kind {kind}: {' '.join(f'{count:3}' for count in row)}")


@dag(schedule=None, tags=["vineyard", "example"])
def model():
    """A model, fitted and judged."""
    parts = split()
    fitted = fit(parts)
    report(fitted, judge(fitted, parts), confusion(fitted, parts))


model()

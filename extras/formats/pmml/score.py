"""PMML: score.py WORK convert, then WORK jpmml, WORK pypmml, each a process of its own.

A Java machine lives inside each process (jpype), so it ends when the process does.
With py4j in its place it is a process of its own, which may stay behind.
"""

import importlib.metadata
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from measure import measure, tell

from deploylab import phishing

work, step = Path(sys.argv[1]), sys.argv[2]
names = phishing.CONTRACT.names
rows = np.load(work / "rows.npy")
#: The book's own may be another one, which sklearn2pmml refuses.
FITTED = "fitted by scikit-learn " + importlib.metadata.version("scikit-learn")


def table(values):
    return pd.DataFrame(values, columns=names)


if step == "convert":
    from nyoka import skl_to_pmml
    from sklearn.pipeline import Pipeline
    from sklearn2pmml import make_pmml_pipeline, sklearn2pmml

    for version in ["v1", "v2"]:
        model = phishing.train(version)
        np.save(work / f"{version}-pmml.npy", model.predict_proba(rows)[:, 1])
        pipeline = make_pmml_pipeline(
            model, active_fields=names, target_fields=["is_phishing"]
        )
        sklearn2pmml(pipeline, str(work / f"{version}-sklearn2pmml.pmml"))
        if not isinstance(model, Pipeline):
            model = Pipeline([("model", model)])
        try:
            skl_to_pmml(
                model, names, "is_phishing", str(work / f"{version}-nyoka.pmml")
            )
        except Exception as error:
            tell(
                tool="nyoka",
                version=importlib.metadata.version("nyoka"),
                model=version,
                ran="no",
                note=f"at conversion: {type(error).__name__}: {error}; {FITTED}",
            )
elif step == "jpmml":
    from jpmml_evaluator import make_backend, make_evaluator

    backend = make_backend("jpype")

    def score(evaluator, values):
        if len(values) == 1:
            row = dict(zip(names, values[0].tolist(), strict=True))
            return [evaluator.evaluate(row)["probability(1)"]]
        return evaluator.evaluateAll(table(values))["probability(1)"]

    for version in ["v1", "v2"]:
        file = work / f"{version}-sklearn2pmml.pmml"
        answers = measure(
            [file],
            rows,
            np.load(work / f"{version}-pmml.npy"),
            lambda file=file: make_evaluator(str(file), backend=backend).verify(),
            score,
        )
        tell(
            tool="sklearn2pmml",
            version=importlib.metadata.version("sklearn2pmml"),
            model=version,
            ran="yes",
            note="scored by jpmml_evaluator "
            + importlib.metadata.version("jpmml_evaluator")
            + f", {FITTED}",
            **answers,
        )
else:
    from pypmml import Model, PMMLContext

    PMMLContext.getOrCreate(gateway="jpype")

    def score(model, values):
        if len(values) == 1:
            row = dict(zip(names, values[0].tolist(), strict=True))
            return [probability(model.predict(row))]
        return probability(model.predict(table(values)))

    def probability(results):
        """Each converter names the output in its own way."""
        return results[
            "probability(1)" if "probability(1)" in results else "probability_1"
        ]

    for path in sorted(work.glob("*.pmml")):
        version, tool = path.stem.split("-")
        answers = measure(
            [path],
            rows,
            np.load(work / f"{version}-pmml.npy"),
            lambda path=path: Model.load(str(path)),
            score,
        )
        tell(
            tool=tool,
            version=importlib.metadata.version(tool),
            model=version,
            ran="yes",
            note=f"scored by pypmml {importlib.metadata.version('pypmml')}, {FITTED}",
            **answers,
        )
    PMMLContext.shutdown()

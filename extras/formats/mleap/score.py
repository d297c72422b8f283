"""MLeap: score.py WORK writes a bundle, and looks for what could score it."""

import importlib.metadata
import sys
from pathlib import Path

import mleap.sklearn.logistic
import mleap.sklearn.pipeline
import mleap.sklearn.preprocessing.data
from measure import tell
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from deploylab import phishing

work = Path(sys.argv[1])
names = phishing.CONTRACT.names
train = phishing.split().train
columns = mleap.sklearn.preprocessing.data.FeatureExtractor(
    input_scalars=names, output_vector="features", output_vector_items=names
)
scaler, model = StandardScaler(), LogisticRegression()
scaler.mlinit(prior_tf=columns, output_features="scaled")
model.mlinit(input_features="scaled", prediction_column="prediction")
pipeline = Pipeline([(step.name, step) for step in (columns, scaler, model)])
pipeline.mlinit()
pipeline.fit(train[names], train[phishing.LABEL])
(work / "mleap").mkdir()
pipeline.serialize_to_bundle(str(work / "mleap"), "v1", init=True)

bundle = work / "mleap" / "v1.zip"
package = Path(mleap.__path__[0])
jars = [path.name for path in package.rglob("*.jar")]
tell(
    tool="mleap",
    version=importlib.metadata.version("mleap"),
    model="v1",
    ran="partly",
    note="bundle written, not scored: a bundle is scored by a library for the JVM, and "
    f"the Python package carries {len(jars) or 'no'} jar",
    **{"size KiB": round(bundle.stat().st_size / 1024, 1)},
)

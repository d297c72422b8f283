"""H2O: score.py WORK trains a model of H2O's own and asks for it as MOJO and POJO."""

import importlib.metadata
import sys
from pathlib import Path

import h2o
from h2o.estimators import H2OGeneralizedLinearEstimator
from measure import tell

work = Path(sys.argv[1])
h2o.init(ip="127.0.0.1", nthreads=1, max_mem_size="600m", strict_version_check=False)
try:
    frame = h2o.import_file(str(work / "train.csv"))
    frame["is_phishing"] = frame["is_phishing"].asfactor()
    names = [name for name in frame.columns if name != "is_phishing"]
    model = H2OGeneralizedLinearEstimator(family="binomial")
    model.train(x=names, y="is_phishing", training_frame=frame)
    for form in ("MOJO", "POJO"):
        try:
            file = getattr(model, f"download_{form.lower()}")(path=str(work))
            size = round(Path(file).stat().st_size / 1024, 1)
            answer = {"ran": "partly", "size KiB": size, "note": "written, not scored"}
        except Exception as error:
            answer = {"ran": "no", "note": f"refused: {error}"}
        tell(
            format=form,
            tool="h2o",
            version=importlib.metadata.version("h2o"),
            model="H2O's own regression",
            **answer,
        )
finally:
    h2o.cluster().shutdown()

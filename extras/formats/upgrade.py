"""One model saved under one scikit-learn, loaded under another.

upgrade.py save FOLDER, upgrade.py load FOLDER: each by the Python of an environment
that has another scikit-learn. The loader is the book's own, `deploylab.artifacts`.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import sklearn
from measure import agreement, tell

from deploylab import artifacts, phishing

what, folder = sys.argv[1], Path(sys.argv[2])
rows = np.load(folder.parent / "rows.npy")

for name in ["v1", "v2"]:
    if what == "save":
        model = phishing.train(name)
        folder.mkdir(exist_ok=True)
        np.save(folder / f"{name}.npy", model.predict_proba(rows)[:, 1])
    for form in artifacts.FORMATS:
        place = folder / name / form
        if what == "save":
            artifacts.save(phishing.version(name), place, form, model=model)
            continue
        saved = artifacts.read(place)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            doing = "load"
            try:
                scorer = artifacts.load(place, trust=saved.sha256)
                doing = "score"
                expected = np.load(folder / f"{name}.npy")
                answer = {"ran": "yes", **agreement(scorer.score(rows), expected)}
            except Exception as error:
                text = f"{type(error).__name__}: {error}".replace(str(place), "")
                loads = {"load": "does not load", "score": "loads, does not score"}
                answer = {"ran": "no", "note": f"{loads[doing]}: {text}"}
        stamped = [w for w in caught if "unpickl" in str(w.message)]
        if stamped and answer["ran"] == "yes":
            answer["note"] = f"{len(stamped)} warnings of another version"
        tell(
            experiment="upgrade",
            format=form,
            tool="scikit-learn",
            version=saved.made_with["scikit-learn"],
            model=name,
            reader=f"scikit-learn {sklearn.__version__}",
            **answer,
        )

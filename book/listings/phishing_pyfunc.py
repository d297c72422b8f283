"""The phishing model as an MLflow pyfunc: ONNX inside, a table in, scores out.

MLflow runs this file when it loads the model (`python_model="phishing_pyfunc.py"`), so
there is no pickle in the saved folder, and nothing of the book is imported.
"""

import mlflow
import numpy as np
import onnxruntime
import pandas as pd


class PhishingModel(mlflow.pyfunc.PythonModel):
    """Scores rows by the names of their columns, on one thread."""

    def load_context(self, context):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            context.artifacts["onnx"], options, providers=["CPUExecutionProvider"]
        )

    def predict(self, context, model_input: pd.DataFrame, params=None) -> np.ndarray:
        names = context.model_config["features"]
        rows = model_input[names].to_numpy(dtype=np.float32)
        scores = self.session.run(["probabilities"], {"features": rows})[0]
        return scores[:, 1].astype(np.float64)


mlflow.models.set_model(PhishingModel())

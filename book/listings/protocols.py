"""The phishing service behind three protocols: two translations, one model."""

import itertools
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import phishing_service
from flask import Flask, Request, abort, jsonify, request

from deploylab import artifacts
from deploylab.contract import Contract, ContractError

NAME = "phishing"


def from_mlflow(body: dict, contract: Contract) -> list[list[float]]:
    """Rows of MLflow's request: a list of records, each with named fields."""
    return [contract.row(record) for record in body["dataframe_records"]]


def to_mlflow(scores: list[float]) -> dict:
    """MLflow's answer: the predictions, in the order of the records."""
    return {"predictions": scores}


def from_open_inference(body: dict, contract: Contract) -> list[list[float]]:
    """Rows of an Open Inference request: one named tensor for each feature."""
    columns = {tensor["name"]: values(tensor) for tensor in body["inputs"]}
    if len(columns) < len(body["inputs"]):
        raise ValueError("two tensors have one name")
    lines = zip(*columns.values(), strict=True)
    return [contract.row(dict(zip(columns, line, strict=True))) for line in lines]


def values(tensor: dict) -> list:
    """The values of one tensor, flat or one list for each row, as its shape says."""
    data, shape = tensor["data"], tensor["shape"]
    if shape[1:] == [1] and all(isinstance(one, list) for one in data):
        data = list(itertools.chain(*data))
    if math.prod(shape) != len(data):
        raise ValueError(f"{len(data)} values do not have the shape {shape}")
    return data


def to_open_inference(scores: list[float], version: str, id: str | None) -> dict:
    """The Open Inference answer: one tensor, and the id that the request had."""
    tensor = {"name": "probability", "datatype": "FP64"}
    tensor |= {"shape": [len(scores)], "data": scores}
    answer = {"model_name": NAME, "model_version": version, "outputs": [tensor]}
    return answer if id is None else answer | {"id": id}


def create_app(artifact: str) -> Flask:
    """The service of the artifact, at three addresses."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = phishing_service.MAX_BODY_BYTES
    described = artifacts.read(artifact)
    contract, version = described.contract, described.version
    model = phishing_service.BackgroundModel(artifact, None)
    phishing_service.add_probes(app, model)
    phishing_service.add_prediction(app, model, described)

    def scores(rows: list[list[float]]) -> list[float]:
        if model.scorer is None:
            abort(503, f"the model is {model.state}")
        if not rows:
            abort(400, "there is no row in this request")
        return model.scorer.score(rows).tolist()

    @app.get("/ping")
    def ping():
        return app.view_functions["ready"]()

    @app.post("/invocations")
    def invocations():
        rows = translated(request, from_mlflow, contract)
        return jsonify(to_mlflow(scores(rows)))

    @app.post(f"/v2/models/{NAME}/infer")
    def infer():
        rows = translated(request, from_open_inference, contract)
        asked_as = request.get_json().get("id")
        return jsonify(to_open_inference(scores(rows), version, asked_as))

    app.register_error_handler(ContractError, phishing_service.refuse)
    app.register_error_handler(phishing_service.HTTPException, phishing_service.explain)
    return app


def translated(request: Request, translate, contract: Contract) -> list[list[float]]:
    """The rows that a request asks about; 400 where it is not of its protocol."""
    try:
        return translate(request.get_json(), contract)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ContractError):
            raise
        abort(400, f"this is not a request of the protocol: {error!r}")

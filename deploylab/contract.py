"""The feature contract: one definition, from which everything else is made.

A `Contract` lists the features that a model needs, in order, with the values each may
take. Validation of requests, the OpenAPI description and the table on the page are all
derived from that list, so they cannot disagree. This module imports neither pandas nor
scikit-learn: a model server loads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model
from pydantic import ValidationError as PydanticError
from pydantic_core import PydanticCustomError

__all__ = ["Contract", "ContractError", "Feature", "Problem"]


@dataclass(frozen=True)
class Feature:
    """One input of a model: its name, the codes it may take, and what it stands for."""

    name: str
    values: tuple[float, ...]
    meaning: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(map(float, self.values)))


@dataclass(frozen=True)
class Problem:
    """What is wrong with one field of a request; `field` is `body` for all of it."""

    field: str
    problem: str


class ContractError(ValueError):
    """A request that does not keep the contract.

    `status` is the HTTP status that says so: 400 when the body is not JSON at all,
    422 when it is JSON but not a row. `problems` names each field.
    """

    def __init__(self, status: int, problems: list[Problem]):
        self.status = status
        self.problems = problems
        super().__init__("; ".join(f"{p.field}: {p.problem}" for p in problems))

    def as_json(self) -> dict[str, Any]:
        """The body of the answer: a sentence, and the problem of each field."""
        return {
            "error": "the request does not keep the feature contract",
            "problems": [asdict(problem) for problem in self.problems],
        }


@dataclass(frozen=True)
class Contract:
    """The features of one model, in the order in which the model expects them."""

    name: str
    features: tuple[Feature, ...]

    @property
    def names(self) -> list[str]:
        """The feature names, in order."""
        return [feature.name for feature in self.features]

    @cached_property
    def row_model(self) -> type[BaseModel]:
        """A pydantic model of one row: strict, nothing missing, nothing extra."""
        fields: dict[str, Any] = {
            feature.name: (_coded(feature), Field(description=feature.meaning))
            for feature in self.features
        }
        return create_model(
            "Row",
            __config__=ConfigDict(extra="forbid", strict=True),
            __doc__="One web address, described by its features.",
            **fields,
        )

    def parse(self, body: bytes | str) -> list[float]:
        """The feature values of a JSON body, in the contract's order.

        Raises `ContractError`, which names every field that breaks the contract.
        """
        try:
            row = self.row_model.model_validate_json(body)
        except PydanticError as error:
            raise _contract_error(error) from None
        return [getattr(row, name) for name in self.names]

    def row(self, values: Mapping[str, float]) -> list[float]:
        """The same for a mapping in Python: checked, and in the contract's order."""
        try:
            checked = self.row_model.model_validate(dict(values))
        except PydanticError as error:
            raise _contract_error(error) from None
        return [getattr(checked, name) for name in self.names]

    def table(self) -> list[dict[str, str]]:
        """One record a feature, for a table on the page."""
        return [
            {
                "feature": feature.name,
                "allowed values": ", ".join(f"{v:g}" for v in feature.values),
                "what it looks at": feature.meaning,
            }
            for feature in self.features
        ]

    def openapi(self, version: str) -> dict[str, Any]:
        """An OpenAPI 3.1 description of a service that keeps this contract."""
        row = self.row_model.model_json_schema()
        problem = {
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": {"type": "string"},
                "problems": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "field": {"type": "string"},
                            "problem": {"type": "string"},
                        },
                    },
                },
            },
        }
        prediction = {
            "type": "object",
            "required": ["version", "phishing", "probability"],
            "properties": {
                "version": {"type": "string"},
                "phishing": {"type": "boolean"},
                "probability": {"type": "number", "minimum": 0, "maximum": 1},
            },
        }
        answers = {
            "200": ("the model's answer", "Prediction"),
            "400": ("the body is not JSON", "Refusal"),
            "411": ("the body's length is not declared", "Refusal"),
            "413": ("the body is too large", "Refusal"),
            "415": ("the body is not declared as application/json", "Refusal"),
            "422": ("a field breaks the contract", "Refusal"),
            "503": ("the model is not loaded yet", "Refusal"),
        }
        return {
            "openapi": "3.1.0",
            "info": {"title": "Phishing model", "version": version},
            "paths": {
                "/predict": {
                    "post": {
                        "summary": "Is this web address phishing?",
                        "requestBody": {
                            "required": True,
                            "content": _json_content("Row"),
                        },
                        "responses": {
                            status: {
                                "description": text,
                                "content": _json_content(schema),
                            }
                            for status, (text, schema) in answers.items()
                        },
                    }
                }
            },
            "components": {
                "schemas": {"Row": row, "Prediction": prediction, "Refusal": problem}
            },
        }

    def as_json(self) -> dict[str, Any]:
        """A plain form that `from_json` reads back; it travels with the artifact."""
        return {"name": self.name, "features": [asdict(f) for f in self.features]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Contract:
        """The contract that `as_json` wrote."""
        features = tuple(
            Feature(f["name"], tuple(f["values"]), f["meaning"])
            for f in data["features"]
        )
        return cls(data["name"], features)

    @property
    def digest(self) -> str:
        """SHA-256 of the contract, in hexadecimal: another contract, another digest."""
        text = json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _coded(feature: Feature) -> Any:
    """The type of a feature: a finite number out of the listed codes."""
    allowed = feature.values
    listed = ", ".join(f"{value:g}" for value in allowed)

    def check(value: float) -> float:
        if value not in allowed:
            raise PydanticCustomError(
                "not_a_code", "{value} is not one of {listed}",
                {"value": f"{value:g}", "listed": listed},
            )  # fmt: skip
        return value

    return Annotated[
        float,
        Field(allow_inf_nan=False, json_schema_extra={"enum": list(allowed)}),
        AfterValidator(check),
    ]


def _contract_error(error: PydanticError) -> ContractError:
    problems: Iterable[Problem] = (
        Problem(_field(item["loc"]), _words(item["type"], item["msg"]))
        for item in error.errors(include_input=False, include_url=False)
    )
    unreadable = any(item["type"] == "json_invalid" for item in error.errors())
    # A body of a million unknown keys must not become an answer of a million lines.
    return ContractError(400 if unreadable else 422, list(islice(problems, 20)))


def _field(location: tuple[int | str, ...]) -> str:
    """The field's name, short enough to be printed (a caller may send any key)."""
    name = ".".join(str(part) for part in location) or "body"
    return name if len(name) <= 80 else name[:77] + "..."


_SAID = {
    "missing": "this feature is missing",
    "extra_forbidden": "the contract has no such feature",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "model_type": "must be a JSON object with one value for each feature",
    "model_attributes_type": "must be a mapping with one value for each feature",
}


def _words(kind: str, message: str) -> str:
    return _SAID.get(kind, message[:1].lower() + message[1:])


def _json_content(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}

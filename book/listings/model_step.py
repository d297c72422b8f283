"""Stands for a model in the exercise on the worker: a text in, a text out."""


def answer(text: str) -> str:
    """The text in capitals."""
    return text.upper()

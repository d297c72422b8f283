"""The pipeline in Airflow: a file that the DAG processor finds, and a scheduler runs.

airflow dags trigger release_model --conf '{"version": "v2", "folder": ...}'
"""

from datetime import timedelta

import steps
from airflow.sdk import Param, dag, task


@dag(
    schedule=None,  # when somebody asks for it
    max_active_runs=1,
    params={name: Param(type="string") for name in ("version", "folder", "registry")},
)
def release_model():
    @task
    def train(params=None):
        steps.train(params["version"], params["folder"])

    @task
    def gate(params=None):
        return steps.gate(params["folder"], params["registry"])

    @task(retries=1, retry_delay=timedelta(seconds=1))
    def release(params=None):
        return steps.release(params["folder"], params["registry"])

    train() >> gate() >> release()


release_model()

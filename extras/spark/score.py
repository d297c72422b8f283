"""Score a Parquet file on Spark with an MLflow pyfunc, and say how long it took.

    python score.py MODEL INPUT.parquet OUTPUT

MODEL is a folder that MLflow saved. Prints JSON: `start_s` until the first partition
could have been scored, `total_s` until OUTPUT, a folder of Parquet files, is written.
"""

import json
import os
import sys
import time

began = time.perf_counter()
# Nobody outside this machine is asked, and nobody outside it may ask.
os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
# Spark starts Python workers by name; they must be this Python.
os.environ["PYSPARK_PYTHON"] = sys.executable
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import mlflow.pyfunc  # noqa: E402
import pyspark  # noqa: E402
from pyspark.sql import SparkSession  # noqa: E402


def main() -> None:
    model, source, target = sys.argv[1:]
    spark = (
        SparkSession.builder.master("local[2]")
        .appName("batch")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        # Otherwise a file of a few MiB is one partition, and one core does the work.
        .config("spark.sql.files.openCostInBytes", "65536")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    score = mlflow.pyfunc.spark_udf(
        spark, model, result_type="double", env_manager="local"
    )
    start_s = time.perf_counter() - began
    table = spark.read.parquet(source)
    # Without arguments: the columns that the model's signature names, in its order.
    scored = table.select("id", score().alias("probability"))
    scored.write.mode("overwrite").parquet(target)
    total_s = time.perf_counter() - began
    partitions = scored.rdd.getNumPartitions()
    spark.stop()
    print(
        json.dumps(
            {
                "start_s": start_s,
                "total_s": total_s,
                "tasks": partitions,
                "version": f"pyspark {pyspark.__version__}",
            }
        )
    )


if __name__ == "__main__":
    main()

"""Arrow schemas of mealrec.schema as Spark selects: the contract at the end of each transform."""

from __future__ import annotations

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mealrec.schema import SCHEMAS


def ddl(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {_spark_type(field.type)}" for field in schema)


def conform(frame: DataFrame, table: str) -> DataFrame:
    """Exactly the table's columns, in order and type. Raises AnalysisException when one is missing."""
    return frame.select(*[_cast(field) for field in SCHEMAS[table]])


def _cast(field: pa.Field) -> Column:
    return F.col(field.name).cast(_spark_type(field.type)).alias(field.name)


def _spark_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"array<{_spark_type(kind.value_type)}>"
    names = {
        pa.string(): "string",
        pa.int32(): "int",
        pa.int64(): "bigint",
        pa.float64(): "double",
        pa.bool_(): "boolean",
        pa.binary(): "binary",
    }
    return names[kind]

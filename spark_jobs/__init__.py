"""Spark jobs: pure functions of Arrow tables or DataFrames and two short mains, each runnable by spark-submit alone."""

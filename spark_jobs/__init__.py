"""Spark jobs: pure functions of Arrow tables and two short mains, each runnable by spark-submit alone."""

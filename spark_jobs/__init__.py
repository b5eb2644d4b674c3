"""Spark jobs: pure DataFrame -> DataFrame functions and two short mains, each runnable by spark-submit alone."""

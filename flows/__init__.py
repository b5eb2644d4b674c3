"""Prefect flows: the only place that knows Prefect. pipeline.py is the picture."""

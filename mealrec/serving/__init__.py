"""Serving: the recommender over a model bundle, and batch recommendations."""

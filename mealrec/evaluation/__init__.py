"""Evaluation: full ranking, HR and NDCG, baselines in the same run, significance, salience against truth, the report."""

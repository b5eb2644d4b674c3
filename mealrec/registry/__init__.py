"""MLflow: runs, the model flavour, the gate, promotion. The only room that knows it."""

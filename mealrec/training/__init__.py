"""Training: one step's losses (torch alone), the staged loop, checkpoints, and the Ray Train adapter."""

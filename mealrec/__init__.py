"""MealRec: micro-video recommendation with two nested diffusion models, run as a distributed pipeline.

After the idea of arXiv 2603.01926: TCD refines a video's frames under temporal and collaborative guidance, NPD recovers
the viewer's preference blindly, without being told how noisy the history is.
"""

__version__ = "0.1.0"

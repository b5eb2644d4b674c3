"""Baselines that every report stands beside, computed from the same training interactions."""

from mealrec.model.baselines.itemknn import ItemKNN
from mealrec.model.baselines.markov import Markov
from mealrec.model.baselines.popularity import Popularity

__all__ = ["ItemKNN", "Markov", "Popularity"]

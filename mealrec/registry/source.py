"""Where serving gets its models from: the registry's aliases and the bundles of its versions."""

from __future__ import annotations

import os
from pathlib import Path

from mlflow.exceptions import MlflowException

from mealrec.registry.flavour import bundle_of
from mealrec.registry.promotion import by_alias
from mealrec.registry.tracking import Tracker
from mealrec.serving.models import Unreachable
from mealrec.serving.recommender import BundleError

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a server's log is no terminal


class RegistrySource:
    """mealrec.serving.models.Source over MLflow."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def version(self, alias: str) -> str | None:
        """Raises Unreachable when the tracking server does not answer."""
        try:
            found = by_alias(self.tracker, alias)
        except (MlflowException, OSError) as error:
            raise Unreachable(str(error)) from error
        return None if found is None else found.version

    def bundle(self, version: str, scratch: Path) -> Path:
        """Raises Unreachable when the artifacts can't be fetched, BundleError when there is no bundle among them."""
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            return bundle_of(self.tracker, f"models:/{self.tracker.config.model_name}/{version}", scratch)
        except StopIteration:
            raise BundleError(f"version {version} holds no bundle.json") from None
        except (MlflowException, OSError) as error:
            raise Unreachable(f"artifacts of version {version}: {error}") from error

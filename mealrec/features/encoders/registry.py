"""From settings to encoders."""

from __future__ import annotations

from mealrec.config import FeaturesConfig, digest
from mealrec.features.encoders.audio import AiSfx, audio_digest
from mealrec.features.encoders.chosen import Chosen, chosen_digest
from mealrec.features.encoders.protocol import Encoder, EncoderSet
from mealrec.features.encoders.text import MiniLM, text_digest
from mealrec.features.encoders.visual import EfficientNetLite0, visual_digest
from mealrec.features.sampling import METHOD


def digest_of(config: FeaturesConfig) -> str:
    """The digest of the whole set. Loads no weights; those of a chosen encoder's folder are read once for their hash."""
    return digest(
        _visual_digest(config),
        audio_digest() if config.audio != "none" else None,
        text_digest(config.text_tokens) if config.text != "none" else None,
        config.thumbnail_height,
        METHOD,
    )


def build(config: FeaturesConfig) -> EncoderSet:
    """Load what is switched on. Raises WeightsError when a package or a model's folder is absent or not what it should be."""
    return EncoderSet(
        visual=_visual(config),
        audio=AiSfx() if config.audio != "none" else None,
        text=MiniLM(config.text_tokens) if config.text != "none" else None,
        digest=digest_of(config),
    )


def _visual_digest(config: FeaturesConfig) -> str | None:
    if config.visual == "none":
        # sound and thumbnails are of the frames' windows; titles alone have none
        return digest("no pictures", config.frame_size, config.frames) if config.audio != "none" else None
    if config.visual == "efficientnet-lite0":
        return visual_digest(config.frame_size, config.frames)
    return chosen_digest(config.visual, config.frame_size, config.frames)


def _visual(config: FeaturesConfig) -> Encoder | None:
    if config.visual == "none":
        return None
    if config.visual == "efficientnet-lite0":
        return EfficientNetLite0(config.frame_size, config.frames)
    return Chosen(config.visual, config.frame_size, config.frames)

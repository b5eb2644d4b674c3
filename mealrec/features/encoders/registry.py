"""From settings to encoders."""

from __future__ import annotations

from mealrec.config import FeaturesConfig, digest
from mealrec.features.encoders.audio import AiSfx, audio_digest
from mealrec.features.encoders.protocol import EncoderSet
from mealrec.features.encoders.text import MiniLM, text_digest
from mealrec.features.encoders.visual import EfficientNetLite0, visual_digest
from mealrec.features.sampling import METHOD


def digest_of(config: FeaturesConfig) -> str:
    """The digest of the whole set, without loading any weights."""
    return digest(
        visual_digest(config.frame_size, config.frames) if config.visual != "none" else None,
        audio_digest() if config.audio != "none" else None,
        text_digest(config.text_tokens) if config.text != "none" else None,
        config.thumbnail_height,
        METHOD,
    )


def build(config: FeaturesConfig) -> EncoderSet:
    """Load what is switched on. Raises WeightsError when a package is absent or changed."""
    return EncoderSet(
        visual=EfficientNetLite0(config.frame_size, config.frames) if config.visual != "none" else None,
        audio=AiSfx() if config.audio != "none" else None,
        text=MiniLM(config.text_tokens) if config.text != "none" else None,
        digest=digest_of(config),
    )

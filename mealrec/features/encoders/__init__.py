"""Frozen encoders whose weights come inside packages, behind one protocol."""

from mealrec.features.encoders.protocol import Encoder, EncoderSet
from mealrec.features.encoders.registry import build, digest_of

__all__ = ["Encoder", "EncoderSet", "build", "digest_of"]

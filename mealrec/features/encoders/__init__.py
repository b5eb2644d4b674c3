"""Frozen encoders behind one protocol: some with weights inside packages, others from a folder or a hub by settings."""

from mealrec.features.encoders.protocol import Encoder, EncoderSet
from mealrec.features.encoders.registry import build, digest_of

__all__ = ["Encoder", "EncoderSet", "build", "digest_of"]

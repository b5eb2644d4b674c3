"""Features: probe, sample, decode in a killable child, encode with frozen encoders, one row a video."""

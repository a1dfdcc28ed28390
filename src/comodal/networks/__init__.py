"""Encoders, decoders and fusion that two or more methods use unchanged. MONAI's networks are used, not rewritten."""

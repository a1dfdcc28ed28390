"""Encoders, decoders and fusion that two or more methods use unchanged. MONAI's and transformers' networks are not rewritten."""

"""Information between modalities: bounds, critics, pairs, closed forms."""

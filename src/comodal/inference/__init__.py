"""From a trained method to predictions: windows, subsets, and files in the geometry of the input."""

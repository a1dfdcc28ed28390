"""The only place that steps a method's optimiser: one loop on Lightning Fabric that knows no method by name."""

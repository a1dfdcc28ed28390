"""The command line: one file per command; each parses, calls `comodal.api` and says what was done. Nothing is computed here."""

"""lmo-transfer: the command line, which brings sweeps, analysis and transfer together."""

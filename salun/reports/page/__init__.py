"""The page of `salun-report`: one HTML file made of records, kept outputs and checkpoints."""

"""Who does the runs: this process, others, or a cluster."""

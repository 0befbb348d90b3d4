"""`salun-viz`: figures of the latent space, of predictions and of runs."""

from salun.cli import entry

main = entry.viz

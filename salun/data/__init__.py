"""Images on the device, their augmentation, where they come from and how they are split."""

"""One process's share of the pixels, where several train together: data that do not fit one device fit several."""

import torch
from torch import Tensor


class PixelShare:
    """Every so many-th image of a store, indexed by the rows of the whole store.

    Attributes:
        pixels: (K, C, H, W), the images that this process holds, on its device.
        shape: of the whole store.
        ndim: 4.
        dtype: of the pixels.
        device: where rows are looked up, the CPU, so that to pick those of a batch does not wait for the device.
    """

    ndim = 4
    device = torch.device("cpu")

    def __init__(self, pixels: Tensor, rank: int, processes: int, device: torch.device) -> None:
        """Take a share of a store.

        Args:
            pixels: (M, C, H, W), the whole store.
            rank: of this process, from 0; it holds the images whose row leaves this remainder.
            processes: their number.
            device: where the share goes.
        """
        self.shape, self.dtype = pixels.shape, pixels.dtype
        self.rank, self.processes = rank, processes
        # A slice alone would keep the whole store alive.
        self.pixels = pixels[rank::processes].clone().to(device)

    def __len__(self) -> int:
        """Tell how many images the whole store has.

        Returns:
            M.
        """
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Take images.

        Args:
            rows: (B,) int64 of images that this process holds, in any order.

        Returns:
            (B, C, H, W) on the share's device.

        Raises:
            IndexError: another process holds one of them.
        """
        if bool((rows % self.processes != self.rank).any()):
            raise IndexError(f"images of which process {self.rank} of {self.processes} holds none")
        return self.pixels[(rows // self.processes).to(self.pixels.device)]

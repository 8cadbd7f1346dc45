"""Device memory by name, and the block that contexts share which never run at the same time."""

from __future__ import annotations

from wanrt.backends.tensorrt.cuda import ALIGNMENT, Cuda

__all__ = ["Blocks", "Scratch"]


class Blocks:
    """Blocks of device memory that have a name, grow when asked to, and are freed together."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._blocks: dict[str, tuple[int, int]] = {}

    def take(self, name: str, size: int) -> int:
        """Return the address of a block of at least `size` bytes; growing loses what it held."""
        address, held = self._blocks.get(name, (0, 0))
        if held >= max(size, 1):
            return address
        if name in self._blocks:
            del self._blocks[name]
            self._cuda.free(address)
        size = max(size, 1)
        address = self._cuda.malloc(size)
        self._blocks[name] = address, size
        return address

    def close(self) -> None:
        """Free all blocks; a second call does nothing."""
        while self._blocks:
            _, (address, _) = self._blocks.popitem()
            self._cuda.free(address)


class Scratch:
    """The activations of contexts, of which at most one runs at any time: one block for all.

    It grows to what the largest of them needs. Then its address changes, which is why a context
    asks for it before it runs. Every user calls `join` once and `leave` once; the last one out
    frees the block.
    """

    def __init__(self) -> None:
        self._blocks: Blocks | None = None
        self._users = 0
        self.size = ALIGNMENT

    @property
    def address(self) -> int:
        """The block's present address."""
        assert self._blocks is not None
        return self._blocks.take("scratch", self.size)

    def reserve(self, size: int) -> None:
        """Let the block have at least `size` bytes from now on."""
        self.size = max(self.size, size)

    def join(self, cuda: Cuda) -> Scratch:
        """Become one of its users; all of them run on the same GPU."""
        self._blocks = self._blocks or Blocks(cuda)
        self._users += 1
        return self

    def leave(self) -> None:
        """Stop using it."""
        self._users -= 1
        if self._users == 0 and self._blocks is not None:
            self.size = ALIGNMENT
            self._blocks.close()

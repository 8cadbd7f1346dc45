"""python -m wanrt: the same as the `wanrt` command."""

from __future__ import annotations

from wanrt.cli.main import main

if __name__ == "__main__":
    main()

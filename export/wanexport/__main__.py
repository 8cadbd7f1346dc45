"""python -m wanexport."""

from wanexport.cli import main

main()

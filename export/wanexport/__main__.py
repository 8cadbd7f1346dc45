"""python -m wanexport."""

from wanexport.cli.main import main

main()

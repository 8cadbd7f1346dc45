"""Builds and benches on many cards: one unit of work on one card, placed by Ray, its state in files.

A study makes `unit.Unit` values and gives them to `run.run_units` with a pool of cards. `ray_pool`
is the only module that imports Ray, and only once it is asked for cards. Nothing here knows what a
bench or a build is beyond its command line and the file that says it is done.
"""

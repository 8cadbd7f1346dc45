"""Builds and benches on many cards: a unit of work on one card, placed by Ray.

A study makes `unit.Unit` values and gives them to `run.run_units` with a pool of cards. `ray_pool`
is the only module that imports Ray, and only once it is asked for cards. All state is in files, so
a driver that was killed is started again and goes on. No command uses it yet. Nothing here knows
what a bench or a build is beyond its command line and the file that says it is done.
"""

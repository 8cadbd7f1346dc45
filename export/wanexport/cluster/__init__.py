"""Builds and benches as units of work, each on one card: this machine's, or those of a Ray cluster.

A study makes `unit.Unit` values and gives them to `run.run_units` with a pool of cards. `ray_pool`
is the only module that imports Ray, and only once it is asked for cards. All state is in files, so
a driver that was killed is started again and goes on. Nothing here knows what a bench or a build is
beyond its command line and the file that says it is done.
"""

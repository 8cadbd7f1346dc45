"""`wanexport study`: a grid of engines, built, measured and compared, with its state in files.

A study starts `wanexport extract`, `wanexport build`, `wanrt bench` and `wanrt report` as processes
and knows of them their command lines and the JSON that they leave: it measures nothing itself.
"""

"""`scenes`: pictures of coloured shapes, drawn from a seed, with captions that are checked against the scene.

A scene is sampled (`world`), drawn (`drawing`) and described (`grammar`). `truth` decides whether a caption is true.
`dataset` writes and reads a whole data set.
"""

"""`scenes`: pictures of coloured shapes, drawn from a seed, with captions whose truth can be checked.

A scene is sampled (`world`), drawn (`render`), described (`language`) and, once a model has described it
too, its description is judged (`truth`). `writing` writes a whole data set in COCO's layout, and
`reading` reads it back.
"""

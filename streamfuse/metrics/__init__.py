"""Image quality, registration and temporal metrics: pure functions on arrays.

`panel` holds the table of all of them and computes whole families at once; `mepma`, `film` and `standard`
hold the fusion metrics by whose definition they follow, `registration` and `temporal` the others.
"""

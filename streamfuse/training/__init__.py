"""Training of the networks; never imported at run time."""

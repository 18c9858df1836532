"""A procedural street, filmed by two imperfect cameras, with the truth known."""

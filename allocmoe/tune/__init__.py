"""The plan from a wish: how much faster, at what loss, for how many sequences at a time."""

"""Visiting a responder: the steps of `teeio connect`, one file a subject; each step is a function of the `Visit`."""

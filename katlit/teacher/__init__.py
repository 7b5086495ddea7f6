"""Teachers: live ones, and those that were asked once for the likeliest tokens of a text."""

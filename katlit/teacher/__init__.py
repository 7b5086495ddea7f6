"""Teachers that are asked once for the likeliest tokens of a text, so that training needs them no more."""

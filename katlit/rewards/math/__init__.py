"""The reward that compares mathematics: readers of answers, and the process that compares them."""

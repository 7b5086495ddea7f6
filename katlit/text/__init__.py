"""Text: the response protocol, its parser and chat template, and what reads and writes tokens."""

"""The reward that runs programs: tests, and the sandbox that contains them."""

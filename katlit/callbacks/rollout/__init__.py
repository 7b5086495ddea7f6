"""The callback that samples: its checks, and what it hands to the data."""

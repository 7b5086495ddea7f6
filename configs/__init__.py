"""The settings files that katlit installs; `katlit configs` lists them."""

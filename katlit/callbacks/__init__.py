"""Side effects of training, one a file; named in YAML by `class_path`."""

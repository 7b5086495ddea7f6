"""`katlit replay`: one rollout of a run, explained and sampled again."""

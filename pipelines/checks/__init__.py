"""Rules for the values of each pipeline, before anything runs: one module per pipeline, without kfp."""

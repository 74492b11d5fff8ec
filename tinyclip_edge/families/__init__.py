"""What works for each family of models, determined by running the toolkit on small siblings."""

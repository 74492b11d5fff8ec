"""What the toolkit does for each family of models, made by running it on small siblings."""

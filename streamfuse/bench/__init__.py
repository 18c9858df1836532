"""What things cost here: models and whole pipelines, side by side in one run."""

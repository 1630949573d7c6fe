"""What is done to neurons while the model runs."""

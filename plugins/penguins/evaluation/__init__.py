"""What a trained pipeline is worth, and whether it may be published."""
